"""``sabun schemes``: the catalogue as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sabun.cli import console
from sabun.cli.options import Json, Lang, language_of

if TYPE_CHECKING:
    from sabun.schemes import Certificate

__all__ = ["EPILOG", "schemes"]

EPILOG = """The table is computed from the coefficients; nothing is trained. Refused schemes are listed too: they are
unstable and cannot be used.

**Examples**

- `sabun schemes` — the table

- `sabun schemes --json` — every certificate in full

**Exit codes**

0 success · 2 bad input
"""


def schemes(lang: Lang = "en", as_json: Json = False) -> None:
    """List every scheme with its order, error constant, stability interval, noise gain and cost."""
    from sabun.messages.sentences import text
    from sabun.schemes import SCHEMES, certify

    lang = language_of(lang)
    certificates = [certify(entry.build()) for entry in SCHEMES.values()]
    if as_json:
        console.print_json([c.to_dict() for c in certificates], indent=2)
        return
    from rich.table import Table

    table = Table(
        box=None, pad_edge=False, header_style="bold", caption=text("certificate.caption", lang), caption_justify="left"
    )
    for key in ("scheme", "order_short", "constant_short", "interval_short", "noise_short", "gradients_short",
                "state_short"):  # fmt: skip
        table.add_column(
            text(f"certificate.{key}", lang), justify="left" if key == "scheme" else "right", no_wrap=key == "scheme"
        )
    table.add_column(text("certificate.what", lang), overflow="fold")
    for c in certificates:
        table.add_row(*_cells(c, lang), style=None if c.usable else "dim")
    console.stdout().print(table)


def _cells(c: Certificate, lang: str) -> list[str]:
    from math import isfinite

    from sabun.messages.formatting import short
    from sabun.messages.sentences import text

    what = c.summary.get(lang) or c.summary["en"]
    return [
        c.scheme,
        str(c.order),
        short(float(c.error_constant)),
        short(c.stability_interval) if c.usable else text("certificate.refused", lang),
        short(c.noise_gain) if isfinite(c.noise_gain) else "–",
        str(c.gradient_evaluations),
        str(c.state_copies),
        what,
    ]
