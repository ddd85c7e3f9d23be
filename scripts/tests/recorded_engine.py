"""An fp32 bundle enters; that of a TensorRT engine of it leaves, as the tool writes it, with a recorded build's facts.

For machines without a GPU: lineage, target, evaluation, reference vectors and manifest come from the tool's own code;
only the plan inside model.onnx is none. Figures: docs/benchmarks/gpu/second/report.md. The sidecar's tests run this
file too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from akidb_tools import bundle, engine_bundle, engine_source, tensorrt_native, tensorrt_provider
from akidb_tools.engine_build import gates
from akidb_tools.engine_bundle import Facts
from akidb_tools.engine_candidates import choose
from akidb_tools.engine_options import TOOL, Job, Options
from akidb_tools.engine_run import embed
from akidb_tools.shape_profiles import parse_all

H100 = Facts("9.0", "10.6.0")
# Held-out texts, mean and least cosine and recall@10 of the candidate that a precision builds; batch invariance was
# measured later, on an H200.
RECORDED = {
    "fp16": {
        "n": 2000,
        "mean_cosine": 0.999998,
        "min_cosine": 0.999993,
        "recall_at_10": 0.9975,
        "batch_invariance": 0.9999938,
    },
    "fp8": {
        "n": 2000,
        "mean_cosine": 0.998516,
        "min_cosine": 0.994228,
        "recall_at_10": 0.949,
        "batch_invariance": 0.9973449,
    },
}


def job(parent: Path, output: Path, precision: str, **options: object) -> Job:
    """As the tool decides it on a machine with a GPU."""
    source = engine_source.find(parent, precision)
    profiles = parse_all((), source.fp32.model["max_tokens"], precision)
    # Lineage names the calibration texts by digest; any file of text does.
    made = Options(parent, output, precision, **{"calibration_data": Path(__file__), **options})
    return Job(made, output, choose(precision, None), source, profiles, source.fp32.encoder())


def write(made: Job, facts: Facts = H100, plan: bytes = b"ftrt plan", **figures: float) -> dict:
    """Writes the bundle; `figures` replace recorded ones. Returns the manifest."""
    fp32 = made.source.fp32
    session = tensorrt_provider.session(fp32.engine, "cpu")
    gate = gates(made)
    measured = {**RECORDED[made.candidate.precision], **figures}
    passed = all(measured[metric] >= least for metric, least in gate.items())
    evaluation = {
        "kind": "quality",
        "dataset_digest": "0" * 64,
        **measured,
        "gate": gate,
        "passed": passed,
        "tool": TOOL,
    }
    with bundle.replacing(made.output) as folder:
        wrapped = tensorrt_native.wrap(plan, fp32.load(), facts.compute_capability)
        (folder / bundle.ENGINE).write_bytes(wrapped.SerializeToString())
        for n in range(len(made.profiles) - 1):
            narrow = tensorrt_native.wrap(plan + str(n).encode(), fp32.load(), facts.compute_capability)
            (folder / f"model.profile{n}.onnx").write_bytes(narrow.SerializeToString())

        def vectors(rows: list) -> object:
            return embed(session, rows, fp32.output, made.profiles[-1])

        return engine_bundle.write(folder, made, vectors, evaluation, facts)


if __name__ == "__main__":
    parent, output, precision, changed = sys.argv[1:]
    print(json.dumps(write(job(Path(parent), Path(output), precision), **json.loads(changed))))
