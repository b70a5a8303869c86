"""The research runs: the variant is what its docstring says, the laboratory brackets, the tables tell what was run."""

from __future__ import annotations

import json
import math

import lab
import pytest
import tables
import torch
from questions import CHOSEN, QUESTIONS, TASKS, Question, Setting
from torch import nn
from variants import Limited, Variant

import sealed
from sabun.optim import create
from sabun.poc.spec import Arm
from sabun.poc.tasks import loading as poc_tasks
from sabun.script import arms


def train(make, steps: int = 12) -> torch.Tensor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 9))
    optimizer = make(model.double())
    starts = [group["lr"] for group in optimizer.param_groups]
    generator = torch.Generator().manual_seed(1)
    for n in range(steps):
        for group, start in zip(optimizer.param_groups, starts, strict=True):
            group["lr"] = start * (1 - n / steps)
        x = torch.randint(0, 9, (16,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), x).backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_variant_spans_muon() -> None:
    ours = train(lambda m: Variant(m, 0.02, beta=0.95, gamma=0.95, rest="heavy-ball(0.9)", rest_lr=1.0))
    theirs = train(lambda m: create("muon", m, 0.02, weight_decay=0.0))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_what_the_research_chose_is_the_former_preset() -> None:
    """As options of the optimizer, which was the preset until it was chosen over the benchmark's families."""
    former = {
        "momentum_end": 0.95, "step_limit": 0.125, "weight_decay": 0.1, "row_normalization": True, "beta2": 0.95,
        "rest": {
            "scheme": "nesterov(0.9)", "preconditioner": "adam", "lr_factor": 0.12, "momentum_end": None,
            "weight_decay": 0.0,
        },
    }  # fmt: skip
    recipe = arms.recipe(Arm.named(CHOSEN))
    chosen = train(lambda m: recipe.build(m, {"lr": 0.02}))
    torch.testing.assert_close(chosen, train(lambda m: create("sabun", m, 0.02, **former)), rtol=1e-9, atol=1e-9)
    constant = train(lambda m: create("sabun", m, 0.02, **{**former, "momentum_end": None}))
    assert float((chosen - constant).abs().max()) > 1e-3


def test_a_scheduled_beta_and_gamma_end_where_they_should() -> None:
    seen = []

    class Watched(Variant):
        def step(self, closure=None):
            out = super().step(closure)
            seen.append((self.param_groups[0]["scheme"].name, self.param_groups[0]["momentum"]))
            return out

    train(lambda m: Watched(m, 0.02, beta=0.8, beta_end=0.96, gamma=0.0, gamma_end=1.6), steps=17)
    assert seen[0] == ("heavy-ball(0.8)", 0.8) or seen[0][1] == 0.8
    # The last step has 1/17 of the rate left: 15/16 of the way, on the grid of sixteenths.
    assert seen[-1][1] == pytest.approx(0.8 + 15 / 16 * 0.16, abs=1e-6)
    assert "1.5" in seen[-1][0]
    constant = train(lambda m: Variant(m, 0.02, beta=0.8, gamma=0.5))
    torch.testing.assert_close(train(lambda m: Variant(m, 0.02, beta=0.8, gamma=0.5, beta_end=0.8)), constant)


def test_a_limiter_of_infinity_is_the_variant() -> None:
    torch.testing.assert_close(train(lambda m: Limited(m, 0.3)), train(lambda m: Variant(m, 0.3)), rtol=0, atol=0)


@pytest.mark.parametrize("falling", [False, True])
def test_no_tensor_moves_by_more_than_its_share_and_a_short_step_is_left_alone(falling) -> None:
    shares: dict[str, list[float]] = {}

    class Watched(Limited):
        def step(self, closure=None):
            before = [p.detach().clone() for group in self.param_groups for p in group["params"]]
            out = super().step(closure)
            members = [
                ("rest" if part == "rest" else "hidden", p)
                for group in self.param_groups
                for part, p in zip(group["parts"], group["params"], strict=True)
            ]
            for start, (name, p) in zip(before, members, strict=True):
                size = max(float(start.square().mean().sqrt()), 0.05 if p.dim() == 1 else (3 * p[0].numel()) ** -0.5)
                shares.setdefault(name, []).append(float((p.detach() - start).square().mean().sqrt()) / size)
            return out

    train(lambda m: Watched(m, 1e3, limit=0.2, rest_limit=0.1, falling=falling))
    # All of the limit is used at the first step; at the last a twelfth of it is left where it falls.
    assert shares["hidden"][0] == pytest.approx(0.2, rel=1e-6)
    assert shares["rest"][0] == pytest.approx(0.1, rel=1e-6)
    assert max(shares["hidden"]) <= 0.2 * (1 + 1e-6)
    assert shares["hidden"][-1] == pytest.approx(0.2 / 12 if falling else 0.2, rel=1e-6)
    torch.testing.assert_close(
        train(lambda m: Limited(m, 1e-4, limit=0.2)), train(lambda m: Variant(m, 1e-4)), rtol=0, atol=0
    )


def test_by_the_size_at_the_start_the_reference_stays_where_it_was() -> None:
    p = torch.nn.Parameter(torch.full((4, 4), 2.0))
    for growth, expected in ((0.0, 2.0), (0.5, 4.0), (1.0, 8.0)):
        limiter = Limited([("a.weight", p), ("b.weight", torch.nn.Parameter(torch.ones(4, 4)))], growth=growth)
        assert limiter._reference(p, torch.full((4, 4), 2.0)) == pytest.approx(2.0)
        assert limiter._reference(p, torch.full((4, 4), 8.0)) == pytest.approx(expected)


def test_one_factor_makes_a_plateau_that_does_not_depend_on_the_rate() -> None:
    high, higher = (
        train(lambda m, lr=lr: Limited(m, lr, limit=0.05, falling=True, growth=0.0, common=True)) for lr in (8.0, 64.0)
    )
    torch.testing.assert_close(high, higher, rtol=1e-9, atol=1e-9)


def test_a_question_with_rates_runs_them_all_and_the_table_has_width_and_depth(monkeypatch) -> None:
    asked = []
    bench = lab.Lab("charlm", TASKS["charlm"], lab.Path("none"))
    monkeypatch.setattr(bench, "loss", lambda arm, lr, seed: asked.append((arm, lr, seed)) or 1.0)
    rates = {"the preset": (0.03, 0.24, 1.92), "AdamW": (0.003, 0.024, 0.192)}
    question = Question({"the preset": "p", "AdamW": "a"}, "the preset", seeds=2, rates=rates)
    lab.answer(bench, question)
    assert asked == [(arm, lr, 0) for arm, label in (("p", "the preset"), ("a", "AdamW")) for lr in rates[label]] + [
        ("p", lr, 1) for lr in rates["the preset"]
    ]
    # 1.05 at the left edge; on the right 1.1 is reached half way from 1.0 to 1.2: one and a half times log₁₀ 8.
    rows = [row("p", lr, 0, loss) for lr, loss in ((0.03, 1.05), (0.24, 1.0), (1.92, 1.2))]
    rows += [row("a", lr, seed, loss) for seed in (0, 1) for lr, loss in ((0.003, 2.0), (0.024, 1.0), (0.192, 2.0))]
    assert tables.widths(rows, question, ["charlm"]).splitlines()[2:] == [
        "| the preset | 1.35 (1.0000) | 1.35 | 7.50 |", "| AdamW | 0.18 (1.0000) | 0.18 | 1.00 |",
    ]  # fmt: skip
    assert "| the preset | 1 | 1.35 | 1.0000 | 1.05 | 1 | 1.2 |" in tables.valley(rows, question, "charlm")


def test_every_question_is_made_of_optimizers_that_exist() -> None:
    for question in QUESTIONS.values():
        assert question.reference in question.arms
        assert set(question.keep) <= set(question.arms)
        assert set(question.tasks) <= set(TASKS)
    for notation in {notation for question in QUESTIONS.values() for notation in question.arms.values()}:
        arms.recipe(Arm.named(notation)).build(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)))


@pytest.mark.parametrize(("name", "shape"), [("friedman", (360, 10)), ("classes", (480, 20))])
def test_the_made_up_tasks_are_fixed_and_have_the_size_that_they_say(name, shape) -> None:
    first, second = (poc_tasks.load(TASKS[name].task, dict(TASKS[name].options)).task.splits for _ in range(2))
    assert tuple(first["train"].batch(torch.arange(shape[0]))[0].shape) == shape
    for split, data in first.items():
        x, y = data.batch(torch.arange(8))
        again_x, again_y = second[split].batch(torch.arange(8))
        assert torch.equal(x, again_x)
        assert torch.equal(y, again_y)


def test_the_laboratory_extends_its_grid_until_the_best_lies_inside(tmp_path, monkeypatch) -> None:
    bench = lab.Lab("quadratic", Setting("none", {"interval": 1}, 1), tmp_path / "runs.jsonl")
    asked = []

    def loss(arm: str, lr: float, seed: int) -> float:
        asked.append(lr)
        return abs(math.log2(lr / (0.3 * 2**4)))  # lowest four doublings above euler's default of 0.3

    monkeypatch.setattr(bench, "loss", loss)
    assert bench.bracket("euler") == (pytest.approx(0.3 * 2**4), 0.0)
    assert max(asked) == pytest.approx(0.3 * 2**5)


def test_a_run_is_trained_once_and_read_back(tmp_path) -> None:
    path = tmp_path / "runs.jsonl"
    setting = Setting("benchmarks/paced.py:Diabetes", {"interval": 3}, 2)
    first = lab.Lab("diabetes", setting, path).loss("euler", 0.1, 0)
    path.write_text(path.read_text(encoding="utf-8") + '{"torn', encoding="utf-8")
    again = lab.Lab("diabetes", setting, path)
    again._train = None  # whatever is known is not trained again
    assert again.loss("euler", 0.1, 0) == first
    assert len(lab.read(path)) == 1


def row(arm: str, lr: float, seed: int, loss: float) -> dict:
    return {"task": "charlm", "arm": arm, "lr": lr, "seed": seed, "status": "finished", "loss": [9.0, loss]}


def test_tables_show_the_best_rate_of_those_with_most_seeds_and_paired_differences(tmp_path) -> None:
    rows = [
        row("a", 0.1, 0, 1.0), row("a", 0.1, 1, 2.0), row("a", 0.2, 0, 1.1), row("a", 0.2, 1, 1.5),
        row("a", 0.4, 0, 0.5), row("b", 0.1, 0, 1.3), row("b", 0.1, 1, 1.9),
    ]  # fmt: skip
    lines = tables.table(rows, Question({"A": "a", "B": "b", "C": "c"}, "A"), "charlm").splitlines()
    assert lines[2] == "| A | 1.3000 | 2 | 0.2 | reference |"
    # 1.3 − 1.1 and 1.9 − 1.5
    assert lines[3] == "| B | 1.6000 | 2 | 0.1 | +0.3000 ± 0.1414 |"
    assert len(lines) == 4
    lost = {**row("b", 0.1, 0, 1.3), "status": "diverged"}
    assert math.isinf(tables.best([lost], "charlm", "b").mean)
    assert json.loads(json.dumps(lost)) == lost


def test_every_table_in_the_pages_is_that_of_the_stored_records() -> None:
    import thesis

    rows = list(lab.read(lab.PUBLISHED).values())
    pages = sorted(tables.PAGES.glob("*.md"))
    assert len(pages) >= 9
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert tables.filled(text, rows) == text, page.name
    text = (thesis.ROOT / thesis.PAGE).read_text(encoding="utf-8")
    seconds = sealed.read(thesis.ROOT / thesis.SECONDS)
    assert thesis.filled(text, list(lab.read(thesis.ROOT / thesis.PUBLISHED).values()), seconds) == text
    assert "not measured" not in text


def test_the_default_rate_is_the_best_in_geometric_mean() -> None:
    rows = [row("a", lr, 0, loss) for lr, loss in ((0.1, 1.0), (0.2, 1.0), (0.4, 4.0))]
    rows += [{**row("a", lr, 0, loss), "task": "digits"} for lr, loss in ((0.1, 4.0), (0.2, 1.0), (0.8, 1.0))]
    last = tables.defaults(rows, "a", ["charlm", "digits"]).splitlines()[-1]
    assert last == "| geometric mean of loss / best | 2.0000 | 1.0000 |"  # √(1 · 4) and 1, at the two rates in common
