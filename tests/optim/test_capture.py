"""Steps for CUDA graphs: the same launches in every step, and trajectories equal to those of an ordinary step.

A graph is played on a CPU: what torch is asked for in one step is asked for again, on the same tensors.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerator import parameters
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import sabun
from sabun.errors import OptionError
from sabun.optim import create, update

CAPTURED = ("sgd", "heavy-ball", "nesterov", "qhm", "adamw", "nadamw", "lion", "muon", "mars", "sabun")
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"weight_decay": 0.1, "decoupled": False, "maximize": True},
    {"averaging": "ema(decay=0.9)"},
    {"start_up": "unbiased", "weight_decay": 0.2},
)


def memory(t: Tensor) -> tuple[int, int]:
    return t.untyped_storage().data_ptr(), t.storage_offset()


class Graph(TorchDispatchMode):
    """Records what a step asks torch for; :meth:`replay` asks for it again, and reads nothing from the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function is not torch.ops.aten._local_scalar_dense.default, "a value is read"
        out = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, out in self.calls:
            again = function(*args, **kwargs)
            for old, new in zip(tree_flatten(out)[0], tree_flatten(again)[0], strict=True):
                if isinstance(old, Tensor) and memory(old) != memory(new):
                    old.copy_(new)

    @property
    def numbers(self) -> list[tuple[str, list[Any]]]:
        """The operations, with their arguments that are no tensors."""
        return [
            (str(function), [repr(x) for x in tree_flatten((args, kwargs))[0] if not isinstance(x, Tensor)])
            for function, args, kwargs, _ in self.calls
            if function.namespace == "aten"
        ]


class Training:
    def __init__(self, preset: str, dtype: torch.dtype = torch.float64, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(9, 14), nn.Tanh(), nn.Linear(14, 14), nn.Linear(14, 3)).to(dtype)
        self.optimizer = create(preset, self.model, **options)
        self.generator = torch.Generator().manual_seed(1)
        for p in self.model.parameters():
            p.grad = torch.zeros_like(p)

    def gradients(self) -> None:
        for p in self.model.parameters():
            assert p.grad is not None
            p.grad.copy_(torch.randn(p.shape, generator=self.generator).to(p.dtype) + p.detach())

    def held(self) -> list[Tensor]:
        state = [t for p in self.model.parameters() for _, t in sorted(self.optimizer.state[p].items())]
        return [*(p.detach() for p in self.model.parameters()), *state]


def compare(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-12) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, check_device=False)  # of counters


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("preset", CAPTURED)
def test_a_capturable_trajectory_is_the_ordinary_one_and_so_are_replays(
    preset: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step is recorded after two, and repeated under a learning rate that changes."""
    monkeypatch.setattr(update, "bound_on", lambda device: 100)  # the way of an accelerator
    rate = torch.tensor(0.03, dtype=torch.float64)
    ours = Training(preset, lr=rate, capturable=True, **options)
    plain = Training(preset, lr=0.03, **{"fused": None, **options})
    graph = Graph()
    for step in range(6):
        rate.fill_(0.03 / (1 + step))
        for group in plain.optimizer.param_groups:
            group["lr"] = 0.03 / (1 + step)
        for training in (ours, plain):
            training.gradients()
        if step < 2:
            ours.optimizer.step()
        elif step == 2:
            with graph:
                ours.optimizer.step()
        else:
            graph.replay()
        plain.optimizer.step()
    compare(ours.held(), plain.held())


@pytest.mark.parametrize("preset", CAPTURED)
def test_every_step_asks_for_the_same_whatever_its_number(preset: str) -> None:
    """On an accelerator without numbers, from which nothing can be read; also the values that the CPU passes."""
    shapes = [("body.0.weight", (8, 4)), ("body.0.bias", (8,)), ("body.1.weight", (8, 8)), ("head.weight", (3, 8))]
    optimizer = create(preset, parameters(shapes), capturable=True, lr=0.1)
    for group in optimizer.param_groups:
        group["lr"] = torch.empty((), device="meta")
    optimizer.step()
    seen = []
    for _ in range(5):
        with Graph() as graph:
            optimizer.step()
        seen.append(graph.numbers)
    assert seen[0]
    assert all(numbers == seen[0] for numbers in seen)
    assert all(held["step"].is_meta for held in optimizer.state.values() if "step" in held)


def test_counters_move_between_devices_and_checkpoints_between_both_kinds() -> None:
    ours, plain = Training("adamw", capturable=True), Training("adamw")
    for training in (ours, plain):
        for _ in range(3):
            training.gradients()
            training.optimizer.step()
    again = Training("adamw", capturable=True)
    again.model.load_state_dict(plain.model.state_dict())
    again.optimizer.load_state_dict(plain.optimizer.state_dict())
    assert not again.optimizer.param_groups[0]["capturable"]  # a checkpoint brings its options
    for group in again.optimizer.param_groups:
        group["capturable"] = True
    again.generator.set_state(plain.generator.get_state())
    for training in (ours, plain, again):
        training.gradients()
        training.optimizer.step()
    compare(ours.held(), plain.held())
    compare(again.held(), plain.held())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"step_control": "balance"}, "it chooses the step on the CPU"),
        ({"fused": True}, "its numbers come from the CPU"),
        ({"fused": "inductor"}, "its numbers come from the CPU"),
        ({"scheme": "heavy-ball(0.9)", "momentum_end": 0.5}, "the value of the learning rate"),
        ({"preconditioner": "adam", "step_limit": 1.0}, "the value of the learning rate"),
        ({"stochastic_rounding": True}, "counted on the CPU"),
        ({"averaging": "tail"}, "weights are computed on the CPU"),
        ({"averaging": "schedule-free"}, "weights are computed on the CPU"),
        ({"preconditioner": "kronecker"}, "renewed every few steps"),
        ({"scheme": "taylor-4"}, "change places"),
        ({"rest": {"preconditioner": "kronecker"}}, "renewed every few steps"),
    ],
    ids=str,
)
def test_what_cannot_be_captured_is_refused_in_one_sentence(options: dict[str, Any], says: str) -> None:
    p = torch.ones(3, 3, requires_grad=True)
    with pytest.raises(OptionError, match=f"capturable=True does not work with .*{says}") as caught:
        sabun.Optimizer([p], 0.1, capturable=True, **options)
    assert caught.value.fix
    sabun.Optimizer([p], 0.1, **options)


def test_a_capture_needs_the_option_and_a_step_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, plain = Training("adamw", capturable=True), Training("adamw")
    before = [p.detach().clone() for p in ours.model.parameters()]
    with monkeypatch.context() as capturing:
        capturing.setattr(torch.cuda, "is_available", lambda: True)
        capturing.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        for training in (ours, plain):
            with pytest.raises(OptionError, match="capturable=False, or makes state"):
                training.optimizer.step()
    assert all(torch.equal(p, was) for p, was in zip(ours.model.parameters(), before, strict=True))
    ours.optimizer.step()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    ours.optimizer.step()


def test_torchs_capturable_adam_goes_on_as_ours() -> None:
    """torch refuses a capturable step on a CPU, so its own next steps are ordinary ones."""
    p, q = (torch.linspace(-1, 1, 5, dtype=torch.float64).requires_grad_() for _ in range(2))
    optimizer, torchs = (torch.optim.AdamW([x], lr=0.03) for x in (p, q))
    for n in range(5):
        for x in (p, q):
            x.grad = torch.sin(3 * x.detach() + n)
        optimizer.step()
        torchs.step()
        if n == 1:
            optimizer.param_groups[0]["capturable"] = True
            optimizer = sabun.from_torch(optimizer)
            assert optimizer.param_groups[0]["capturable"]
    compare([p.detach()], [q.detach()])
