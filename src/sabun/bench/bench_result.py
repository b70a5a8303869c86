"""The result of a benchmark as plain values, for JSON, a table and a picture."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from html import escape
from typing import Any

from sabun.text_safety import visible

__all__ = ["BenchResult", "BenchRow", "line", "picture", "table"]

SCHEMA_VERSION = 1
"""Version of the layout of :meth:`BenchResult.to_dict`."""


@dataclass(frozen=True)
class BenchRow:
    """One contestant of one contest. Times are in seconds, memory in bytes.

    ``ratio`` is the median over the rounds of its time divided by the baseline's of the same round.
    ``bandwidth_share`` is minimum bytes / time divided by the machine's bandwidth; None if arithmetic limits the step.
    ``first_step_s`` includes compiling, ``compile_s`` is the part of it that sabun reports. ``problem`` is the reason
    why there are no figures.
    """

    contest: str
    name: str
    step_s: float | None = None
    quartiles_s: tuple[float, float] | None = None
    ratio: float | None = None
    ratio_quartiles: tuple[float, float] | None = None
    minimum_bytes: int | None = None
    bandwidth_share: float | None = None
    state_bytes: int | None = None
    peak_extra_bytes: int | None = None
    first_step_s: float | None = None
    compile_s: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class BenchResult:
    """All rows of a benchmark, with the shapes and the machine."""

    shapes: str
    tensors: int
    parameters: int
    device: str
    device_name: str
    threads: int
    rounds: int
    torch_version: str
    sabun_version: str
    copy_bytes_per_s: float
    in_place_bytes_per_s: float
    rows: tuple[BenchRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values, with the version of their layout."""
        return {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}


_HEAD = f"{'':<38}{'ms/step':>10}{'ratio':>8}{'quartiles':>14}{'of bandwidth':>14}{'peak extra':>13}{'1st step':>10}"


def line(row: BenchRow) -> str:
    """One line of :func:`table`."""
    if row.step_s is None:
        return f"{row.name:<38}  {row.problem}"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    spread = "" if row.ratio_quartiles is None else "–".join(f"{q:.2f}" for q in row.ratio_quartiles)
    share = "" if row.bandwidth_share is None else f"{row.bandwidth_share:.0%}"
    extra = f"{(row.peak_extra_bytes or 0) / 2**20:.1f} MiB"
    first = f"{row.first_step_s or 0.0:.2f} s"
    return f"{row.name:<38}{row.step_s * 1e3:>10.3f}{ratio:>8}{spread:>14}{share:>14}{extra:>13}{first:>10}"


def table(result: BenchResult) -> str:
    """The result as plain text."""
    out = [
        f"{result.shapes}: {result.parameters:,} parameters in {result.tensors} tensors, float32, on {result.device} "
        f"({result.device_name}), {result.threads} thread{'s' if result.threads > 1 else ''}, {result.rounds} rounds",
        f"bandwidth: copy {result.copy_bytes_per_s / 1e9:.1f} GB/s, "
        f"in place {result.in_place_bytes_per_s / 1e9:.1f} GB/s; "
        f"sabun {result.sabun_version}, torch {result.torch_version}",
    ]
    contest = ""
    for row in result.rows:
        if row.contest != contest:
            contest = row.contest
            out += ["", f"{contest:<38}{_HEAD[38:]}"]
        out.append(line(row))
    return "\n".join(out)


def picture(result: BenchResult) -> str:
    """The ratios as an SVG: one bar per contestant from 0, with its quartiles; the baseline of each contest is 1."""
    rows = [row for row in result.rows if row.ratio is not None and row.ratio_quartiles is not None]
    widest = max([1.25, *[row.ratio_quartiles[1] for row in rows if row.ratio_quartiles]])
    left, width, line = 300, 520, 24
    scale = width / widest
    height = 70 + line * (len(rows) + len({row.contest for row in rows}))
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 90}" height="{height}" '
        'font-family="sans-serif" font-size="13" fill="#222">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="12" y="22" font-weight="bold">Step time relative to the baseline of the same round: '
        f"{escape(visible(result.shapes))}, {result.parameters / 1e6:.1f}M parameters in {result.tensors} tensors"
        "</text>",
    ]
    y, contest = 36, ""
    for row in rows:
        if row.contest != contest:
            contest = row.contest
            y += line
            out.append(f'<text x="12" y="{y - 6}" fill="#666">{contest}</text>')
        low, high = row.ratio_quartiles or (0.0, 0.0)
        ratio, middle = row.ratio or 0.0, y + line / 2 - 2
        colour = "#2f6f9f" if row.name.startswith("sabun") else "#b9b9b9"
        out += [
            f'<text x="{left - 8}" y="{middle + 4:.0f}" text-anchor="end">{row.name}</text>',
            f'<rect x="{left}" y="{y + 2}" width="{ratio * scale:.1f}" height="{line - 8}" fill="{colour}"/>',
            f'<path d="M{left + low * scale:.1f} {middle:.1f}H{left + high * scale:.1f}" stroke="#111"/>',
            f'<text x="{left + high * scale + 6:.1f}" y="{middle + 4:.0f}">{ratio:.2f}</text>',
        ]
        y += line
    out.append(f'<path d="M{left + scale:.1f} 40V{y}" stroke="#a33" stroke-dasharray="4 3"/></svg>')
    return "\n".join(out)
