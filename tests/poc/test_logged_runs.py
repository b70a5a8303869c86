"""A verdict from runs that exist: the same as that of the study that wrote them, as far as the logs support it."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sabun.cli import app
from sabun.integrations.trackers import track
from sabun.poc import study as studies
from sabun.poc.evidence import StudyEvidence
from sabun.poc.judgement.assess import assess
from sabun.poc.judgement.kpis import deciding
from sabun.poc.logged_runs import judge_logs
from sabun.report import records_table

from .helpers import tiny_study

Capture = pytest.CaptureFixture[str]


# ------------------------------------------------------------------- the same verdict as the study that wrote the logs


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyEvidence, dict[str, list[str]]]:
    """A study that sent its records to both trackers, exported as CSV, and how each log is read."""
    where = tmp_path_factory.mktemp("logs")
    uri = f"sqlite:///{where / 'mlflow.db'}"
    trackers = [track("tensorboard", where, to=str(where / "tb")), track("mlflow", where, to=uri)]

    def listen(event: Any) -> None:
        for tracker in trackers:
            tracker(event)

    study = tiny_study("torch.optim:SGD", "torch.optim:AdamW", trials=1, tuning_seeds=1, seeds=8, epochs=2)
    evidence = studies.run(study, where / "study", on_event=listen)
    (where / "runs.csv").write_text(records_table.to_csv(evidence.runs), encoding="utf-8")
    sources = {
        "csv": [str(where / "runs.csv")],
        "tensorboard": [f"tensorboard:{where / 'tb'}"],
        "mlflow": [f"mlflow:{study.name}", "--tracking-uri", uri],
    }
    return evidence, sources


@pytest.mark.parametrize("kind", ["csv", "tensorboard", "mlflow"])
def test_a_log_is_judged_as_the_study_that_wrote_it(
    kind: str, written: tuple[StudyEvidence, dict[str, list[str]]], capsys: Capture
) -> None:
    evidence, sources = written
    study = evidence.study
    own = assess(study, evidence.runs, evidence.tuning)
    command = ["poc", "judge", *sources[kind], "--baseline", study.baseline.name, "--json"]
    assert app.run([*command, "--tuned-alike"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {c["arm"] for c in report["candidates"]} == {verdict.arm for verdict in own.verdicts}
    for verdict in own.verdicts:
        found = next(c for c in report["candidates"] if c["arm"] == verdict.arm)
        assert found["verdict"]["decision"] == verdict.decision
        assert [r["code"] for r in found["verdict"]["reasons"]] == [reason.code for reason in verdict.reasons]
        for group in ("K1", "K2", "K3"):
            kpi = deciding(group).id  # type: ignore[arg-type]
            row = next(row for row in own.comparisons if (row.arm, row.kpi) == (verdict.arm, kpi))
            shown = found["kpis"][kpi]
            assert [shown[key] for key in ("effect", "low", "high", "p_adjusted", "n")] == [
                row.effect, row.low, row.high, row.p_adjusted, row.n
            ], (kpi, kind)  # fmt: skip
        assert "logs_not_attested" in [cap["code"] for cap in found["verdict"]["caps"]]


# ------------------------------------------------------------------------------------- what the logs do not support


def rows(
    losses: dict[str, Iterable[float]], *, seeds: bool = True, seconds: float | None = 1.0, **more: Callable[..., Any]
) -> list[dict[str, Any]]:
    """Rows of runs by configuration; ``more`` are columns as functions of configuration and number of the run."""
    rng = np.random.default_rng(0)
    found = []
    for name, own in losses.items():
        for number, loss in enumerate(own):
            for epoch in range(4):
                row: dict[str, Any] = {"optimizer": name, "run": f"{name}-{number}", "epoch": epoch}
                row["val_loss"] = loss + (3 - epoch) * 0.5
                if seeds:
                    row["seed"] = number
                if seconds is not None:
                    row["seconds"] = 0.0 if epoch == 0 else seconds * (1 + 0.01 * rng.random())
                found.append(row | {key: value(name, number) for key, value in more.items()})
    return found


def losses(gain: float, n: int = 10, m: int | None = None) -> dict[str, Iterable[float]]:
    rng = np.random.default_rng(1)
    shared = 1 + 0.05 * rng.standard_normal(max(n, m or n))
    return {
        "today": shared[:n] + 0.005 * rng.standard_normal(n),
        "new": (1 - gain) * (shared[: m or n] + 0.005 * rng.standard_normal(m or n)),
    }


def decide(table: list[dict[str, Any]], **options: Any) -> tuple[str, list[str]]:
    judged = judge_logs(table, "runs.csv", baseline="today", **options)
    (verdict,) = judged.assessment.verdicts
    return verdict.decision, [cap.code for cap in verdict.caps]


def test_a_comparison_whose_tuning_is_not_stated_is_promising_at_best() -> None:
    table = rows(losses(0.2))
    assert decide(table)[0] == "promising"
    assert "logs_tuning_unknown" in decide(table)[1]
    decision, caps = decide(table, tuned_alike=True)
    assert decision == "go"
    assert caps == ["logs_not_attested", "logs_only_finished", "logs_version_unknown", "logs_machine_unknown"]
    assert decide(rows(losses(-0.2)))[0] == "no-go", "a cap never hides that the candidate is worse"


@pytest.mark.parametrize(
    ("more", "cap", "decision"),
    [
        (
            {"status": lambda name, n: "crashed" if (name, n) == ("new", 3) else "finished"},
            "logs_runs_lost",
            "undecided",
        ),
        ({"git_commit": lambda name, n: "a" if name == "new" else "b"}, "logs_version_differs", "undecided"),
        ({"host": lambda name, n: "x" if name == "new" else "y"}, "logs_machines_differ", "promising"),
        ({"seconds": None}, "logs_no_cost", "promising"),
    ],
)
def test_what_caps_the_verdict(more: dict[str, Any], cap: str, decision: str) -> None:
    found, caps = decide(rows(losses(0.2), **more), tuned_alike=True)
    assert (found, cap in caps) == (decision, True), caps
    if "machines" in cap or "cost" in cap:
        judged = judge_logs(rows(losses(0.2), **more), "runs.csv", baseline="today", tuned_alike=True)
        assert judged.assessment.verdicts[0].reason("K3").code == "k3_not_judged"


@pytest.mark.parametrize("lost", ["today", "new"])
def test_a_diverged_run_of_either_arm_without_seeds(lost: str) -> None:
    """Without pairs no run can be left out, so nothing is judged; the numbers say why."""
    found = {
        name: [math.inf if name == lost and n == 3 else x for n, x in enumerate(own)]
        for name, own in losses(0.2).items()
    }
    judged = judge_logs(rows(found, seeds=False), "runs.csv", baseline="today", tuned_alike=True)
    (verdict,) = judged.assessment.verdicts
    assert verdict.decision == "undecided"
    counts = {"candidate": int(lost == "new"), "baseline": int(lost == "today"), "n": 10}
    assert [(r.code, dict(r.values)) for r in verdict.reasons[:2]] == [("k1_diverged", counts), ("k2_diverged", counts)]


def test_runs_of_other_lengths_and_missing_runs() -> None:
    table = [row for row in rows(losses(0.2)) if not (row["optimizer"] == "new" and row["epoch"] == 3)]
    assert decide(table, tuned_alike=True)[0] == "undecided"
    assert "logs_epochs_differ" in decide(table, tuned_alike=True)[1]
    table = [row for row in rows(losses(0.2)) if not (row["optimizer"] == "new" and row["seed"] == 4)]
    decision, caps = decide(table, tuned_alike=True)
    assert decision == "promising"
    assert {"logs_runs_unequal", "logs_seeds_missing"} <= set(caps)


def test_runs_without_common_seeds_are_two_samples() -> None:
    table = rows(losses(0.2, 10, 9), seeds=False)
    judged = judge_logs(table, "runs.csv", baseline="today", tuned_alike=True)
    (verdict,) = judged.assessment.verdicts
    row = next(row for row in judged.assessment.comparisons if row.kpi == "final_loss")
    assert row.method == "permutation"
    assert (len(row.baseline), len(row.candidate)) == (10, 9)
    assert row.effect == pytest.approx(np.mean(row.candidate) / np.mean(row.baseline) - 1)
    assert {"logs_unpaired", "logs_runs_unequal"} <= {cap.code for cap in verdict.caps}
    assert verdict.decision == "promising"
    assert verdict.reason("K1").code == "k1_better"
    assert decide(rows(losses(0.0, 10, 10), seeds=False), tuned_alike=True)[0] == "undecided"


# ---------------------------------------------------------------------------------------------------- files and errors


def save(path: Path, table: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return path


def test_the_report_says_first_what_the_logs_do_not_support(tmp_path: Path, capsys: Capture) -> None:
    file = save(tmp_path / "runs.csv", rows(losses(0.2)))
    out = tmp_path / "judged"
    assert app.run(["poc", "judge", str(file), "--baseline", "today", "--gate", "--out", str(out)]) == 13
    shown = " ".join(capsys.readouterr().out.split())
    assert "Promising" in shown
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json", "report.md"]
    text = (out / "report.md").read_text(encoding="utf-8")
    assert 0 < text.index("nothing attests them") < text.index("| Candidate")
    assert "thresholds were fixed before the first run" not in text
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert "sabun の検証が記録したものではありません" in report["sentences"]["ja"]["caps"][0]
    assert report["audit"]["log_head"] == report["audit"]["study_hash"] == ""


def test_an_export_of_weights_and_biases(tmp_path: Path, capsys: Capture) -> None:
    runs = [
        {
            "name": f"{name}-{number}", "state": "finished", "config": {"optimizer": name, "seed": number, "lr": 0.1},
            "history": [{"_step": epoch, "val_loss": loss + 3 - epoch, "seconds": 1.0} for epoch in range(4)],
        }
        for name, own in losses(0.2).items()
        for number, loss in enumerate(own)
    ]  # fmt: skip
    file = tmp_path / "wandb.json"
    file.write_text(json.dumps(runs), encoding="utf-8")
    assert app.run(["poc", "judge", str(file), "--baseline", "today", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["candidates"][0]["kpis"]["final_loss"]["n"] == 10
    assert found["columns"]["epoch"] == "_step"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "has the configurations today, new and no baseline"),
        (["--baseline", "todya"], "Did you mean 'today'"),
        (["--baseline", "today", "--by", "optimiser"], "Did you mean 'optimizer'"),
        (["--baseline", "today", "--by", "seed"], "unknown configuration"),
        (["--baseline", "today", "--loss-column", "seconds", "--epoch-column", "val_loss"], "has the epoch"),
        (["--baseline", "today", "--tracking-uri", "x"], "--tracking-uri is the address of MLflow"),
        (["--baseline", "today", "--margin", "x"], "--margin must be"),
    ],
)
def test_errors_name_what_was_found(tmp_path: Path, arguments: list[str], said: str, capsys: Capture) -> None:
    file = save(tmp_path / "runs.csv", rows(losses(0.2)))
    assert app.run(["poc", "judge", str(file), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("none.csv", None, "cannot read"),
        ("empty.csv", "", "its columns are none"),
        ("other.csv", "a,b\n1,2\n", "no column for the configuration; its columns are a, b"),
        ("x.json", "{", "not valid JSON"),
        ("y.json", "3", "does not hold a list"),
    ],
)
def test_files_that_are_no_logs(tmp_path: Path, name: str, text: str | None, said: str, capsys: Capture) -> None:
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert app.run(["poc", "judge", str(tmp_path / name), "--baseline", "x"]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_event_files(tmp_path: Path, capsys: Capture) -> None:
    assert app.run(["poc", "judge", f"tensorboard:{tmp_path}", "--baseline", "x"]) == 2
    assert "no event files of TensorBoard" in capsys.readouterr().err
