"""The output of ``sabun rollout``. The complete drill is in tests/rollout."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sabun.cli import app

Sabun = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sabun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sabun:
    monkeypatch.chdir(tmp_path)
    for variable in ("SABUN_KILL", "SABUN_ROLLOUT"):
        monkeypatch.delenv(variable, raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = app.run(["rollout", *arguments])
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


BARE = ("init", "--champion", "torch.optim:AdamW", "--challenger", "nesterov@adam", "--name", "trial")
INIT = (*BARE, "--champion-lr", "0.001", "--challenger-lr", "0.003")


def test_errors_are_two_lines_and_nothing_is_written(sabun: Sabun, tmp_path: Path) -> None:
    for arguments, output in (
        (("status",), "not started"),
        (("init",), "no plan to start from"),
        (("init", "--champion", "torch.optim:AdamW"), "no plan to start from"),
        (("init", "--study", "nowhere"), "no study"),
        (("promote",), "not started"),
        (("rollback", "--reason", "x"), "not started"),
        (("log",), "not started"),
        (("choose", "job"), "no roll-out plan"),
    ):
        code, out, err = sabun(*arguments)
        assert code in (1, 2), arguments
        assert output in err, (arguments, err)
        assert err.count("\n") == 2, err
        assert (out, [*tmp_path.iterdir()]) == ("", [])
    assert sabun("rollback")[0] == 2  # the reason is not optional


def test_status_as_json(sabun: Sabun) -> None:
    assert sabun(*INIT)[0] == 0
    code, out, _ = sabun("status", "--json")
    facts = json.loads(out)
    assert code == 0
    assert (facts["stage"], facts["share"], facts["killed"], facts["notes"]) == ("poc", 0.0, "", [])
    assert facts["next"]["stage"] == "pilot"
    assert not facts["next"]["passed"]
    assert len(facts["head"]) == 64
    Path("KILL").touch()
    assert json.loads(sabun("status", "--json")[1])["killed"] == "kill-file"


def test_a_refusal_and_an_override(sabun: Sabun) -> None:
    sabun(*INIT)
    code, out, err = sabun("promote")
    assert (code, out) == (1, "")
    assert "gate of 'pilot' does not pass" in err
    assert sabun("promote", "--override", " ")[0] == 2
    code, out, _ = sabun("promote", "--override", "agreed")
    assert code == 0
    assert "overridden: " in out
    assert "stage pilot, 5% of new jobs" in out
    assert "by override: agreed" in sabun("status")[1]
    code, out, _ = sabun("rollback", "--reason", "drill", "--to", "poc")
    assert (code, "stage poc" in out) == (0, True)


def test_a_plan_that_cannot_be_built_is_reported_at_once_and_never_promoted(sabun: Sabun) -> None:
    code, out, _ = sabun(*BARE)
    assert code == 0
    assert "no job could build the challenger: cannot build 'nesterov@adam'" in out
    assert "no learning rate" in out
    code, out, err = sabun("promote", "--override", "a reason does not make it trainable")
    assert (code, out) == (1, "")
    assert "'pilot' is refused: no job could build the challenger" in err
    assert "options = { lr" in err
    assert "no learning rate" in sabun("status")[1]
    plan = Path("rollout.toml")
    text = plan.read_text()
    plan.write_text(text.replace("AdamW", "AdamV"))
    code, _, err = sabun("apply", "--reason", "x")
    assert code == 1
    assert "cannot be applied" in err
    assert "AdamV" in err
    before, after = text.split("[challenger]")
    plan.write_text(before + "[challenger]" + after.replace("options = {}", "options = { lr = 0.003 }", 1))
    assert sabun("apply", "--reason", "the lr")[0] == 0
    assert sabun("promote", "--override", "drill")[0] == 0
    names = [event["event"] for event in json.loads(sabun("log", "--format", "json")[1])]
    assert names == ["rollout.started", "rollout.refused", "rollout.changed", "rollout.promoted"]


def test_a_default_learning_rate_is_reported(sabun: Sabun) -> None:
    code, out, _ = sabun("init", "--champion", "torch.optim:AdamW", "--challenger", "torch.optim:SGD(lr=0.1)")
    assert code == 0
    assert out.count("has no lr") == 1
    assert "the champion has no lr: the default of torch.optim:AdamW is used" in out
    assert json.loads(sabun("status", "--json")[1])["stage"] == "poc"


def test_no_option_of_init_is_ignored(sabun: Sabun, tmp_path: Path) -> None:
    for arguments, output in (
        ((*BARE[:3], "--champion-lr", "1", "--name", "x"), "no plan to start from"),
        (("init", "--champion-lr", "0.1"), "--champion-lr needs --champion"),
        (("init", "--study", "x", "--challenger", "torch.optim:SGD"), "--challenger cannot be combined with --study"),
        ((*BARE, "--candidate", "x"), "--candidate needs a study"),
    ):
        code, out, err = sabun(*arguments)
        assert (code, out) == (2, ""), arguments
        assert output in err
        assert [*tmp_path.iterdir()] == []


def test_verify_names_the_changed_line_and_checks_an_anchor(sabun: Sabun) -> None:
    sabun(*INIT)
    sabun("promote", "--override", "agreed")
    code, out, _ = sabun("verify")
    anchor = out.split()[-1]
    assert (code, len(anchor)) == (0, 64)
    assert sabun("verify", "--anchor", anchor)[0] == 0
    code, out, _ = sabun("verify", "--anchor", "f" * 64)
    assert (code, "anchor" in out) == (1, True)
    Path("rollout.state.json").write_text("{}")
    assert "does not agree with the log" in sabun("verify")[1]
    assert "it was updated" in sabun("status")[1]
    log = Path("rollout.audit.jsonl")
    log.write_bytes(log.read_bytes().replace(b"agreed", b"AGREED"))
    code, out, _ = sabun("verify")
    assert (code, "line 2 was changed" in out) == (1, True)
    code, _, err = sabun("status")
    assert (code, "Every new job trains with the champion" in err) == (1, True)


def test_the_log_is_exported(sabun: Sabun) -> None:
    sabun(*INIT)
    sabun("rollback", "--reason", "a | b")
    assert r"reason: a \| b" in sabun("log")[1]
    rows = list(csv.reader(io.StringIO(sabun("log", "--format", "csv")[1])))
    assert [row[2] for row in rows] == ["event", "rollout.started", "rollout.rolled-back"]
    assert json.loads(sabun("log", "--format", "json")[1])[1]["data"]["reason"] == "a | b"


def test_choosing(sabun: Sabun) -> None:
    sabun(*INIT)
    assert sabun("choose", "job")[1] == "champion\n"
    for _ in range(3):
        sabun("promote", "--override", "x")
    assert sabun("choose", "job")[1] == "challenger\n"
    assert json.loads(sabun("choose", "job", "--json")[1])["side"]["optimizer"] == "nesterov@adam"


def test_another_plan_by_name_or_directory(sabun: Sabun, tmp_path: Path) -> None:
    assert sabun(*INIT, "--plan", str(tmp_path / "a" / "plan.toml"))[0] == 0
    assert sabun("status", "--plan", str(tmp_path / "a" / "plan.toml"))[0] == 0
    assert sabun(*INIT, "--plan", str(tmp_path / "b"))[0] == 0
    assert (tmp_path / "b" / "rollout.toml").exists()
    assert sabun(*INIT, "--plan", str(tmp_path / "b"))[0] == 1


def test_aliases_need_mlflow(sabun: Sabun, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "mlflow", None)
    sabun(*INIT)
    code, out, err = sabun("promote", "--override", "x", "--mlflow", "forecast")
    assert "stage pilot" in out  # the log comes first: the promotion stands
    assert code == 2
    assert "pip install mlflow" in err
