"""Shares of the machine's cores enter; child processes that keep to them, and the CPU time that programs took, leave.

Client and server of a load test run on one machine: who has which cores, and how many each was on, belongs to a figure.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

TICKS = os.sysconf("SC_CLK_TCK")


def allowed() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


@contextlib.contextmanager
def on(cores: Sequence[int] | None) -> Iterator[None]:
    """Children that this thread starts in the block run on these cores only; None: on all."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def placements(cores: Sequence[int]) -> dict[str, tuple[list[int] | None, list[int] | None]]:
    """Ways to place server and clients, by name: (server's cores, clients'); None is all of them."""
    found: dict[str, tuple[list[int] | None, list[int] | None]] = {"shared": (None, None)}
    for name, part in (("clients on a quarter", 4), ("clients on half", 2)):
        own = len(cores) // part
        if own:
            found[name] = (list(cores[:-own]), list(cores[-own:]))
    return {name: it for name, it in found.items() if it[0] is None or it[0]}


class Spent:
    """`with Spent(server) as seen: ...` around a client that ends in it; then `seen.cores()`."""

    def __init__(self, server: int) -> None:
        self._server = server

    def __enter__(self) -> Spent:
        self._before = time.monotonic(), cpu_seconds(self._server), _children()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._after = time.monotonic(), cpu_seconds(self._server), _children()

    def cores(self) -> dict[str, float | int | None]:
        """How many cores the server and the clients kept busy on average, of how many."""
        (began, server, clients), (ended, server_now, clients_now) = self._before, self._after
        took = max(ended - began, 1e-9)
        known = server is not None and server_now is not None
        return {
            "server": round((server_now - server) / took, 2) if known else None,
            "clients": round((clients_now - clients) / took, 2),
            "of": len(allowed()),
        }


def cpu_seconds(process: int) -> float | None:
    """CPU time of a process so far, its ended threads included; None where /proc has no such process."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / TICKS


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
