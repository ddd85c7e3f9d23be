"""Runs the control plane and one sidecar on loopback until told to stop.

Enters: the built programs, a bundle or the names of models that `make models` built, ONNX Runtime's library, a folder
for state. Leaves: two services with the models catalogued and priced, and what to paste to try them. Must never: leave
a process behind, or touch anything outside its state folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from akidb_tools import built, bundle
from akidb_tools.catalog import Catalog
from akidb_tools.errors import BadInput

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE_PRICE = "0.10"
REST, GRPC, API, OPS = 7070, 7071, 8080, 9464


class Stop(Exception):
    """A signal asked us to stop."""


class Failed(Exception):
    """Something did not start; the message says what and where to look."""


def main() -> int:
    """Starts everything, waits, stops everything."""
    args = arguments()
    SIGNALS.listen()
    try:
        local = Local(args, bundles(args))
    except Failed as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    try:
        local.start()
        local.watch()
    except Stop:
        say("stopping")
    except Failed as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    finally:
        SIGNALS.ignore()
        local.stop()
    say("stopped; everything is kept in " + str(local.state))
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, required=True, help="folder for all state")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--bundle", type=Path, help="bundle to serve")
    what.add_argument(
        "--models", metavar="NAMES", help="`all`, or names with commas between, of what `make models` built"
    )
    parser.add_argument("--bundles", type=Path, default=Path("build/bundles"), help="where those are")
    parser.add_argument("--runtime", type=Path, required=True, help="ONNX Runtime's shared library")
    parser.add_argument(
        "--price",
        help=f"USD an hour of this machine's CPU (default: what the price book has, else {EXAMPLE_PRICE}, an example)",
    )
    parser.add_argument("--programs", type=Path, default=ROOT / "target" / "release", help="folder of the programs")
    return parser.parse_args()


def bundles(args: argparse.Namespace) -> list[Path]:
    """What is to be catalogued: a model's fp32 root first, which is what a request without `@` gets."""
    if args.bundle:
        return [args.bundle]
    try:
        return built.bundles(args.models, args.bundles, say)
    except BadInput as error:
        raise Failed(str(error)) from None


class Signals:
    """Turns the first signal into `Stop`; later ones are ignored while we stop."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.holding = self.came = False

    def listen(self) -> None:
        for number in self.NUMBERS:
            signal.signal(number, self.handle)

    def ignore(self) -> None:
        for number in self.NUMBERS:
            signal.signal(number, signal.SIG_IGN)

    def handle(self, _number: int, _frame: object) -> None:
        self.came = True
        if not self.holding:
            self.ignore()
            raise Stop

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """No `Stop` inside: a process that is started must be one that we know of. It comes right after."""
        self.holding = True
        try:
            yield
        finally:
            self.holding = False
        if self.came:
            self.ignore()
            raise Stop


SIGNALS = Signals()


def say(text: str) -> None:
    """One line of progress."""
    print(text, flush=True)


class Local:
    """The two services and their state folder."""

    def __init__(self, args: argparse.Namespace, bundles: list[Path]) -> None:
        self.args = args
        self.bundles = bundles
        self.state: Path = args.state.resolve()
        self.programs: Path = args.programs.resolve()
        self.running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self) -> None:
        """Control plane, catalog, price, sidecar; each step says what it does."""
        for port, what in (
            (REST, "control plane REST"),
            (GRPC, "control plane gRPC"),
            (API, "sidecar API"),
            (OPS, "sidecar ops"),
        ):
            refuse_busy(port, what)
        for folder in ("control-plane", "sidecar", "logs"):
            (self.state / folder).mkdir(parents=True, exist_ok=True)
        say(f"state: {self.state}")
        self.spawn("akidb-control-plane", {"AKIDB_CP_DATA_DIR": str(self.state / "control-plane")}, ["serve"])
        self.wait_for("control plane", f"http://127.0.0.1:{REST}/readyz", 60)
        self.import_bundles()
        self.set_price()
        self.spawn("akidb-sidecar", {}, ["--config", str(self.sidecar_config())])
        self.wait_for("sidecar", f"http://127.0.0.1:{API}/readyz", 180)
        self.report()

    def spawn(self, program: str, env: dict[str, str], arguments: list[str]) -> None:
        """Starts a program; its output goes to a file of its own."""
        path = self.programs / program
        if not path.is_file():
            raise Failed(f"{path} is missing: run `make build`")
        log = (self.state / "logs" / f"{program}.log").open("ab")
        # A group of its own: Ctrl-C reaches us alone, and we stop the services in order.
        with log, SIGNALS.held():
            process = subprocess.Popen(
                [path, *arguments],
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
            self.running.append((program, process))

    def import_bundles(self) -> None:
        """Catalogues what the catalog has not; what it has is not read again."""
        catalog, kept = Catalog(self.akidb), 0
        for number, folder in enumerate(self.bundles, 1):
            say(f"model {number} of {len(self.bundles)}: {folder.name}")
            kept += not catalog.add(str(folder), json.loads((folder / bundle.MANIFEST).read_text("utf-8")))
        say(f"catalogued: {len(self.bundles)}, of which {kept} were there already")

    def set_price(self) -> None:
        """Enters a price for this machine's CPU unless the price book has one."""
        prices = json.loads(self.akidb("--json", "prices", "list"))["prices"]
        known = any(row["sku"] == "cpu" and row["region"] == "local" for row in prices)
        if self.args.price or not known:
            price, source = self.args.price or EXAMPLE_PRICE, "make run" if self.args.price else "example"
            self.akidb("prices", "set", "cpu", "--per-hour", price, "--region", "local", "--source", source)
            say(
                f"price: ${price} an hour for this machine's CPU"
                + ("" if self.args.price else " (example; `make run PRICE=` sets another)")
            )

    def sidecar_config(self) -> Path:
        """Writes the sidecar's configuration and, once, a token for it."""
        folder = self.state / "sidecar"
        token = folder / "token"
        if not token.is_file():
            made = json.loads(self.akidb("--json", "tokens", "create", "--name", "local-sidecar", "--role", "sidecar"))
            descriptor = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(made["token"])
        config = folder / "config.toml"
        paths = {
            "folder": folder,
            "socket": folder / "embed.sock",
            "runtime": self.args.runtime.resolve(),
            "token": token,
        }
        quoted = {key: toml(path) for key, path in paths.items()}
        config.write_text(SIDECAR_CONFIG.format(api=API, ops=OPS, grpc=GRPC, default=self.default(), **quoted))
        return config

    def default(self) -> str:
        """What a request without `model` gets: the first model that was asked for."""
        return json.loads((self.bundles[0] / bundle.MANIFEST).read_text("utf-8"))["model"]["name"]

    def akidb(self, *arguments: str) -> str:
        """Runs the command line against our control plane."""
        env = {
            **os.environ,
            "AKIDB_SERVER": f"http://127.0.0.1:{REST}",
            "AKIDB_TOKEN_FILE": str(self.state / "control-plane" / "admin-token"),
        }
        # Progress goes to the terminal; answers come back to us.
        done = subprocess.run(
            [self.programs / "akidb", *arguments],
            env=env,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            process_group=0,
        )
        if done.returncode != 0:
            raise Failed(
                f"`akidb {' '.join(arguments)}` failed with exit code {done.returncode} (its message is above)"
            )
        return done.stdout

    def wait_for(self, what: str, url: str, seconds: float) -> None:
        """Waits until a service says it is ready."""
        say(f"starting the {what}")
        deadline, said, reason = time.monotonic() + seconds, time.monotonic(), "no answer"
        while time.monotonic() < deadline:
            self.refuse_dead()
            try:
                with urllib.request.urlopen(url, timeout=2):
                    return
            except urllib.error.HTTPError as error:
                reason = error.read(400).decode(errors="replace")
            except OSError as error:
                reason = str(error)
            if time.monotonic() - said > 5:
                said = time.monotonic()
                say(f"  waiting for the {what}: {reason}")
            time.sleep(0.1)
        raise Failed(f"the {what} was not ready within {seconds:.0f} s: {reason}; its log is in {self.state / 'logs'}")

    def watch(self) -> None:
        """Waits for a signal, or for a service to end by itself."""
        while True:
            self.refuse_dead()
            time.sleep(0.5)

    def refuse_dead(self) -> None:
        for program, process in self.running:
            if process.poll() is not None:
                log = self.state / "logs" / f"{program}.log"
                tail = "\n  ".join(log.read_text(errors="replace").splitlines()[-8:])
                raise Failed(f"{program} ended with exit code {process.returncode}; the end of {log}:\n  {tail}")

    def other(self) -> str:
        """A request for another variant, where several are catalogued."""
        others = [folder for folder in self.bundles if folder.name.endswith("-int8")]
        if not others:
            return ""
        name = json.loads((others[-1] / bundle.MANIFEST).read_text("utf-8"))["model"]["name"]
        body = json.dumps({"text": "What is Deep Learning?", "model": f"{name}@int8"})
        return f"\n  curl -s http://127.0.0.1:{API}/api/v1/embed -H 'content-type: application/json' -d '{body}'"

    def stop(self) -> None:
        """Sidecar first, so that its last window is still counted; kill what does not end."""
        for program, process in reversed(self.running):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    say(f"{program} did not stop within 20 s: killing it")
                    process.kill()
                    process.wait()

    def report(self) -> None:
        """What runs where, and what to paste."""
        token = self.state / "control-plane" / "admin-token"
        body = json.dumps({"text": "What is Deep Learning?"})
        say(
            f"""
ready
  embedding API   http://127.0.0.1:{API}/api/v1/embed      (also /api/v1/models, /api/v1/cost-per-request, /metrics)
  sidecar ops     http://127.0.0.1:{OPS}/readyz
  admin REST      http://127.0.0.1:{REST}/api/v1           token: {token}
  gRPC            127.0.0.1:{GRPC}
  logs            {self.state / "logs"}

try it:
  curl -s http://127.0.0.1:{API}/api/v1/embed -H 'content-type: application/json' -d '{body}'{self.other()}
  curl -s http://127.0.0.1:{API}/api/v1/cost-per-request
  {self.programs / "akidb"} --token-file {token} models list

Ctrl-C stops everything."""
        )


def toml(path: Path) -> str:
    """A path as a TOML string."""
    return json.dumps(str(path))


def refuse_busy(port: int, what: str) -> None:
    """Says which port is taken before anything starts."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Failed(
                f"port {port} ({what}) is taken ({error.strerror}): stop what listens there, e.g. another `make run`"
            ) from None


SIDECAR_CONFIG = """\
# Written by `make run`; changes are lost at its next start.
[server]
listen = "127.0.0.1:{api}"
ops_listen = "127.0.0.1:{ops}"
unix_socket = {socket}

[storage]
state_folder = {folder}

[control_plane]
address = "http://127.0.0.1:{grpc}"
token_file = {token}

[runtime]
onnxruntime = {runtime}

[embedding.models]
default = "{default}"
"""


if __name__ == "__main__":
    sys.exit(main())
