"""What torch.optim accepts as learning rate, option and group is accepted, and its words are explained."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sabun
from sabun.errors import OptionError
from sabun.optim import notation
from sabun.optim.preconditioners import Adam


def parameters() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return list(nn.Linear(3, 3).parameters())


def stepped(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()
    return [p.detach() for group in optimizer.param_groups for p in group["params"]]


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_numpy_scalars_are_numbers(kind: type[Any]) -> None:
    lr, decay = kind(1), kind(0)
    made = sabun.optim.create("nadamw", parameters(), lr=lr, weight_decay=decay, beta2=np.float64(0.9))
    same = sabun.optim.create("nadamw", parameters(), lr=float(lr), weight_decay=float(decay), beta2=0.9)
    assert all(torch.equal(a, b) for a, b in zip(stepped(made), stepped(same), strict=True))
    assert type(made.param_groups[0]["lr"]) in (int, float)
    assert sabun.RungeKutta(parameters(), lr=lr).param_groups[0]["lr"] == lr


def test_a_schedule_in_an_array_can_be_saved_and_resumed() -> None:
    one, other = (sabun.optim.create("adamw", parameters(), lr=1e-3) for _ in range(2))
    for group in one.param_groups:
        group["weight_decay"], group["lr"] = np.float32(0.1), np.float64(0.01)
    stepped(one)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert other.param_groups[0]["weight_decay"] == np.float32(0.1)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    "make", [lambda p, lr: sabun.optim.create("adamw", p, lr=lr), sabun.Optimizer, sabun.RungeKutta]
)
def test_a_learning_rate_of_zero_is_legal_for_groups(make: Any) -> None:
    weight, bias = parameters()
    made = make([{"params": [weight], "lr": 1e-3}, {"params": [bias], "lr": 0.0}], 0.0)
    assert [group["lr"] for group in made.param_groups] == [1e-3, 0.0]
    with pytest.raises(OptionError, match="lr must be a finite number > 0"):
        made.add_param_group({"params": [torch.zeros(1)]})
    with pytest.raises(OptionError, match="lr must be a finite number > 0"):
        make(parameters(), 0.0)
    before = bias.detach().clone()
    if not isinstance(made, sabun.RungeKutta):
        stepped(made)
        assert torch.equal(bias, before)


@pytest.mark.parametrize("kind", [sabun.Optimizer, sabun.RungeKutta])
def test_notes_of_groups_are_kept_and_misspelt_options_refused(kind: Any) -> None:
    notes = {"lr_scale": 0.5, "rho": 0.05, "layer_decay": 0.75, "adaptive": True, "name": "head"}
    (group,) = kind([{"params": parameters(), **notes}], lr=0.1).param_groups
    assert {key: group[key] for key in notes} == notes
    for key in ("weigth_decay", "maximise", "betas"):
        with pytest.raises(OptionError):
            kind([{"params": parameters(), key: 0.1}], lr=0.1)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("betas", (0.9, 0.95), r"momentum=β1 and preconditioner='adam\(beta2=β2\)'"),
        ("nesterov", True, "write scheme='nesterov'"),
        ("dampening", 0.1, r"Multiply lr by \(1 − dampening\)"),
        ("amsgrad", True, "no equivalent"),
    ],
)
def test_words_of_torch_are_translated(option: str, value: Any, words: str) -> None:
    for call in (
        lambda: sabun.optim.create("adamw", parameters(), lr=1e-3, **{option: value}),
        lambda: sabun.Optimizer(parameters(), lr=1e-3, **{option: value}),
        lambda: sabun.Optimizer([{"params": parameters(), option: value}], lr=1e-3),
        lambda: notation.resolve(f"adamw({option}={value!r})"),
    ):
        with pytest.raises(OptionError, match=f"{option}.*is an option of torch.optim.*{words}"):
            call()


def test_the_translation_of_betas_is_right() -> None:
    own = torch.optim.AdamW(parameters(), lr=1e-2, betas=(0.8, 0.9), weight_decay=0.0)
    made = sabun.Optimizer(parameters(), lr=1e-2, scheme="heavy-ball", momentum=0.8, preconditioner=Adam(beta2=0.9))
    for a, b in zip(stepped(own), stepped(made), strict=True):
        assert torch.allclose(a, b)
