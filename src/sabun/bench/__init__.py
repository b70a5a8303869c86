"""How long a step takes, how much memory it moves and holds, beside the optimizers that people use today.

All figures of one run come from one process and one device, interleaved, so that ratios between them mean something
on a machine that is shared, throttled or unknown. Absolute times do not travel; ratios do, roughly.
"""

from sabun.bench.contestants import COMPARISONS
from sabun.bench.results import Result, Row, line, picture, table
from sabun.bench.running import run
from sabun.bench.shapes import SHAPES

__all__ = ["COMPARISONS", "SHAPES", "Result", "Row", "line", "picture", "run", "table"]
