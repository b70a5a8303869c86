"""The script that counts what ranks send, on the layers whose traffic four processes of gloo have."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("torch.testing._internal.distributed.fake_pg")
import torch.distributed as dist

import sharding

# Four layers of width 256, as in tests/optim/distributed_worker.py.
SHAPES = [(768, 256), (256, 256), (1024, 256), (256, 1024)] * 4
NAMES = [f"layers.{i}.weight" for i in range(len(SHAPES))]
ALL = {"*": "matrix"}  # the last one, too, which would be taken for the head


def test_the_counts_are_those_of_four_processes() -> None:
    """The figures of ``test_a_step_of_12_mib_of_hidden_matrices_on_four_ranks``."""
    with sharding.exchanges(4) as made:
        mesh = dist.init_device_mesh("cpu", (4,))
        members = [(name, sharding.sharded(shape, mesh, 4)) for name, shape in zip(NAMES, SHAPES, strict=True)]
        sharding.step(members, made, matrices=ALL)
    assert [call for call, _ in made] == ["all-to-all"] * 2
    assert sum(sent for _, sent in made) == 4.5 * 2**20
    members = []
    for name, shape in zip(NAMES, SHAPES, strict=True):
        p = torch.nn.Parameter(torch.empty(shape, dtype=torch.bfloat16, device="meta"))
        p.grad = torch.empty_like(p)
        members.append((name, p))
    with sharding.exchanges(4) as made:
        sharding.step(members, made, preconditioner="spectral(divide=True)", matrices=ALL)
    assert made == [("all-gather", 9 * 2**20)]
