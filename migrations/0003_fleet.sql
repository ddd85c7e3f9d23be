-- The sidecars, and what each has told us. Times are Unix milliseconds unless named _ns.
CREATE TABLE sidecars (
    id                TEXT    PRIMARY KEY,
    namespace         TEXT    NOT NULL,
    app               TEXT    NOT NULL,
    pod               TEXT    NOT NULL,
    node              TEXT    NOT NULL,
    version           TEXT    NOT NULL,
    devices           TEXT    NOT NULL,            -- JSON list
    providers         TEXT    NOT NULL,            -- JSON list
    boot_id           TEXT    NOT NULL,            -- latest
    active_epoch      INTEGER NOT NULL DEFAULT 0,  -- snapshot last acknowledged
    active_n          INTEGER NOT NULL DEFAULT 0,
    nack_reason       TEXT    NOT NULL DEFAULT '',
    first_seen_at     INTEGER NOT NULL,
    last_seen_at      INTEGER NOT NULL
) STRICT;

-- One row a start of a sidecar, with the one number that makes at-least-once delivery exactly once.
CREATE TABLE boots (
    boot_id           TEXT    PRIMARY KEY,
    sidecar_id        TEXT    NOT NULL,
    boot_ns           INTEGER NOT NULL,            -- zero of its clock
    high_water_mark   INTEGER NOT NULL DEFAULT 0,  -- windows 1..=mark are counted
    finished          INTEGER NOT NULL DEFAULT 0 CHECK (finished IN (0, 1)), -- its `last` window arrived
    lost_observations INTEGER NOT NULL DEFAULT 0,
    last_end_ns       INTEGER NOT NULL DEFAULT 0,
    rejected_sequence INTEGER NOT NULL DEFAULT 0,  -- last window refused as invalid; a gap that covers it is `rejected`
    created_at        INTEGER NOT NULL
) STRICT;
CREATE INDEX boots_sidecar ON boots (sidecar_id, created_at);

-- What is known to be missing: windows a sidecar had to drop, and boots that ended without their `last` window.
CREATE TABLE gaps (
    id                INTEGER PRIMARY KEY,
    sidecar_id        TEXT    NOT NULL,
    boot_id           TEXT    NOT NULL,
    kind              TEXT    NOT NULL,            -- dropped_windows, rejected, unclean_end, lost_observations
    from_sequence     INTEGER NOT NULL,
    to_sequence       INTEGER NOT NULL,
    noticed_at        INTEGER NOT NULL,
    UNIQUE (boot_id, kind, from_sequence)
) STRICT;

CREATE TABLE artifact_status (
    sidecar_id        TEXT    NOT NULL REFERENCES sidecars (id) ON DELETE CASCADE,
    digest            TEXT    NOT NULL,
    model             TEXT    NOT NULL,
    version           TEXT    NOT NULL,
    variant           TEXT    NOT NULL,
    state             TEXT    NOT NULL,            -- pulling, cached, loading, ready, failed
    provider          TEXT    NOT NULL DEFAULT '',
    reason            TEXT    NOT NULL DEFAULT '',
    done_bytes        INTEGER NOT NULL DEFAULT 0,
    total_bytes       INTEGER NOT NULL DEFAULT 0,
    updated_at        INTEGER NOT NULL,
    PRIMARY KEY (sidecar_id, digest, model, variant)
) STRICT, WITHOUT ROWID;
