-- The ledger. Money is integer picodollars; a sum joins high and low halves outside SQL, because an i64 holds only $9.2 M.
CREATE TABLE prices (
    id                INTEGER PRIMARY KEY,
    sku               TEXT    NOT NULL,
    region            TEXT    NOT NULL,
    currency          TEXT    NOT NULL DEFAULT 'USD',
    picodollars_per_hour INTEGER NOT NULL CHECK (picodollars_per_hour >= 0),
    valid_from_ns     INTEGER NOT NULL,
    valid_to_ns       INTEGER,                     -- set once, by the row that follows
    source            TEXT    NOT NULL,
    created_at        INTEGER NOT NULL,
    UNIQUE (sku, region, valid_from_ns)
) STRICT;

-- Every counted window as it came, kept for a few days: what decisions read and what a later price is applied to.
CREATE TABLE windows (
    boot_id           TEXT    NOT NULL,
    sequence          INTEGER NOT NULL,
    sidecar_id        TEXT    NOT NULL,
    namespace         TEXT    NOT NULL,
    app               TEXT    NOT NULL,            -- of the sidecar's token
    snapshot_epoch    INTEGER NOT NULL,
    snapshot_n        INTEGER NOT NULL,
    sku               TEXT    NOT NULL,
    region            TEXT    NOT NULL,
    device_uuid       TEXT    NOT NULL,
    start_ns          INTEGER NOT NULL,
    end_ns            INTEGER NOT NULL,
    spend_picodollars INTEGER,                     -- NULL: no price row covered it
    received_at       INTEGER NOT NULL,
    payload           BLOB    NOT NULL,            -- akidb.v1.Window
    PRIMARY KEY (boot_id, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX windows_time ON windows (end_ns);
CREATE INDEX windows_received ON windows (received_at);
CREATE INDEX windows_unpriced ON windows (sku, region, start_ns) WHERE spend_picodollars IS NULL;

-- Roll-ups by the hour (Unix hours) in which a window starts; windows never span two.
CREATE TABLE device_hours (
    hour              INTEGER NOT NULL,
    device_uuid       TEXT    NOT NULL,
    sku               TEXT    NOT NULL,
    region            TEXT    NOT NULL,
    sidecar_id        TEXT    NOT NULL,
    namespace         TEXT    NOT NULL,
    app               TEXT    NOT NULL,
    share_ppm         INTEGER NOT NULL,
    elapsed_ns        INTEGER NOT NULL,
    busy_ns           INTEGER NOT NULL,
    overhead_ns       INTEGER NOT NULL,
    unpriced_ns       INTEGER NOT NULL,
    spend_picodollars INTEGER NOT NULL,            -- = direct + overhead + idle, exactly
    direct_picodollars INTEGER NOT NULL,
    overhead_picodollars INTEGER NOT NULL,
    idle_picodollars  INTEGER NOT NULL,
    first_ns          INTEGER NOT NULL,            -- first and last priced moment; the greatest and least i64 while there is none
    last_ns           INTEGER NOT NULL,
    PRIMARY KEY (hour, device_uuid, sku, region, sidecar_id, namespace, app, share_ppm)
) STRICT, WITHOUT ROWID;

CREATE TABLE usage_hours (
    hour              INTEGER NOT NULL,
    model             TEXT    NOT NULL,
    version           TEXT    NOT NULL,
    variant           TEXT    NOT NULL,
    precision         TEXT    NOT NULL,
    arm               TEXT    NOT NULL,
    experiment        TEXT    NOT NULL,
    digest            TEXT    NOT NULL,
    provider          TEXT    NOT NULL,
    fallback          INTEGER NOT NULL CHECK (fallback IN (0, 1)),
    sku               TEXT    NOT NULL,
    region            TEXT    NOT NULL,
    namespace         TEXT    NOT NULL,            -- of the sidecar's token
    sidecar_app       TEXT    NOT NULL,            -- of the sidecar's token
    consumer_app      TEXT    NOT NULL,            -- x-akidb-app
    tenant            TEXT    NOT NULL,            -- x-akidb-tenant
    requests          INTEGER NOT NULL,
    unpriced_requests INTEGER NOT NULL,            -- of them, those in windows without a price
    tokens            INTEGER NOT NULL,
    engine_ns         INTEGER NOT NULL,            -- the lane's engine time, divided by tokens
    direct_picodollars INTEGER NOT NULL,
    PRIMARY KEY (hour, model, version, variant, precision, arm, experiment, digest, provider, fallback, sku, region, namespace, sidecar_app, consumer_app, tenant)
) STRICT, WITHOUT ROWID;

-- Lane facts that do not divide by consumer.
CREATE TABLE lane_hours (
    hour              INTEGER NOT NULL,
    model             TEXT    NOT NULL,
    version           TEXT    NOT NULL,
    variant           TEXT    NOT NULL,
    arm               TEXT    NOT NULL,
    experiment        TEXT    NOT NULL,
    sku               TEXT    NOT NULL,
    requests          INTEGER NOT NULL,
    texts             INTEGER NOT NULL,
    errors            INTEGER NOT NULL,
    truncated         INTEGER NOT NULL,
    batches           INTEGER NOT NULL,
    tokens            INTEGER NOT NULL,
    padded_tokens     INTEGER NOT NULL,
    engine_ns         INTEGER NOT NULL,
    PRIMARY KEY (hour, model, version, variant, arm, experiment, sku)
) STRICT, WITHOUT ROWID;

-- Overhead by what caused it.
CREATE TABLE overhead_hours (
    hour              INTEGER NOT NULL,
    cause             TEXT    NOT NULL,
    model             TEXT    NOT NULL,
    variant           TEXT    NOT NULL,
    experiment        TEXT    NOT NULL,
    sku               TEXT    NOT NULL,
    device_ns         INTEGER NOT NULL,
    picodollars       INTEGER NOT NULL,
    PRIMARY KEY (hour, cause, model, variant, experiment, sku)
) STRICT, WITHOUT ROWID;
