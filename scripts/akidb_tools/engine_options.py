"""What the command line of an engine build says enters; what is decided before the heavy work leaves. Data only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import __version__
from .engine_candidates import Candidate
from .engine_compile import Compiler
from .engine_source import EngineSource
from .shape_profiles import Profile
from .tokenizer import Encoder

TOOL = f"build_tensorrt_engine {__version__}"
CALIBRATION, TEST = Path("build/corpus/calibration-10k.txt"), Path("build/corpus/test-10k.json")
UPLOAD, IN_PLACE = "upload", "in-place"


@dataclass(frozen=True)
class Options:
    """What the command line says. `register`: None, `UPLOAD` or `IN_PLACE`."""

    model: Path
    output: Path
    precision: str
    calibration_data: Path | None = None
    test_dataset: Path | None = None
    profile: Sequence[str] = ()
    candidate: str | None = None
    variant: str | None = None
    calibration_cache: Path | None = None
    expected_cache: Path | None = None
    timing_cache: Path | None = None
    publish: str | None = None
    register: str | None = None
    optimization_level: int = 3
    device: int = 0
    graph_only: bool = False
    calibrate: int = 512
    evaluate: int = 2_000
    seed: int = 0
    any_language: bool = False
    allow_failed: bool = False
    force: bool = False

    @property
    def provider(self) -> str:
        """What runs the result here."""
        return "cpu" if self.graph_only else "tensorrt"


@dataclass(frozen=True)
class Job:
    """Everything decided before the heavy work."""

    options: Options
    output: Path
    candidate: Candidate
    source: EngineSource
    profiles: tuple[Profile, ...]
    encoder: Encoder

    @property
    def seeded(self) -> bool:
        return self.source.fp32.model["seeded"]

    @property
    def compiler(self) -> Compiler:
        candidate, options = self.candidate, self.options
        return Compiler(
            precision=candidate.precision,
            typing=candidate.typing,
            builder=candidate.builder,
            provider=options.provider,
            inputs=tuple(self.inputs),
            timing_cache=options.timing_cache,
            level=options.optimization_level,
            device=options.device,
        )

    @property
    def inputs(self) -> list[str]:
        return self.source.bundle.manifest["graph"]["inputs"]
