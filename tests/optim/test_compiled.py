"""The compiled step: equal to the foreach step and to the reference, compiled once, and harmless where it cannot be."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from compiled_steps import SCHEMES, compare, gradients, parameters, run, step_together
from torch import nn

from sabun import Optimizer
from sabun.bench.measurement import peak_extra_bytes
from sabun.errors import SabunWarning
from sabun.optim.compiled import c_compiler, inductor

pytestmark = pytest.mark.cpu_only("steps that are compiled for the CPU")

METRICS = (None, "adam", "sign")
CPU = torch.device("cpu")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_native_equals_foreach_and_the_reference(scheme: str, metric: str | None) -> None:
    compare({"scheme": scheme, "preconditioner": metric})


@pytest.mark.parametrize(
    "options",
    [
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decoupled": False},
        {"maximize": True},
        {"maximize": True, "weight_decay": 0.1, "decoupled": False},
        {"start_up": "unbiased"},
        {"start_up": "hold"},
        {"averaging": "ema(decay=0.8)", "weight_decay": 0.1},
        {"averaging": "tail(start=3)", "start_up": "unbiased"},
        {"averaging": "schedule-free", "weight_decay": 0.1},
        {"averaging": "schedule-free(beta=0.6, power=1)", "start_up": "unbiased"},
    ],
    ids=str,
)
@pytest.mark.parametrize("metric", [None, "adam"])
def test_every_option_of_the_step_is_in_the_formula(options: dict[str, Any], metric: str | None) -> None:
    compare({"scheme": "look-ahead(0.9, 2)", "preconditioner": metric, **options})


def test_inductor_equals_foreach_and_the_reference() -> None:
    compare({"scheme": "nesterov", "preconditioner": "adam", "weight_decay": 0.1}, fused="inductor")
    compare({"scheme": "adams-bashforth-3"}, fused="inductor")


def test_averages_follow_the_compiled_step() -> None:
    averages = []
    for fused in (False, True):
        params = parameters()
        optimizer = Optimizer(params, 0.05, scheme="nesterov", averaging="ema(decay=0.8)", fused=fused)
        run(params, optimizer, 10)
        with optimizer.averaged():
            averages.append([p.detach().clone() for p in params])
    torch.testing.assert_close(averages[1], averages[0], rtol=0, atol=1e-13)


def test_float32_differs_from_float64_by_its_rounding_only() -> None:
    """Twelve steps, a dozen roundings of 6e-8 each at |θ| ≲ 5, stretched by at most (1 + 3·0.05)¹² ≈ 5: below 1e-4;
    in fact errors cancel, and what is asked is that foreach does no better than by a factor of 2."""
    errors = {}
    exact = parameters()
    truth = run(exact, Optimizer(exact, 0.05, scheme="look-ahead(0.9, 2)", preconditioner="adam"), 12)
    for fused in (False, True):
        single = parameters(torch.float32)
        got = run(single, Optimizer(single, 0.05, scheme="look-ahead(0.9, 2)", preconditioner="adam", fused=fused), 12)
        errors[fused] = max((a.double() - b).abs().max().item() for a, b in zip(got, truth, strict=True) if a.numel())
    assert errors[True] < 1e-4
    assert errors[True] <= 2 * errors[False]


def test_bfloat16_parameters_with_float32_state_round_to_nearest_even() -> None:
    # 1 + k/128 are neighbours in bfloat16; half-way cases go to the even one, and what is not finite stays so.
    start = torch.tensor([1.0, 1.0078125, 3.0, float("inf"), float("nan"), -0.0], dtype=torch.bfloat16)
    p = nn.Parameter(start.clone())
    optimizer = Optimizer([p], 1.0, scheme="heavy-ball", momentum=0.5, state_dtype="float32", fused=True)
    p.grad = torch.tensor([-0.0078125, -0.0078125, 0.0, 0.0, 0.0, 0.0], dtype=torch.bfloat16)
    optimizer.step()
    assert optimizer.compile_s > 0
    # heavy ball from rest: v = −(1 − 0.5)g, so each of the first two moves by half a unit in the last place.
    expected = torch.tensor([1.0, 1.015625, 3.0, float("inf"), float("nan"), -0.0], dtype=torch.bfloat16)
    assert torch.equal(p[:4], expected[:4])
    assert p[4].isnan()
    assert p[5] == 0
    assert optimizer.state[p]["velocity_0"].dtype == torch.float32


def test_low_precision_parameters_follow_the_foreach_step() -> None:
    """Both round the same float32 result; where that differs in its last bit, a tie may fall to either neighbour."""
    got = {}
    for fused in (False, True):
        params = parameters(torch.bfloat16)
        options = {"preconditioner": "adam", "state_dtype": "float32", "weight_decay": 0.01}
        optimizer = Optimizer(params, 0.01, scheme="nesterov", fused=fused, **options)
        gradients(params, 1)
        optimizer.step()
        got[fused] = [p.detach().float() for p in params]
    for a, b in zip(got[True], got[False], strict=True):
        assert bool(((a - b).abs() <= b.abs() * 2**-7).all())


@pytest.mark.parametrize("preconditioner", METRICS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_bfloat16_equals_foreach_within_the_tolerance_of_torch(scheme: str, preconditioner: str | None) -> None:
    """Both compute in float32 and round what they store once; a tie may fall to either neighbour.

    The tolerance is that of ``torch.testing`` for bfloat16, over parameters and state. As in torch's own comparison of
    implementations both sides go on from the same numbers after every step.
    """
    for options in (
        {}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled": False}, {"maximize": True}, {"averaging": "ema"},
        {"averaging": "schedule-free", "weight_decay": 0.1},
        {"start_up": "hold"}, {"start_up": "unbiased"}, {"state_dtype": "float32"},
    ):  # fmt: skip
        if preconditioner == "sign" and options.get("decoupled") is False:
            continue  # where g + λθ cancels to the last bit, rounding decides between the signs
        ours, twins = parameters(torch.bfloat16), parameters(torch.bfloat16)
        roles: dict[str, Any] = {"scheme": scheme, "preconditioner": preconditioner, **options}
        optimizer, foreach = Optimizer(ours, 0.05, fused=True, **roles), Optimizer(twins, 0.05, **roles)
        step_together(ours, twins, optimizer, foreach, 5)
        assert optimizer.compile_s > 0, options


def test_memory_order_does_not_matter() -> None:
    """Channels-last kernels with gradients in either order, a transposed matrix, and a view with gaps."""
    torch.manual_seed(0)
    kernel = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    matrix = torch.randn(6, 4, dtype=torch.float64)
    results = []
    for fused in (False, True):
        params = [
            nn.Parameter(kernel.clone().to(memory_format=torch.channels_last)),
            nn.Parameter(matrix.clone().t()),
            nn.Parameter(kernel.clone()),
        ]
        optimizer = Optimizer(params, 0.1, scheme="nesterov", preconditioner="adam", fused=fused)
        for n in range(4):
            params[0].grad = torch.cos(params[0].detach() + n).contiguous()
            params[1].grad = torch.cos(params[1].detach() + n)
            params[2].grad = torch.cos(params[2].detach() + n).to(memory_format=torch.channels_last)
            before = [p.grad.clone() for p in params if p.grad is not None]
            optimizer.step()
            assert all(torch.equal(p.grad, g) for p, g in zip(params, before, strict=True) if p.grad is not None)
        assert (optimizer.compile_s > 0) is fused
        results.append([p.detach().clone() for p in params])
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-13)


def test_a_view_with_gaps_is_stepped_without_touching_the_gaps() -> None:
    base = torch.arange(20, dtype=torch.float64).reshape(4, 5)
    p = nn.Parameter(base[:, :2])
    p.grad = torch.ones(4, 2, dtype=torch.float64)
    Optimizer([p], 0.5, fused=True).step()
    expected = torch.arange(20, dtype=torch.float64).reshape(4, 5)
    expected[:, :2] -= 0.5
    assert torch.equal(base, expected)


def test_complex_parameters() -> None:
    results = []
    for fused in (False, True):
        p = nn.Parameter(torch.tensor([1 + 2j, -0.5j], dtype=torch.complex128))
        optimizer = Optimizer([p], 0.1, scheme="nesterov", preconditioner="adam", fused=fused)
        for _ in range(5):
            p.grad = p.detach() * (0.3 + 0.1j)
            optimizer.step()
        results.append(p.detach().clone())
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-13)


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            torch.manual_seed(0)
            params = [nn.Parameter(torch.randn(n)) for n in (50_001, 7, 20_000, 1)]
            optimizer = Optimizer(params, 0.1, scheme="look-ahead(0.9, 2)", preconditioner="adam", fused=True)
            results.append(run(params, optimizer, 3))
        finally:
            torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# ---------------------------------------------------------------------- compiled once


@pytest.mark.parametrize("tensor_lr", [False, True])
def test_a_schedule_of_every_step_compiles_nothing(tensor_lr: bool) -> None:
    results = []
    for fused in (False, True):
        params = parameters()
        lr = torch.tensor(0.05) if tensor_lr else 0.05
        optimizer = Optimizer(params, lr, scheme="nesterov", preconditioner="adam", weight_decay=0.1, fused=fused)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
        results.append(run(params, optimizer, 1000, schedule=schedule))
    assert optimizer._engine.compiled == 1
    # The flow of this field contracts, so rounding does not pile up: the bound is that of twelve steps.
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-13)


def graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def test_a_schedule_of_every_step_makes_one_graph() -> None:
    params = parameters()
    optimizer = Optimizer(params, torch.tensor(0.3), scheme="nesterov", weight_decay=0.1, fused="inductor")
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=1000)  # cycles β as well
    before = graphs()
    run(params, optimizer, 999, schedule=schedule)
    assert graphs() - before == 1
    assert optimizer._engine.compiled == 1


@pytest.mark.parametrize("way", ["native", "inductor"])
def test_a_gradient_that_is_missing_once_compiles_nothing(way: str) -> None:
    before = graphs()
    results = []
    for fused in (False, way):
        params = parameters()
        optimizer = Optimizer(params, 0.05, scheme="nesterov", fused=fused)
        for n in range(8):
            gradients(params, n)
            if n == 3:
                params[1].grad = None
            optimizer.step()
        results.append([p.detach().clone() for p in params])
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-13)
    assert optimizer._engine.compiled == 1
    assert graphs() - before == (way == "inductor")


def test_every_group_gets_its_graph_at_once_and_a_lasting_change_gets_one_in_the_end() -> None:
    first, second = parameters()[:2], parameters(seed=1)[:2]
    groups = [{"params": first}, {"params": second, "lr": 0.01}]
    optimizer = Optimizer(groups, 0.05, scheme="nesterov", fused="inductor")
    twins = parameters()[:2], parameters(seed=1)[:2]
    plain = Optimizer([{"params": twins[0]}, {"params": twins[1], "lr": 0.01}], 0.05, scheme="nesterov")
    counts = []
    for n in range(8):
        for some in (first, second, *twins):
            gradients(some, n)
        if n >= 2:
            first[1].grad = twins[0][1].grad = None  # frozen from here on
        optimizer.step()
        plain.step()
        counts.append(optimizer._engine.compiled)
    assert counts == [2, 2, 2, 2, 2, 3, 3, 3]
    for a, b in zip((*first, *second), (*twins[0], *twins[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_running_out_of_memory_is_not_taken_for_a_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(inductor, "make_graph", lambda rule: inductor.Graph(full))
    params = parameters()
    gradients(params, 0)
    with pytest.raises(torch.OutOfMemoryError):
        Optimizer(params, 0.05, fused="inductor").step()


def test_a_graph_that_cannot_be_compiled_leaves_the_foreach_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no working C++ compiler\nand a long trace")

    monkeypatch.setattr(inductor, "make_graph", lambda rule: inductor.Graph(broken))
    params, twin = parameters(), parameters()
    optimizer = Optimizer(params, 0.05, scheme="nesterov", fused="inductor")
    gradients(params, 0)
    with pytest.warns(SabunWarning, match=r"torch.compile failed \(no working C\+\+ compiler\)") as caught:
        optimizer.step()
    assert len(caught) == 1
    for n in range(1, 3):
        gradients(params, n)
        optimizer.step()
    expected = run(twin, Optimizer(twin, 0.05, scheme="nesterov"), 3)
    assert all(torch.equal(a, b) for a, b in zip(params, expected, strict=True))


def test_one_kernel_serves_all_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    c_compiler.library.cache_clear()
    for n in (3, 17, 1000):
        params = [nn.Parameter(torch.ones(n, n + i)) for i in range(5)]
        run(params, Optimizer(params, 0.1, scheme="nesterov", fused=True), 2)
    assert c_compiler.library.cache_info().misses == 1


# ---------------------------------------------------------------------- being an optimizer like any other


def test_a_checkpoint_goes_from_compiled_to_foreach_and_back() -> None:
    params, twin = parameters(), parameters()
    straight = Optimizer(twin, 0.05, scheme="taylor-4", preconditioner="adam")
    expected = run(twin, straight, 9)
    optimizer = Optimizer(params, 0.05, scheme="taylor-4", preconditioner="adam", fused=True)
    for start, fused in ((0, False), (3, True), (6, False)):
        for n in range(start, start + 3):
            gradients(params, n)
            optimizer.step()
        saved = copy.deepcopy(optimizer.state_dict())
        optimizer = Optimizer(params, 0.05, scheme="taylor-4", preconditioner="adam", fused=fused)
        optimizer.load_state_dict(saved)
        for group in optimizer.param_groups:
            group["fused"] = fused
    torch.testing.assert_close([p.detach() for p in params], expected, rtol=0, atol=1e-13)


def test_autograd_sees_that_a_parameter_has_changed() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = Optimizer([p], 0.1, scheme="nesterov", fused=True)
    loss = (p * p).sum()
    p.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_autograd_sees_it_of_a_parameter_that_took_over_the_memory_of_another() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = Optimizer([p], 0.1, scheme="nesterov", fused=True)
    p.grad = torch.ones(3)
    optimizer.step()
    q = nn.Parameter(p.data)
    optimizer.param_groups[0]["params"] = [q]
    optimizer.state[q] = optimizer.state.pop(p)
    loss = (q * q).sum()
    q.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_copy_of_the_optimizer_steps_too() -> None:
    params = parameters()
    optimizer = Optimizer(params, 0.05, scheme="nesterov", fused=True)
    run(params, optimizer, 2)
    twin = copy.deepcopy(optimizer)
    copies = [p for group in twin.param_groups for p in group["params"]]
    torch.testing.assert_close(run(copies, twin, 2), run(params, optimizer, 2), rtol=0, atol=0)


@pytest.mark.parametrize("metric", [None, "adam"])
def test_no_memory_beyond_the_state(metric: str | None) -> None:
    params = [nn.Parameter(torch.randn(100, 100)) for _ in range(8)]
    gradients(params, 0)
    optimizer = Optimizer(params, 0.1, scheme="look-ahead(0.9, 2)", preconditioner=metric, fused=True)
    optimizer.step()
    assert peak_extra_bytes(optimizer.step, CPU) < 1000  # the parameters' own 40,000 bytes each would show


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (lambda params: torch.optim.SGD(params, 0.1, momentum=0.9, foreach=True), {"scheme": "heavy-ball"}),
        (
            lambda params: torch.optim.AdamW(params, 0.1, foreach=True),
            {"scheme": "heavy-ball", "preconditioner": "adam"},
        ),
    ],
    ids=["momentum", "adam"],
)
def test_the_foreach_step_holds_no_more_than_that_of_torch(theirs: Any, ours: dict[str, Any]) -> None:
    held = []
    for make in (theirs, lambda params: Optimizer(params, 0.1, **ours)):
        params = [nn.Parameter(torch.randn(100, 100)) for _ in range(8)]
        gradients(params, 0)
        optimizer = make(params)
        optimizer.step()
        held.append(peak_extra_bytes(optimizer.step, CPU))
    assert held[1] <= held[0] + 1000


# ---------------------------------------------------------------------- without a compiler


@pytest.fixture
def no_kernels() -> Iterator[None]:
    c_compiler.library.cache_clear()
    yield
    c_compiler.library.cache_clear()


@pytest.mark.usefixtures("no_kernels")
@pytest.mark.parametrize(("compiler", "reason"), [("/nowhere/cc", "was not found"), ("false", "false failed")])
def test_without_a_compiler_it_says_so_once_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, compiler: str, reason: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    params, twin = parameters(), parameters()
    optimizer = Optimizer(params, 0.05, scheme="nesterov", fused=True)
    gradients(params, 0)
    with pytest.warns(SabunWarning, match=reason) as caught:
        optimizer.step()
    assert len(caught) == 1
    assert "Install a C compiler" in str(caught[0].message)
    assert caught[0].filename == __file__, "the warning should point at the user's call of step()"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in range(1, 5):
            gradients(params, n)
            optimizer.step()
    expected = run(twin, Optimizer(twin, 0.05, scheme="nesterov"), 5)
    assert all(torch.equal(a, b) for a, b in zip(params, expected, strict=True))
    assert optimizer.compile_s == 0


@pytest.mark.usefixtures("no_kernels")
def test_a_compiler_without_the_usual_flags_will_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    plain = tmp_path / "plain-cc"
    plain.write_text('#!/bin/sh\ncase "$*" in *-march=native*|*-fopenmp*) exit 1;; esac\nexec cc "$@"\n')
    plain.chmod(0o755)
    monkeypatch.setenv("CC", str(plain))
    compare({"scheme": "nesterov", "preconditioner": "adam"})


def test_an_unknown_way_is_refused() -> None:
    from sabun.errors import OptionError

    with pytest.raises(OptionError, match="fused must be"):
        Optimizer(parameters(), 0.1, fused="cuda")
