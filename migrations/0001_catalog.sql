-- The catalog: model -> immutable version -> variant -> one artifact a target -> files. Times are Unix milliseconds.
CREATE TABLE meta (
    id                INTEGER PRIMARY KEY CHECK (id = 1),
    epoch             INTEGER NOT NULL,  -- the Unix second of its making; bumped by a restore
    snapshot_n        INTEGER NOT NULL,  -- bumped by every change a sidecar can see
    installation      TEXT    NOT NULL   -- random id of this database's line of descent
) STRICT;

CREATE TABLE models (
    id                INTEGER PRIMARY KEY,
    name              TEXT    NOT NULL,
    canonical_name    TEXT    NOT NULL UNIQUE,  -- lower case, short names written out
    description       TEXT    NOT NULL DEFAULT '',
    created_at        INTEGER NOT NULL
) STRICT;

CREATE TABLE versions (
    id                INTEGER PRIMARY KEY,
    model_id          INTEGER NOT NULL REFERENCES models (id),
    name              TEXT    NOT NULL,
    dimension         INTEGER NOT NULL CHECK (dimension BETWEEN 1 AND 65536),
    max_tokens        INTEGER NOT NULL CHECK (max_tokens BETWEEN 1 AND 131072),
    pooling           TEXT    NOT NULL,
    normalized        INTEGER NOT NULL CHECK (normalized IN (0, 1)),
    embedding_space   TEXT    NOT NULL,
    tokenizer_sha256  TEXT    NOT NULL,
    license           TEXT,
    source            TEXT,
    prompts           TEXT    NOT NULL DEFAULT '{}',  -- JSON object
    seeded            INTEGER NOT NULL DEFAULT 0 CHECK (seeded IN (0, 1)),
    created_at        INTEGER NOT NULL,
    UNIQUE (model_id, name)
) STRICT;

CREATE TABLE variants (
    id                INTEGER PRIMARY KEY,
    version_id        INTEGER NOT NULL REFERENCES versions (id),
    name              TEXT    NOT NULL,
    precision         TEXT    NOT NULL,
    created_at        INTEGER NOT NULL,
    UNIQUE (version_id, name)
) STRICT;

CREATE TABLE artifacts (
    digest            TEXT    PRIMARY KEY,
    variant_id        INTEGER NOT NULL REFERENCES variants (id),
    state             TEXT    NOT NULL,            -- uploaded, validated, ready, retired
    provider          TEXT    NOT NULL,            -- portable, cpu, cuda, tensorrt
    compute_capability TEXT   NOT NULL DEFAULT '', -- '' where it does not apply
    tensorrt_version  TEXT    NOT NULL DEFAULT '',
    shape_profile     TEXT    NOT NULL DEFAULT '',
    graph             TEXT    NOT NULL,            -- JSON {inputs, output}
    lineage           TEXT    NOT NULL,            -- JSON
    parent_digest     TEXT,                        -- from the lineage; may name an artifact not in this catalog
    bytes             INTEGER NOT NULL,
    created_at        INTEGER NOT NULL
) STRICT;
-- One live artifact a target; a retired one makes room for its successor.
CREATE UNIQUE INDEX artifacts_target ON artifacts (variant_id, provider, compute_capability, tensorrt_version, shape_profile)
    WHERE state <> 'retired';
CREATE INDEX artifacts_parent ON artifacts (parent_digest);

CREATE TABLE artifact_files (
    artifact_digest   TEXT    NOT NULL REFERENCES artifacts (digest) ON DELETE CASCADE,
    path              TEXT    NOT NULL,
    role              TEXT    NOT NULL,
    uri               TEXT    NOT NULL,
    bytes             INTEGER NOT NULL,
    sha256            TEXT    NOT NULL,
    PRIMARY KEY (artifact_digest, path)
) STRICT, WITHOUT ROWID;

CREATE TABLE evaluations (
    id                INTEGER PRIMARY KEY,
    artifact_digest   TEXT    NOT NULL REFERENCES artifacts (digest) ON DELETE CASCADE,
    kind              TEXT    NOT NULL,            -- parity, quality, not_applicable
    report            TEXT    NOT NULL,            -- JSON as given
    verdict           TEXT    NOT NULL,            -- passed, not_applicable, failed
    reason            TEXT    NOT NULL DEFAULT '',
    created_at        INTEGER NOT NULL
) STRICT;

CREATE TABLE aliases (
    model_id          INTEGER NOT NULL REFERENCES models (id),
    name              TEXT    NOT NULL,
    variant_id        INTEGER NOT NULL REFERENCES variants (id),
    revision          INTEGER NOT NULL,            -- the ETag: moves are compare-and-swap
    moved_by_hand     INTEGER NOT NULL DEFAULT 0 CHECK (moved_by_hand IN (0, 1)), -- `default` then no longer follows `stable`
    updated_at        INTEGER NOT NULL,
    PRIMARY KEY (model_id, name)
) STRICT, WITHOUT ROWID;

-- Imports run in the background; a row outlives a restart, which marks it failed.
CREATE TABLE imports (
    id                TEXT    PRIMARY KEY,
    uri               TEXT    NOT NULL,
    state             TEXT    NOT NULL,            -- running, succeeded, failed
    done_bytes        INTEGER NOT NULL DEFAULT 0,
    total_bytes       INTEGER NOT NULL DEFAULT 0,
    artifact_digest   TEXT,
    error             TEXT    NOT NULL DEFAULT '',
    created_at        INTEGER NOT NULL,
    updated_at        INTEGER NOT NULL
) STRICT;
