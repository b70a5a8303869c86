"""From a study's evidence to its verdict and report files.

:func:`judge` computes a report, :func:`publish` also records its verdict in the study's audit log and writes
``report.html``, ``report.json`` and ``report.md`` into the study's directory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sabun import _files
from sabun.errors import OptionError
from sabun.messages.languages import DEFAULT, Language
from sabun.poc.evidence import StudyEvidence, log_verdicts
from sabun.poc.judgement.assess import assess
from sabun.poc.judgement.assessment import Decision, Tuning
from sabun.poc.logged_runs import JudgedLogs
from sabun.poc.spec import Study
from sabun.report import html, markdown, report_json
from sabun.report.build import build
from sabun.report.facts import Report
from sabun.report.money import Prices

__all__ = ["EXIT_CODES", "Published", "judge", "publish", "report_of_logs", "save", "write"]

EXIT_CODES: Final[Mapping[Decision, int]] = {"go": 0, "no-go": 10, "undecided": 11, "small": 12, "promising": 13}
"""The exit code for each decision, for pipelines."""

Describe = Callable[[Study, Mapping[str, Tuning]], Mapping[str, Mapping[str, object] | None]]
"""What :func:`sabun.poc.descriptions.describe_arms` is."""


@dataclass(frozen=True, slots=True)
class Published:
    """A report, and the files it was written to by format: html, json, md."""

    report: Report
    files: Mapping[str, str]

    @property
    def exit_code(self) -> int:
        """The exit code for the report's decision."""
        return EXIT_CODES[self.report.decision]


def judge(evidence: StudyEvidence, *, describe: Describe, money: Prices | None = None) -> Report:
    """Return the report on ``evidence``; nothing is written."""
    return build(
        evidence,
        assess(evidence.effective, evidence.runs, evidence.tuning, evidence.earlier),
        descriptions=describe(evidence.study, evidence.tuning),
        prices=money,
    )


def publish(
    evidence: StudyEvidence, *, describe: Describe, lang: Language | None = None, money: Prices | None = None
) -> Published:
    """Judge ``evidence``, record the verdict in the audit log, and write the report files next to the records.

    The report holds the hash of the log's end after the verdict. Each file is written whole or not at all. Raises
    OptionError where one cannot be written.
    """
    report = judge(evidence, describe=describe, money=money)
    verdicts = {candidate.arm: candidate.verdict.decision for candidate in report.candidates}
    head = log_verdicts(evidence, verdicts)
    report = dataclasses.replace(report, audit=dataclasses.replace(report.audit, log_head=head))
    return Published(report, write(report, evidence.path, lang))


def report_of_logs(judged: JudgedLogs) -> Report:
    """Return the report on logged runs. It names no records and no audit log, because there are none."""
    return build(judged, judged.assessment)


def write(report: Report, directory: Path, lang: Language | None = None) -> dict[str, str]:
    """Write the report files into ``directory``; return their paths by format.

    Without ``lang`` the page opens in the language of its reader's browser, and the Markdown is in English.
    """
    contents = {
        "html": html.render(report, lang),
        "json": report_json.render(report),
        "md": markdown.render(report, DEFAULT if lang is None else lang),
    }
    files = {}
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"cannot create {directory}: {error.strerror}.", fix="Choose another directory.") from None
    for kind, content in contents.items():
        path = directory / f"report.{kind}"
        save(path, content.encode("utf-8", "backslashreplace"))  # a lone surrogate of a stored name as its escape
        files[kind] = str(path)
    return files


def save(path: Path, content: bytes) -> None:
    """Write a whole file or nothing. Raises OptionError where it cannot be written."""
    try:
        _files.replace(path, content)
    except OSError as error:
        raise OptionError(
            f"cannot write {path}: {error.strerror}.", fix="Check the path and its permissions."
        ) from None
