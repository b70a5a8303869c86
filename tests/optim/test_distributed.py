"""Replicas and shards train as one process does; a checkpoint of two ranks goes on in one (gloo, CPU)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from distributed_worker import ARMS, HIDDEN, SEQUENCES, SEQUENTIAL, Block, network, train
from torch import Tensor
from training import batches

import sabun

WORKER = Path(__file__).with_name("distributed_worker.py")
pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch was built without torch.distributed")


def launch(mode: str, directory: Path, world: int) -> dict[str, dict[str, Tensor]]:
    """Run ``world`` ranks to their end. A rank that hangs says where it stands (see the worker), and fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = []
    for rank in range(world):
        with (directory / f"{mode}-{rank}.log").open("wb") as log:
            ranks.append(
                subprocess.Popen(
                    [sys.executable, str(WORKER), mode, str(directory), str(rank), str(world)],
                    stdout=log, stderr=subprocess.STDOUT, env=environment,
                )
            )  # fmt: skip
    try:
        codes = [process.wait(timeout=300) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    said = [(directory / f"{mode}-{rank}.log").read_text(errors="replace") for rank in range(world)]
    assert codes == [0] * world, "\n".join(said)
    return torch.load(directory / f"{mode}-{world}.pt", weights_only=True)


def compare(found: dict[str, dict[str, Tensor]]) -> None:
    """Every arm against one process that trained the whole."""
    assert found.keys() == ARMS.keys()
    for name, make in ARMS.items():
        model = network()
        optimizer = make(model.named_parameters())
        train(model, optimizer, batches(12))
        expected = {key: p.detach().clone() for key, p in model.named_parameters()}
        with optimizer.averaged():
            expected |= {f"averaged {key}": p.detach().clone() for key, p in model.named_parameters()}
        assert found[name].keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(
                found[name][key], value, rtol=1e-9, atol=1e-9, msg=lambda m, key=key, name=name: f"{name}, {key}: {m}"
            )


def test_replicas_end_where_one_process_ends(tmp_path: Path) -> None:
    found = launch("ddp", tmp_path, 2)
    zero = {name: found.pop(f"{name}, ZeRO") for name in ARMS}
    compare(found)
    for name, parameters in zero.items():
        assert parameters
        for key, value in parameters.items():
            torch.testing.assert_close(
                value, found[name][key], rtol=1e-9, atol=1e-9, msg=lambda m, key=key, name=name: f"{name}, {key}: {m}"
            )


def test_shards_end_where_one_process_ends_and_their_checkpoint_goes_on_in_one(tmp_path: Path) -> None:
    compare(launch("save", tmp_path, 2))
    compare(launch("resume", tmp_path, 1))


def test_partial_gradients_of_sequence_parallel_layers_are_summed(tmp_path: Path) -> None:
    """Norms and biases are replicated, and each rank has the gradient of its positions."""
    found = launch("sequence", tmp_path, 2)
    for name, make in SEQUENTIAL.items():
        model = Block()
        train(model, make(model.named_parameters()), SEQUENCES)
        for key, p in model.named_parameters():
            say = f"{name}, {key}: {{}}".format
            torch.testing.assert_close(found[name][key], p.detach(), rtol=0, atol=1e-12, msg=say)


def test_matrices_go_to_their_owners_and_back(tmp_path: Path) -> None:
    """A step is two all-to-alls of the shards, and a sum over replicas; each matrix is computed once."""
    world = 4
    whole = launch("placed", tmp_path, world)
    ranks = [whole, *(torch.load(tmp_path / f"placed-{world}-{r}.pt", weights_only=True) for r in range(1, world))]
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, generator=generator).requires_grad_() for shape in HIDDEN]
    optimizer = sabun.Optimizer(params, 0.1, scheme="nesterov", preconditioner="spectral")
    for n in range(4):
        for p in params:
            p.grad = torch.sin(p.detach() * (n + 2))
        optimizer.step()
    held = sum(p.nbytes for p in params)
    for name, times in (("rows", 1), ("columns", 1), ("replicas", 1), ("both", world)):
        found = [rank[name] for rank in ranks]
        assert sum(one["matrices"] for one in found) == times * len(HIDDEN)
        assert all(one["matrices"] > 0 for one in found)
        for one in found:
            for a, p in zip(one["params"], params, strict=True):
                torch.testing.assert_close(a, p.detach(), rtol=0, atol=1e-6)
            if name == "both":  # which every rank gathers
                continue
            (there, sent), (back, _), *over_replicas = one["calls"]
            assert there == back
            assert "alltoall" in there
            if name == "replicas":
                assert [("allreduce" in call, size) for call, size in over_replicas] == [(True, one["shards"])]
            else:
                assert over_replicas == []
                assert sent == one["shards"]
        if name != "both":  # there and back, whatever the number of ranks
            assert sum(size for one in found for call, size in one["calls"] if "alltoall" in call) == 2 * held
