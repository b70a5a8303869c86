"""The notation of arms and what it builds. Oracles: torch's own classes, and the conversion lr = h·(1 − β)."""

from __future__ import annotations

import math
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from sabun import optim, schemes
from sabun.errors import SchemeError, StudyError
from sabun.optim.presets import PRESETS
from sabun.poc.records import RunResult
from sabun.poc.resolved import resolve, search_space
from sabun.poc.spec import Arm, LogUniform, Run
from sabun.poc.study import run as study_run
from sabun.poc.training.trainer import Trainer
from sabun.script.arms import Recipe, recipe

from .helpers import tiny_study


def test_what_is_no_notation_is_the_studys_mistake() -> None:
    for text in ("nesterov@", "a:B(x=y)", "torch.optim:SDG", "torch.optim:SGD(momentun=0.9)", "no_such_package:SGD"):
        with pytest.raises(StudyError) as caught:
            recipe(Arm.named(text))
        assert caught.value.fix


def build(text: str, **values: float) -> torch.optim.Optimizer:
    torch.manual_seed(0)
    return recipe(Arm.named(text)).build(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), values)


class _Text(nn.Module):
    """An embedding whose name does not tell that it is one."""

    def __init__(self) -> None:
        super().__init__()
        self.symbols = nn.Embedding(7, 4)
        self.inner = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7)


class _ByLayer(torch.optim.SGD):
    takes_model = True

    def __init__(self, members, lr: float = 0.1) -> None:
        self.members = members
        named = members.named_parameters() if isinstance(members, nn.Module) else members
        super().__init__([parameter for _, parameter in named], lr)


def test_an_embedding_is_no_hidden_matrix_whatever_its_name() -> None:
    (group,) = recipe(Arm.named("muon")).build(_Text()).param_groups
    parts = zip(group["param_names"], group["parts"], strict=True)
    assert [name for name, part in parts if part != "rest"] == ["inner.weight"]
    frozen = _Text()
    frozen.head.bias.requires_grad_(False)
    names = [name for group in recipe(Arm.named("muon")).build(frozen).param_groups for name in group["param_names"]]
    assert "head.bias" not in names


def test_a_class_may_ask_for_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "by_layer", types.SimpleNamespace(ByLayer=_ByLayer))
    model = _Text()
    assert recipe(Arm.named("by_layer:ByLayer")).build(model).members is model
    model.head.bias.requires_grad_(False)
    assert [name for name, _ in recipe(Arm.named("by_layer:ByLayer")).build(model).members][-1] == "head.weight"


def test_options_arrive() -> None:
    group = build("torch.optim:AdamW(betas=(0.8, 0.9), weight_decay=0.3)", lr=0.5).param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.5, (0.8, 0.9), 0.3)
    spec = Arm(name="x", optimizer="torch.optim:SGD(nesterov=True)", options={"momentum": 0.7})
    group = recipe(spec).build(nn.Linear(1, 1)).param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (0.7, True)
    group = build("look-ahead(0.8, 3)@adam", lr=0.25).param_groups[0]
    assert group["lr"] == 0.25
    assert build("torch.optim:SGD(lr=0.125)").param_groups[0]["lr"] == 0.125


@pytest.mark.parametrize(
    ("text", "centre"),
    [
        ("euler", 0.3),
        ("nesterov", 0.3),
        ("torch.optim:SGD", 0.3),
        ("torch.optim:SGD(momentum=0.9)", 0.03),
        ("torch.optim:SGD(momentum=0.9, dampening=0.9)", 0.3),
        ("nesterov@adam", 0.003),
        ("adamw", 0.003),
        ("torch.optim:AdamW", 0.003),
        ("torch.optim:NAdam", 0.003),
        ("nesterov@spectral", 0.03),
        ("muon", PRESETS["muon"].lr),
        ("sabun", PRESETS["sabun"].lr),
        ("lion(0.95, 0.98)", 1e-4),
        ("torch.optim:Adagrad", 0.01),  # its signature's default
        ("schedulefree:AdamWScheduleFree", 0.0025),
        ("torch.optim:SGD(lr=0.7)", 0.7),
        ("heun", 0.3),
    ],
)
def test_default_spaces_are_equally_wide_around_the_documented_centre(text: str, centre: float) -> None:
    (space,) = search_space(recipe(Arm.named(text)), 3.0).items()
    assert space[0] == "lr"
    assert space[1].center == pytest.approx(centre)
    assert math.log10(space[1].high / space[1].low) == pytest.approx(3.0)


def test_without_tuning_a_preset_trains_with_its_own_step() -> None:
    assert build("muon").param_groups[0]["lr"] == PRESETS["muon"].lr


def test_a_space_in_the_specification_replaces_the_default() -> None:
    own = {"weight_decay": LogUniform(center=0.01)}
    assert search_space(recipe(Arm(name="x", optimizer="torch.optim:SGD", space=own)), 3.0) == own


def run_of(text: str, lr: float) -> RunResult:
    *_, last = Trainer(resolve(tiny_study(text))).run(
        Run(arm=text, seed=0, phase="evaluate", hyperparameters={"lr": lr})
    )
    assert isinstance(last, RunResult)
    assert last.status == "finished", last.failure
    return last


@pytest.mark.parametrize(
    ("ours", "theirs", "scale"),
    [
        ("euler", "torch.optim:SGD", 1.0),
        ("heavy-ball(0.8)", "torch.optim:SGD(momentum=0.8)", 0.2),
        ("nesterov(0.8)", "torch.optim:SGD(momentum=0.8, nesterov=True)", 0.2),
        ("heavy-ball@adam", "torch.optim:AdamW(weight_decay=0)", 1.0),
    ],
)
def test_the_centres_of_equal_methods_are_the_same_step(ours: str, theirs: str, scale: float) -> None:
    """The conversion that the table of defaults states, seen in trajectories."""
    ratio = recipe(Arm.named(theirs)).step / recipe(Arm.named(ours)).step
    assert ratio == pytest.approx(scale)
    a, b = run_of(ours, 0.1), run_of(theirs, 0.1 * scale)
    assert [e.val_loss for e in a.epochs] == pytest.approx([e.val_loss for e in b.epochs], rel=1e-4)


@pytest.mark.parametrize("name", sorted(schemes.SCHEMES))
def test_every_scheme_is_an_arm_or_is_refused_with_its_reason(name: str) -> None:
    if schemes.get(name).is_usable:
        assert run_of(name, 0.001).epochs[-1].val_loss > 0
    else:
        with pytest.raises(SchemeError):
            recipe(Arm.named(name))


@pytest.mark.parametrize("name", sorted(optim.presets()))
def test_every_preset_is_an_arm(name: str) -> None:
    made = recipe(Arm.named(name))
    assert isinstance(made, Recipe)
    assert run_of(name, 0.001).epochs[-1].val_loss > 0


def test_a_schemes_own_parameter_can_be_tuned() -> None:
    spec = Arm(name="x", optimizer="look-ahead@adam", space={"gamma": LogUniform(center=2.0, decades=1)})
    optimizer = recipe(spec).build(nn.Linear(2, 2), {"gamma": 3.0})
    assert "3" in str(optimizer.param_groups[0]["scheme"])
    with pytest.raises(StudyError, match=r"unknown option of look-ahead 'gama'.*'gamma'"):
        recipe(Arm(name="x", optimizer="look-ahead", space={"gama": LogUniform(center=2.0)}))


def test_an_option_given_twice_is_refused() -> None:
    with pytest.raises(StudyError, match="gives 'momentum' twice"):
        recipe(Arm(name="x", optimizer="torch.optim:SGD(momentum=0.9)", options={"momentum": 0.5}))


def test_building_an_arm_needs_no_pydantic() -> None:
    code = "import sys; sys.modules['pydantic'] = None; import sabun.script.arms, sabun.script.client"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_bare_name_means_the_optimizer_that_people_know() -> None:
    """ "lion" is a preset and the scheme inside it; only with @preconditioner is the scheme meant."""
    made = {
        text: recipe(Arm.named(text)).over([("p", nn.Parameter(torch.ones(3)))]).param_groups[0]["preconditioner"].name
        for text in ("lion", "lion@adam", "lion(0.9, 0.99)", "nesterov")
    }
    assert made == {"lion": "sign", "lion@adam": "adam", "lion(0.9, 0.99)": "sign", "nesterov": "none"}
    assert recipe(Arm.named("lion@none")).step == recipe(Arm.named("euler")).step


SAM = "pytorch_optimizer:SAM(base_optimizer='torch.optim:SGD', rho=0.05)"
OTHERS = {  # arm → gradient evaluations a step
    "schedulefree:SGDScheduleFree": 1, "pytorch_optimizer:SOAP": 1, "pytorch_optimizer:MARS": 1, SAM: 2,
    "pytorch_optimizer:AliG": 1, "torch.optim:LBFGS(max_iter=4)": None,
    **({"torch.optim:Muon": 1} if hasattr(torch.optim, "Muon") else {}),
}  # fmt: skip


def test_optimizers_of_other_packages_train_in_a_study_and_pay_for_their_gradients(tmp_path: Path) -> None:
    """Modes, closures, a gradient before the closure, an optimizer inside another, matrices alone, no lr at all."""
    study = tiny_study(*OTHERS, task_name="Matrices", epochs=2, trials=1, tuning_seeds=1, seeds=1)
    evidence = study_run(study, tmp_path)
    for name, evaluations in OTHERS.items():
        (result,) = (run for run in evidence.runs if run.arm == name and run.phase == "evaluate")
        assert result.status == "finished", (name, result.failure)
        assert result.epochs[-1].val_loss < result.epochs[0].val_loss, name
        spent = result.epochs[-1].gradient_evaluations
        assert spent <= 2 * 16 + 5 if evaluations is None else 32 - evaluations < spent <= 32 + evaluations, name
    assert evidence.runs[0].hyperparameters


def test_an_optimizer_for_matrices_alone_is_refused_where_there_are_others() -> None:
    if hasattr(torch.optim, "Muon"):
        with pytest.raises(StudyError, match=r"torch.optim:Muon refuses.*only supports 2D.*in the presets \(muon\)"):
            recipe(Arm.named("torch.optim:Muon")).build(nn.Linear(3, 1))
    with pytest.raises(StudyError, match="pytorch_optimizer:Muon refuses"):  # it wants groups of its own kind
        recipe(Arm.named("pytorch_optimizer:Muon")).build(nn.Linear(3, 1))
