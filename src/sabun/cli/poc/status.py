"""``sabun poc status``: the progress of a study, and its failed runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from sabun.cli import console, options

if TYPE_CHECKING:
    from sabun.poc.failures import Failure

__all__ = ["EPILOG", "status"]

EPILOG = """**Reads** the directory of a study, also while another process writes to it. **Writes** nothing.

**Examples**

- `sabun poc status runs/digits`

- `sabun poc status runs/digits --json` — counts, runs in progress and failures, for monitoring

**Exit codes**

0 success · 2 no study there · 1 the study is damaged
"""


def status(directory: options.Directory, as_json: options.Json = False) -> None:
    """Show how far a study is, which runs failed and why, and what they printed last."""
    from sabun.cli.poc.stored import evidence_of
    from sabun.cli.progress import bar, phase_name, place
    from sabun.messages.languages import DEFAULT
    from sabun.poc.evidence.live_status import being_written, read_live
    from sabun.poc.failures import failures

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
    out.print(f"{study.name}: {done}{f' of {total}' if total else ''} runs, {state}")
    if isinstance(total, int) and total > 0:
        out.print(bar(done / total))
    for run in running:
        at = place(run["epoch"], run["epochs"], DEFAULT)
        out.print(f"  {phase_name(run['phase'], DEFAULT)} {run['arm']}, seed {run['seed']}: {at}")
    for line in _lines(failed):
        out.print(line, soft_wrap=True)
    if state == "stopped":
        out.print(f"To continue: sabun poc resume {directory}", soft_wrap=True)
    if failed and state != "running":
        out.print(f"To repeat the failed runs: sabun poc resume {directory} --retry-failed", soft_wrap=True)


def _lines(failed: Iterable[Failure]) -> Iterator[str]:
    from sabun.cli.progress import phase_name
    from sabun.messages.languages import DEFAULT

    for failure in failed:
        count = f"{failure.runs} runs failed, the first with seed" if failure.runs > 1 else "failed, seed"
        yield f"{failure.arm}, {phase_name(failure.phase, DEFAULT)}: {count} {failure.seed}: {failure.reason}"
        if failure.log:
            yield f"  complete output: {failure.log}"
