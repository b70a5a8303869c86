"""``sabun poc status``: the progress of a study, and its failed runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from sabun.cli import console, options

if TYPE_CHECKING:
    from sabun.messages.languages import Language
    from sabun.poc.failures import Failure

__all__ = ["EPILOG", "status"]

EPILOG = """**Reads** the directory of a study, also while another process writes to it. **Writes** nothing.

**Examples**

- `sabun poc status runs/digits`

- `sabun poc status runs/digits --json` — counts, runs in progress and failures, for monitoring

**Exit codes**

0 success · 2 no study there · 1 the study is damaged
"""


def status(directory: options.Directory, lang: options.Lang = None, as_json: options.Json = False) -> None:
    """Show how far a study is, which runs failed and why, and what they printed last."""
    from sabun.cli.poc.stored import evidence_of
    from sabun.cli.progress import bar, phase_name, place
    from sabun.messages.sentences import text
    from sabun.poc.evidence.live_status import being_written, read_live
    from sabun.poc.failures import failures

    shown_in = options.language_of(lang)
    evidence = evidence_of(directory)
    study, results = evidence.study, evidence.records.results.values()
    failed = failures(results, directory)
    live = read_live(directory)
    done, total = len(results), live.get("total")
    state = "running" if being_written(directory) else "finished" if live.get("state") == "finished" else "stopped"
    running = live.get("runs", []) if state == "running" else []
    if as_json:
        value = {
            "study": study.name,
            "hash": study.hash,
            "done": done,
            "total": total,
            "phases": Counter(result.phase for result in results),
            "state": state,
            "runs": running,
            "failures": [asdict(failure) for failure in failed],
        }
        console.print_json(value, indent=2)
        return
    out = console.stdout()
    values = {"name": study.name, "done": done, "total": total, "state": text(f"status.{state}", shown_in)}
    out.print(text("status.runs_of" if total else "status.runs", shown_in, values))
    if isinstance(total, int) and total > 0:
        out.print(bar(done / total))
    for run in running:
        at = {"phase": phase_name(run["phase"], shown_in), "place": place(run["epoch"], run["epochs"], shown_in)}
        out.print(f"  {text('status.run', shown_in, {'arm': run['arm'], 'seed': run['seed'], **at})}")
    for line in _lines(failed, shown_in):
        out.print(line, soft_wrap=True)
    if state == "stopped":
        out.print(text("status.continue", shown_in, {"directory": str(directory)}), soft_wrap=True)
    if failed and state != "running":
        out.print(text("status.repeat", shown_in, {"directory": str(directory)}), soft_wrap=True)


def _lines(failed: Iterable[Failure], lang: Language) -> Iterator[str]:
    from sabun.cli.progress import phase_name
    from sabun.messages.sentences import text

    for failure in failed:
        values = {**asdict(failure), "phase": phase_name(failure.phase, lang)}
        yield text("status.failed_more" if failure.runs > 1 else "status.failed", lang, values)
        if failure.log:
            yield f"  {text('status.log', lang, {'path': failure.log})}"
