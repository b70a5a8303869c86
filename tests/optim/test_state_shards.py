"""State in fewer bits under FSDP2: shards end where one process ends, with a checkpoint or offloaded to the CPU too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from state_worker import RULES, checkpoint, compiled, load, network, to_nearest, train, whole

from sabun.optim import create, state_storage

pytestmark = [
    pytest.mark.cpu_only("processes that are joined by gloo"),
    pytest.mark.skipif(not dist.is_available(), reason="this torch was built without torch.distributed"),
]


@pytest.fixture(autouse=True)
def nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_storage, "store", to_nearest)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What two ranks found, and where their checkpoints are, beside those of one process."""
    directory = tmp_path_factory.mktemp("shards")
    for preset, storage in RULES:
        model = network()
        optimizer = create(preset, model, 0.01, state_dtype=storage, fused=None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(state_storage, "store", to_nearest)
            train(model, optimizer, range(4))
        place = directory / f"{preset}, {storage} of one"
        dcp.save(checkpoint(model, optimizer), checkpoint_id=str(place), no_dist=True)
    worker = Path(__file__).with_name("state_worker.py")
    ranks = [
        subprocess.Popen(
            [sys.executable, str(worker), str(directory), str(rank), "2"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[0] for process in ranks]
    assert all(process.returncode == 0 for process in ranks), "\n".join(said)
    return directory, torch.load(directory / "results.pt", weights_only=True)


@pytest.mark.parametrize(("preset", "storage"), RULES)
def test_two_ranks_end_where_one_does(found: tuple[Path, dict[str, Any]], preset: str, storage: str) -> None:
    """From the start, from the checkpoint of the other number of ranks, and with parameters and state on the CPU."""
    directory, results = found
    name = f"{preset}, {storage}"
    model = network()
    train(model, create(preset, model, 0.01, state_dtype=storage, fused=None), range(6))
    again = network()
    resumed = create(preset, again, 0.01, state_dtype=storage, fused=None)
    load(again, resumed, directory / f"{name} of two")
    train(again, resumed, range(4, 6))
    others = [results[name], results[f"{name}, resumed"], results[f"{name}, offloaded"], whole(again)]
    for other in others:
        for a, b in zip(other, model.parameters(), strict=True):
            torch.testing.assert_close(a, b.detach(), rtol=0, atol=1e-9)
    assert results[f"{name}, rows"] == [33, 150, 10]


def test_blocks_are_not_divided(found: tuple[Path, dict[str, Any]]) -> None:
    assert "state_dtype='bfloat16'" in found[1]["refused"]


@pytest.mark.parametrize("storage", ["bfloat16", "8bit"])
def test_the_compiled_step_takes_the_shards(found: tuple[Path, dict[str, Any]], storage: str) -> None:
    """Ranks draw the noise of their own shards, which moves weights from the second step on, and scales little."""
    one, two = compiled(network(), storage), found[1][f"compiled, {storage}"]
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        torch.testing.assert_close(a["weight"], b["weight"], rtol=0, atol=2e-3)
        for name in ("velocity_0", "second_moment"):
            assert a[name].shape == b[name].shape
            assert a[name].dtype == b[name].dtype
            if storage == "8bit":
                scales = (held[f"{name}_scale"].abs() for held in (a, b))  # of two sizes alike it may be either
                torch.testing.assert_close(*scales, rtol=0.05, atol=0)


def test_a_rank_without_rows_takes_the_compiled_step(found: tuple[Path, dict[str, Any]]) -> None:
    p = torch.ones(1, 4096, requires_grad=True)
    p.grad = torch.ones(1, 4096)
    create("adamw", [p], 0.1).step()
    torch.testing.assert_close(found[1]["one row"], p.detach())
