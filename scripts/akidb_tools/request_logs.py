"""Request logs enter; the texts that users sent leave.

A log is JSON lines whose `embed_request` events carry `.text` (at the top or under `fields`, as tracing writes them);
a file without a single JSON object is taken as plain text, one text a line, as `jq -r .text` prints it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from .errors import BadInput

EVENT = "embed_request"
EVENT_KEYS = ("event", "message", "msg")


def read_logs(source: str, say: Callable[[str], None]) -> list[str]:
    """Texts in the order of the log; `source` is a file or `-` for standard input."""
    if source == "-":
        lines = sys.stdin.buffer.read().decode("utf-8", errors="replace").splitlines()
    elif Path(source).is_file():
        lines = Path(source).read_text("utf-8", errors="replace").splitlines()
    else:
        raise BadInput(f"log {source} is not a file; give a file, or - for standard input")
    records = [_record(line) for line in lines]
    if not any(records):
        texts = [line for line in lines if line.strip() and line.strip() != "null"]
        say(f"log {source}: {len(texts):,} lines of plain text")
    else:
        texts = [text for record in records if record for text in [_text(record)] if text]
        say(f"log {source}: {len(lines):,} lines, {len(texts):,} {EVENT} events with a text")
    if not texts:
        raise BadInput(f"log {source} holds no text: no {EVENT} event with `.text`, and no plain lines")
    return texts


def _record(line: str) -> dict | None:
    start = line.find("{")  # kubectl and containerd may put a timestamp before the object
    if start < 0 or not line.rstrip().endswith("}"):
        return None
    try:
        value = json.loads(line[start:])
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _text(record: dict) -> str | None:
    fields = record.get("fields") if isinstance(record.get("fields"), dict) else {}
    if not any(part.get(key) == EVENT for part in (record, fields) for key in EVENT_KEYS):
        return None
    text = record.get("text", fields.get("text"))
    return text if isinstance(text, str) and text.strip() else None
