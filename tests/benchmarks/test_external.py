"""The yardsticks that others made are run as they say, and the page has what the records have."""

from __future__ import annotations

import json
import math
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import external
import sealed
from comparison.contestants import ARMS, OURS
from yardsticks import convergence, lightbench, page, tabular
from yardsticks.arms import ALL, TUNED, UNTUNED, Stepping, identity, of_numbers
from yardsticks.store import Book, read, write

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


# ---------------------------------------------------------------- arms


@pytest.mark.parametrize("arm", ALL)
def test_a_step_evaluates_the_closure_once_and_returns_its_loss(arm: str) -> None:
    model = small()
    x, y = torch.randn(16, 4), torch.randn(16, 2)
    optimizer = Stepping(of_numbers(arm, model, 1e-3, 0.9, 0.99, 0.95))
    losses = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        losses.append(float(loss.detach()))
        return loss

    if hasattr(optimizer, "train"):
        optimizer.train()
    with torch.no_grad():
        returned = [float(optimizer.step(closure).detach()) for _ in range(20)]
    assert returned == losses
    assert len(losses) == optimizer.steps == 20
    assert losses[-1] < losses[0]
    assert hasattr(optimizer, "eval") is (arm == "schedule-free AdamW")


def test_an_untuned_arm_keeps_its_rate_and_the_others_take_what_is_drawn() -> None:
    for arm in TUNED:
        assert {group["lr"] for group in of_numbers(arm, small(), 0.125, 0.8, 0.9, 0.9).param_groups} <= {0.125, 0.0625}
    for arm in UNTUNED:
        rates = {group["lr"] for group in of_numbers(arm, small(), 0.125, 0.8, 0.9, 0.9).param_groups}
        assert ARMS[arm].rate in rates
        assert 0.125 not in rates
    for arm in ALL:  # the yardstick has no decay
        assert {g.get("weight_decay", 0.0) for g in of_numbers(arm, small(), 0.1, 0.8, 0.9, 0.9).param_groups} == {0.0}


def test_the_identity_of_an_arm_names_what_it_is_made_of() -> None:
    assert identity("AdamW").partition("+")[0] == f"torch {torch.__version__.partition('+')[0]}"
    assert "pytorch_optimizer 4" in identity("SOAP")
    assert identity(OURS).split(", ")[1].startswith("sabun ")
    assert identity(OURS) == identity(f"{OURS}, untuned")


# ---------------------------------------------------------------- records


def test_results_are_made_once_and_found_again(tmp_path: Path) -> None:
    calls = []

    def make() -> dict[str, float]:
        calls.append(1)
        return {"value": 0.5}

    key = ["task", "arm", 1]
    assert [Book(tmp_path / "b.jsonl").get(key, make) for _ in range(3)] == [{"value": 0.5}] * 3
    assert len(calls) == 1
    with (tmp_path / "b.jsonl").open("ab") as file:
        file.write(b'{"key": "torn')  # what a kill leaves
    assert Book(tmp_path / "b.jsonl").has(key)
    write(tmp_path / "r.json", {"yardstick": "x"}, [{"row": "a", "value": 1}])
    assert read(tmp_path / "r.json")["rows"] == [{"row": "a", "value": 1}]
    text = (tmp_path / "r.json").read_text()
    (tmp_path / "r.json").write_text(text.replace('"value": 1', '"value": 2'))
    with pytest.raises(Exception, match="damaged or was edited"):
        read(tmp_path / "r.json")


# ---------------------------------------------------------------- the tabular study


def put(place: Path, kind: str, target: Callable[[np.ndarray], np.ndarray], name: str = "churn") -> Path:
    """A small data set in the study's format."""
    folder, drawn = place / name, np.random.RandomState(0)
    folder.mkdir(parents=True)
    (folder / "info.json").write_text(json.dumps({"task_type": kind}))
    for part, rows in (("train", 600), ("val", 200), ("test", 200)):
        x = drawn.lognormal(size=(rows, 3)).astype(np.float32)
        x[:, 2] = 7.0  # constant: left out
        np.save(folder / f"X_num_{part}.npy", x)
        np.save(
            folder / f"X_cat_{part}.npy",
            np.array([["a", "b", "c"][n % (2 if part == "train" else 3)] for n in range(rows)])[:, None],
        )
        np.save(folder / f"Y_{part}.npy", target(x))
    return place


def test_features_become_normal_quantiles_of_the_training_part(tmp_path: Path) -> None:
    from scipy.stats import norm, rankdata

    table = tabular.read(put(tmp_path, "regression", lambda x: (1000 * x[:, 0]).astype(np.float32)), "churn")
    assert [tuple(table.x[part].shape) for part in tabular.PARTS] == [
        (600, 4),
        (200, 4),
        (200, 4),
    ]  # 2 + two categories
    raw = np.load(tmp_path / "churn" / "X_num_train.npy")[:, 0]
    expected = norm.ppf((rankdata(raw) - 0.5) / len(raw))
    middle = np.abs(expected) < 1.5
    assert np.abs(table.x["train"][:, 0].numpy() - expected)[middle].max() < 0.15
    assert table.x["train"][:, 2:].sum(1).eq(1).all()
    assert table.x["test"][2, 2:].sum() == 0  # a category that training does not have
    values = np.load(tmp_path / "churn" / "Y_train.npy").astype(np.float64)
    assert table.scale == pytest.approx(values.std(), rel=1e-5)
    assert float(table.y["train"].mean()) == pytest.approx(0.0, abs=1e-4)
    wrong = table.y["test"] + 0.5
    assert table.score(wrong, table.y["test"]) == pytest.approx(0.5 * values.std(), rel=1e-4)


def test_the_test_score_is_that_of_the_best_validation_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tabular.read(put(tmp_path, "binclass", lambda x: (x[:, 0] > 1).astype(np.int64)), "churn")
    scores: list[float] = []
    judge = tabular.Table.score

    def kept(self: Any, output: Any, target: Any) -> float:
        scores.append(judge(self, output, target))
        return scores[-1]

    monkeypatch.setattr(tabular.Table, "score", kept)
    monkeypatch.setattr(tabular, "PATIENCE", 3)
    found = tabular.train(table, "AdamW", 0.03, ARMS["AdamW"].defaults(), 0, 40)
    *epochs, val, test = scores
    assert found == {
        "val": val,
        "test": test,
        "best_epoch": epochs.index(max(epochs)) + 1,
        "epochs": len(epochs),
        "finite": True,
    }
    assert val == max(epochs) > 0.9
    assert found["epochs"] in (found["best_epoch"] + 3, 40)
    again = tabular.train(table, "AdamW", 0.03, ARMS["AdamW"].defaults(), 0, 40)
    assert again == found
    gone = tabular.train(table, "SGD, Nesterov", 1e30, ARMS["SGD, Nesterov"].defaults(), 0, 40)
    assert not gone["finite"] or gone["best_epoch"] < gone["epochs"]


def test_the_rate_lies_inside_and_seeds_are_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tabular.read(put(tmp_path, "regression", lambda x: x[:, 0]), "churn")
    runs: list[tuple[float, int]] = []

    def run(table: Any, arm: str, lr: float, chosen: Any, seed: int, epochs: int) -> dict[str, Any]:
        runs.append((lr, seed))
        return {"val": abs(math.log2(lr / 0.004)), "test": lr + seed, "best_epoch": 1, "epochs": 2, "finite": lr < 0.1}

    monkeypatch.setattr(tabular, "train", run)
    row = tabular.result(Book(tmp_path / "b.jsonl"), table, "AdamW", 5)
    assert row["lr"] == pytest.approx(4e-3)
    assert not row["at_edge"]
    assert row["test"] == pytest.approx([4e-3 + seed for seed in tabular.SEEDS], rel=1e-5)
    assert {round(lr / 1e-3, 6) for lr, seed in runs if seed == 0} == {0.5, 1.0, 2.0, 4.0, 8.0}
    before = len(runs)
    assert tabular.result(Book(tmp_path / "b.jsonl"), table, "AdamW", 5) == row
    assert len(runs) == before
    assert tabular.result(Book(tmp_path / "b.jsonl"), table, "AdamW, untuned", 5)["lr"] == ARMS["AdamW"].rate
    assert all(seed for lr, seed in runs[before:])


def test_a_data_set_that_all_arms_have_joins_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tabular.SETS[:2]:
        put(tmp_path, "regression", lambda x: x[:, 0], name)
    out = tmp_path / "records.json"

    def found(book: Any, table: Any, arm: str, epochs: int) -> dict[str, Any]:
        return {"row": f"{table.name}, {arm}", "set": table.name, "arm": arm, "lr": epochs, "test": [1.0, 2.0]}

    monkeypatch.setattr(tabular, "result", found)
    tabular.measure(tmp_path, tmp_path, out, ["california"], [*ALL[:3]], 9)
    assert not out.exists()  # not all arms
    for name in ("california", "churn", "churn"):
        tabular.measure(tmp_path, tmp_path, out, [name], [*ALL], 9)
    assert [row["set"] for row in read(out)["rows"]] == ["churn"] * len(ALL) + ["california"] * len(ALL)
    assert read(out)["sizes"] == {"churn": [600, 200, 200], "california": [600, 200, 200]}
    tabular.measure(tmp_path, tmp_path, out, ["churn"], [*ALL], 8)  # another length: the former ones do not compare
    assert {row["set"] for row in read(out)["rows"]} == {"churn"}


@pytest.mark.parametrize("missing", ["info.json", "X_num_val.npy", "Y_test.npy"])
def test_missing_data_say_where_they_come_from(
    tmp_path: Path, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, "regression", lambda x: x[:, 0])
    (tmp_path / "churn" / missing).unlink()
    assert external.main(["tabular", "--data", str(tmp_path), "--set", "churn"]) == 1
    said = capsys.readouterr().err
    assert missing in said
    assert "Traceback" not in said


# ---------------------------------------------------------------- convergence tests of others


SUITE = """
import pytest, torch
from tests.recipes import OPTIMIZER_RECIPES
from tests.utils import Trainer, load_optimizer

@pytest.mark.parametrize("dtype", [torch.float32])
@pytest.mark.parametrize("optimizer_config", OPTIMIZER_RECIPES, ids=str)
def test_training(optimizer_config, dtype):
    name, options, steps = optimizer_config
    p = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = load_optimizer(name)([p], **options)
    losses = []
    for _ in range(steps):
        loss = p.square().sum()
        losses.append(float(loss.detach()))
        optimizer.zero_grad(); loss.backward(); optimizer.step()
    Trainer().assert_loss_decreased(losses[0], loss, 1.5)
"""


def test_their_tests_run_with_our_presets(tmp_path: Path) -> None:
    root = tmp_path / "pytorch_optimizer-0"
    (root / "tests").mkdir(parents=True)
    for name, text in {
        "__init__": "", "test_optimizers": SUITE, "optimizer_cases": "COMPLEX_OPTIMIZERS = frozenset()",
        "recipes": "OPTIMIZER_RECIPES = [('theirs', {}, 3)]\nCOMPILE_SUPPORTED_OPTIMIZERS = [1]",
        "utils": "load_optimizer = None\n"
        "class Trainer:\n    def assert_loss_decreased(self, first, last, threshold):\n"
        "        assert first > threshold * last.item(), 'too little'\n",
    }.items():  # fmt: skip
        (root / "tests" / f"{name}.py").write_text(text)
    archive = tmp_path / "their.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(root, root.name)
    place = convergence.of_package(tmp_path / "new", archive, "0")
    outcomes = convergence.run("package", place, ["tests/test_optimizers.py"], ["sgd"])
    assert len(outcomes) == len(convergence.DOUBLINGS)
    # Gradient descent on p²: every step multiplies the loss by (1 − 2·lr)².
    for outcome in outcomes:
        fall = (1 - 2 * 0.1 * 2.0 ** outcome["doubling"]) ** (-2 * (convergence.STEPS - 1))
        assert outcome["fall"] == pytest.approx(fall, rel=1e-3)
        assert outcome["outcome"] == ("passed" if fall > 1.5 else "failed")
    (row,) = convergence.rows_of([], outcomes)
    assert row["float32"]["inside"]
    assert row["float32"]["rate"] == pytest.approx(0.4)
    assert row["float32"]["own"] == pytest.approx(0.8**-8, rel=1e-2)
    assert row["float32"]["own_passed"]
    assert row["bfloat16"] is None


def test_tests_that_cannot_be_had_are_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(convergence.TestsMissingError, match="not a file"):
        convergence.of_torch(tmp_path, tmp_path / "none.py")
    (tmp_path / "bad.tar.gz").write_bytes(b"no archive")
    with pytest.raises(convergence.TestsMissingError, match="not a source distribution"):
        convergence.of_package(tmp_path, tmp_path / "bad.tar.gz", "0")


# ---------------------------------------------------------------- LightBench


def test_a_package_for_another_device_runs_on_a_cpu_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "made_for_gpus"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    source = 'import torch\nwhere = "cuda"\nvalue = torch.ones(2, device="cuda").cuda()\ntorch.cuda.synchronize()\n'
    (folder / "task.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    for owner, names in ((torch.cuda, ("synchronize", "empty_cache", "memory_allocated", "max_memory_allocated",
                                       "reset_peak_memory_stats", "device")), (torch.Tensor, ("cuda",)),
                         (nn.Module, ("cuda",))):  # fmt: skip
        for name in names:
            monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    lightbench.on_cpu("made_for_gpus")
    from made_for_gpus import task

    assert task.where == "cpu"
    assert task.value.device.type == "cpu"
    assert (folder / "task.py").read_text() == source
    sys.modules.pop("made_for_gpus.task")
    sys.modules.pop("made_for_gpus")


def test_rows_have_only_what_every_arm_has() -> None:
    cells = [
        {"task": task, "level": level, "arm": arm, "solved": arm != "AdamW", "trials": 2, "steps": 9}
        for task, arms in (("a", ALL), ("b", ALL[:-1]))
        for arm in arms
        for level in lightbench.LEVELS
    ]
    rows = lightbench.rows_of(cells, ALL, 1)
    assert [row["row"] for row in rows] == ["a, trivial", "a, easy"]
    assert rows[0]["arms"]["AdamW"] == [[False, 2, 9]]
    assert lightbench.rows_of(cells, ALL, 2) == []
    text = "\n".join(page.lightbench_table({"rows": rows, "seeds": 1, "tasks": 3}))
    assert text.startswith("1 of the 3 tasks")
    assert "| AdamW | 0 of 1 | 0 of 1 | 0 | – |" in text
    assert "| SOAP | 1 of 1 | 1 of 1 | **2** | 2.0 |" in text
    assert "Solved by none: no task." in text


def test_an_environment_that_cannot_be_made_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failed:
        returncode, stdout, stderr = 1, "", "warning\nno such version"

    monkeypatch.setattr(lightbench.subprocess, "run", lambda *_, **__: Failed())
    with pytest.raises(lightbench.EnvironmentMissingError, match="no such version"):
        lightbench.environment(tmp_path / "environment", {"torch": "0", "schedulefree": "1"})


# ---------------------------------------------------------------- command and page


def test_the_command_teaches_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, word in (([], "LightBench"), (["lightbench"], "--minutes"), (["tabular"], "tabm-data"),
                            (["convergence"], "--torch-tests")):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            external.main([*arguments, "--help"])
        assert ended.value.code == 0
        assert word in "".join(capsys.readouterr().out.split())  # whatever the width of the terminal
    with pytest.raises(SystemExit) as ended:
        external.main(["lightbench", "--steps", "10"])
    assert ended.value.code == 2
    assert "at least 256" in capsys.readouterr().err


def test_the_page_is_that_of_the_records(tmp_path: Path) -> None:
    own = ROOT / "docs" / "research" / "external.md"
    copy = tmp_path / "external.md"
    copy.write_text(own.read_text(encoding="utf-8"), encoding="utf-8")
    page.fill(copy, RESULTS)
    assert copy.read_text(encoding="utf-8") == own.read_text(encoding="utf-8")
    page.fill(copy, tmp_path)  # no records: the page says so
    assert copy.read_text(encoding="utf-8").count("*Not run yet.*") == 4


@pytest.mark.parametrize("name", page.TABLES)
def test_the_records_are_of_the_arms_and_of_the_sizes_that_the_page_names(name: str) -> None:
    path = RESULTS / f"external-{name}.json"
    record = read(path)
    if name == "lightbench":
        assert (record["steps"], record["trials"], record["version"]) == (page.STEPS, page.TRIALS, lightbench.VERSION)
        assert all(set(row["arms"]) == set(ALL) for row in record["rows"])
        assert all(len(seeds) == record["seeds"] for row in record["rows"] for seeds in row["arms"].values())
    if name == "tabular":
        assert record["epochs"] == page.EPOCHS
        for row in record["rows"]:
            assert len(row["test"]) == len(tabular.SEEDS)
            assert not row["at_edge"]
        assert {(row["set"], row["arm"]) for row in record["rows"]} == {(s, a) for s in record["sizes"] for a in ALL}
    if name == "convergence":
        from sabun.optim import presets

        assert {row["row"] for row in record["rows"]} == {*presets()}
    assert sealed.read(path)["schema"] == 1
