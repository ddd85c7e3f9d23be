"""A tool's `main` enters; the same leaves, with errors turned into a line on standard error and an exit code."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

from .errors import ToolError


def say(line: str) -> None:
    """Progress goes beside the result, so that the result can be piped."""
    print(line, file=sys.stderr, flush=True)


def tool(main: Callable[..., int]) -> Callable[..., int]:
    """Errors that have a way out say it and give their exit code; anything else is a defect and keeps its traceback."""

    @functools.wraps(main)
    def run(arguments: list[str] | None = None) -> int:
        try:
            return main(arguments)
        except ToolError as error:
            say(f"error: {error}" if error.is_error else str(error))
            return error.code
        except (OSError, MemoryError) as error:
            say(f"error: {error or type(error).__name__}")
            return ToolError.code

    return run
