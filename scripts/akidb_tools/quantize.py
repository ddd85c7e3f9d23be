"""A parent bundle and calibration texts enter; a quantized bundle, proven against its parent, and a report leave.

Nothing is written unless the gates are passed (or failing is allowed). The same inputs, seed and machine give the same
bytes; the report carries what the manifest has no room for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

from . import __version__, bundle, bundle_reader, corpus, quantize_plan, runtime, text_sets, validate
from .bundle_reader import Bundle
from .errors import BadInput, ToolError
from .recipes import GATE, Recipe, choose
from .text_sets import TextSet
from .tokenizer import Encoder

TOOL = f"quantize_model {__version__} (onnxruntime {ort.__version__})"
JUDGE_TEXTS = 256
CORPUS = Path("build/corpus")


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    model: Path
    output: Path
    calibration_data: Path | None = None
    test_dataset: Path | None = None
    precision: str = "int8"
    target: str | None = None
    recipe: str | None = None
    seed: int = 0
    calibrate: int = 512
    evaluate: int = 2_000
    text_tokens: int | None = None
    measure_speed: bool = False
    any_language: bool = False
    allow_failed: bool = False
    force: bool = False
    report: Path | None = None


@dataclass(frozen=True)
class _Texts:
    """The calibration file, which of its texts are used how, and the set that proves the result."""

    calibration: TextSet
    collect: list[str]
    judge: list[str]
    dataset: TextSet
    prove: list[str]


@dataclass(frozen=True)
class _Job:
    """Everything decided before the heavy work starts. `encoder` cuts as the model does, `short` to `text_tokens`."""

    options: Options
    output: Path
    recipe: Recipe
    parent: Bundle
    encoder: Encoder
    short: Encoder
    texts: _Texts

    @property
    def single(self) -> bool:
        """Whether the bundle is one engine file with the rest beside it."""
        return self.output.suffix == ".onnx"

    @property
    def seeded(self) -> bool:
        return self.parent.model["seeded"]


def run(options: Options, say: Callable[[str], None]) -> dict:
    """Quantizes, proves, writes; returns the report."""
    job = _prepare(options, say)
    encoder, texts = job.short, job.texts
    work = quantize_plan.Work(
        model=job.parent.load(),
        output=job.parent.output,
        calibration=[encoder.ids(text) for text in texts.collect],
        judges=[encoder.ids(text) for text in texts.judge],
        seed=options.seed,
        measure=not job.seeded,
        say=say,
    )
    done = quantize_plan.quantize(work, job.recipe)
    del work  # and the parent's graph with it: its engine is a file
    engines = validate.Engines(job.parent.engine, done.model, job.parent.output, encoder, job.recipe.precision)
    proof = validate.measure(engines, texts.dataset, texts.prove, seed=options.seed, gate=GATE, say=say)
    if options.measure_speed:
        say("speed: both engines in turns")
        proof["speed"] = validate.speed(engines, texts.prove, runs=15)
    if proof["failures"] and not options.allow_failed and not job.seeded:
        raise ToolError(f"{'; '.join(proof['failures'])}; nothing was written (--allow-failed writes it all the same)")
    with (bundle.placing if job.single else bundle.replacing)(job.output) as folder:
        manifest = _write(folder, job, done.model, proof["evaluation"])
    report = _report(job, done, proof, manifest)
    file = options.report or job.output.with_name(f"{job.output.stem if job.single else job.output.name}.report.json")
    file.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return {**report, "report_file": str(file)}


def _prepare(options: Options, say: Callable[[str], None]) -> _Job:
    recipe = choose(options.recipe, options.precision, options.target)
    check = bundle.check_output_file if options.output.suffix == ".onnx" else bundle.check_output
    output = check(options.output, options.force)
    parent = bundle_reader.read(options.model)
    precision = parent.manifest["variant"]["precision"]
    if precision != "fp32":
        raise BadInput(f"{parent.manifest_file} is {precision} already; give its fp32 bundle")
    encoder = parent.encoder()
    texts = _texts(options, encoder, parent.model["seeded"], say)
    cut = min(options.text_tokens or encoder.max_tokens, encoder.max_tokens)
    short = Encoder(parent.file("tokenizer").read_bytes(), cut)
    return _Job(options, output, recipe, parent, encoder, short, texts)


def _texts(options: Options, encoder: Encoder, seeded: bool, say: Callable[[str], None]) -> _Texts:
    """Calibration from the file or the corpus; the proof from the test set, or a quarter of the file, by hash.

    Graded pairs are left out where they would say nothing (seeded) and thinned out with the texts of the proof.
    """
    data, proof = options.calibration_data, options.test_dataset
    if data is None:
        if not (CORPUS / corpus.CALIBRATION).is_file():
            say(f"no --calibration-data: building the corpus in {CORPUS}")
            corpus.build(corpus.Options(output=CORPUS), say)
        data, proof = CORPUS / corpus.CALIBRATION, proof or CORPUS / corpus.TEST
    calibration = text_sets.read(data)
    if not options.any_language:
        text_sets.check_language(calibration, encoder)
    if proof is None:
        kept_out = [t for t in calibration.texts if hashlib.sha256(f"held out\n{t}".encode()).digest()[0] < 64]
        known = set(kept_out)
        usable = [t for t in calibration.texts if t not in known]
        dataset = replace(calibration, texts=kept_out)
    else:
        dataset = text_sets.read(proof)
        known = set(dataset.texts)
        usable = [t for t in calibration.texts if t not in known]
    if len(usable) < text_sets.LEAST_TEXTS or len(dataset.texts) < bundle.MIN_REFERENCES:
        raise BadInput(
            f"{calibration.file}: {len(usable)} texts to calibrate with and {len(dataset.texts)} to prove the result "
            f"are too few (at least {text_sets.LEAST_TEXTS} and {bundle.MIN_REFERENCES}); give more, or --test-dataset"
        )
    every = max(1, 2_000 // options.evaluate)
    dataset = replace(dataset, pairs=[] if seeded else dataset.pairs[::every])
    order = np.random.RandomState(options.seed).permutation(len(usable))
    judges = min(JUDGE_TEXTS, len(order) // 4)
    pick = [usable[n] for n in order]
    return _Texts(
        calibration=calibration,
        collect=pick[judges : judges + options.calibrate],
        judge=pick[:judges],
        dataset=dataset,
        prove=dataset.texts[: options.evaluate],
    )


def _write(folder: Path, job: _Job, model: ModelProto, evaluation: dict) -> dict:
    parent, recipe = job.parent, job.recipe
    names = bundle.Names.beside(job.output.stem) if job.single else bundle.Names()
    (folder / names.engine).write_bytes(model.SerializeToString(deterministic=True))
    (folder / names.tokenizer).write_bytes(parent.file("tokenizer").read_bytes())
    sentences, _ = bundle_reader.reference_rows(parent)
    rows = [job.encoder.ids(text) for text in sentences]
    engine = runtime.session(folder / names.engine, fp8=recipe.precision == "fp8")
    vectors = runtime.embed(engine, rows, parent.output)
    (folder / names.reference).write_bytes(bundle.reference_json(sentences, vectors))
    wanted = bundle.Model.__dataclass_fields__
    card = bundle.Model(**{key: value for key, value in parent.model.items() if key in wanted})
    variant = bundle.Variant(
        name=recipe.name,
        precision=recipe.precision,
        inputs=parent.manifest["graph"]["inputs"],
        output=parent.output,
        provider="cpu" if recipe.precision == "int8" else "portable",
    )
    lineage = bundle.Lineage(
        recipe=f"{TOOL} --recipe {recipe.name} --seed {job.options.seed}: {recipe.summary}",
        source_files=[(parent.engine.name, bundle.sha256(parent.engine))],
        parent_digest=parent.digest,
        calibration_digest=job.texts.calibration.digest,
    )
    attached = {**evaluation, "tool": TOOL}
    if job.seeded:
        attached = {"kind": "not_applicable", "passed": False, "reason": "seeded"}
    return bundle.write_manifest(folder, card, variant, lineage, attached, names=names)


def _report(job: _Job, done: quantize_plan.Quantized, proof: dict, manifest: dict) -> dict:
    parent, recipe, texts = job.parent, job.recipe, job.texts

    def size(files: list[dict]) -> int:
        return sum(f["bytes"] for f in files if f["role"].startswith("engine"))

    before, after = size(parent.manifest["files"]), size(manifest["files"])
    found = validate.figures(proof)
    aims = {k: {"aim": least, "value": found[k], "met": (found[k] or 0) >= least} for k, least in recipe.aims.items()}
    ratio = round(after / before, 4)
    if recipe.most_size:
        aims["size"] = {"aim": recipe.most_size, "value": ratio, "met": ratio <= recipe.most_size}
    return {
        "artifact": str(job.options.output),
        "digest": manifest["digest"],
        "seeded": job.seeded,
        "recipe": {"name": recipe.name, "summary": recipe.summary, "seed": job.options.seed},
        "size": {"before": before, "after": after, "ratio": ratio},
        "lineage": {
            "parent": {"model": parent.model["name"], "digest": parent.digest},
            "calibration": {
                "file": texts.calibration.file.name,
                "sha256": texts.calibration.digest,
                "collected": len(texts.collect),
                "judged": len(texts.judge),
                "most_tokens": job.short.max_tokens,
            },
            "dataset": {"file": texts.dataset.file.name, "sha256": texts.dataset.digest, "n": len(texts.prove)},
        },
        "aims": aims,
        **proof,
        "evaluation": manifest["evaluation"],
        "measured": proof["evaluation"],
        "tables_int8": done.tables,
        "layers": done.layers,
    }
