"""Cells that were measured enter; those of the five models that were not leave, each marked with why."""

from __future__ import annotations

from .five_models import NAMES
from .gpu_plan import FIVE_BATCHES, FIVE_TOKENS, LEFT_OUT
from .gpu_results import Results

PRECISIONS = ("fp32", "int8", "fp8")
MARK = "left out"


def mark(results: Results) -> None:
    """Every model, precision and batch of the five models' matrix has a measured cell or a reason afterwards."""
    results.data["cells"] = marked(results.data, results.machine["id"], results.invocation)
    results.save()


def marked(data: dict, machine: str, invocation: int) -> list[dict]:
    """The cells, older marks replaced by those that are still true."""
    kept = [c for c in data["cells"] if c.get("kind") != MARK or c["machine"] != machine]
    ours = [c for c in kept if c["machine"] == machine and c["measured"] and c["tokens"] == FIVE_TOKENS]
    seen = {(c["model"], c["precision"], c["batch"]) for c in ours}
    builds = [e for e in data["gpu"].get("builds", []) if e["machine"] == machine]
    wanted = [(name, precision, batch) for name in NAMES for precision in PRECISIONS for batch in FIVE_BATCHES]
    return kept + [
        {
            "machine": machine,
            "invocation": invocation,
            "provider": "cuda" if precision == "fp32" else "tensorrt",
            "model": name,
            "variant": precision if precision == "fp32" else f"tensorrt-{precision}",
            "precision": precision,
            "seeded": name not in ("all-MiniLM-L6-v2", "distilled-MiniLM-L3-v2"),
            "digest": None,
            "engine_bytes": None,
            "batch": batch,
            "tokens": FIVE_TOKENS,
            "kind": MARK,
            "measured": None,
            "not_run": _why(name, precision, builds),
        }
        for name, precision, batch in wanted
        if (name, precision, batch) not in seen
    ]


def _why(name: str, precision: str, builds: list[dict]) -> str:
    own = [e for e in builds if e["model"] == name]
    if not own:
        return LEFT_OUT.get(name, "no engine of this model was built: run the stage build for it")
    of = own if precision == "fp32" else [e for e in own if e["candidate"].startswith(precision)]
    if any(not e.get("not_built") for e in of):
        return "not measured: run the stage matrix for it"
    return f"no {precision} engine: {of[0]['not_built'][:160]}" if of else f"no {precision} engine was wanted of it"
