"""Which models, the user's folders and texts enter; the steps that build their bundles, in order, leave.

Every model goes the same way: a checkpoint (installed, distilled, the user's or seeded) -> fp32 -> int8 and fp8, by
the command lines of this folder. Runs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import bundle, checkpoint, corpus, source, weights
from .errors import BadInput
from .five_models import MODELS, TEACHER, Recipe, canonical, find
from .step_inputs import SCRIPTS, Digests, code
from .steps import Step

CORPUS_STEP = "corpus"
DISTILLED = "distillation.json"  # what distill_model.py leaves in its folder
# What two cores reach in the time that a whole build may give the student; more time or a GPU takes it further.
STUDENT_MINUTES, STUDENT_RECALL = "23.5", "0.70"
# Multiply-adds of one token in MiniLM's linear layers: models up to this size are proven on all texts.
SMALL = 10_616_832


@dataclass(frozen=True)
class Plan:
    """What to build, of what and where. `folders`: the user's checkpoints by canonical name."""

    models: Sequence[Recipe] = MODELS
    folders: dict[str, Path] = field(default_factory=dict)
    seed: int = 0
    bundles: Path = Path("build/bundles")
    checkpoints: Path = Path("build/checkpoints")
    corpus: Path = Path("build/corpus")
    calibration_data: Path | None = None
    test_dataset: Path | None = None
    epochs: int = 7
    any_language: bool = False

    def seeded(self, model: Recipe) -> bool:
        """Whether its weights are random: nobody gave real ones."""
        return model.shape is not None and canonical(model.name) not in self.folders

    def bundle(self, model: Recipe, variant: str) -> Path:
        return self.bundles / model.folder(variant)


@dataclass(frozen=True)
class Texts:
    """How many texts calibrate and prove a model, and how many tokens of each count (None: all)."""

    calibrate: int
    evaluate: int
    tokens: int | None

    def options(self) -> list[str]:
        """For quantize_model.py."""
        cut = [] if self.tokens is None else ["--text-tokens", str(self.tokens)]
        return ["--calibrate", str(self.calibrate), "--evaluate", str(self.evaluate), *cut]


def texts(model: Recipe, seeded: bool) -> Texts:
    """Fewer texts for bigger models; far fewer for seeded ones, whose figures say nothing of a real model."""
    if model.shape is None:
        return Texts(512, 2_000, None)
    shape = model.shape
    size = shape.layers * (4 * shape.hidden**2 + 2 * shape.hidden * shape.intermediate)
    share = min(1.0, SMALL / size)
    if seeded:
        return Texts(max(32, round(512 * share)), max(64, round(1_000 * share)), 64)
    return Texts(min(512, max(64, round(1_024 * share))), min(2_000, max(128, round(4_000 * share))), None)


def steps(plan: Plan) -> list[Step]:
    """All steps; a model's own follow each other, what it needs comes first."""
    listed: list[Step] = []
    if plan.calibration_data is None:
        listed.append(_corpus(plan))
    teachers = [find(m.student_of) for m in plan.models if m.student_of]
    # A student's root names its teacher's as its parent, so that is there first, asked for or not.
    for model in teachers:
        if model not in plan.models:
            listed.append(_fp32(plan, model, None))
    for model in plan.models:
        first = _checkpoint(plan, model)
        fp32 = _fp32(plan, model, first)
        quantized = [_quantized(plan, model, precision, fp32.name) for precision in ("int8", "fp8")]
        listed += [*([first] if first else []), fp32, *quantized]
    return listed


def _corpus(plan: Plan) -> Step:
    script = "scripts/make_corpus.py"
    return Step(
        CORPUS_STEP,
        [script, "--output", str(plan.corpus)],
        [plan.corpus / corpus.CALIBRATION, plan.corpus / corpus.TEST],
        lambda _: {"code": _code(script)},
        advice="install the package it names, or give texts of your own: "
        "make models CALIBRATION=calibration-10k.txt TEST=test-10k.json",
    )


def _checkpoint(plan: Plan, model: Recipe) -> Step | None:
    """Where weights must be made first: distilled or seeded ones."""
    folder = plan.checkpoints / model.name
    if model.student_of:
        return _distilled(plan, model, folder)
    if not plan.seeded(model):
        return None
    script = "scripts/seed_checkpoint.py"
    command = [script, "--model", model.name, "--seed", str(plan.seed), "--output", str(folder), "--force"]
    return Step(f"{model.name} checkpoint", command, [folder], lambda _: {"code": _code(script)})


def _distilled(plan: Plan, model: Recipe, folder: Path) -> Step:
    script = "scripts/distill_model.py"
    command = [script, "--teacher", TEACHER, "--student-layers", "3", "--output", str(folder), "--json"]
    command += ["--epochs", str(plan.epochs), "--max-minutes", STUDENT_MINUTES, "--min-recall", STUDENT_RECALL]
    needs = (CORPUS_STEP,) if plan.calibration_data is None else ()

    def inputs(digests: Digests) -> dict:
        if not (SCRIPTS.parent / script).is_file():
            raise BadInput(f"{script} is missing here")
        # A training is worth more than a change of code: only another teacher or other options call for a new one.
        return {"teacher": digests.folder(source.resolve(TEACHER).folder), "packages": {}}

    def adopt() -> dict | None:
        """A student of the same teacher that someone trained into the folder."""
        record = checkpoint.read_json(folder / DISTILLED, [], {})
        teacher = bundle.sha256(source.resolve(TEACHER).folder / weights.SINGLE)
        return record if record.get("teacher", {}).get("weights_sha256") == teacher else None

    advice = f"run `make models` again: it resumes ({folder}.unfinished holds the state; remove that to start over)"
    return Step(f"{model.name} checkpoint", command, [folder], inputs, needs, advice, adopt, [folder])


def _fp32(plan: Plan, model: Recipe, first: Step | None) -> Step:
    output, script = plan.bundle(model, "fp32"), "scripts/export_onnx.py"
    made = first.outputs[0] if first else plan.folders.get(canonical(model.name))
    given = str(made) if made else model.source or ""
    command = [script, "--model", given, "--name", model.name, "--output", str(output), "--force", "--json"]
    if model.license and not plan.seeded(model):
        command += ["--license", model.license]
    if made and not first:
        command += _unstated(model, made)
    for name, text in model.prompts.items():
        command += ["--prompt", f"{name}={text}"]

    teacher = find(model.student_of) if model.student_of else None

    def inputs(digests: Digests) -> dict:
        parent = {"parent": bundle.folder_digest(plan.bundle(teacher, "fp32"))} if teacher else {}
        return {"code": _code(script), "checkpoint": digests.folder(made or source.resolve(given).folder), **parent}

    needs = [*([first.name] if first else []), *([f"{teacher.name} fp32"] if teacher else [])]
    return Step(f"{model.name} fp32", command, [output], inputs, tuple(needs))


def _unstated(model: Recipe, folder: Path) -> list[str]:
    """What the user's folder does not say, as the model's card does."""
    stated = checkpoint.read(folder)
    return [] if stated.pooling else ["--pooling", model.pooling]


def _quantized(plan: Plan, model: Recipe, precision: str, parent: str) -> Step:
    script, source_folder = "scripts/quantize_model.py", plan.bundle(model, "fp32")
    calibration = plan.calibration_data or plan.corpus / corpus.CALIBRATION
    test = plan.test_dataset or (None if plan.calibration_data else plan.corpus / corpus.TEST)
    command = [script, "--model", str(source_folder), "--precision", precision]
    command += ["--output", str(plan.bundle(model, precision)), "--calibration-data", str(calibration)]
    command += ["--test-dataset", str(test)] if test else []
    command += ["--any-language"] if plan.any_language else []
    command += [*texts(model, plan.seeded(model)).options(), "--force", "--json"]

    def inputs(digests: Digests) -> dict:
        read = [file for file in (calibration, test) if file]
        missing = [file for file in read if not file.is_file()]
        if missing:
            raise BadInput(f"{missing[0]} is missing; scripts/make_corpus.py writes it")
        return {
            "code": _code(script),
            "parent": bundle.folder_digest(source_folder),
            "texts": [digests.file(file) for file in read],
        }

    needs = (parent,) if plan.calibration_data else (parent, CORPUS_STEP)
    return Step(
        f"{model.name} {precision}",
        command,
        [plan.bundle(model, precision)],
        inputs,
        needs,
        advice="if a gate was missed: see which layers lose most with --allow-failed (the report lists them); "
        "otherwise run `make models` again",
    )


def _code(script: str) -> str:
    return code(SCRIPTS.parent / script)


def folders(from_folder: Path | None, given: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    """The user's checkpoints by canonical name: subfolders of one folder, and single ones that win over them."""
    found: dict[str, Path] = {}
    if from_folder:
        if not from_folder.is_dir():
            raise BadInput(f"{from_folder} is not a folder; it should hold one subfolder a model")
        own = {canonical(m.name): m for m in MODELS if m.shape}
        found = {canonical(f.name): f for f in sorted(from_folder.iterdir()) if f.is_dir() and canonical(f.name) in own}
        if not found:
            raise BadInput(f"{from_folder} has no subfolder named {', '.join(m.name for m in own.values())}")
    for name, folder in given:
        model = find(name)
        if model.shape is None:
            raise BadInput(f"{model.name} is built of {model.source or model.student_of}; it takes no folder")
        if not folder.is_dir():
            raise BadInput(f"{folder} (for {model.name}) is not a folder; give a checkpoint in the Hugging Face layout")
        found[canonical(model.name)] = folder
    return found
