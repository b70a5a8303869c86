"""An optimizer step under ``torch.compile``: the same numbers, and nothing traced however lr and step number change."""

from __future__ import annotations

import pytest
import torch
from capabilities import CASES, Case, step
from torch._dynamo.utils import counters
from training import batches, flat, network

every = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.fixture(autouse=True)
def forgotten():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def trained(case: Case, compiled: bool) -> tuple[torch.Tensor, int]:
    """Parameters after 12 scheduled steps, and how many graphs were made in the last six."""
    model = network()
    optimizer = case(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 12)

    def advance(x: torch.Tensor, y: torch.Tensor) -> None:
        step(optimizer, lambda: ((model(x) - y) ** 2).mean())

    # "eager" traces as every backend does, and leaves the compiling out.
    whole = torch.compile(advance, backend="eager") if compiled else advance
    early = 0
    for n, (x, y) in enumerate(batches(12)):
        whole(x, y)
        schedule.step()
        if n == 5:
            early = counters["stats"]["unique_graphs"]
    return flat(model.parameters()), counters["stats"]["unique_graphs"] - early


@every
def test_a_compiled_training_step_is_the_plain_one_and_is_traced_once(case: Case) -> None:
    plain, _ = trained(case, compiled=False)
    traced, again = trained(case, compiled=True)
    assert torch.equal(plain, traced)
    assert again == 0
    assert counters["stats"]["unique_graphs"] <= 3  # the user's own part: forward, and what follows the step
