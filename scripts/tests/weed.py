"""A folder enters; a real S3 server (SeaweedFS, from requirements-dev.txt) on free loopback ports leaves."""

from __future__ import annotations

import contextlib
import json
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
    ports = [f"-{part}.port{kind}={_free()}" for part in ("master", "volume", "filer") for kind in ("", ".grpc")]
    port = _free()
    command = [Path(sys.executable).parent / "weed", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}"]
    command += ["-s3", f"-s3.config={accounts}", f"-s3.port={port}", f"-s3.port.grpc={_free()}", *ports]
    command += ["-master.volumeSizeLimitMB=128", "-volume.max=20"]
    # Catalogs that nobody asked for, on fixed ports: a second server on the machine would end over them.
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _wait(f"http://127.0.0.1:{port}/", process, folder / "log")
        yield Server(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()


def _wait(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except urllib.error.HTTPError as answered:
            if answered.code == 403:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"the S3 server did not answer: {log.read_text('utf-8', errors='replace')[-2000:]}")


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
