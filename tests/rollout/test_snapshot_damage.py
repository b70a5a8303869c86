"""Damaged files of a guard: a state is whole, or it is not restored."""

from __future__ import annotations

from pathlib import Path

import torch

from sabun.errors import StateError
from sabun.rollout.guard.snapshots import DiskSnapshots, Snapshot

from ..damage import EXAMPLES, damaged


def a_state(step: int) -> Snapshot:
    generator = torch.Generator().manual_seed(step)
    weights = {"w": torch.randn(8, 8, generator=generator)}
    optimizer = {
        "state": {0: {"m": torch.randn(8, 8, generator=generator)}},
        "param_groups": [{"lr": 0.1, "params": [0]}],
    }
    return Snapshot(step, 0.5, weights, optimizer, {"a": 1})


def test_a_state_of_a_guard(tmp_path: Path) -> None:
    for name, step in (("g", 7), ("other", 9)):
        held = DiskSnapshots(tmp_path / name, 2)
        held.open()
        held.put(a_state(step))
        held.close()
    path, expected = tmp_path / "g" / "good-7.pt", a_state(7)
    whole, other = path.read_bytes(), (tmp_path / "other" / "good-9.pt").read_bytes()
    refused = 0

    def check(content: bytes) -> None:
        nonlocal refused
        path.write_bytes(content)
        held = DiskSnapshots(tmp_path / "g", 2)
        try:
            held.open(resuming=True)
            found = held.get(7)
        except StateError:
            found = None
        finally:
            held.close()
        if found is None:
            refused += 1
            return
        assert content == whole
        assert torch.equal(found.tensors["w"], expected.tensors["w"])

    damaged(whole, other, check)
    assert refused > EXAMPLES // 2
