"""Replicas and shards train as one process does; a checkpoint of two ranks goes on in one (gloo, CPU)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from distributed_worker import ARMS, SEQUENCES, Block, network, train
from torch import Tensor
from training import batches

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
    """Norms and biases are replicated, and each rank has the gradient of its part of the sequence."""
    found = launch("sequence", tmp_path, 2)
    for name, make in ARMS.items():
        model = Block()
        train(model, make(model.named_parameters()), SEQUENCES)
        # kronecker: the QR of its refreshes amplifies the rounding of sums in another order.
        tolerance = 1e-9 if name == "kronecker" else 1e-12
        for key, p in model.named_parameters():
            torch.testing.assert_close(
                found[name][key],
                p.detach(),
                rtol=0,
                atol=tolerance,
                msg=lambda m, key=key, name=name: f"{name}, {key}: {m}",
            )
