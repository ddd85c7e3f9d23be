-- Who may do what, and who did what. Times are Unix milliseconds.
CREATE TABLE tokens (
    id                TEXT    PRIMARY KEY,         -- public part of the token
    name              TEXT    NOT NULL,
    role              TEXT    NOT NULL,            -- admin, viewer, sidecar
    namespace         TEXT    NOT NULL DEFAULT '', -- bound for role sidecar
    app               TEXT    NOT NULL DEFAULT '',
    secret_sha256     TEXT    NOT NULL,            -- of the secret part: 256 random bits, so no salt or stretching is needed
    created_at        INTEGER NOT NULL,
    revoked_at        INTEGER
) STRICT;

-- Append-only: hash = SHA-256 over the row and the hash before it.
CREATE TABLE audit_log (
    sequence          INTEGER PRIMARY KEY,
    at                INTEGER NOT NULL,
    actor             TEXT    NOT NULL,            -- `token:<id>`, `cli` or `system`
    action            TEXT    NOT NULL,            -- e.g. alias.move
    subject           TEXT    NOT NULL,            -- e.g. model/all-MiniLM-L6-v2/aliases/stable
    detail            TEXT    NOT NULL,            -- JSON
    previous_hash     TEXT    NOT NULL,
    hash              TEXT    NOT NULL
) STRICT;
CREATE TRIGGER audit_log_is_append_only_update BEFORE UPDATE ON audit_log
BEGIN SELECT RAISE (ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_log_is_append_only_delete BEFORE DELETE ON audit_log
BEGIN SELECT RAISE (ABORT, 'the audit log is append-only'); END;
