"""Matrices divided among processes: each is computed once, and everybody ends with the same bits."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from dividing_worker import SHAPES, train

from sabun.optim.distributed import Team, team_of

WORKER = Path(__file__).with_name("dividing_worker.py")


def test_shares_are_disjoint_complete_and_balanced() -> None:
    costs = [9.0, 1, 1, 1, 5, 4, 3, 3]
    shares = [Team(None, rank, 3).own(costs) for rank in range(3)]
    assert sorted(i for share in shares for i in share) == list(range(len(costs)))
    assert [sum(costs[i] for i in share) for share in shares] == [9, 9, 9]
    assert Team(None, 2, 3).own([1.0]) == []


def test_one_process_has_no_team() -> None:
    assert team_of([torch.ones(2, 2)], divide=True) is None


@pytest.mark.skipif(not dist.is_available(), reason="this torch was built without torch.distributed")
def test_processes_that_divide_the_work_end_where_one_that_does_it_all_ends(python: str, tmp_path: Path) -> None:
    world = 2
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [*shlex.split(python), str(WORKER), str(tmp_path), str(rank), str(world)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for rank in range(world)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[0] for process in ranks]
    assert all(process.returncode == 0 for process in ranks), "\n".join(said)
    alone, counts = train(divide=True)
    assert counts == [len(SHAPES)] * 5
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]
    for rank in range(world):
        whole, done = found[rank][False]
        assert done == [len(SHAPES)] * 5
        divided, _ = found[rank][True]
        for a, b, c, d in zip(alone, whole, divided, found[0][True][0], strict=True):
            assert torch.equal(a, b)
            # A batched product of another size may round otherwise.
            torch.testing.assert_close(c, a, rtol=0, atol=1e-12)
            assert torch.equal(c, d)
    per_rank = [found[rank][True][1] for rank in range(world)]
    assert [sum(counts) for counts in zip(*per_rank, strict=True)] == [len(SHAPES)] * 5
    assert all(0 < n < len(SHAPES) for counts in per_rank for n in counts)
