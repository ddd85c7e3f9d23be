#!/bin/sh
# The final validation: P95, P99, QPS, GPU, cost and models against their targets, then SUCCESS or PARTIAL.
# Enters: options of `akidb-loadtest validate`. Leaves: its output and exit code (0 success, 1 partial, 2 usage or no program,
# 3 unreachable). Never: a figure of its own.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
program=$here/../target/release/akidb-loadtest
[ -x "$program" ] || program=$(command -v akidb-loadtest) || {
	echo "error: akidb-loadtest is neither in target/release nor in PATH: run \`cargo build --release -p akidb-loadtest\`" >&2
	exit 2
}
exec "$program" validate "$@"
