"""Next steps name the commands that do them, with everything filled in that the report knows."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sabun.cli.app import build as build_app
from sabun.messages.languages import languages
from sabun.poc.judgement.assessment import Cap
from sabun.poc.records import GroupRates
from sabun.report import html
from sabun.report.facts import Note, Report
from sabun.report.money import Prices
from sabun.report.next_steps import _TORCH

from .cases import Case, report
from .test_build import _undecided
from .test_for_readers import script
from .test_renderings import Page

Make = Callable[..., Case]


def keys(r: Report) -> list[str]:
    return [step.say.key.removeprefix("step.") for step in r.steps]


def test_after_a_go_on_a_task_of_sabun_the_readers_own_comes_first(case: Make) -> None:
    """The pilot then starts from the reader's own study, and not from this one."""
    r = report(case(only=("look-ahead",)), path=Path("runs/digits"))
    assert keys(r) == ["go_own", "go_pilot", "go_stages", "go_back"]
    own = "sabun poc run --script \"python train.py\" --candidate 'look-ahead(0.9, 2)' --out runs/own"
    assert r.steps[0].command == own
    pilot = "sabun rollout init --study runs/own --candidate look-ahead --champion MODULE:CLASS --champion-lr LR"
    assert r.steps[1].command == f"{pilot}\nsabun rollout promote"
    assert [step.cost.key for step in r.steps if step.cost] == ["cost.own", "cost.pilot", "cost.none", "cost.none"]


@pytest.mark.parametrize(
    ("made", "champion"), [("AdamW", "torch.optim:AdamW"), ("Ranger", "MODULE:CLASS"), ("", "MODULE:CLASS")]
)
def test_after_a_go_on_the_readers_script_the_roll_out_is_next(case: Make, made: str, champion: str) -> None:
    c = script(case, made=made, only=("look-ahead",))
    group = GroupRates(group=0, name=None, parameters=8, asked=0.003, first=0.003, last=0.0, largest=0.003, steps=9)
    runs = tuple(dataclasses.replace(run, rates=(group,)) if run.arm == "script" else run for run in c.runs)
    r = report(dataclasses.replace(c, runs=runs), path=Path("runs/my demand"))
    assert keys(r) == ["go_pilot", "go_watch", "go_stages", "go_back"]
    start = "sabun rollout init --study 'runs/my demand' --candidate look-ahead"
    assert r.steps[0].command == f"{start} --champion {champion} --champion-lr 0.003\nsabun rollout promote"


def test_a_study_of_the_readers_own_jobs_has_a_price_where_hours_and_price_are_given(case: Make) -> None:
    made = case(only=("look-ahead",))
    r = report(made, prices=Prices(600.0, 200.0, hours_per_job=3.0), path=Path("runs/digits"))
    assert r.steps[0].cost is not None
    assert r.steps[0].cost.key == "cost.own_priced"
    assert r.steps[0].cost.values["total"] == 82 * 3 * 600  # two arms: 12 trials on two seeds, 16 pairs, a repetition
    r = report(made, prices=Prices(600.0, 200.0), path=Path("runs/digits"))  # this study's job is not the reader's
    assert r.steps[0].cost == Note("cost.own", {"seconds": r.effort.total_s, "runs": r.effort.runs})


def test_an_untuned_study_of_a_script_is_repeated_with_tuning(case: Make) -> None:
    c = script(case, only=("nesterov",))
    (verdict,) = c.assessment.verdicts
    capped = dataclasses.replace(verdict, decision="promising", caps=(Cap("not_tuned", "promising"),))
    c = dataclasses.replace(c, assessment=dataclasses.replace(c.assessment, verdicts=(capped,)))
    r = report(c, path=Path("runs/demand"))
    assert keys(r) == ["promising_1", "promising_2", "promising_3"]
    assert shlex.split(r.steps[1].command) == [
        "sabun", "poc", "run", "--script", "python train.py --seed {seed} --epochs {epochs}", "--candidate", "nesterov",
        "--name", "需要予測-tuned",
    ]  # fmt: skip


def test_what_limits_the_verdict_names_the_command_of_this_study(case: Make) -> None:
    c = case(only=("nesterov",))
    (verdict,) = c.assessment.verdicts
    capped = dataclasses.replace(verdict, decision="promising", caps=(Cap("busy", "promising", {"busy": 3, "n": 9}),))
    c = dataclasses.replace(c, assessment=dataclasses.replace(c.assessment, verdicts=(capped,)))
    r = report(c, path=Path("runs/my study"))
    for lang in languages():
        assert "sabun poc resume 'runs/my study' --time-again" in r.sentence(r.caps[0], lang)


def test_commands_exist_and_stand_in_the_page(case: Make) -> None:
    app = build_app()
    shown = [
        report(case(only=("look-ahead",)), path=Path("runs/x")),
        report(script(case, only=("look-ahead",)), path=Path("runs/x")),
        _undecided(case, ("k1_incomplete", {"needed": 12})),
    ]
    commands = [line for r in shown for step in r.steps for line in step.command.splitlines()]
    assert len(commands) >= 8
    assert "sabun poc resume . --retry-failed" in commands
    for command in commands:
        words = shlex.split(command)
        group = next(g for g in app.registered_groups if g.name == words[1])
        assert group.typer_instance is not None
        names = {c.name or c.callback.__name__ for c in group.typer_instance.registered_commands if c.callback}
        assert words[2] in names, command
    for lang in languages():
        for r in shown:
            said = Page(html.render(r, lang), lang).said
            assert all(line in said for step in r.steps for line in step.command.splitlines())
            assert said.count({"en": "Owner:", "ja": "担当："}[lang]) == len(r.steps)


def test_every_name_is_an_optimizer_of_torch() -> None:
    assert all(hasattr(torch.optim, name) for name in _TORCH - {"Muon"})
