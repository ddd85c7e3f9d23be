"""Labels and figures enter; an SVG drawing leaves. Bars and lines, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, BAR, LEFT, RIGHT = 760, 22, 230, 90
COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860")


def bars(title: str, figures: Mapping[str, float], unit: str) -> str:
    """One bar a label, the longest over the whole width."""
    most = max(figures.values(), default=0) or 1
    parts = [_text(10, 22, title, 15)]
    for n, (label, value) in enumerate(figures.items()):
        y = 40 + n * (BAR + 8)
        length = (WIDTH - LEFT - RIGHT) * value / most
        parts.append(_text(LEFT - 8, y + 16, label, 12, "end"))
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{COLOURS[n % 6]}"/>')
        parts.append(_text(LEFT + length + 6, y + 16, f"{value:,.0f} {unit}".strip(), 12))
    return _page(40 + len(figures) * (BAR + 8) + 10, parts)


def lines(title: str, series: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str) -> str:
    """Points joined by lines; both axes begin at 0."""
    height, bottom, top = 360, 310, 40
    most_x = max((p[0] for points in series.values() for p in points), default=1) or 1
    most_y = max((p[1] for points in series.values() for p in points), default=1) or 1

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return 80 + (WIDTH - 110) * point[0] / most_x, bottom - (bottom - top) * point[1] / most_y

    parts = [_text(10, 22, title, 15), _text(WIDTH / 2, height - 8, x, 12, "middle"), _text(10, 38, y, 11)]
    for part in (0.25, 0.5, 0.75, 1):
        level = at((0, most_y * part))[1]
        parts.append(f'<line x1="80" y1="{level:.1f}" x2="{WIDTH - 30}" y2="{level:.1f}" stroke="#ddd"/>')
        parts.append(_text(74, level + 4, f"{most_y * part:,.4g}", 11, "end"))
        parts.append(_text(at((most_x * part, 0))[0], bottom + 16, f"{most_x * part:,.4g}", 11, "middle"))
    for n, (label, points) in enumerate(series.items()):
        drawn = [at(point) for point in points]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in drawn)
        colour = COLOURS[n % 6]
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in drawn]
        parts.append(_text(WIDTH - 40, 56 + 16 * n, label, 12, "end", colour))
    return _page(height, parts)


def _text(x: float, y: float, text: str, size: int, anchor: str = "start", colour: str = "#222") -> str:  # noqa: PLR0917
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}" '
        f'font-family="sans-serif">{escape(text)}</text>'
    )


def _page(height: float, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>"]) + "\n"
