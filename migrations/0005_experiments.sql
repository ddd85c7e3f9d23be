-- Experiments: what was promised, where each is, what was decided and on what. Times are Unix milliseconds unless named _ns.
CREATE TABLE experiments (
    id                TEXT    PRIMARY KEY,
    title             TEXT    NOT NULL,
    model             TEXT    NOT NULL,            -- as the catalog spells it
    baseline_version  TEXT    NOT NULL,
    baseline_variant  TEXT    NOT NULL,
    canary_version    TEXT    NOT NULL,
    canary_variant    TEXT    NOT NULL,
    scope             TEXT    NOT NULL,            -- JSON {apps, apps_all_traffic, apps_space_change}
    config            TEXT    NOT NULL,            -- JSON, what the decision engine was told before the first look
    probe             TEXT    NOT NULL,            -- JSON {device_ppm, idle_ppm, shed_queue_texts}
    plan              TEXT    NOT NULL,            -- JSON, what was said about it when it was made
    life              TEXT    NOT NULL,            -- draft, running, paused, promoted, rolled-back, aborted
    reason            TEXT    NOT NULL DEFAULT '', -- what it waits for, or why it ended
    decision          TEXT    NOT NULL,            -- JSON, state of the decision engine
    outcome           TEXT,                        -- JSON, of the newest look
    progress          TEXT    NOT NULL,            -- JSON, where the decider is
    revision          INTEGER NOT NULL,            -- saves are compare-and-swap
    created_at        INTEGER NOT NULL,
    started_at        INTEGER,
    ended_at          INTEGER,
    updated_at        INTEGER NOT NULL
) STRICT;
-- One a model: the split of a second one would change the shares of the first.
CREATE UNIQUE INDEX experiments_live ON experiments (model) WHERE life IN ('running', 'paused');

-- What happened, for people and for followers of the event stream; an id is never used twice.
CREATE TABLE experiment_events (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    experiment_id     TEXT    NOT NULL REFERENCES experiments (id),
    at                INTEGER NOT NULL,
    kind              TEXT    NOT NULL,            -- created, started, settled, look, inconclusive, grown, paused, resumed, promoted, rolled-back, aborted
    actor             TEXT    NOT NULL,
    detail            TEXT    NOT NULL             -- JSON
) STRICT;
CREATE INDEX experiment_events_of ON experiment_events (experiment_id, id);

-- Decision records: a part holds the looks of one stage (of a long one, some), and is sealed when it ends.
CREATE TABLE experiment_parts (
    experiment_id     TEXT    NOT NULL REFERENCES experiments (id),
    part              INTEGER NOT NULL,
    before            TEXT    NOT NULL,            -- JSON, state of the decision engine before its first look
    sealed            TEXT,                        -- the sealed record, once it is over
    sha256            TEXT    NOT NULL DEFAULT '', -- its digest, which the audit log has too
    opened_at         INTEGER NOT NULL,
    closed_at         INTEGER,
    PRIMARY KEY (experiment_id, part)
) STRICT, WITHOUT ROWID;

-- Looks of the part that is still open.
CREATE TABLE experiment_looks (
    experiment_id     TEXT    NOT NULL REFERENCES experiments (id),
    number            INTEGER NOT NULL,
    at                INTEGER NOT NULL,
    look              TEXT    NOT NULL,            -- JSON
    outcome           TEXT    NOT NULL,            -- JSON
    PRIMARY KEY (experiment_id, number)
) STRICT, WITHOUT ROWID;

-- What windows hold of live experiments: their lanes with sketches, probes and lease gaps. Kept for hours.
CREATE TABLE experiment_windows (
    experiment_id     TEXT    NOT NULL,
    boot_id           TEXT    NOT NULL,
    sequence          INTEGER NOT NULL,
    sidecar_id        TEXT    NOT NULL,
    start_ns          INTEGER NOT NULL,
    received_at       INTEGER NOT NULL,
    payload           BLOB    NOT NULL,            -- akidb.v1.Window without what is not the experiment's
    PRIMARY KEY (experiment_id, boot_id, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX experiment_windows_time ON experiment_windows (experiment_id, start_ns);
CREATE INDEX experiment_windows_received ON experiment_windows (received_at);

-- Sidecars that take part, with the boot last seen of each.
CREATE TABLE experiment_sidecars (
    experiment_id     TEXT    NOT NULL REFERENCES experiments (id),
    sidecar_id        TEXT    NOT NULL,
    boot_id           TEXT    NOT NULL,
    canary            INTEGER NOT NULL CHECK (canary IN (0, 1)), -- that boot had the canary, or was loading it
    PRIMARY KEY (experiment_id, sidecar_id)
) STRICT, WITHOUT ROWID;
