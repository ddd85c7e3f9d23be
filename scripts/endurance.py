"""Holds a sidecar under loads that last: overload, a bulk application beside a small one, a soak.

Enters: the built programs and the bundle of `make setup`, the stages to run. Leaves: figures beside their targets; exit
1 when one is missed, 2 when something is not there. Must never: leave a process behind, or send load anywhere but to
the sidecar it started.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MIXED = "6-20:70,40-80:20,120-180:10"
CLIENTS = "64"


class Missing(Exception):
    """Something that the run needs is not there; the message names it and the way out."""


class Checks:
    """Figures and their targets, printed as they come."""

    def __init__(self) -> None:
        self.missed = 0

    def hold(self, what: str, value: float, target: str, held: bool) -> None:
        self.missed += not held
        print(f"  {'ok    ' if held else 'MISSED'}  {what}: {value:,.4g} (target {target})", flush=True)


class Sidecar:
    """One sidecar with default settings on ports of its own."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        api, ops = free_port(), free_port()
        self.url = f"http://127.0.0.1:{api}"
        config = folder / "config.toml"
        config.write_text(
            f'[server]\nlisten = "127.0.0.1:{api}"\nops_listen = "127.0.0.1:{ops}"\n'
            f"[storage]\nstate_folder = {json.dumps(str(folder / 'state'))}\n"
            f"[runtime]\nonnxruntime = {json.dumps(str(args.runtime.resolve()))}\n"
            '[embedding.models]\ndefault = "all-MiniLM-L6-v2"\n'
            '[[embedding.models.available]]\nname = "all-MiniLM-L6-v2"\n'
            f"path = {json.dumps(str(args.bundle.resolve()))}\n"
        )
        with (folder / "sidecar.log").open("wb") as log:
            self.process = subprocess.Popen(
                [args.programs / "akidb-sidecar", "--config", config], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self.args, self.folder = args, folder

    def wait(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/readyz", timeout=2):
                return
            time.sleep(0.1)
        raise Missing(f"the sidecar was not ready within 60 s:\n{(self.folder / 'sidecar.log').read_text()[-2000:]}")

    def load(self, *options: str) -> dict:
        """One run of the load tester against this sidecar; its report."""
        report = self.folder / "report.json"
        command = [self.args.programs / "akidb-loadtest", "run", "--url", f"{self.url}/api/v1/embed", "--json", report]
        watched = ["--pid", str(self.process.pid), "--allow-errors"]
        print("  $ akidb-loadtest run", " ".join(options), flush=True)
        subprocess.run([*command, *watched, *options], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return json.loads(report.read_text())

    def alone(self) -> float:
        """Milliseconds of one short request."""
        body = json.dumps({"text": "the first request after the storm"}).encode()
        headers = {"content-type": "application/json"}
        begun = time.monotonic()
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/api/v1/embed", body, headers), timeout=10):
            return 1e3 * (time.monotonic() - begun)


def overload(sidecar: Sidecar, checks: Checks, args: argparse.Namespace) -> None:
    """Ten times what it can do, against what it did at its best in the same run."""
    shape = ("--mix", MIXED, "--batch", str(args.batch))
    sidecar.load(*shape, "--clients", CLIENTS, "--duration", "5s")
    before = sidecar.load(*shape, "--clients", CLIENTS, "--duration", "30s")
    rate = 10 * before["requests_per_second"]
    seen = sidecar.load(
        *shape,
        "--rate",
        f"{rate:.1f}",
        "--clients",
        "512",
        "--duration",
        f"{args.seconds or 60}s",
        "--timeout",
        "60s",
        "--settle",
        "10s",
    )
    after = sidecar.alone()
    print(f"  saturated {before['texts_per_second']:.1f} texts/s; overload {rate * args.batch:.0f} texts/s; answers "
          f"200: {seen['succeeded']}, {seen['errors']}; retry-after {seen['retry_after']}")  # fmt: skip
    other = {key: n for key, n in seen["errors"].items() if key not in ("429", "504")}
    checks.hold("answers other than 200, 429 and 504", sum(other.values()), "0", not other)
    without = seen["retry_after"]["missing"]
    checks.hold("429 without Retry-After", without, "0", without == 0)
    part = seen["texts_per_second"] / before["texts_per_second"]
    checks.hold("texts/s answered / saturated", part, ">= 0.85", part >= 0.85)
    checks.hold("504 of the admitted", seen["deadline_share"], "<= 0.01", seen["deadline_share"] <= 0.01)
    memory = seen["resources"]
    floor, peak, last = (memory[key] / 1e6 for key in ("rss_first", "rss_peak", "rss_last"))
    checks.hold("peak memory, MB", peak, "<= 400", peak <= 400)
    checks.hold("memory after it / before it", last / floor, "<= 1.10", last <= 1.10 * floor)
    checks.hold("the next request, ms", after, "<= 50", after <= 50)


def fairness(sidecar: Sidecar, checks: Checks, args: argparse.Namespace) -> None:
    """A small application alone, then beside one that asks fifty times as often."""
    rate, seconds = args.rate, args.seconds or int(1_050 / args.rate)
    small = ("--class", f"small:rate={rate},clients=8,app=small,words=18", "--duration", f"{seconds}s")
    bulk = ("--class", f"bulk:rate={50 * rate},clients=128,app=bulk,words=18")
    sidecar.load("--clients", "8", "--duration", "3s")
    alone = sidecar.load(*small)
    both = sidecar.load(*small, *bulk)
    beside = next(it for it in both["classes"] if it["class"] == "small")
    p99 = (alone["latency_ms"]["p99"], beside["latency_ms"]["p99"])
    p50 = (alone["latency_ms"]["p50"], beside["latency_ms"]["p50"])
    print(f"  alone p50 {p50[0]:.1f}, p99 {p99[0]:.1f} ms of {alone['requests']} requests")
    print(f"  beside p50 {p50[1]:.1f}, p99 {p99[1]:.1f} ms of {beside['requests']} requests")
    checks.hold("failed requests of the small application", beside["failed"], "0", beside["failed"] == 0)
    checks.hold("its p99 beside the bulk application / alone", p99[1] / p99[0], "<= 2", p99[1] <= 2 * p99[0])


def soak(sidecar: Sidecar, checks: Checks, args: argparse.Namespace) -> None:
    """Eighty percent of its best, for ten minutes."""
    shape = ("--mix", MIXED)
    best = sidecar.load(*shape, "--clients", CLIENTS, "--duration", "20s")["requests_per_second"]
    seconds = args.seconds or 600
    after = min(180, seconds // 3)
    seen = sidecar.load(
        *shape,
        "--rate",
        f"{0.8 * best:.1f}",
        "--clients",
        CLIENTS,
        "--duration",
        f"{seconds}s",
        "--slope-after",
        f"{after}s",
    )
    memory = seen["resources"]
    print(f"  {seen['requests']} requests at {0.8 * best:.0f} a second, {seen['failed']} failed")
    first, peak, last = (memory[key] / 1e6 for key in ("rss_first", "rss_peak", "rss_last"))
    print(f"  memory {first:.0f} MB first, {peak:.0f} at most, {last:.0f} last")
    slope, files = memory["rss_slope_mb_per_minute"], memory["files_slope_per_minute"]
    checks.hold(f"memory from {after} s on, MB a minute", slope, "< 1", slope < 1)
    checks.hold(f"open files from {after} s on, a minute", files, "-0.5 to 0.5", abs(files) < 0.5)


STAGES = {"overload": overload, "fairness": fairness, "soak": soak}


def free_port() -> int:
    """A port that was free a moment ago, on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def started(args: argparse.Namespace) -> Iterator[Sidecar]:
    """A sidecar that ends with the block."""
    with tempfile.TemporaryDirectory(prefix="akidb-endurance-") as folder:
        sidecar = Sidecar(Path(folder), args)
        try:
            sidecar.wait()
            yield sidecar
        finally:
            sidecar.process.terminate()
            try:
                sidecar.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                sidecar.process.kill()
                sidecar.process.wait()


def main() -> int:
    """Runs the stages in turn, each with a sidecar of its own."""
    parser = argparse.ArgumentParser(prog="endurance.py", description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="+", choices=STAGES, help="what to run")
    parser.add_argument("--seconds", type=int, help="length of the stage (default: 60, until 1,050 requests, 600)")
    parser.add_argument("--batch", type=int, default=4, help="overload: texts a request (default: 4)")
    parser.add_argument(
        "--rate", type=float, default=6, help="fairness: the small application's requests a second (default: 6)"
    )
    parser.add_argument("--programs", type=Path, default=ROOT / "target" / "release", help="folder of the programs")
    parser.add_argument(
        "--bundle", type=Path, default=ROOT / "build" / "bundles" / "all-MiniLM-L6-v2-fp32", help="bundle to serve"
    )
    parser.add_argument(
        "--runtime", type=Path, default=ROOT / "build" / "onnxruntime" / "libonnxruntime.so", help="ONNX Runtime"
    )
    args = parser.parse_args()
    checks = Checks()
    try:
        for path in (args.programs / "akidb-sidecar", args.programs / "akidb-loadtest", args.bundle, args.runtime):
            if not path.exists():
                raise Missing(f"{path} is missing: run `make setup build`")
        for stage in args.stages:
            print(stage, flush=True)
            with started(args) as sidecar:
                STAGES[stage](sidecar, checks, args)
    except Missing as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"error: the load tester ended with exit code {error.returncode}", file=sys.stderr)
        return 2
    return 1 if checks.missed else 0


if __name__ == "__main__":
    sys.exit(main())
