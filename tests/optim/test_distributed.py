"""Replicas and shards train as one process does; a checkpoint of two ranks goes on in one (gloo, CPU)."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from distributed_worker import (
    ARMS,
    FLAT,
    LAYERS,
    MOVED,
    PLACED,
    RULES,
    SEQUENCES,
    SEQUENTIAL,
    SHORT,
    SHORT_EVEN,
    SHORTENED,
    Block,
    go,
    held,
    hidden,
    load,
    network,
    optimizer_of,
    start,
    train,
)  # fmt: skip
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from training import batches

from sabun.optim.distributed import _shares
from sabun.optim.sharing import Shared

WORKER = Path(__file__).with_name("distributed_worker.py")
pytestmark = [
    pytest.mark.cpu_only("processes that are joined by gloo"),
    pytest.mark.skipif(not dist.is_available(), reason="this torch was built without torch.distributed"),
]


def launch(python: str, mode: str, directory: Path, world: int) -> dict[str, dict[str, Tensor]]:
    """Run ``world`` ranks to their end. A rank that hangs says where it stands (see the worker), and fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = []
    for rank in range(world):
        with (directory / f"{mode}-{rank}.log").open("wb") as log:
            ranks.append(
                subprocess.Popen(
                    [*shlex.split(python), str(WORKER), mode, str(directory), str(rank), str(world)],
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
            say = f"{name}, {key}: {{}}".format
            torch.testing.assert_close(found[name][key], value, rtol=0, atol=1e-12, msg=say)


def test_replicas_end_where_one_process_ends(python: str, tmp_path: Path) -> None:
    found = launch(python, "ddp", tmp_path, 2)
    zero = {name: found.pop(f"{name}, ZeRO") for name in ARMS}
    compare(found)
    for name, parameters in zero.items():
        assert parameters
        for key, value in parameters.items():
            torch.testing.assert_close(
                value, found[name][key], rtol=0, atol=1e-12, msg=lambda m, key=key, name=name: f"{name}, {key}: {m}"
            )


def test_shards_end_where_one_process_ends_and_their_checkpoint_goes_on_in_one(python: str, tmp_path: Path) -> None:
    compare(launch(python, "save", tmp_path, 2))
    compare(launch(python, "resume", tmp_path, 1))


@pytest.mark.parametrize("world", [2, 4])
def test_partial_gradients_of_sequence_parallel_layers_are_summed(python: str, tmp_path: Path, world: int) -> None:
    """Norms and biases are replicated, and each rank has the gradient of its positions; on 4 ranks FSDP2 after that."""
    found = launch(python, "sequence", tmp_path, world)
    assert found.keys() == SEQUENTIAL.keys()
    for name, (arm, norm) in SEQUENTIAL.items():
        expected = sequential(arm, norm)
        # One process whose gradients are rounded otherwise ends as far away.
        rounded = arm == "kronecker" and norm is nn.LayerNorm
        bound = max(distance(sequential(arm, norm, seed), expected) for seed in range(4)) if rounded else 1e-12
        assert distance(found[name], expected) <= bound <= 1e-8, name


def sequential(arm: str, norm: type[nn.Module], seed: int | None = None) -> dict[str, Tensor]:
    """The parameters that one process trains; with ``seed`` from gradients that are changed by about two roundings."""
    model = Block(norm)
    optimizer = ARMS[arm](model.named_parameters())
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        for p in model.parameters():
            p.register_hook(lambda g: g * (1 + 4e-16 * torch.randn(g.shape, generator=generator, dtype=g.dtype)))
    train(model, optimizer, SEQUENCES)
    return {name: p.detach() for name, p in model.named_parameters()}


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max(float((found[name] - p).abs().max()) for name, p in expected.items())


def test_shares_are_disjoint_complete_and_balanced() -> None:
    costs = [9.0, 1, 1, 1, 5, 4, 3, 3]
    shares = _shares(costs, 3)
    assert sorted(i for share in shares for i in share) == list(range(len(costs)))
    assert [sum(costs[i] for i in share) for share in shares] == [9, 9, 9]
    assert _shares([1.0], 3)[2] == []


@pytest.fixture(scope="module")
def ranks(python: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """What four ranks found in all placements; and where their checkpoints are, beside one of one process."""
    directory, world = tmp_path_factory.mktemp("placed"), 4
    for name in MOVED:
        for rule in RULES[1:]:
            shapes = PLACED[name][0]
            model, optimizer = alone(shapes, rule, 3)
            state = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer, options=FLAT), strict=True))
            dcp.save(state, checkpoint_id=str(directory / f"one, {name}, {rule}"), no_dist=True)
    first = launch(python, "placed", directory, world)
    others = [torch.load(directory / f"placed-{world}-{r}.pt", weights_only=True) for r in range(1, world)]
    return directory, [first, *others]


def alone(
    shapes: list[tuple[int, ...]], rule: str, steps: int, dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """One process that has all."""
    model = hidden(start(shapes, dtype))
    optimizer = optimizer_of(model, rule)
    go(model, optimizer, 0, steps)
    return model, optimizer


def equal(found: list[Tensor], expected: nn.Module) -> None:
    for a, b in zip(found, expected.parameters(), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", PLACED)
def test_matrices_go_to_their_owners_and_back(ranks: tuple[Path, list[dict[str, Any]]], name: str, rule: str) -> None:
    """Each matrix is computed once, by the rank that has its state, in the placements that have owners."""
    shapes, _, divided = PLACED[name]
    found = [rank[f"{name}, {rule}"] for rank in ranks[1]]
    model, optimizer = alone(shapes, rule, 4)
    for one in found:
        equal(one["params"], model)
        assert all(map(torch.equal, one["params"], found[0]["params"]))
    with_state = rule != "spectral"
    # What has no owner: the state of experts that are divided otherwise than evenly and in one way.
    gathered = with_state and name in ("uneven experts", "experts and rows", "experts of replicas")
    times = 4 if gathered else 1
    number = sum(shape[0] if len(shape) == 3 else 1 for shape in shapes)
    if "spectral" in rule:
        assert sum(one["matrices"] for one in found) == times * number
        assert all(one["matrices"] > 0 for one in found) or name in ("uneven experts", "plain, one")
        if name == "tensor parallel":  # four matrices of one cost
            assert [one["matrices"] for one in found] == [1, 1, 1, 1]
    assert sum(one["state"]["matrices"] for one in found) == times * held(optimizer)["matrices"]
    if gathered:
        return
    lists = 2 if "kronecker" in rule else 1
    for one in found:
        exchanges = [size for call, size in one["calls"] if "alltoall" in call]
        gathers = [size for call, size in one["calls"] if "allgather" in call]
        broadcasts = [size for call, size in one["calls"] if "broadcast" in call]
        assert len(exchanges) + len(gathers) + len(broadcasts) == len(one["calls"])
        cuts = sum(way != "-" and ("experts" not in name or way == "1") for way in divided)
        assert len(exchanges) == 2 * cuts
        assert len(gathers) == (name == "plain" or divided.count("-"))
        assert all(one["shards"] <= size <= 2 * one["shards"] for size in gathers[-1:])  # all, with the padding
        assert broadcasts == ([one["shards"]] if name == "plain, one" else [])
        if cuts == 1 and name != "replicas":
            assert exchanges[0] == lists * one["shards"]
    if name in ("rows", "columns", "replicas"):  # there and back, whatever the number of ranks
        moved = sum(size for one in found for call, size in one["calls"] if "alltoall" in call)
        assert moved == (lists + 1) * sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize("rule", RULES[1:])
@pytest.mark.parametrize("name", MOVED)
def test_the_state_of_owners_moves_between_numbers_of_ranks(
    ranks: tuple[Path, list[dict[str, Any]]], name: str, rule: str
) -> None:
    """From four ranks to one, from one to four, and whole (``full_state_dict``)."""
    directory, found = ranks
    shapes = PLACED[name][0]
    expected, _ = alone(shapes, rule, 6)
    model = hidden([torch.zeros(shape, dtype=torch.float64) for shape in shapes])
    optimizer = optimizer_of(model, rule)
    load(model, optimizer, directory / f"{name}, {rule}")
    go(model, optimizer, 3, 3)
    equal(list(model.parameters()), expected)
    for rank in found:
        equal(rank[f"moved {name}, {rule}"]["resumed"], expected)
    _, before = alone(shapes, rule, 3)
    (names,) = (group["param_names"] for group in before.param_groups)
    for key, p in zip(names, before.param_groups[0]["params"], strict=True):
        full = found[0][f"moved {name}, {rule}"]["full"][key]
        assert full.keys() == before.state[p].keys()
        for part, value in before.state[p].items():
            torch.testing.assert_close(full[part], value, rtol=0, atol=1e-11, msg=lambda m, part=part: f"{part}: {m}")


def test_a_step_of_12_mib_of_hidden_matrices_on_four_ranks(ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    """Four layers of width 256 in float32: 3 MiB of shards per rank, of which a quarter stays, there and back."""
    mib = 2**20
    for rank in ranks[1]:
        assert len(rank["spectral"]["calls"]) == 2
        assert rank["spectral"]["sent"] == 4.5 * mib
        assert rank[SHORT]["sent"] == 2.25 * mib
        assert rank["kronecker"]["sent"] == 6.75 * mib  # directions and gradients there, updates back
        # 107 MiB where each rank has all factors and bases: 104 of them and of second moments, 3 of velocities.
        assert rank["kronecker"]["state"]["matrices"] == 26 * mib
        assert rank["kronecker"]["state"]["all"] <= 30 * mib
        # As under DDP, where an all-reduce along a ring would send 18 MiB.
        assert len(rank["plain"]["calls"]) == 1
        assert rank["plain"]["sent"] == 9 * mib
        assert rank[f"plain, {SHORT}"]["sent"] == 4.5 * mib
    expected, _ = alone(LAYERS, "spectral", 2, torch.float32)
    for (key, p), first in zip(expected.named_parameters(), start(LAYERS, torch.float32), strict=True):
        assert all(torch.equal(rank["plain"]["moved"][key], p.detach() - first) for rank in ranks[1]), key


def test_matrices_in_buckets_of_their_own_have_different_owners(ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    """The largest share of a bucket goes to the rank with the least in those before: no rank owns two of the costly."""
    found = [rank["one by one"] for rank in ranks[1]]
    assert sorted(one["matrices"] for one in found) == [1, 1, 1, 2]
    model, _ = alone(PLACED["rows"][0], "spectral", 4)
    for one in found:
        equal(one["params"], model)


def test_updates_that_are_exchanged_in_16_bits(ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    """All ranks step to the same weights, and two steps differ from those in float32 by rounding to 8 bits."""
    for key, exact in ranks[1][0]["spectral"]["moved"].items():
        found = [rank[SHORT]["moved"][key] for rank in ranks[1]]
        assert all(torch.equal(one, found[0]) for one in found)
        assert 0 < float((found[0] - exact).norm() / exact.norm()) < 0.01


@pytest.mark.parametrize("name", SHORTENED)
def test_what_is_exchanged_in_16_bits_is_a_quarter_of_64_in_every_placement(
    ranks: tuple[Path, list[dict[str, Any]]], name: str
) -> None:
    """What stays on its rank is not rounded, and the owner takes the update that it sends: replicas are equal."""
    exact = [rank[f"{name}, {RULES[1]}"] for rank in ranks[1]]
    found = [rank[f"{name}, short"] for rank in ranks[1]]
    for one, whole in zip(found, exact, strict=True):
        assert [[call, 4 * size] for call, size in one["calls"]] == whole["calls"]
        assert all(map(torch.equal, one["params"], found[0]["params"]))
    shapes = PLACED[name][0]
    if name == "experts":  # a rank computes those that it has
        assert not found[0]["calls"]
        assert all(map(torch.equal, found[0]["params"], exact[0]["params"]))
        return
    assert not all(map(torch.equal, found[0]["params"], exact[0]["params"]))
    for p, other, begin in zip(found[0]["params"], exact[0]["params"], start(shapes, torch.float64), strict=True):
        assert float((p - other).norm() / (other - begin).norm()) < 0.01
    if name.startswith(("plain", "nothing")):
        original = Shared.share

        def rounded(self: Shared, *arguments: Any) -> list[Tensor]:
            return [u.bfloat16().to(u.dtype) for u in original(self, *arguments)]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Shared, "share", rounded)
            expected, _ = alone(shapes, SHORT_EVEN, 4)
        equal(found[0]["params"], expected)
