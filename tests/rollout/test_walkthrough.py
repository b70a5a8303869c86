"""What docs/rollout.md says exists. Its drill is typed as it stands by tests/docs/test_blocks.py."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "rollout.md"


def test_every_event_that_the_page_names_exists() -> None:
    folder = Path(__file__).parents[2] / "src" / "sabun" / "rollout" / "guard"
    source = "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py")))
    named = set(re.findall(r"`(guard\.[a-z-]+)`", PAGE.read_text(encoding="utf-8")))
    assert len(named) >= 5
    for event in named:
        assert f'"{event}"' in source
