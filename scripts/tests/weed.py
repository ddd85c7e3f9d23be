"""A folder enters; a real S3 server (SeaweedFS, from requirements-dev.txt) on free loopback ports leaves."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ACCESS, SECRET = "akidb-test", "akidb-test-secret"


@dataclass(frozen=True)
class Server:
    """A running server's address."""

    endpoint: str

    def environment(self, secret: str = SECRET) -> dict[str, str]:
        """What an AWS client needs."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Starts it, waits until it answers (about 5 s), ends it."""
    account = {"name": "test", "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}]}
    account["actions"] = ["Admin", "Read", "Write", "List", "Tagging"]
    accounts = folder / "s3.json"
    accounts.write_text(json.dumps({"identities": [account]}), "utf-8")
    listeners = [f"{part}.port{kind}" for part in ("s3", "master", "volume", "filer") for kind in ("", ".grpc")]
    ports = dict(zip(listeners, free_ports(len(listeners)), strict=True))
    s3, master = ports["s3.port"], ports["master.port"]
    command = [Path(sys.executable).parent / "weed", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}"]
    command += ["-s3", f"-s3.config={accounts}", *(f"-{listener}={port}" for listener, port in ports.items())]
    command += ["-master.volumeSizeLimitMB=128", "-volume.max=20"]
    # Catalogs that nobody asked for, on fixed ports: a second server on the machine would end over them.
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _wait(s3, master, process, folder / "log")
        yield Server(f"http://127.0.0.1:{s3}")
    finally:
        process.kill()
        process.wait()


def _wait(s3: int, master: int, process: subprocess.Popen, log: Path) -> None:
    """A refusal means that it knows its accounts, a data node that it has room for objects."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if _asked(s3, "/")[0] == 403 and b'"DataNodes"' in _asked(master, "/dir/status")[1]:
            return
        time.sleep(0.1)
    raise AssertionError(f"the S3 server did not become ready: {log.read_text('utf-8', errors='replace')[-2000:]}")


def _asked(port: int, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        return refused.code, b""
    except OSError:
        return 0, b""


def free_ports(count: int) -> list[int]:
    """Free ports on loopback, no two alike: one that was given back might be given again.

    They are below those that the system hands out by itself.
    """
    with contextlib.ExitStack() as held:
        found: list[int] = []
        for port in random.sample(range(20_000, 32_000), 1_000):
            probe = held.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise AssertionError("no free ports on loopback")
