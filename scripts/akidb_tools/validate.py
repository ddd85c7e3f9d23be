"""An fp32 bundle, a quantized engine and test texts enter; every figure of its quality, and a verdict, leave.

The figures that a catalog gate may name go into `evaluation` as docs/BUNDLE.md has it; the rest stands beside them. The
quantized engine is always compared with its own fp32 parent, over the same ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

from . import __version__, quality, runtime
from .bundle_reader import Bundle
from .errors import BadInput
from .odd_texts import ODD_TEXTS
from .text_sets import TextSet
from .tokenizer import Encoder

TOOL = f"validate_quantization {__version__} (onnxruntime {ort.__version__})"
INVARIANCE_TEXTS = 64
DIGITS = 6
GATED = ("mean_cosine", "min_cosine", "recall_at_10")


@dataclass(frozen=True)
class Engines:
    """What is compared: model or file of both, the tensor to read, and the tokenizer they share."""

    fp32: ModelProto | Path
    quantized: ModelProto | Path
    output: str
    encoder: Encoder
    precision: str

    def sessions(self) -> tuple[ort.InferenceSession, ort.InferenceSession]:
        """Both engines, ready to run."""
        return runtime.session(self.fp32), runtime.session(self.quantized, fp8=self.precision == "fp8")


def check_same_model(parent: Bundle, child: Bundle) -> None:
    """Vectors of the two may be compared at all."""
    for key in ("embedding_space", "tokenizer_sha256", "dimension", "max_tokens", "pooling"):
        if parent.model[key] != child.model[key]:
            raise BadInput(
                f"{child.manifest_file} and {parent.manifest_file} are not the same model: {key} is "
                f"{child.model[key]!r} and {parent.model[key]!r}"
            )
    if parent.manifest["variant"]["precision"] != "fp32":
        precision = parent.manifest["variant"]["precision"]
        raise BadInput(f"{parent.manifest_file} is {precision}; --fp32 must be the fp32 bundle")


def measure(
    engines: Engines,
    dataset: TextSet,
    texts: Sequence[str],
    *,
    seed: int,
    gate: Mapping[str, float],
    say: Callable[[str], None],
) -> dict:
    """The report: evaluation, beyond it, verdict. `texts` are the chosen ones of `dataset`."""
    encoder, output = engines.encoder, engines.output
    fp32, quantized = engines.sessions()
    listed = list(dict.fromkeys([*texts, *(t for a, b, _ in dataset.pairs for t in (a, b))]))
    rows = [encoder.ids(text) for text in listed]
    say(f"fp32 vectors of {len(rows):,} texts")
    expected = runtime.embed(fp32, rows, output)
    say(f"{engines.precision} vectors of the same")
    got = runtime.embed(quantized, rows, output)
    agreed = quality.agreement(expected[: len(texts)], got[: len(texts)])
    odd_rows = [encoder.ids(text) for text in ODD_TEXTS]
    odd = quality.row_cosines(runtime.embed(fp32, odd_rows, output, 1), runtime.embed(quantized, odd_rows, output, 1))
    del fp32  # no engine stays in memory longer than it is needed
    say("batch invariance and kernels")
    mixed = [*rows[: INVARIANCE_TEXTS - len(odd_rows)], *odd_rows]
    invariance = runtime.batch_invariance(quantized, mixed, output, seed)
    del quantized
    ran = runtime.kernels(engines.quantized, rows, output, fp8=engines.precision == "fp8")
    evaluation = {
        "kind": "quality",
        "dataset_digest": dataset.digest,
        "n": agreed.n,
        "mean_cosine": round(agreed.mean_cosine, DIGITS),
        "min_cosine": round(agreed.min_cosine, DIGITS),
        "recall_at_10": None if agreed.recall_at_10 is None else round(agreed.recall_at_10, DIGITS),
        "gate": dict(gate),
        "passed": False,
        "tool": TOOL,
    }
    report = {
        "evaluation": evaluation,
        "p1_cosine": round(agreed.p1_cosine, DIGITS),
        "odd_texts": {
            "n": len(odd),
            "min_cosine": round(float(odd.min()), DIGITS),
            "worst": ODD_TEXTS[odd.argmin()][:40],
        },
        "batch_invariance": round(invariance, 7),
        "kernels": {"ran": ran.counts, "linear_int8": ran.linear_int8, "linear_float": ran.linear_float},
        "spearman": _spearman(dataset, listed, expected, got),
    }
    report["failures"] = failures(report, engines.precision)
    evaluation["passed"] = not report["failures"]
    return report


def failures(report: dict, precision: str) -> list[str]:
    """Every gate that was missed, in words."""
    evaluation, missed = report["evaluation"], []
    for metric, least in evaluation["gate"].items():
        value = evaluation[metric]
        if value is None or not value >= least:
            missed.append(f"{metric} {value} is below its gate {least}")
    if report["batch_invariance"] < runtime.LEAST_INVARIANCE:
        missed.append(f"batch invariance {report['batch_invariance']} is below {runtime.LEAST_INVARIANCE}")
    if precision == "int8" and not report["kernels"]["linear_int8"]:
        missed.append("no int8 kernel ran: the file stores int8 and multiplies fp32")
    return missed


def figures(report: dict) -> dict[str, float | None]:
    """The figures that recipes aim at."""
    evaluation = report["evaluation"]
    return {**{metric: evaluation[metric] for metric in GATED}, "odd_min_cosine": report["odd_texts"]["min_cosine"]}


def lines(report: dict) -> list[str]:
    """The report for people."""
    e, ran = report["evaluation"], report["kernels"]
    recall = "not measured (too few texts)" if e["recall_at_10"] is None else f"{e['recall_at_10']:.4f}"
    printed = [
        f"Mean cosine similarity: {e['mean_cosine']:.4f} over {e['n']:,} texts "
        f"(p1 {report['p1_cosine']:.4f}, min {e['min_cosine']:.4f})",
        f"Recall@10: {recall}",
        f"Odd texts: min cosine {report['odd_texts']['min_cosine']:.4f} over {report['odd_texts']['n']}",
        f"Batch invariance: {report['batch_invariance']:.7f}",
        f"Linear layers that ran: {ran['linear_int8']} int8, {ran['linear_float']} float",
    ]
    if report["spearman"]:
        s = report["spearman"]
        printed.append(f"Spearman on {s['n']:,} graded pairs: {s['quantized']:.4f} (fp32 {s['fp32']:.4f})")
    for name, timed in report.get("speed", {}).items():
        own = timed["quantized"]
        printed.append(f"Speed {name}: {own['speedup']:.2f}x fp32 ({own['texts_per_s']} texts/s)")
    return printed


def _spearman(dataset: TextSet, listed: list[str], expected: np.ndarray, got: np.ndarray) -> dict | None:
    if len(dataset.pairs) < 3:
        return None
    before, after = dict(zip(listed, expected, strict=True)), dict(zip(listed, got, strict=True))
    return {
        "n": len(dataset.pairs),
        "fp32": round(quality.spearman(before, dataset.pairs), DIGITS),
        "quantized": round(quality.spearman(after, dataset.pairs), DIGITS),
    }


def speed(engines: Engines, texts: Sequence[str], runs: int) -> dict:
    """Both engines in turns: 32 x 32 tokens, 8 x 128 tokens, one text."""
    ids = np.concatenate([engines.encoder.ids(text) for text in texts[:2000]])
    running = dict(zip(("fp32", "quantized"), engines.sessions(), strict=True))
    shapes = {"32x32": (32, 32), "8x128": (8, 128), "1x16": (1, 16)}
    shapes = {name: (b, min(t, engines.encoder.max_tokens)) for name, (b, t) in shapes.items()}
    return {
        name: runtime.throughput(running, engines.output, [np.resize(ids[n * 7 :], tokens) for n in range(batch)], runs)
        for name, (batch, tokens) in shapes.items()
    }
