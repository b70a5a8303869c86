"""Makes the collector of fenced blocks, and the tools that build the site, importable by the tests of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "docs" / "tools")]
