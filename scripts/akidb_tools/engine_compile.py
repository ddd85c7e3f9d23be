"""A graph and profiles enter; one EPContext file a profile leaves, compiled side by side in processes of their own.

Several engines of one graph take as long as the slowest. The widest profile's file has the name of any bundle's engine.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto

from . import bundle, tensorrt_native, tensorrt_provider
from .shape_profiles import Profile


@dataclass(frozen=True)
class Compiler:
    """How to compile; travels to the processes. `provider` "cpu" writes the graph as it is."""

    precision: str
    typing: str
    builder: str
    provider: str
    inputs: tuple[str, ...]
    timing_cache: Path | None = None
    level: int = 3
    device: int = 0


def names_of(profiles: Sequence[Profile]) -> list[str]:
    """What the engines' files are called, in the order of the profiles."""
    return [*(f"model.profile{n}.onnx" for n in range(len(profiles) - 1)), bundle.ENGINE]


def compile_all(
    graph: ModelProto, how: Compiler, profiles: Sequence[Profile], folder: Path, say: Callable[[str], None]
) -> tuple[list[dict], list[dict]]:
    """`engines` of the build report, and the layers of the main engine where they are to be had."""
    files = [folder / name for name in names_of(profiles)]
    for profile in profiles:
        say(f"compiling {how.precision} for {profile}")
    if len(profiles) == 1:
        done = [_compile(graph, how, profiles[0], files[0])]
    else:
        done = _side_by_side(graph, how, profiles, files)
    engines = []
    for profile, file, (seconds, _) in zip(profiles, files, done, strict=True):
        size = file.stat().st_size
        engines.append({"profile": str(profile), "file": file.name, "bytes": size, "seconds": round(seconds, 2)})
        say(f"{file.name}: {size / 1e6:.1f} MB in {seconds:.1f} s")
    for stray in (f for f in folder.iterdir() if f not in files):
        stray.unlink()  # what a builder left beside its engine would count as a part of the artifact
    return engines, done[-1][1]


def _write(graph: ModelProto, file: Path) -> tuple[float, list[dict]]:
    started = time.monotonic()
    file.write_bytes(graph.SerializeToString(deterministic=True))
    return time.monotonic() - started, []


def _compile(graph: ModelProto, how: Compiler, profile: Profile, file: Path) -> tuple[float, list[dict]]:
    if how.provider == "cpu":
        return _write(graph, file)
    settings = {"precision": how.precision, "timing_cache": how.timing_cache, "level": how.level}
    if how.builder == "tensorrt":
        return tensorrt_native.build(graph, how.inputs, profile, file, typing=how.typing, **settings)
    return tensorrt_provider.build(graph, how.inputs, profile, file, device=how.device, **settings), []


def _side_by_side(
    graph: ModelProto, how: Compiler, profiles: Sequence[Profile], files: Sequence[Path]
) -> list[tuple[float, list[dict]]]:
    spawn = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with tempfile.TemporaryDirectory() as work, ProcessPoolExecutor(len(profiles), mp_context=spawn) as pool:
        source = Path(work, "graph.onnx")
        onnx.save_model(graph, source)
        tasks = [
            pool.submit(_from_file, source, how, profile, file) for profile, file in zip(profiles, files, strict=True)
        ]
        return [task.result() for task in tasks]


def _from_file(source: Path, how: Compiler, profile: Profile, file: Path) -> tuple[float, list[dict]]:
    """In a process of its own, with a timing cache of its own: two writers would lose one's times."""
    cache = None if how.timing_cache is None else how.timing_cache / str(profile).replace(":", "_")
    own = Compiler(**{**how.__dict__, "timing_cache": cache})
    return _compile(onnx.load(source), own, profile, file)
