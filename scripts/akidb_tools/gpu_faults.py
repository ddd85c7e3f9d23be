"""Stage `faults`: an engine that cannot or must not serve is given to the sidecar; what it says leaves.

Each case expects a refusal or a fallback *with its reason*; a case is `ok` only where the expected thing was seen. The
output is kept whole. Files are altered in copies below `work`.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import bundle, tensorrt_provider
from .bundle_reader import Bundle
from .engine_run import Bound
from .errors import BadInput, ToolError
from .gpu_http import programs, runtime_library, sides
from .gpu_plan import MINILM
from .gpu_services import Entry, Sidecar
from .gpu_stage import Stage
from .gpu_timing import batch_of
from .shape_profiles import parse

# A sidecar whose only model is refused stays up and is not ready; what cannot serve says so well before.
PATIENCE = 20.0


@dataclass(frozen=True)
class Case:
    """`expected`: words of which one must be in the reason; `kinds`: what may become of it."""

    name: str
    run: Callable[[Stage, Bundle, Path], dict]
    expected: tuple[str, ...]
    kinds: tuple[str, ...] = ("refused",)


def run(stage: Stage) -> None:
    """Every case, each in a folder and a process of its own."""
    programs(stage)
    served, _ = sides(stage)
    own = stage.built(MINILM.name)[served.variant]
    for case in CASES:
        if stage.only not in case.name:
            continue
        if stage.left() < 10:
            stage.say(f"{case.name}: no time left; run the stage again")
            continue
        folder = stage.work / "faults" / case.name.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            seen = case.run(stage, own, folder)
        except (ToolError, OSError) as error:
            seen = {"what": "refused", "reason": str(error)}
        text = str(seen["reason"]).lower()
        ok = seen["what"] in case.kinds and any(word in text for word in case.expected)
        entry = {"case": case.name, "ok": ok, "expected": list(case.expected), **seen, "rehearsal": stage.rehearse}
        stage.results.put("faults", ("case",), entry)
        stage.say(
            f"{'ok' if ok else 'NOT AS EXPECTED'} {case.name}: {seen.get('what')}: {str(seen.get('reason'))[:400]}"
        )


def other_version(stage: Stage, own: Bundle, folder: Path) -> dict:
    """The manifest names a TensorRT that is not here."""
    return _altered(stage, own, folder, lambda m: m["target"].update(tensorrt_version="9.3"))


def other_capability(stage: Stage, own: Bundle, folder: Path) -> dict:
    """The manifest names a GPU that is not here."""
    return _altered(stage, own, folder, lambda m: m["target"].update(compute_capability="12.0"))


def flipped_byte(stage: Stage, own: Bundle, folder: Path) -> dict:
    """One bit of the engine; its digest does not fit any more."""
    copy = _copy(own, folder)
    data = bytearray((copy / bundle.ENGINE).read_bytes())
    data[len(data) // 2] ^= 0x10
    (copy / bundle.ENGINE).write_bytes(data)
    return _serve(stage, copy, folder)


def flipped_and_signed(stage: Stage, own: Bundle, folder: Path) -> dict:
    """The head of the engine, with a digest that is made to fit: only TensorRT, or the proof, can notice."""
    copy = _copy(own, folder)
    data = bytearray((copy / bundle.ENGINE).read_bytes())
    start = max(data.find(b"ftrt"), 0) + 16
    for at in range(start, start + 4_096, 7):
        data[at] ^= 0xFF
    (copy / bundle.ENGINE).write_bytes(data)
    manifest = json.loads((copy / bundle.MANIFEST).read_text("utf-8"))
    for entry in manifest["files"]:
        if entry["role"] == "engine":
            entry["sha256"] = bundle.sha256(copy / entry["path"])
    (copy / bundle.MANIFEST).write_text(json.dumps(manifest), "utf-8")
    return _serve(stage, copy, folder)


def no_library(stage: Stage, own: Bundle, folder: Path) -> dict:
    """TensorRT's folders are taken off the loader's path."""
    kept = [
        part
        for part in os.environ.get("LD_LIBRARY_PATH", "").split(":")
        if part and not list(Path(part).glob("libnvinfer.so*"))
    ]
    return _serve(stage, own.folder, folder, env={"LD_LIBRARY_PATH": ":".join(kept)})


def misspelt_option(stage: Stage, own: Bundle, folder: Path) -> dict:
    """Through the tools: `true` where the provider takes only `True`."""
    if stage.rehearse:
        return {"what": "not run", "reason": "a rehearsal has no TensorRT"}
    tensorrt_provider.session(own.engine, "tensorrt", settings={"trt_cuda_graph_enable": "yes"})
    return {"what": "served", "reason": "ONNX Runtime took the option"}


def misspelt_key(stage: Stage, own: Bundle, folder: Path) -> dict:
    """Through the sidecar's configuration."""
    return _serve(stage, own.folder, folder, runtime={"provider": "tensorr"})


def beyond_profile(stage: Stage, own: Bundle, folder: Path) -> dict:
    """Straight into the engine: one text more than the profile takes. What the sidecar does with it is its own case."""
    profile = parse((own.manifest["target"]["shape_profile"] or "1x16:1x16:2x16").split(",")[-1])
    if stage.rehearse:
        return {"what": "not run", "reason": "a rehearsal has no TensorRT"}
    session = tensorrt_provider.session(own.engine, "tensorrt")
    feed = batch_of(own.encoder().ids("a text"), profile.most.batch + 1, 32, own.manifest["graph"]["inputs"])
    try:
        Bound(session, feed, (own.output, own.model["dimension"]), "cuda").run()
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no public base class
        return {"what": "refused", "reason": str(error).splitlines()[0][:600]}
    return {"what": "served", "reason": f"{profile.most.batch + 1} texts ran through profile {profile}"}


def beyond_profile_served(stage: Stage, own: Bundle, folder: Path) -> dict:
    """A request of more texts than the profile's largest batch: the sidecar must split it and answer all."""
    entry = Entry(own.folder, {"pinned": True})
    with _sidecar(stage, folder, [entry], own) as running:
        status, answer = running.embed({"texts": [f"text number {n}" for n in range(1_024)]})
        got = len(answer.get("embeddings") or [])
        compiled = "build" in running.process.log.read_text("utf-8", errors="replace").lower()
    reason = f"status {status}, {got} vectors of 1024 texts, a build in the log: {compiled}"
    return {"what": "split" if status == 200 and got == 1_024 else "refused", "reason": reason}


def memory_full(stage: Stage, own: Bundle, folder: Path) -> dict:
    """All but 64 MiB of the GPU's memory is taken before the sidecar starts."""
    if stage.rehearse:
        return {"what": "not run", "reason": "a rehearsal has no GPU"}
    with _Hog(64 * 2**20) as hog:
        seen = _serve(stage, own.folder, folder)
    return {**seen, "taken_mib": hog.taken // 2**20}


class _Hog:
    """Holds the device's memory by plain allocations."""

    def __init__(self, leave: int) -> None:
        self._leave, self._held, self.taken = leave, [], 0

    def __enter__(self) -> _Hog:
        self._driver = ctypes.CDLL("libcuda.so.1")
        device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._check(self._driver.cuInit(0))
        self._check(self._driver.cuDeviceGet(ctypes.byref(device), 0))
        self._check(self._driver.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), device))
        self._check(self._driver.cuCtxPushCurrent_v2(self._context))
        step = 2**30
        while step >= 2**24:
            free, total, pointer = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_ulonglong()
            self._check(self._driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)))
            if free.value < step + self._leave or self._driver.cuMemAlloc_v2(
                ctypes.byref(pointer), ctypes.c_size_t(step)
            ):
                step //= 2
                continue
            self._held.append(pointer)
            self.taken += step
        return self

    def __exit__(self, *_: object) -> None:
        for pointer in self._held:
            self._driver.cuMemFree_v2(pointer)

    def _check(self, code: int) -> None:
        if code:
            raise ToolError(f"CUDA driver error {code} while taking the GPU's memory")


def raw_plan(stage: Stage, own: Bundle, folder: Path) -> dict:
    """The tools get a TensorRT plan by its own name."""
    from . import engine_source, tensorrt_native

    file = folder / "engine.plan"
    file.write_bytes(b"ftrt" + bytes(64) if stage.rehearse else tensorrt_native.plan_of(own.engine))
    try:
        engine_source.find(file, "fp16")
    except BadInput as error:
        return {"what": "refused", "reason": str(error)}
    return {"what": "taken", "reason": "a raw plan was taken for a model"}


CASES = (
    Case("engine of another TensorRT version", other_version, ("version", "9.3", "tensorrt")),
    Case("engine of another compute capability", other_capability, ("capability", "12.0")),
    Case("flipped byte", flipped_byte, ("sha256", "digest")),
    Case("flipped bytes with a digest that fits", flipped_and_signed, ("engine", "tensorrt", "parity", "cosine")),
    Case("no libnvinfer", no_library, ("libnvinfer",)),
    Case("misspelt provider option", misspelt_option, ("trt_cuda_graph_enable", "fell back")),
    Case("misspelt provider", misspelt_key, ("tensorr",)),
    Case("batch beyond the profile", beyond_profile, ("profile", "range", "dimension")),
    Case("batch beyond the profile served", beyond_profile_served, ("1024 vectors of 1024",), ("split",)),
    Case("GPU memory nearly full", memory_full, ("memory",)),
    Case("raw TensorRT plan", raw_plan, ("raw tensorrt plan",)),
)


def _copy(own: Bundle, folder: Path) -> Path:
    copy = folder / "bundle"
    shutil.copytree(own.folder, copy)
    return copy


def _altered(stage: Stage, own: Bundle, folder: Path, change: Callable[[dict], object]) -> dict:
    copy = _copy(own, folder)
    manifest = json.loads((copy / bundle.MANIFEST).read_text("utf-8"))
    change(manifest)
    (copy / bundle.MANIFEST).write_text(json.dumps(manifest), "utf-8")
    return _serve(stage, copy, folder)


def _sidecar(
    stage: Stage, folder: Path, entries: list[Entry], own: Bundle, env: dict | None = None, **runtime: object
) -> Sidecar:
    """`provider=None` demands none."""
    facts = {"onnxruntime": runtime_library(), "provider": stage.provider, **runtime}
    facts = {key: value for key, value in facts.items() if value is not None}
    default = f"{own.model['name']}@{own.manifest['variant']['name']}"
    return Sidecar(
        Path(stage.options["sidecar"]), folder, entries, default=default, runtime=facts, env=env, patience=PATIENCE
    )


def _serve(stage: Stage, path: Path, folder: Path, env: dict | None = None, runtime: dict | None = None) -> dict:
    """Demanded: the start must fail and say why. Then, where nothing is demanded, what serves and the reason shown."""
    own = Bundle(path / bundle.MANIFEST, json.loads((path / bundle.MANIFEST).read_text("utf-8")), "")
    alone = [Entry(path, {} if stage.rehearse else {"fallback": False})]
    demanded = _try(_sidecar(stage, folder / "demanded", alone, own, env, **(runtime or {})))
    if runtime:
        return demanded
    entries = [Entry(path), Entry(stage.fp32(MINILM))]
    return {**demanded, "with_fallback": _try(_sidecar(stage, folder / "allowed", entries, own, env, provider=None))}


def _try(made: Sidecar) -> dict:
    try:
        with made:
            models = made.models()
            status, answer = made.embed({"text": "is anybody there"})
    except ToolError as error:
        return {"what": "refused", "reason": str(error)}
    variants = [v for model in models["models"] for v in model["variants"]]
    facts = {"status": status, "answer": answer.get("variant") or answer.get("error"), "variants": variants}
    facts["problems"] = models.get("problems")
    failed = [v for v in variants if v["state"] == "failed"] or models.get("problems")
    what = "fallback" if failed else "served"
    return {"what": what, "reason": json.dumps(facts)[:2_000], "log": made.process.tail(4)}
