"""``python -m sabun`` is the ``sabun`` command, for environments in which scripts are not on the path."""

from __future__ import annotations

from sabun.cli import main

if __name__ == "__main__":
    main()
