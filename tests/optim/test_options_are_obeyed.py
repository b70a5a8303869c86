"""Each option of each entry changes what an optimizer does, in each mode of the step of one process, or is an error
there."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sabun import Optimizer
from sabun.errors import OptionError
from sabun.optim.options import OPTIONS
from sabun.optim.resolve_groups import ROLES

pytestmark = pytest.mark.cpu_only("the modes are those of a CPU")
MODES: dict[str, dict[str, Any]] = {
    "all together": {},
    "one at a time": {"foreach": False},
    "compiled": {"fused": "auto"},
    "capturable": {"capturable": True},
    "16 bits": {"dtype": torch.bfloat16, "state_dtype": "float32"},
    "rounded at random": {"dtype": torch.bfloat16, "stochastic_rounding": True},
    "state in 16 bits": {"state_dtype": "bfloat16"},
    "state in 8 bits": {"state_dtype": "8bit"},
    "with a rest": {"rest": {"preconditioner": "sign", "lr_factor": 0.5}},
    "double": {"dtype": torch.float64},
    "controlled": {"step_control": "stability"},
    "balanced": {"step_control": "balance"},
}
OTHER: dict[str, Any] = {
    "beta2": 0.5, "eps": 0.3, "iteration": "polar-express", "steps": 2, "dtype": "bfloat16", "row_normalization": True,
    "factor_beta": 0.5, "refresh_every": 3, "max_factor": 10, "decay": 0.5, "start": 2, "beta": 0.5, "power": 2.0,
    "tolerance": 1e-4, "fraction": 0.001, "probe_every": 2, "momentum_end": 0.2, "start_up": "hold",
    "weight_decay": 1.0, "decoupled": False, "maximize": True, "step_limit": 1e-3, "state_dtype": "bfloat16",
    "stochastic_rounding": True,
}  # fmt: skip
"""Another value than the default, by the name of an option."""
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("spectral", "beta2"): {"row_normalization": True},
    ("spectral", "eps"): {"row_normalization": True},
    ("kronecker", "factor_beta"): {"refresh_every": 2},
    ("stability", "probe_every"): {"fraction": 0.001},
    ("", "start_up"): {"start_up": "rest"},
    ("", "state_dtype"): {"state_dtype": "float32"},
    ("", "decoupled"): {"weight_decay": 1.0},
}
"""Without these an option has nothing to decide."""
NOT_OF_THE_RESULT = {
    "exchange_dtype": "one process exchanges nothing",
    "divide": "one process divides nothing",
    "symmetric_products": "refused on a CPU; the same results to rounding",
    "foreach": "the same results one at a time",
    "fused": "the same results to rounding",
    "capturable": "the same results to rounding",
}
"""Options that other tests hold."""
CASES = [
    (role, name, option)
    for role in ("preconditioner", "averaging", "step_control")
    for name, entry in ROLES[role].items()
    if entry.__module__.startswith("sabun.")
    for option in entry.options()
    if option not in NOT_OF_THE_RESULT
] + [("", "", option) for option in OPTIONS if option not in NOT_OF_THE_RESULT]


def start(dtype: torch.dtype, *, large: bool) -> list[Tensor]:
    """``large``: of the size from which on state is stored in fewer bits."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((64, 64) if large else (16, 12), (12, 8), (4,))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


@cache
def ends(mode: str, **given: Any) -> list[Tensor] | None:
    """The parameters and their averages after four steps with a falling rate; None where that is refused."""
    options = {"scheme": "heavy-ball", "preconditioner": "adam", **MODES[mode], **given}
    dtype, large = options.pop("dtype", torch.float32), "state_dtype" in options
    params = [nn.Parameter(p) for p in start(dtype, large=large)]
    torch.manual_seed(0)
    try:
        optimizer = Optimizer([(f"{i}.weight", p) for i, p in enumerate(params)], 0.05, **options)

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = torch.stack([(p.square() * 0.3 - torch.cos(2 * p)).sum() for p in params]).sum()
            value.backward()
            return value

        for n in range(4):
            optimizer.param_groups[0]["lr"] *= 0.5 if n == 2 else 1.0
            optimizer.step(loss)
    except OptionError:
        return None
    found = [p.detach().clone() for p in params]
    with optimizer.averaged():
        return [*found, *(p.detach().clone() for p in params)]


@pytest.mark.parametrize(("role", "name", "option"), CASES)
def test_an_option_has_an_effect_or_is_refused(role: str, name: str, option: str) -> None:
    first = BESIDE.get((name, option), {})
    second = {**first, option: OTHER[option]}
    if role:
        beside = {"preconditioner": "none"} if role == "step_control" else {}
        first, second = ({**beside, role: spelt(name, given)} for given in (first, second))
    compared = 0
    for mode, options in MODES.items():
        if (role or option) in options or (
            option == "stochastic_rounding" and options.get("dtype") is not torch.bfloat16
        ):
            continue  # the mode decides that; it is for 16-bit parameters
        before, after = ends(mode, **first), ends(mode, **second)
        if before is not None and after is not None:
            assert not all(map(torch.equal, before, after)), mode
            compared += 1
    assert compared


def spelt(name: str, options: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in options.items())})" if options else name
