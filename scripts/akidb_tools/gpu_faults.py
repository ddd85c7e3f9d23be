"""Stage `faults`: an engine that cannot or must not serve is given to the sidecar; what it says leaves.

Each case expects a refusal or a fallback *with its reason*; a case is `ok` only where the expected thing was seen. The
output is kept whole. Files are altered in copies below `work`.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import bundle, tensorrt_provider
from .bundle_reader import Bundle
from .engine_run import Bound
from .errors import BadInput, ToolError
from .gpu_hog import Hog
from .gpu_plan import MINILM
from .gpu_point import totals
from .gpu_services import Entry, Sidecar
from .gpu_sides import lineup, programs, runtime_library, serving
from .gpu_stage import Stage
from .gpu_timing import batch_of
from .shape_profiles import parse

# A sidecar whose only model is refused stays up and is not ready; what cannot serve says so well before.
PATIENCE = 20.0
# An engine's build takes longer than any answer of an engine that is there.
BUILD_SECONDS = 10.0
NOT_RUN = "not run"


@dataclass(frozen=True)
class Case:
    """`expected`: words of which one must be in the reason; `kinds`: what may become of it.

    `stands_in`: words of which one must be shown where a fallback is allowed and serves; empty: none is expected to.
    """

    name: str
    run: Callable[[Stage, Bundle, Path], dict]
    expected: tuple[str, ...]
    kinds: tuple[str, ...] = ("refused",)
    stands_in: tuple[str, ...] = ()

    def holds(self, seen: dict) -> bool:
        """Whether what was seen is what must happen."""
        if seen["what"] not in self.kinds or not _has(seen["reason"], self.expected):
            return False
        then = seen.get("with_fallback")
        return not (then and self.stands_in) or (then["what"] == "fallback" and _has(then["reason"], self.stands_in))


def run(stage: Stage) -> None:
    """Every case in a process of its own, with an engine that a sidecar serves when nothing is wrong."""
    programs(stage)
    engines = lineup(stage)
    with serving(stage, "faults", engines) as (_, side):
        own = stage.built(MINILM.name)[side.variant]
    parts = [(case.name, lambda case=case: _run(stage, case, own)) for case in CASES]
    stage.in_order(parts, least=10, noted_as="faults ")


def _run(stage: Stage, case: Case, own: Bundle) -> None:
    folder = stage.work / "faults" / case.name.replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        seen = case.run(stage, own, folder)
    except (ToolError, OSError) as error:
        seen = {"what": "refused", "reason": str(error)}
    ok = case.holds(seen)
    entry = {"case": case.name, "ok": ok, "expected": list(case.expected), **seen, "rehearsal": stage.rehearse}
    stage.results.put("faults", entry)
    stage.say(f"{'ok' if ok else 'NOT AS EXPECTED'} {case.name}: {seen['what']}: {str(seen['reason'])[:400]}")


def _has(text: object, words: tuple[str, ...]) -> bool:
    return any(word in str(text).lower() for word in words)


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
    """An option of the provider itself, which only the tools set: `yes` where it takes `True`."""
    if stage.rehearse:
        return {"what": NOT_RUN, "reason": "a rehearsal has no TensorRT"}
    tensorrt_provider.session(own.engine, "tensorrt", settings={"trt_cuda_graph_enable": "yes"})
    return {"what": "served", "reason": "ONNX Runtime took the option"}


def misspelt_provider(stage: Stage, own: Bundle, folder: Path) -> dict:
    """The sidecar's `runtime.provider`."""
    return _serve(stage, own.folder, folder, runtime={"provider": "tensorr"})


def misspelt_setting(stage: Stage, own: Bundle, folder: Path) -> dict:
    """The sidecar takes no provider option by its own name: `runtime.cuda_graphs` and others become them."""
    return _serve(stage, own.folder, folder, runtime={"cuda_graph": ["1x16"]})


def misspelt_value(stage: Stage, own: Bundle, folder: Path) -> dict:
    """A shape that is none, in `runtime.cuda_graphs`."""
    return _serve(stage, own.folder, folder, runtime={"cuda_graphs": ["1 by 16"]})


def beyond_profile(stage: Stage, own: Bundle, folder: Path) -> dict:
    """Straight into the engine: one text more than the profile takes. What the sidecar does with it is its own case."""
    profile = parse((own.manifest["target"]["shape_profile"] or "1x16:1x16:2x16").split(",")[-1])
    if stage.rehearse:
        return {"what": NOT_RUN, "reason": "a rehearsal has no TensorRT"}
    session = tensorrt_provider.session(own.engine, "tensorrt")
    feed = batch_of(own.encoder().ids("a text"), profile.most.batch + 1, 32, own.manifest["graph"]["inputs"])
    try:
        Bound(session, feed, (own.output, own.model["dimension"]), "cuda").run()
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors share no public base class
        return {"what": "refused", "reason": tensorrt_provider.words(error)}
    return {"what": "served", "reason": f"{profile.most.batch + 1} texts ran through profile {profile}"}


def beyond_profile_served(stage: Stage, own: Bundle, folder: Path) -> dict:
    """A request of more texts than the profile takes: the sidecar must split it, build nothing, answer all."""
    texts = 16 if stage.rehearse else 1_024
    with _sidecar(stage, folder, [Entry(own.folder, {"pinned": True})], own) as running:
        started = time.monotonic()
        status, answer = running.embed({"texts": [f"text number {n}" for n in range(texts)]})
        took = time.monotonic() - started
        batches = totals(running.metrics()).get("akidb_batch_size_count", 0.0)
    got = len(answer.get("embeddings") or [])
    widest = (own.manifest["target"]["shape_profile"] or "").split(",")[-1]
    reason = f"status {status}, {got} vectors of {texts} texts in {took:.2f} s, {batches:.0f} batches, profile {widest}"
    most = parse(widest).most.batch if widest else texts
    split = status == 200 and got == texts and took < BUILD_SECONDS and batches >= texts / most
    return {"what": "split" if split else "refused", "reason": reason}


def memory_full(stage: Stage, own: Bundle, folder: Path) -> dict:
    """All but 64 MiB of the GPU's memory is taken before the sidecar starts."""
    if stage.rehearse:
        return {"what": NOT_RUN, "reason": "a rehearsal has no GPU"}
    with Hog(64 * 2**20) as hog:
        seen = _serve(stage, own.folder, folder)
    return {**seen, "taken_mib": hog.taken // 2**20}


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
    Case("engine of another TensorRT version", other_version, ("tensorrt 9.3",), stands_in=("stands in",)),
    Case("engine of another compute capability", other_capability, ("capability 12.0",), stands_in=("stands in",)),
    Case("flipped byte", flipped_byte, ("sha256",)),
    Case("flipped bytes with a digest that fits", flipped_and_signed, ("cannot be loaded", "reference vectors")),
    Case("no libnvinfer", no_library, ("libnvinfer",), stands_in=("stands in",)),
    Case("misspelt provider option", misspelt_option, ("trt_cuda_graph_enable",)),
    Case("misspelt provider", misspelt_provider, ("`tensorr` is not an execution provider",)),
    Case("misspelt setting of the sidecar", misspelt_setting, ("unknown key `runtime.cuda_graph`",)),
    Case("misspelt shape of a CUDA graph", misspelt_value, ("runtime.cuda_graphs",)),
    Case("batch beyond the profile", beyond_profile, ("setinputshape", "optimization profile")),
    Case("batch beyond the profile served", beyond_profile_served, ("1024 vectors of 1024",), ("split",)),
    Case("GPU memory nearly full", memory_full, ("out of memory", "bytes free")),
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
    entries = [Entry(path, {"fallback": True}), Entry(stage.fp32(MINILM))]
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
    other = [v for v in variants if v["reason"]] or models.get("problems")
    what = "fallback" if other and status == 200 else "served" if status == 200 else "refused"
    return {"what": what, "reason": json.dumps(facts)[:2_000], "log": made.process.tail(4)}
