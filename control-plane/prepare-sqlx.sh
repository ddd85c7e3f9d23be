#!/bin/sh
# Writes the checked-query data of this crate to `.sqlx`, as `cargo sqlx prepare` would; `--check` fails when what is committed differs.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Python brings SQLite along; a machine need not have its command line.
"${PYTHON:-python3}" -c 'import pathlib, sqlite3, sys
for file in sorted(pathlib.Path("migrations").glob("*.sql")):
    sqlite3.connect(sys.argv[1]).executescript(file.read_text())' "$work/schema.db"
mkdir "$work/sqlx"
# The macros write their data when they are expanded, so the crate has to be compiled anew.
touch control-plane/src/lib.rs
SQLX_OFFLINE=false SQLX_OFFLINE_DIR="$work/sqlx" DATABASE_URL="sqlite://$work/schema.db" cargo check --quiet -p akidb-control-plane --all-targets
if [ "${1:-}" = --check ]; then
    diff -r .sqlx "$work/sqlx" || { echo ".sqlx is stale: run control-plane/prepare-sqlx.sh" >&2; exit 1; }
else
    mkdir -p .sqlx
    rm -f .sqlx/query-*.json
    cp "$work/sqlx"/query-*.json .sqlx/
fi
