"""Parameter groups keep their identity, number, keys, relative rate and decay, whatever the arm and the entrance."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from sabun.optim import create
from sabun.poc.records import RunResult
from sabun.poc.resolved import resolve
from sabun.poc.spec import Arm, Run
from sabun.poc.study import default_study
from sabun.poc.training.script import ScriptTrainer
from sabun.script.client import _replace
from sabun.script.rates import Rates

LOOPS = Path(__file__).with_name("loops")
MATRIX_PRESETS = ("muon", "soap", "sabun")


def _module() -> Any:
    spec = importlib.util.spec_from_file_location("decay_groups", LOOPS / "decay_groups.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


decay_groups = _module()


@pytest.mark.parametrize("preset", MATRIX_PRESETS)
def test_all_entrances_train_to_equal_bits(preset: str, python: str, tmp_path: Path) -> None:
    """``create`` over groups in both orders, ``swap`` in a script, Lightning and the Trainer."""
    expected = set()
    for order in (1, -1):
        model = decay_groups.build()
        optimizer = create(preset, decay_groups.groups(model, order), 0.02)
        names = {id(p): name for name, p in model.named_parameters()}
        hidden = {
            names[id(p)]
            for group in optimizer.param_groups
            for p, part in zip(group["params"], group["parts"], strict=True)
            if part != "rest"
        }
        assert hidden == {f"blocks.{i}.weight" for i in range(3)}  # not the embedding, and not the head of one row
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        decay_groups.train(model, optimizer)
        torch.set_num_threads(threads)
        expected.add(decay_groups.fingerprint(model))
    assert len(expected) == 1
    for entrance in ("swap", "lightning", "trainer"):
        study = default_study(
            task=f"script:{python} {LOOPS}/decay_groups.py {entrance}", task_options={"time_limit": 100.0},
            baseline="script", candidates=[preset], epochs=4, trials=0, seeds=1,
        )  # fmt: skip
        run = Run(arm=preset, seed=0, phase="evaluate", hyperparameters={"lr": 0.02})
        *_, last = ScriptTrainer(resolve(study), tmp_path).run(run)
        assert isinstance(last, RunResult)
        assert last.status == "finished", last.failure
        said = (tmp_path / f"{last.run}.txt").read_text()
        assert re.findall(r"WEIGHTS (\w+)", said) == [*expected], entrance
        roles = [dict(group.roles or {}) for group in last.rates]
        assert sorted(roles, key=lambda counts: counts["hidden"]) == [
            {"hidden": 0, "rest": 3 * 12 + 2 * 12 + 1},
            {"hidden": 3 * 144, "rest": 16 * 12 + 12},
        ]


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.head = nn.Linear(4, 2)


@example(shares=[{"weight_decay": 0.0}], tensors=False, frozen=False, seed=0, arm="sabun(weight_decay=0.2)")
@given(
    shares=st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "lr": st.sampled_from([0.0, 1e-4, 1e-3, 1e-2, 1]),
                "weight_decay": st.sampled_from([0.0, 0.0, 0.1, 0.3]),
                "lr_scale": st.just(0.5),
                "name": st.sampled_from(["backbone", "head"]),
            },
        ),
        min_size=1,
        max_size=4,
    ),
    tensors=st.booleans(),
    frozen=st.booleans(),
    seed=st.integers(0, 99),
    arm=st.sampled_from(["muon", "soap", "sabun", "nesterov@adam", "euler", "sabun(weight_decay=0.2)", "rk4"]),
)
@settings(max_examples=40)
def test_groups_keep_what_they_are(
    shares: list[dict[str, Any]], tensors: bool, frozen: bool, seed: int, arm: str
) -> None:
    """Number, parameters, keys, ratio of the rates, and decay; the roles do not depend on the groups."""
    model = _Net()
    if frozen:
        model.layers[0].weight.requires_grad_(False)
    members = list(model.parameters())
    order = torch.randperm(len(members), generator=torch.Generator().manual_seed(seed)).tolist()
    places = [order[i :: len(shares)] for i in range(len(shares))]

    def groups() -> list[dict[str, Any]]:
        made = []
        for chosen, share in zip(places, shares, strict=True):
            group = {"params": [members[i] for i in chosen], **share}
            if tensors and "lr" in group:
                group["lr"] = torch.tensor(float(group["lr"]))
            made.append(group)
        return made

    script = torch.optim.AdamW(groups(), lr=1e-2)
    if not any(float(group["lr"]) for group in script.param_groups):
        return  # refused: no rate to relate to
    optimizer = _replace(script, Arm.named(arm), {"lr": 0.02})
    before = [group.get("weight_decay") for group in optimizer.param_groups]
    rates = Rates(script, optimizer)
    assert [group["params"] for group in optimizer.param_groups] == [group["params"] for group in script.param_groups]
    for mine, theirs in zip(optimizer.param_groups, script.param_groups, strict=True):
        assert {key: mine.get(key) for key in ("name", "lr_scale")} == {
            key: theirs.get(key) for key in ("name", "lr_scale")
        }
        assert float(mine["lr"]) == float(theirs["lr"])  # what schedulers of the script see
    rates.before_step()
    reference = 1e-2
    for mine, theirs in zip(optimizer.param_groups, rates._written, strict=True):
        assert float(mine["lr"]) == pytest.approx(0.02 * float(theirs[0] or 0) / reference)
    rates._restore()
    stated = [group.get("weight_decay") for group in shares]
    largest = max(float(group["weight_decay"]) for group in script.param_groups)
    for decay, own in zip(before, stated, strict=True):
        if own is not None:
            share = own / largest if largest else 1.0  # where no group decays, all are the largest
            assert decay == pytest.approx(0.2 * share if "0.2" in arm else own)
    if arm in MATRIX_PRESETS:
        (whole,) = create(arm, model).param_groups
        expected = {id(p): part for p, part in zip(whole["params"], whole["parts"], strict=True)}
        direct = create(arm, groups(), 0.02)
        for made in (optimizer, direct):
            for group, share in zip(made.param_groups, shares, strict=True):
                assert group["parts"] == [expected[id(p)] for p in group["params"]]
                if "weight_decay" in share:
                    assert group["weight_decay"] == share["weight_decay"]
                    assert "weight_decay" not in group["rest"]
