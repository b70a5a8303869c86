"""The notation of optimizers: what it takes apart, what it makes, what it refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

import sabun
from sabun.errors import OptionError, SabunError, SchemeError
from sabun.optim import Adam, Identity, Preconditioner, Spectral
from sabun.optim.notation import Notation, parse, resolve


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("adamw", Notation("named", "adamw")),
        (" nesterov@adam ", Notation("named", "nesterov", preconditioner="adam")),
        ("look-ahead(0.9, 2)@spectral", Notation("named", "look-ahead", (0.9, 2), {}, "spectral")),
        ("look-ahead(beta=0.9, gamma=2.0)", Notation("named", "look-ahead", (), {"beta": 0.9, "gamma": 2.0})),
        ("torch.optim:SGD(momentum=0.9, nesterov=True)",
         Notation("class", "torch.optim:SGD", (), {"momentum": 0.9, "nesterov": True})),
        ("a.b:C(betas=(0.9, 0.99), mode='x@y', eps=-1e-3)",
         Notation("class", "a.b:C", (), {"betas": (0.9, 0.99), "mode": "x@y", "eps": -0.001})),
    ],
)  # fmt: skip
def test_notation(text: str, expected: Notation) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "@adam", "nesterov@", "sgd(", "sgd)", "a:B(1)", "a:B(x=y)", "a:B(x=[])extra", "a:B(**k)", "a:B@adam",
             "a:B(x={})", "a:B(f'')"],
)  # fmt: skip
def test_what_is_no_notation_is_refused_with_a_way_out(text: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse(text)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("text", "options", "made", "settings"),
    [
        ("torch.optim:SGD", {"lr": 0.1, "momentum": 0.9}, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        ("torch.optim:SGD(momentum=0.5, lr=0.2)", {"lr": 0.1}, torch.optim.SGD, {"lr": 0.1, "momentum": 0.5}),
        ("nesterov", {"lr": 0.1}, sabun.Optimizer, {"lr": 0.1, "preconditioner": Identity()}),
        ("look-ahead(0.9, 2) @ adam", {"lr": 0.1}, sabun.Optimizer, {"momentum": 0.9, "preconditioner": Adam()}),
        ("look-ahead(0.9, 2)", {"lr": 0.1, "gamma": 3}, sabun.Optimizer, {"scheme": sabun.look_ahead(0.9, 3)}),
        ("nadamw(weight_decay=0.3)", {"lr": 0.1}, sabun.Optimizer, {"weight_decay": 0.3, "preconditioner": Adam()}),
        ("nadamw(weight_decay=0.3)", {"lr": 0.1, "weight_decay": 0.0}, sabun.Optimizer, {"weight_decay": 0.0}),
        ("heun", {"lr": 0.1}, sabun.RungeKutta, {"lr": 0.1}),
        (
            "nesterov(0.8, lr=0.2, weight_decay=0.1)",
            {},
            sabun.Optimizer,
            {"momentum": 0.8, "lr": 0.2, "weight_decay": 0.1},
        ),
        (
            "chebyshev(stages=3, lr=0.2)",
            {"lr": 0.1},
            sabun.RungeKutta,
            {"scheme": sabun.schemes.get("chebyshev(3, 0.05)"), "lr": 0.1},
        ),
    ],
)
def test_what_a_notation_makes(
    text: str, options: dict[str, float], made: type[torch.optim.Optimizer], settings: dict[str, object]
) -> None:
    model = nn.Linear(3, 2)
    for members in (model, model.parameters(), model.named_parameters()):
        optimizer = resolve(text).make(members, options)
        assert type(optimizer) is made
        assert {key: optimizer.param_groups[0][key] for key in settings} == settings


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("torch.optim:SDG", "Did you mean 'SGD'"),
        ("torch.optim:SGD(momentun=0.9)", "Did you mean 'momentum'"),
        ("nadamw(weight_deccay=0.1)", "Did you mean 'weight_decay'"),
        ("torch.nn:Linear", "is not a torch.optim.Optimizer"),
        ("no_such_package:SGD", "cannot import"),
        ("nesterov(weight_deccay=0.1)", "Did you mean 'weight_decay'"),
        ("nesterov(betta=0.9)", "Did you mean 'beta'"),
        ("nesterow", "Did you mean 'nesterov'"),
        ("heun@adam", "Multistep schemes only"),
    ],
)
def test_what_names_nothing_is_refused_with_the_nearest_that_does(text: str, says: str) -> None:
    with pytest.raises(OptionError) as caught:
        resolve(text)
    assert says in str(caught.value)


def test_a_scheme_that_cannot_train_is_refused_before_anything_is_built() -> None:
    with pytest.raises(SchemeError):
        resolve("lagrange-4")
    with pytest.raises(SabunError, match="adan"):
        resolve("nesterov@adan")


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("nesterov@adam(beta2=0.95)", {}, Adam(beta2=0.95)),
        ("nesterov@adam(0.95)", {}, Adam(beta2=0.95)),
        ("nesterov(beta2=0.9)@adam(eps=1e-6)", {}, Adam(beta2=0.9, eps=1e-6)),
        ("nesterov(preconditioner='adam(beta2=0.9)')", {}, Adam(beta2=0.9)),
        ("nesterov@adam", {"beta2": 0.9}, Adam(beta2=0.9)),
        ("adamw(beta2=0.95)", {}, Adam(beta2=0.95)),
        ("adamw(preconditioner='adam(beta2=0.95)')", {"eps": 1e-6}, Adam(beta2=0.95, eps=1e-6)),
        ("sabun(steps=8)", {}, Spectral(steps=8)),
        ("sabun(row_normalization=True)", {"beta2": 0.95}, Spectral(row_normalization=True, beta2=0.95)),
    ],
)
def test_options_of_a_role_by_their_own_name(text: str, options: dict[str, float], expected: Preconditioner) -> None:
    maker = resolve(text)
    assert {*options} <= {*(maker.accepts or ())}
    assert maker.make(nn.Linear(3, 2), {"lr": 0.1, **options}).param_groups[0]["preconditioner"] == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nesterov@adam(betta2=0.9)", "Did you mean 'beta2'"),
        ("nesterov@adam(beta2=1.5)", "beta2 must be"),
        ("nesterov@adam(0.9, beta2=0.9)", "gives beta2 twice"),
        ("nesterov@adam(0.9, 1e-8, 3)", "too many arguments"),
        ("nesterov(beta2=0.9)", "unknown parameter or option"),
        ("nesterov@adam(beta2=0.9", "not closed"),
        ("nesterov@adam(beta2=0.9, beta2=0.8)", "an option is given twice"),
        ("nesterov@adam(0.9)(0.8)", "not one list"),
    ],
)
def test_a_wrong_option_of_a_role_is_named(text: str, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        resolve(text)


def test_it_needs_no_pydantic() -> None:
    code = "import sys; sys.modules['pydantic'] = None; import sabun.optim.notation, sabun.rollout.jobs"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
