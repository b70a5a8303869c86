"""Without tuning, a candidate starts at the step equivalent to the baseline's. Oracles: closed forms, equal bits."""

from __future__ import annotations

import contextlib
import fcntl
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sabun.poc import study as studies
from sabun.poc.judgement.assess import assess
from sabun.poc.resolved import resolve
from sabun.poc.spec import Arm
from sabun.poc.study import default_study
from sabun.script import arms, client
from sabun.script.equivalent_step import Start, start
from sabun.script.rates import gradient_rms
from sabun.script.sealed import seal

SGD, ADAMW = torch.optim.SGD, torch.optim.AdamW
BETA = 0.9
NOISE = math.sqrt((1 - BETA) / (1 + BETA))
"""Root mean square of m ← βm + (1−β)g for white noise g of unit size."""


def begin(candidate: str, reference: torch.optim.Optimizer, gamma: float = 0.02) -> Start:
    found = start(arms.recipe(Arm.named(candidate)), reference, reference.defaults["lr"], lambda: gamma)
    assert found is not None
    return found


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(2))]


@pytest.mark.parametrize(
    ("reference", "candidate", "lr"),
    [
        (SGD(parameters(), lr=0.1, momentum=0.9), "euler", 0.1 / (1 - 0.9)),
        (SGD(parameters(), lr=0.1, momentum=0.9), "taylor-4", 0.1 / (1 - 0.9)),
        (SGD(parameters(), lr=0.1, momentum=0.9), "torch.optim:SGD", 0.1 / (1 - 0.9)),
        (SGD(parameters(), lr=0.1, momentum=0.9), "torch.optim:SGD(momentum=0.5)", 0.5),
        (SGD(parameters(), lr=0.1), "kutta-3", 0.1),
        (ADAMW(parameters(), lr=1e-3), "nesterov@adam", 1e-3),
        (torch.optim.Adam(parameters(), lr=1e-3), "torch.optim:AdamW", 1e-3),
    ],
)
def test_of_the_same_family_the_time_step_is_the_same(
    reference: torch.optim.Optimizer, candidate: str, lr: float
) -> None:
    assert begin(candidate, reference).lr == pytest.approx(lr, rel=1e-12)


@pytest.mark.parametrize(
    ("reference", "candidate", "lr"),
    [
        (ADAMW(parameters(), lr=1e-3), "lion", 1e-3 * NOISE),  # a sign has size 1
        (ADAMW(parameters(), lr=1e-3), "muon(iteration='polar-express', steps=8)", 1e-3 * NOISE / 0.2),
        (SGD(parameters(), lr=0.1, momentum=0.9), "adamw", 0.02),  # γ·h·NOISE against NOISE
        (SGD(parameters(), lr=0.1), "lion", 0.1 * 0.02),
        (ADAMW(parameters(), lr=1e-3), "euler", 1e-3 * NOISE / 0.02),
        (ADAMW(parameters(), lr=1e-3), "torch.optim:SGD(momentum=0.9)", 1e-3 / 0.02 * (1 - BETA)),
    ],
)
def test_otherwise_the_updates_are_equally_large(reference: torch.optim.Optimizer, candidate: str, lr: float) -> None:
    found = begin(candidate, reference)
    assert found.lr == pytest.approx(lr, rel=0.06)
    assert not found.same


def test_the_size_of_the_gradient_is_asked_for_only_where_it_matters() -> None:
    recipe = arms.recipe(Arm.named("lion"))
    assert start(recipe, ADAMW(parameters(), lr=1e-3), 1e-3) is not None
    assert start(recipe, SGD(parameters(), lr=0.1), 0.1) is None


def test_an_optimizer_that_finds_its_own_step_keeps_its_default() -> None:
    lbfgs = begin("torch.optim:LBFGS", ADAMW(parameters(), lr=1e-3))
    assert lbfgs == Start(1.0)


def test_the_size_of_the_gradients() -> None:
    p = parameters()
    assert gradient_rms(p) is None
    p[0].grad, p[1].grad = torch.full((3, 2), 2.0), torch.tensor([0.0, 1.0])
    assert gradient_rms(p) == pytest.approx(math.sqrt((6 * 4 + 1) / 8))
    p[1].grad = torch.tensor([math.inf, 0.0])
    assert gradient_rms(p) is None


# ---------------------------------------------------------------------------------------- in a script, step by step

Build = Callable[[nn.Module], torch.optim.Optimizer]


def groups(model: nn.Module, **options: Any) -> list[dict[str, Any]]:
    """Decay and no decay, and another rate for the last layer."""
    first, last = model[0], model[2]  # type: ignore[index]
    return [
        {"params": [first.weight]},
        {"params": [first.bias], "weight_decay": 0.0},
        {"params": last.parameters(), **options},
    ]


EQUIVALENT: dict[str, tuple[str, Build]] = {
    "SGD": ("euler", lambda m: SGD(m.parameters(), lr=0.1)),
    "decay": ("sgd", lambda m: SGD(m.parameters(), lr=0.1, weight_decay=1e-2)),
    "momentum": ("heavy-ball(0.9)", lambda m: SGD(m.parameters(), lr=0.05, momentum=0.9)),
    "momentum, decay": ("heavy-ball(0.9)", lambda m: SGD(m.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)),
    "nesterov": ("nesterov(0.8)", lambda m: SGD(m.parameters(), lr=0.05, momentum=0.8, nesterov=True)),
    "groups": ("heavy-ball(0.9)", lambda m: SGD(groups(m, lr=0.01), lr=0.05, momentum=0.9, weight_decay=5e-4)),
    "adam": ("heavy-ball(0.9)@adam", lambda m: torch.optim.Adam(m.parameters(), lr=1e-2)),
    "adam, decay": ("heavy-ball(0.9)@adam", lambda m: torch.optim.Adam(m.parameters(), lr=1e-2, weight_decay=0.1)),
    "adamw": ("adamw", lambda m: ADAMW(m.parameters(), lr=1e-2)),
    "adamw, groups": ("adamw", lambda m: ADAMW(groups(m, lr=1e-3), lr=1e-2)),
    "betas": ("heavy-ball(0.8)@adam(beta2=0.95)", lambda m: ADAMW(m.parameters(), lr=1e-2, betas=(0.8, 0.95))),
    "itself": ("torch.optim:SGD(momentum=0.9)", lambda m: SGD(m.parameters(), lr=0.05, momentum=0.9)),
    "itself, AdamW": ("torch.optim:AdamW", lambda m: ADAMW(m.parameters(), lr=1e-2)),
}


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[list[Any], Any]]]:
    """Train in a run of a study without tuning; return the weights and the optimizer that swap returned."""
    held = contextlib.ExitStack()

    def train(optimizer: str, build: Build) -> tuple[list[Any], Any]:
        number = len(list(tmp_path.iterdir()))
        (tmp_path / str(number)).mkdir()
        file = held.enter_context((tmp_path / str(number) / "run.json").open("wb"))
        fcntl.flock(file, fcntl.LOCK_EX)
        arm = Arm(name="x", optimizer=optimizer).model_dump(mode="json")
        untuned = optimizer != "script"
        task = {"arm": arm, "hyperparameters": {}, "seed": 1, "equivalent_step": untuned}
        file.write(seal(task))
        file.flush()
        monkeypatch.setenv(client.VARIABLE, file.name)
        monkeypatch.setattr(client, "_session", None)
        monkeypatch.setattr(client.atexit, "register", lambda *_: None)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        used = client.swap(build(model))
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(used, 12)
        x = torch.randn(32, 3, generator=torch.Generator().manual_seed(5))
        for _ in range(12):
            used.zero_grad()
            nn.functional.mse_loss(model(x), x.sum(1, keepdim=True)).backward()
            used.step()
            scheduler.step()
        assert client._session is not None
        return [p.detach().clone() for p in model.parameters()], client._session

    yield train
    held.close()
    if client._session is not None and client._session.point is not None:
        client._session.point.stop()


@pytest.mark.parametrize("name", EQUIVALENT)
def test_a_candidate_that_is_the_scripts_own_optimizer_comes_out_equal_to_the_bit(
    name: str, trained: Callable[..., tuple[list[Any], Any]]
) -> None:
    candidate, build = EQUIVALENT[name]
    own, _ = trained("script", build)
    swapped, _ = trained(candidate, build)
    assert all(torch.equal(a, b) for a, b in zip(own, swapped, strict=True))


@pytest.mark.parametrize("candidate", ["heavy-ball(0.8)", "adamw(beta2=0.9)", "heavy-ball(0.9)@adam", "euler"])
def test_a_candidate_that_differs_is_another_optimizer(
    candidate: str, trained: Callable[..., tuple[list[Any], Any]]
) -> None:
    build = EQUIVALENT["adamw" if "adam" in candidate else "momentum"][1]
    own, _ = trained("script", build)
    other, _ = trained(candidate, build)
    # heavy-ball(0.9)@adam gets the decay of the script's AdamW, which makes it the same.
    assert all(torch.equal(a, b) for a, b in zip(own, other, strict=True)) == (candidate == "heavy-ball(0.9)@adam")


def test_the_rate_of_another_family_follows_from_the_first_gradients(
    trained: Callable[..., tuple[list[Any], Any]],
) -> None:
    def build(model: nn.Module) -> torch.optim.Optimizer:
        return SGD(model.parameters(), lr=0.1)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(5))
    nn.functional.mse_loss(model(x), x.sum(1, keepdim=True)).backward()
    gamma = gradient_rms(model.parameters())
    assert gamma is not None
    _, session = trained("lion", build)
    (group,) = session.rates.record()
    assert group["asked"] == pytest.approx(0.1 * gamma, rel=0.06)
    assert group["first"] == group["asked"]
    assert group["last"] < group["first"] / 10  # the script's cosine


# ------------------------------------------------------------------------------------------------------ whole studies


def test_a_study_without_tuning_is_promising_at_most_and_says_so(tmp_path: Path) -> None:
    baseline = "torch.optim:SGD(lr=0.03, momentum=0.9)"
    study = default_study(
        baseline=baseline, candidates=("heavy-ball(0.9)", "euler", "lion", "adamw(lr=0.02)"),
        trials=0, seeds=8, epochs=2,
    )  # fmt: skip
    resolved = resolve(study)
    first = {name: dict(arm.first) for name, arm in resolved.arms.items()}
    assert first["euler"] == {"lr": pytest.approx(0.3)}
    assert first["adamw(lr=0.02)"] == {"lr": 0.02}
    evidence = studies.run(resolved, tmp_path)
    judged = assess(study, evidence.runs, evidence.tuning)
    verdicts = {verdict.arm: verdict for verdict in judged.verdicts}
    assert verdicts["heavy-ball(0.9)"].reason("K1").code == "k1_identical"
    assert {v.decision for v in verdicts.values()} <= {"promising", "undecided", "small", "no-go"}
    capped = [[cap.code for cap in verdict.caps if cap.code != "busy"] for verdict in verdicts.values()]
    assert capped == [["not_tuned"]] * len(verdicts)  # a busy machine adds a cap of its own
    losses = {
        arm: {run.seed: run.final_loss for run in evidence.runs if run.arm == arm and run.phase == "evaluate"}
        for arm in (study.baseline.name, "heavy-ball(0.9)", "euler")
    }
    assert losses["heavy-ball(0.9)"] == losses[study.baseline.name]
    mean = {arm: sum(own.values()) / 8 for arm, own in losses.items()}
    assert mean["euler"] < 1.5 * mean[study.baseline.name], "at its own default it lost by 100%"


def test_in_a_script_study_the_scripts_own_method_has_the_scripts_curve(tmp_path: Path, python: str) -> None:
    script = Path(__file__).with_name("scripts") / "plain.py"
    study = default_study(
        task=f"script:{python} {script} --epochs {{epochs}}", baseline="script",
        candidates=("heavy-ball(0.9)", "adamw"), trials=0, seeds=1, epochs=2,
    )  # fmt: skip
    evidence = studies.run(study, tmp_path)
    own, same, other = (
        next(run for run in evidence.runs if run.arm == arm) for arm in ("script", "heavy-ball(0.9)", "adamw")
    )
    assert own.weights_sha256 == same.weights_sha256 != other.weights_sha256
    assert [epoch.val_loss for epoch in own.epochs] == [epoch.val_loss for epoch in same.epochs]
    assert other.hyperparameters == {}
    assert [group.asked for group in own.rates] == [0.02, 0.01]
    first, second = (group.asked for group in other.rates)
    assert first is not None
    assert second == pytest.approx(first / 2)
    assert 1e-4 < first < 1, "the size of the first gradients is between those"
