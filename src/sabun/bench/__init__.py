"""Time and memory of an optimizer step, compared with torch's own optimizers and well-known packages.

All figures of one run come from one process and one device and are measured in turn. So their ratios are meaningful on
a shared or throttled machine, and roughly transferable to another one; absolute times are not.
"""

from sabun.bench.bench_result import BenchResult, BenchRow, line, picture, table
from sabun.bench.contests import CONTESTS
from sabun.bench.runner import run
from sabun.bench.shapes import SHAPES

__all__ = ["CONTESTS", "SHAPES", "BenchResult", "BenchRow", "line", "picture", "run", "table"]
