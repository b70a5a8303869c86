"""Studies in a notebook: progress below the cell, the report as its value."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path

import pytest

from sabun import interactive
from sabun.errors import StoreError
from sabun.poc import events
from sabun.poc.spec import Run
from sabun.poc.study import default_study
from sabun.report import html as page

TINY = Path(__file__).parent / "poc" / "tiny.py"
STUDY = default_study(
    task=f"{TINY}:Tiny", baseline="torch.optim:SGD(momentum=0.9)", candidates=["torch.optim:SGD"], name="<b>tiny</b>",
    epochs=1, trials=2, tuning_seeds=1, seeds=2, seed=0,
)  # fmt: skip


def test_progress_says_what_is_done_and_what_failed_once() -> None:
    told: list[tuple[str, str]] = []
    clock = iter(range(100))
    progress = interactive.Progress(lambda rich, plain: told.append((rich, plain)), lambda: float(next(clock)))
    progress(events.StudyStarted(STUDY, Path(), 10, 2))
    for seed in range(2):
        task = Run(arm="a<b", seed=seed, phase="evaluate")
        result = task.result("failed", (), failure="it ended with exit status 1")
        progress(events.RunFinished(task, result, 3 + seed, 10, 240.0))
    progress(events.StudyFinished(STUDY, Path(), 61.0))
    failure = "run of a<b failed: it ended with exit status 1"
    assert [plain for _, plain in told] == [
        "<b>tiny</b>: 10 runs",
        f"<b>tiny</b>: evaluation: 3 of 10 runs done, about 4 min left\n{failure}",
        f"<b>tiny</b>: evaluation: 4 of 10 runs done, about 4 min left\n{failure}",
        f"<b>tiny</b>: done in 61.0 s\n{failure}",
    ]
    assert [re.search(r'aria-valuenow="(\d+)"', rich)[1] for rich, _ in told] == ["20", "30", "40", "40"]  # type: ignore[index]
    assert all("&lt;b&gt;tiny" in rich and "<b>" not in rich for rich, _ in told)


def test_updates_are_not_closer_than_half_a_second() -> None:
    told: list[str] = []
    now = [0.0]
    progress = interactive.Progress(lambda _, plain: told.append(plain), lambda: now[0])
    progress(events.StudyStarted(STUDY, Path(), 100, 0))
    for done in range(1, 101):
        now[0] += 0.1
        task = Run(arm="a", seed=done, phase="evaluate")
        progress(events.RunFinished(task, task.result("finished", ()), done, 100, 1.0))
    assert 18 <= len(told) <= 21


def test_a_study_is_run_and_read_and_its_page_is_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = interactive.run(STUDY, tmp_path / "out")
    assert "<b>tiny</b>: 10 runs" in capsys.readouterr().err.splitlines()[0]
    again = interactive.read(tmp_path / "out")
    assert again.candidates == made.candidates
    assert (tmp_path / "out" / "report.html").exists()
    (inner,) = re.findall(r'^<iframe srcdoc="([^"]*)" style="[^"]*"></iframe>$', interactive.Page(made)._repr_html_())
    assert html.unescape(inner) == page.render(made, "en")
    with pytest.raises(StoreError):
        interactive.read(tmp_path)


def test_in_a_notebook_one_output_changes() -> None:
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell
    from IPython.utils.capture import capture_output

    shell.instance()
    try:
        with capture_output() as captured:
            show = interactive._shown()
            show("<p>1</p>", "one")
            show("<p>2</p>", "two")
    finally:
        shell.clear_instance()
    first, *updates = captured._outputs
    assert [output["data"] for output in updates] == [
        {"text/html": "<p>1</p>", "text/plain": "one"},
        {"text/html": "<p>2</p>", "text/plain": "two"},
    ]
    assert all(output["update"] for output in updates)
    assert {output["transient"]["display_id"] for output in updates} == {first["transient"]["display_id"]}
    assert "IPython" in sys.modules
