#!/usr/bin/env python3
"""Command line: a canary and a baseline enter; the control plane's verdict on them leaves, with an exit code each.

Finds the experiment that tries this canary, waits up to --duration seconds for it to decide, and prints what the
control plane says. Decides nothing itself; never starts, ends or changes an experiment. Standard library only.

Exit codes: 0 the share grew or the canary is promoted, 1 rolled back or aborted, 2 bad input or no such experiment,
3 inconclusive, 4 no verdict yet, 5 the control plane cannot be reached or refuses.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

GREW, ROLLED_BACK, BAD_INPUT, INCONCLUSIVE, WAITING, UNREACHABLE = range(6)
LIVE = ("running", "paused")
POLL_SECONDS = 1.0


class Refused(Exception):
    """The control plane said no, or nothing."""


class ControlPlane(NamedTuple):
    """Where to ask, and as whom."""

    base: str
    token: str

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """Answers the JSON of a GET."""
        url = f"{self.base.rstrip('/')}/api/v1/{path}"
        if query:
            url += "?" + urllib.parse.urlencode(query)
        request = urllib.request.Request(url, headers={"authorization": f"Bearer {self.token}"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Refused(f"{url} answered {error.code}: {said(error.read())}") from error
        except (OSError, ValueError) as error:
            raise Refused(f"{url} cannot be read: {error}; is the control plane running?") from error

    def experiments(self, model: str | None) -> list[dict[str, Any]]:
        """Every experiment, of one model if it is given."""
        query = {"limit": "1000"} | ({"model": model} if model else {})
        found: list[dict[str, Any]] = []
        while True:
            page = self.get("experiments", **query)
            found += page["experiments"]
            if not page["next"]:
                return found
            query["after"] = page["next"]


def said(body: bytes) -> str:
    """The message of an error body."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")


def choose(all_of_them: list[dict[str, Any]], canary: str, baseline: str | None) -> dict[str, Any] | None:
    """The live experiment of this pair, else the one started last."""
    pairs = (it for it in all_of_them if it["canary"]["variant"] == canary and it["started_at"])
    fitting = [it for it in pairs if baseline in (None, it["baseline"]["variant"])]
    return max(fitting, key=lambda it: (it["state"] in LIVE, it["started_at"]), default=None)


def code_of(state: str, verdict: str | None, grew: bool) -> int:
    """The exit code of what is known."""
    if state == "promoted" or (grew and state in LIVE):
        return GREW
    if state not in LIVE:
        return ROLLED_BACK
    return INCONCLUSIVE if verdict == "inconclusive" else WAITING


def wait(control: ControlPlane, first: dict[str, Any], duration: float) -> tuple[dict[str, Any], bool]:
    """The experiment once it has decided, or as it is when the time is over; and whether its share grew meanwhile."""
    deadline, now = time.monotonic() + duration, first
    while now["state"] in LIVE and now["share_ppm"] <= first["share_ppm"] and time.monotonic() < deadline:
        time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))
        now = control.get(f"experiments/{urllib.parse.quote(first['id'], safe='')}")
    return now, now["share_ppm"] > first["share_ppm"] and now["state"] in LIVE


def decision_line(code: int, it: dict[str, Any]) -> str:
    """What follows from it, as the seed says it."""
    share = f"{it['share_ppm'] / 1e4:g} %"
    if code == GREW:
        return "Full rollout approved" if it["state"] == "promoted" else f"the share grows to {share}"
    if code == ROLLED_BACK:
        return "Rolled back" if it["state"] == "rolled-back" else "Aborted"
    if code == INCONCLUSIVE:
        return f"Inconclusive, the share stays at {share}"
    return f"No verdict yet, the share is {share}"


def lines(decision: dict[str, Any], it: dict[str, Any], code: int) -> list[str]:
    """`ROLLOUT: Canary P95 ...`, the error rates, the decision, and why."""
    sentence = decision["sentence"] or "WAIT: no look was taken yet"
    latency, _, errors = sentence.partition("; error rate ")
    # A phase that was just entered has nothing to say of its own yet: what decided is what counts.
    word = {GREW: "ROLLOUT", ROLLED_BACK: "ROLLBACK"}.get(code)
    if word:
        latency = f"{word}:{latency.partition(':')[2]}"
    mark = {GREW: "✅ ", ROLLED_BACK: "❌ ", INCONCLUSIVE: "⚠️ "}.get(code, "⏳ ")
    shown = [mark + latency.replace("canary P", "Canary P").replace("vs baseline", "vs Baseline")]
    if errors:
        old, new = errors.split(" vs ")[::-1]
        shown.append(f"Error rate {'unchanged' if old == new else 'changed'}: {new} vs {old}")
    return [*shown, f"Decision: {decision_line(code, it)}", f"Reason: {decision['reason']}"]


def token_of(options: argparse.Namespace) -> str | None:
    """The token: the option, its file, or the variables that `akidb` knows."""
    if options.token:
        return options.token
    file = options.token_file or (None if os.environ.get("AKIDB_TOKEN") else os.environ.get("AKIDB_TOKEN_FILE"))
    return Path(file).read_text().strip() if file else os.environ.get("AKIDB_TOKEN")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = argparse.ArgumentParser(
        prog="ab_test_decision.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    it.add_argument("--canary", required=True, help="variant on trial")
    it.add_argument("--baseline", help="variant it is compared with")
    it.add_argument("--duration", type=float, default=0.0, metavar="SECONDS", help="how long to wait for a decision")
    it.add_argument("--model", help="of this model only")
    it.add_argument("--control-plane", default=os.environ.get("AKIDB_SERVER", "http://127.0.0.1:7070"), metavar="URL")
    it.add_argument("--token", help="prefer --token-file, AKIDB_TOKEN or AKIDB_TOKEN_FILE")
    it.add_argument("--token-file", metavar="FILE")
    return it


def main(arguments: list[str] | None = None) -> int:
    """Asks, waits, prints."""
    options = parser().parse_args(arguments)
    try:
        token = token_of(options)
    except OSError as error:
        return fail(BAD_INPUT, f"the token's file cannot be read: {error}")
    if not token:
        return fail(BAD_INPUT, "no token: give --token-file, or set AKIDB_TOKEN or AKIDB_TOKEN_FILE")
    control = ControlPlane(options.control_plane, token)
    try:
        it = choose(control.experiments(options.model), options.canary, options.baseline)
        if it is None:
            pair = options.canary + (f" against {options.baseline}" if options.baseline else "")
            return fail(BAD_INPUT, f"no experiment that was started tries {pair}: see `akidb experiments list`")
        it, grew = wait(control, it, options.duration)
        decision = control.get(f"experiments/{urllib.parse.quote(it['id'], safe='')}/decision")
    except Refused as error:
        return fail(UNREACHABLE, str(error))
    verdict = (decision["outcome"] or {}).get("verdict", {}).get("verdict")
    code = code_of(it["state"], verdict, grew)
    print("\n".join(lines(decision, it, code)))
    return code


def fail(code: int, why: str) -> int:
    """One sentence on stderr."""
    print(f"error: {why}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
