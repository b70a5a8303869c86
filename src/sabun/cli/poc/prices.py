"""The prices of a report: from options, from the study's directory, or asked for once at a terminal.

They are no part of the evidence. ``prices.json`` beside the records holds them, so that later reports show them, too.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sabun import _files
from sabun.cli import console
from sabun.errors import OptionError

if TYPE_CHECKING:
    from sabun.messages.languages import Language
    from sabun.poc.spec import Study
    from sabun.report.money import Prices

__all__ = ["asked", "for_report", "remember", "stored"]

FILE = "prices.json"


def stored(directory: Path) -> Prices | None:
    """Return the prices that an earlier report of the study used. Raises OptionError for a damaged file."""
    from sabun.report.money import Prices

    try:
        return Prices(**json.loads(_files.read(directory / FILE)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise OptionError(
            f"{directory / FILE} cannot be read: {error}.", fix="Delete it, and give the prices as options again."
        ) from None


def remember(directory: Path, prices: Prices | None) -> None:
    """Keep ``prices`` for later reports, where there is a study in ``directory``."""
    from sabun.poc.evidence.specification import exists

    if prices is not None and not prices.example and exists(directory):
        values = {key: value for key, value in dataclasses.asdict(prices).items() if key != "example"}
        _files.replace(directory / FILE, json.dumps(values, indent=1).encode() + b"\n")


def for_report(study: Study, directory: Path, given: Prices | None) -> Prices | None:
    """Return the prices of a report: those given, else those kept; for the demonstration an example's."""
    from sabun.poc.study import is_demonstration
    from sabun.report.money import EXAMPLE

    found = given or stored(directory)
    return EXAMPLE if found is None and is_demonstration(study) else found


def asked(lang: Language) -> Prices | None:
    """Ask for prices where a person sits at a terminal; None without an answer."""
    from sabun.messages.sentences import text
    from sabun.report.money import Prices

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    price, currency = _amount("ask.price", lang)
    if price is None:
        return None
    jobs = None
    while jobs is None:
        jobs, _ = _amount("ask.jobs", lang)
    hours, _ = _amount("ask.hours", lang)
    setup, _ = _amount("ask.setup", lang, least=0.0)
    console.echo(text("ask.thanks", lang), err=True)
    return Prices(price, jobs, currency or "JPY", hours, setup)


def _amount(question: str, lang: Language, least: float | None = None) -> tuple[float | None, str]:
    """Ask until the answer is an amount, perhaps with a currency, or empty."""
    from sabun.messages.sentences import text

    while answer := console.ask(text(question, lang)):
        found = re.fullmatch(r"([A-Za-z]{3})?\s*([0-9][0-9,]*(?:\.[0-9]+)?)\s*([A-Za-z]{3})?", answer)
        if found:
            value = float(found[2].replace(",", ""))
            if value > 0 or value == least:
                return value, (found[1] or found[3] or "").upper()
        console.echo(text("ask.again", lang), err=True)
    return None, ""
