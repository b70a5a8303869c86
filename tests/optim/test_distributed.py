"""Replicas and shards train as one process does; a checkpoint of two ranks goes on in one (gloo, CPU)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from distributed_worker import ARMS, network, train
from torch import Tensor
from training import batches

WORKER = Path(__file__).with_name("distributed_worker.py")
pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch was built without torch.distributed")


def launch(mode: str, directory: Path, world: int) -> dict[str, dict[str, Tensor]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(WORKER), mode, str(directory), str(rank), str(world)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for rank in range(world)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[0] for process in ranks]
    assert all(process.returncode == 0 for process in ranks), "\n".join(said)
    return torch.load(directory / f"{mode}-{world}.pt", weights_only=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, dict[str, dict[str, Tensor]]]:
    directory = tmp_path_factory.mktemp("distributed")
    return {"ddp": launch("ddp", directory, 2), "save": launch("save", directory, 2),
            "resume": launch("resume", directory, 1)}  # fmt: skip


@pytest.mark.parametrize("mode", ["ddp", "save", "resume"])
@pytest.mark.parametrize("name", ARMS)
def test_it_ends_where_one_process_ends(runs, name: str, mode: str) -> None:
    model = network()
    optimizer = ARMS[name](model.named_parameters())
    train(model, optimizer, batches(12))
    expected = {key: p.detach().clone() for key, p in model.named_parameters()}
    with optimizer.averaged():
        expected |= {f"averaged {key}": p.detach().clone() for key, p in model.named_parameters()}
    found = runs[mode][name]
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-9, msg=lambda m, key=key: f"{key}: {m}")
