"""Bundles and settings enter; a running sidecar (and control plane) leaves, and ends with the block.

Every process has a folder with its configuration and log. Never leaves a process behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from .errors import ToolError
from .gpu_cores import on

PATIENCE = 120
FAILED = 60  # looks in a row at a model that failed, after which nothing better is waited for


def free_port() -> int:
    """A port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class Entry:
    """One `[[embedding.models.available]]`."""

    path: Path
    settings: Mapping[str, object] = field(default_factory=dict)


class Process:
    """A program with its log; `with` starts and stops it."""

    def __init__(
        self,
        folder: Path,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        cores: Sequence[int] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"{name}.log"
        self.name, self._command, self._env = name, list(command), {**os.environ, **(env or {})}
        self._cores = cores
        self.running: subprocess.Popen | None = None

    def start(self) -> None:
        with self.log.open("wb") as stream, on(self._cores):
            self.running = subprocess.Popen(
                self._command, env=self._env, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, process_group=0
            )

    def wait(self, url: str, seconds: float = PATIENCE) -> float:
        """Seconds until `url` answered 200; the end of the log where it never did."""
        started, reason, failed = time.monotonic(), "no answer", 0
        while time.monotonic() - started < seconds:
            if self.running.poll() is not None:
                raise ToolError(f"{self.name} ended with exit code {self.running.returncode}: {self.tail()}")
            try:
                with urllib.request.urlopen(url, timeout=2):
                    return time.monotonic() - started
            except urllib.error.HTTPError as error:
                reason = error.read(900).decode(errors="replace")
                failed = failed + 1 if "is failed" in reason else 0
            except OSError as error:
                reason = str(error)
            if failed > FAILED:
                break
            time.sleep(0.05)
        raise ToolError(f"{self.name} was not ready after {time.monotonic() - started:.0f} s: {reason}: {self.tail()}")

    def tail(self, lines: int = 6) -> str:
        """The end of its log in one line."""
        found = self.log.read_text("utf-8", errors="replace").strip().splitlines() if self.log.is_file() else []
        return " | ".join(found[-lines:])[-900:]

    def stop(self) -> None:
        if self.running is None or self.running.poll() is not None:
            return
        self.running.terminate()
        try:
            self.running.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.running.kill()
            self.running.wait()


class Sidecar:
    """`akidb-sidecar` on loopback and a Unix socket, with the bundles given."""

    def __init__(
        self,
        program: Path,
        folder: Path,
        entries: Sequence[Entry],
        *,
        default: str,
        runtime: Mapping[str, object],
        batching: Mapping[str, object] | None = None,
        memory: int | None = None,
        extra: str = "",
        env: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
        cores: Sequence[int] | None = None,
    ) -> None:
        self._patience = patience
        self.port, self.ops = free_port(), free_port()
        # A socket's path may have 107 bytes; a folder of results may be deeper.
        self.socket = Path(tempfile.gettempdir(), f"akidb-{self.port}.sock")
        folder.mkdir(parents=True, exist_ok=True)
        # Of an earlier run: engines are fetched and proven anew.
        shutil.rmtree(folder / "state", ignore_errors=True)
        config = folder / "config.toml"
        config.write_text(self._config(folder, entries, default, runtime, batching or {}, memory) + extra, "utf-8")
        self.process = Process(folder, "akidb-sidecar", [str(program), "--config", str(config)], env, cores)

    def __enter__(self) -> Sidecar:
        self.process.start()
        try:
            self.ready_seconds = self.process.wait(f"http://127.0.0.1:{self.ops}/readyz", self._patience)
        except BaseException:
            self.process.stop()
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.stop()
        self.socket.unlink(missing_ok=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/v1/embed"

    def models(self) -> dict:
        """`/api/v1/models`."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/models", timeout=30) as answer:
            return json.load(answer)

    def embed(self, body: Mapping[str, object], timeout: float = 120) -> tuple[int, dict]:
        """Status and answer of one request."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url, data, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}")

    def metrics(self) -> str:
        """Prometheus text."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ops}/metrics", timeout=30) as answer:
            return answer.read().decode()

    def _config(  # noqa: PLR0917 - what a configuration is made of
        self,
        folder: Path,
        entries: Sequence[Entry],
        default: str,
        runtime: Mapping,
        batching: Mapping,
        memory: int | None,
    ) -> str:
        server = {
            "listen": f"127.0.0.1:{self.port}",
            "ops_listen": f"127.0.0.1:{self.ops}",
            "unix_socket": str(self.socket),
        }
        parts = [
            section("server", server),
            section("storage", {"state_folder": str(folder / "state")}),
            section("runtime", runtime),
            section("embedding.batching", batching) if batching else "",
            section("embedding.models", {"default": default, **({"memory_limit_bytes": memory} if memory else {})}),
        ]
        for entry in entries:
            manifest = json.loads((entry.path / "manifest.json").read_text("utf-8"))
            own = {
                "name": manifest["model"]["name"],
                "path": str(entry.path),
                "dimension": manifest["model"]["dimension"],
                "precision": manifest["variant"]["precision"],
                **entry.settings,
            }
            parts.append(section("[embedding.models.available]", own))
        return "\n".join(part for part in parts if part)


def section(name: str, values: Mapping[str, object]) -> str:
    """One TOML table; JSON's strings, numbers, booleans and lists are TOML's."""
    return "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""])


def loadtest(
    program: Path,
    sidecar: Sidecar,
    *,
    seconds: float,
    warmup: int,
    more: Sequence[str],
    cores: Sequence[int] | None = None,
    stop: threading.Event | None = None,
) -> dict:
    """One run of `akidb-loadtest run`, which `stop` ends early; its JSON report."""
    file = sidecar.process.log.with_name(f"load-{time.monotonic_ns()}.json")
    command = [
        *(str(program), "run", "--url", sidecar.url, "--unix-socket", str(sidecar.socket)),
        *("--metrics", f"http://127.0.0.1:{sidecar.ops}/metrics", "--duration", f"{int(seconds * 1000)}ms"),
        *("--warmup", str(warmup), "--words", "18", "--allow-errors", "--json", str(file), *more),
    ]
    with on(cores):
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    latest, said = time.monotonic() + 2 * seconds + 40, ""
    try:
        while running.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                _, said = running.communicate(timeout=0.2)
            if stop is not None and stop.is_set():
                running.send_signal(signal.SIGINT)  # it still counts what is on its way
                stop = None
            if time.monotonic() > latest:
                why = f"akidb-loadtest did not end in {2 * seconds + 40:.0f} s; the sidecar: {sidecar.process.tail()}"
                raise ToolError(why)
    finally:
        if running.poll() is None:
            running.kill()
            running.communicate()
    if not file.is_file():
        raise ToolError(f"akidb-loadtest failed ({running.returncode}): {said.strip()[-500:]}")
    return json.loads(file.read_text("utf-8"))
