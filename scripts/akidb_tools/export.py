"""`Options` enter; a bundle on disk and a summary of it leave. The whole export in reading order.

Nothing is written to the destination unless parity passed.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from . import (
    __version__,
    architecture,
    bert_graph,
    bundle,
    checkpoint,
    distill_folder,
    optimum,
    parity,
    source,
    tokenizer,
    weights,
)
from .architecture import EncoderConfig
from .checkpoint import Checkpoint
from .errors import BadInput, ToolError
from .forward import Forward, pool_one
from .pooling import OUTPUT_NAME, POOLINGS
from .reference_texts import TEXTS

TOOL = f"export_onnx {__version__} (onnxruntime {ort.__version__})"
MAX_TOKENS = 131_072  # docs/BUNDLE.md
# A protobuf may hold 2 GiB; larger weights go to a file beside it.
EXTERNAL_BYTES = 1_800_000_000


@dataclass(frozen=True)
class Options:
    """What the command line says; None: taken from the checkpoint. `prompts` are for names that it does not have."""

    model: str
    output: Path
    name: str | None = None
    pooling: str | None = None
    max_tokens: int | None = None
    license: str | None = None
    embedding_space: str | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    force: bool = False


@dataclass(frozen=True)
class _Plan:
    """Everything decided before the heavy work starts."""

    source: source.Source
    checkpoint: Checkpoint
    config: EncoderConfig | None
    weight_files: list[Path]
    name: str
    pooling: str
    max_tokens: int
    tokenizer: bytes
    distilled: dict | None
    teacher_digest: str | None


@dataclass(frozen=True)
class _Graph:
    """The model to write and the vectors expected of it."""

    model: onnx.ModelProto
    inputs: list[str]
    expected: np.ndarray
    recipe: str


def export(options: Options, say: Callable[[str], None]) -> dict:
    """Runs the export; `say` gets one line a step. Returns the summary that `--json` prints."""
    started = time.monotonic()
    output = bundle.check_output(options.output, options.force)
    plan = _plan(options)
    say(f"model {plan.name} from {plan.source.folder}: {plan.pooling} pooling, {plan.max_tokens} tokens")
    if plan.distilled:
        say(_distilled_note(plan))
    if plan.checkpoint.default_prompt:
        say(f"note: default_prompt_name {plan.checkpoint.default_prompt!r} is not applied; callers pass prompt_name")
    encoder = tokenizer.Encoder(plan.tokenizer, plan.max_tokens)
    rows = [encoder.ids(text) for text in TEXTS]
    graph = _finish_onnx(plan, rows, say) if plan.source.onnx else _from_weights(plan, rows, encoder, say)
    with bundle.replacing(output) as folder:
        _write_engine(graph.model, folder / bundle.ENGINE)
        (folder / bundle.TOKENIZER).write_bytes(plan.tokenizer)
        (folder / bundle.REFERENCE).write_bytes(bundle.reference_json(TEXTS, graph.expected))
        say(f"parity: {len(rows)} texts through ONNX Runtime {ort.__version__}")
        agreed = parity.compare(parity.embed(folder / bundle.ENGINE, rows, OUTPUT_NAME), graph.expected)
        if not agreed.passed:
            raise ToolError(
                f"parity failed: min cosine {agreed.min_cosine:.6f} < {parity.LEAST_COSINE} over {agreed.n} texts; "
                "nothing was written (do the weights, the graph and the tokenizer belong together?)"
            )
        manifest = _manifest(folder, options, plan, graph, agreed)
    return {
        "bundle": str(output),
        "name": plan.name,
        "digest": manifest["digest"],
        "embedding_space": manifest["model"]["embedding_space"],
        "dimension": manifest["model"]["dimension"],
        "max_tokens": plan.max_tokens,
        "pooling": plan.pooling,
        "seeded": plan.checkpoint.seeded,
        "files": manifest["files"],
        "parity": {"n": agreed.n, "mean_cosine": agreed.mean_cosine, "min_cosine": agreed.min_cosine},
        "seconds": round(time.monotonic() - started, 2),
    }


def _plan(options: Options) -> _Plan:
    found = source.resolve(options.model)
    described = checkpoint.read(found.folder)
    if found.onnx:
        files = weights.weight_files(found.folder)
        config_file = found.folder / "config.json"
        config = architecture.encoder_config(config_file) if files else None
        positions = config.max_positions if config else architecture.stated_positions(config_file)
    else:
        config = architecture.encoder_config(described.transformer / "config.json")
        files = weights.require_weight_files(described.transformer)
        positions = config.max_positions
    pooling = options.pooling or described.pooling
    if pooling is None:
        raise BadInput(f"{found.folder} has no 1_Pooling/config.json; say how to pool: --pooling {'|'.join(POOLINGS)}")
    distilled = None if found.onnx else distill_folder.read_record(found.folder, [])
    teacher = distilled and bundle.fp32_of(distilled["teacher"]["weights_sha256"], options.output.parent)
    return _Plan(
        source=found,
        checkpoint=described,
        config=config,
        weight_files=files,
        name=bundle.check_name(options.name or found.name),
        pooling=pooling,
        max_tokens=_max_tokens(options.max_tokens, described.max_tokens, positions),
        tokenizer=tokenizer.clean(described.transformer / "tokenizer.json", described.lowercase),
        distilled=distilled,
        teacher_digest=teacher,
    )


def _distilled_note(plan: _Plan) -> str:
    teacher = plan.distilled["teacher"]["model"]
    if plan.teacher_digest:
        return f"a student of {teacher}, whose bundle {plan.teacher_digest[:16]} becomes its parent"
    return (
        f"note: a student of {teacher}, whose fp32 bundle is not beside the output: written as a model without a parent"
    )


def _max_tokens(asked: int | None, stated: int | None, positions: int | None) -> int:
    if asked is not None:
        most = min(positions or MAX_TOKENS, MAX_TOKENS)
        if not 3 <= asked <= most:
            raise BadInput(f"--max-tokens {asked} is outside 3..{most}, the positions this model has")
        return asked
    known = [v for v in (stated, positions) if v]
    if not known:
        raise BadInput("nothing beside the model says how many tokens it takes; give --max-tokens N")
    return min(*known, MAX_TOKENS)


def _from_weights(
    plan: _Plan, rows: list[np.ndarray], encoder: tokenizer.Encoder, say: Callable[[str], None]
) -> _Graph:
    tensors = weights.load(plan.weight_files)
    architecture.check_tensors(plan.config, tensors, encoder.vocabulary_size())
    say(f"writing the graph: {plan.config.model_type}, {plan.config.layers} layers of {plan.config.hidden}")
    model = bert_graph.build(plan.config, tensors, plan.pooling)
    say(f"reference vectors: numpy forward pass over {len(rows)} texts")
    recipe = f"{plan.config.model_type} fp32 graph written from safetensors; reference: numpy forward pass (float64)"
    return _Graph(model, bert_graph.INPUT_NAMES, _forward(plan, tensors, rows), recipe)


def _finish_onnx(plan: _Plan, rows: list[np.ndarray], say: Callable[[str], None]) -> _Graph:
    file = plan.source.onnx
    model = optimum.load(file)
    hidden = optimum.hidden_output(model, file)
    say(f"{file.name}: adding {plan.pooling} pooling and L2 normalisation after {hidden}")
    if plan.weight_files:
        tensors = weights.load(plan.weight_files)
        architecture.check_tensors(plan.config, tensors, 0)
        expected = _forward(plan, tensors, rows)
        witness = "numpy forward pass (float64) over the safetensors beside it"
    else:
        # One row at a time: no padding, so that the finished graph's batches are checked against something else.
        states = [parity.embed(file, [row], hidden, batch=1)[0] for row in rows]
        expected = np.array([pool_one(s.astype(np.float64), plan.pooling) for s in states])
        witness = "ONNX Runtime hidden states of the source graph, pooled in numpy (no safetensors to check against)"
    finished = optimum.add_pooling(model, hidden, plan.pooling, expected.shape[1])
    recipe = f"{file.name} kept, {plan.pooling} pooling and L2 normalisation added; reference: {witness}"
    return _Graph(finished, [i.name for i in model.graph.input], expected, recipe)


def _forward(plan: _Plan, tensors: dict[str, np.ndarray], rows: list[np.ndarray]) -> np.ndarray:
    witness = Forward(plan.config, tensors)
    return np.array([witness.embedding(row, plan.pooling) for row in rows])


def _write_engine(model: onnx.ModelProto, file: Path) -> None:
    external = model.ByteSize() > EXTERNAL_BYTES
    if not external:
        onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, file, save_as_external_data=external, location=f"{file.name}.data", size_threshold=1024)
    if external:
        onnx.checker.check_model(file)


def _manifest(folder: Path, options: Options, plan: _Plan, graph: _Graph, agreed: parity.Parity) -> dict:
    files = _source_files(plan)
    model = bundle.Model(
        name=plan.name,
        source=plan.source.label,
        license=options.license or plan.checkpoint.license,
        dimension=graph.expected.shape[1],
        max_tokens=plan.max_tokens,
        pooling=plan.pooling,
        embedding_space=options.embedding_space or _embedding_space(plan),
        prompts={**options.prompts, **plan.checkpoint.prompts},
        seeded=plan.checkpoint.seeded,
    )
    evaluation = {
        "kind": "parity",
        "dataset_digest": bundle.sha256(folder / bundle.REFERENCE),
        "n": agreed.n,
        "mean_cosine": round(agreed.mean_cosine, 9),
        "min_cosine": round(agreed.min_cosine, 9),
        "recall_at_10": None,
        "gate": {"min_cosine": parity.LEAST_COSINE},
        "passed": agreed.passed,
        "tool": TOOL,
    }
    lineage = bundle.Lineage(graph.recipe, files)
    if plan.distilled:
        record = plan.distilled
        lineage = bundle.Lineage(
            recipe=f"{record['tool']} from {record['teacher']['model']}; {graph.recipe}",
            source_files=files,
            parent_digest=plan.teacher_digest,
            calibration_digest=record["corpus"]["sha256"],
        )
        evaluation = record["evaluation"] if plan.teacher_digest else evaluation
    if plan.checkpoint.seeded:
        evaluation = {"kind": "not_applicable", "passed": False, "reason": "seeded"}
    variant = bundle.Variant(name="fp32", precision="fp32", inputs=graph.inputs, output=OUTPUT_NAME)
    return bundle.write_manifest(folder, model, variant, lineage, evaluation)


def _source_files(plan: _Plan) -> list[tuple[str, str]]:
    root, part = plan.source.folder, plan.checkpoint.transformer
    used = {
        root / distill_folder.RECORD,
        *plan.checkpoint.files,
        *plan.weight_files,
        part / "tokenizer.json",
        part / "config.json",
    }
    if plan.source.onnx:
        used |= {plan.source.onnx, *plan.source.onnx.parent.glob(f"{plan.source.onnx.name}[_.]data*")}
    listed = {os.path.relpath(f, root).replace(os.sep, "/"): f for f in used if f.is_file()}
    return [(path, bundle.sha256(listed[path])) for path in sorted(listed)]


def _embedding_space(plan: _Plan) -> str:
    """The same weights pooled in another way than their checkpoint says give vectors of another space."""
    files = plan.weight_files or [plan.source.onnx]
    digests = [bundle.sha256(file) for file in files]
    digest = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    other = "" if plan.checkpoint.pooling in (None, plan.pooling) else f"+{plan.pooling}"
    return f"{plan.name.lower()}@sha256:{digest[:16]}{other}"
