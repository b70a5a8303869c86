"""torch's own generic optimizer checks, written for a third-party class with the helpers that are in torch's wheel.

torch runs them over its ``optim_db`` in ``test/test_optim.py``, which is not in the wheel; their inputs, trackers and
the crossing with foreach and fused are (``torch.testing._internal.common_optimizers``). :data:`CHECKS` says of each of
torch's checks where it runs here, or why it cannot.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.testing._internal.common_optimizers import (
    OptimizerInfo,
    OptimizerInput,
    TensorTracker,
    _get_optim_inputs_including_global_cliquey_kwargs,
    get_error_inputs_for_all_optims,
)
from torch.testing._internal.common_utils import TestCase

import sabun
from sabun.bench.measurement import peak_extra_bytes
from sabun.errors import GradientError
from sabun.optim import RungeKutta

CHECKS: dict[str, str] = {
    "test_optim_infos_do_not_specify_global_cliquey_kwargs": "test_inputs_leave_the_implementation_open",
    "test_errors": "test_error_inputs",
    "test_forloop_goes_right_direction": "test_goes_in_the_right_direction",
    "test_forloop_goes_right_direction_multigpu": "needs two GPUs",
    "test_param_group_with_lrscheduler_goes_right_direction": "test_a_group_under_a_scheduler_goes_the_right_way",
    "test_tensor_lr": "test_tensor_lr",
    "test_rosenbrock_sparse": "sparse gradients are refused: test_sparse_is_refused",
    "test_complex": "test_complex_is_its_real_view",
    "test_complex_2d": "test_complex_is_its_two_parts",
    "test_foreach_matches_forloop": "test_implementations_agree",
    "test_fused_matches_forloop": "test_implementations_agree",
    "test_mixed_device_dtype": "test_dtypes_may_be_mixed; other devices need a GPU",
    "test_set_default_dtype_works_with_foreach": "test_the_default_dtype_changes_nothing",
    "test_foreach_large_tensor": "needs a GPU of 72 GB",
    "test_fused_large_tensor": "needs 64 GB",
    "test_peak_memory_foreach": "test_peak_memory_of_foreach",
    "test_fused_error_on_params_on_meta": "test_fused_on_meta_parameters",
    "test_fused_does_not_step_if_foundinf": "a protocol of torch's fused kernels; sabun lets GradScaler unscale: "
    "test_contract.test_a_grad_scaler_skips_what_overflowed_and_steps_the_rest",
    "test_cpu_load_state_dict": "needs a GPU",
    "test_param_groups_weight_decay": "test_groups_with_their_own_weight_decay",
    "test_param_groups_lr": "test_groups_with_their_own_lr",
    "test_step_is_noop_when_params_have_no_grad": "test_no_gradient_is_no_step",
    "test_step_is_noop_for_zero_grads": "test_a_zero_gradient_is_no_step",
    "test_optimizer_can_be_printed": "test_it_can_be_printed",
    "test_state_dict_deterministic": "test_state_dict_is_deterministic",
    "test_can_load_older_state_dict": "test_an_older_state_dict_can_be_loaded",
    "test_can_load_from_to_named_state_dict": "test_named_and_unnamed_state_dicts_load_into_each_other",
    "test_save_load_equality_with_weights_only": "test_saved_and_loaded_state_is_equal",
    "test_load_nontensor_step": "test_a_step_that_is_no_tensor_can_be_loaded",
    "test_state_dict_with_cuda_params": "needs a GPU",
    "test_state_dict_pre_hook": "test_state_dict_hooks",
    "test_state_dict_post_hook": "test_state_dict_hooks",
    "test_state_dict_pre_post_hook": "test_state_dict_hooks",
    "test_load_state_dict_pre_hook_and_prepend": "test_load_state_dict_hooks",
    "test_load_state_dict_post_hook": "test_load_state_dict_hooks",
    "test_load_state_dict_pre_post_hook": "test_load_state_dict_hooks",
    "test_step_pre_hook": "test_step_hooks",
    "test_step_post_hook": "test_step_hooks",
    "test_step_all_hooks": "test_step_hooks",
    "test_deepcopy_copies_all_public_attrs": "test_a_deepcopy_has_all_public_attributes",
    "test_second_order_optims_return_consistent_types": "is about the tolerances of LBFGS",
    "test_fused_cpu_matches_cuda": "needs a GPU",
    "test_defaults_changed_to_foreach": "looks for torch's own functions by name",
    "test_non_empty_state": "test_state_is_never_empty",
}
"""torch's check → the test here that does its work, or the reason why there is none."""


equal = TestCase().assertEqual
"""Of nested values with tensors in them, as torch's own tests compare."""


class _Multistep(sabun.Optimizer):
    """torch constructs optimizers without a learning rate, which sabun refuses."""

    def __init__(self, params: Any, lr: Any = 1e-3, **options: Any) -> None:
        super().__init__(params, lr, **options)


class _RungeKutta(RungeKutta):
    def __init__(self, params: Any, lr: Any = 1e-3, **options: Any) -> None:
        super().__init__(params, lr, **options)


SOAP = "kronecker(refresh_every=2)"


def _inputs(device: str, dtype: object = None) -> list[OptimizerInput]:
    rows = {
        "default": {},
        "non-default lr": {"lr": 1e-2},
        "tensor lr": {"lr": torch.tensor(0.001)},
        "weight_decay": {"weight_decay": 0.1},
        "L2": {"scheme": "nesterov", "weight_decay": 0.1, "decoupled": False},
        "maximize": {"scheme": "heavy-ball", "maximize": True, "weight_decay": 0.1},
        "two taps": {"scheme": "taylor-4", "preconditioner": "adam"},
        "look-ahead": {"scheme": "look-ahead(0.9, 2)", "preconditioner": "adam"},
        "lion": {"scheme": "lion", "preconditioner": "sign"},
        "muon": {"scheme": "nesterov", "preconditioner": "spectral"},
        "soap": {"scheme": "heavy-ball", "preconditioner": SOAP},
        "ema": {"scheme": "nesterov", "averaging": "ema"},
        "schedule-free": {"preconditioner": "adam", "averaging": "schedule-free"},
    }
    return [OptimizerInput(params=None, kwargs=kwargs, desc=name) for name, kwargs in rows.items()]


def _runge_kutta_inputs(device: str, dtype: object = None) -> list[OptimizerInput]:
    rows = {"default": {}, "four stages": {"scheme": "rk4", "lr": 1e-2}, "tensor lr": {"lr": torch.tensor(0.001)},
            "L2": {"scheme": "ralston", "weight_decay": 0.1, "decoupled": False},
            "maximize": {"maximize": True, "weight_decay": 0.1}}  # fmt: skip
    return [OptimizerInput(params=None, kwargs=kwargs, desc=name) for name, kwargs in rows.items()]


INFOS = {
    "multistep": OptimizerInfo(
        _Multistep,
        optim_inputs_func=_inputs,
        supported_impls=("foreach", "fused"),
        supports_fused_on=("cpu",),
        not_og_supported_flags=("foreach", "fused", "maximize", "decoupled", "divide"),
    ),
    "runge-kutta": OptimizerInfo(
        _RungeKutta,
        optim_inputs_func=_runge_kutta_inputs,
        supported_impls=(),
        not_og_supported_flags=("maximize", "decoupled", "tolerance"),
        step_requires_closure=True,
    ),
}


def _configurations(*names: str, implementations: bool = True) -> list[Any]:
    """(info, options) for every input, crossed with the implementations by torch's own helper."""
    found = []
    for name in names or INFOS:
        info = INFOS[name]
        inputs = _get_optim_inputs_including_global_cliquey_kwargs("cpu", None, info)
        if not implementations:
            inputs = info.optim_inputs_func("cpu")
        seen: dict[str, int] = {}
        for given in inputs:
            seen[given.desc] = seen.get(given.desc, 0) + 1
            found.append(pytest.param(info, given.kwargs, id=f"{name}-{given.desc}".replace(" ", "-")))
    return found


everywhere = pytest.mark.parametrize(("info", "options"), _configurations())
plainly = pytest.mark.parametrize(("info", "options"), _configurations(implementations=False))
multistep = pytest.mark.parametrize(("info", "options"), _configurations("multistep", implementations=False))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def fresh(options: dict[str, Any]) -> dict[str, Any]:
    """A tensor lr must not be shared by two tests."""
    return deepcopy(options)


class Problem:
    """‖Wx + b‖² in float32, torch's usual one."""

    def __init__(self, contiguous: bool = True) -> None:
        if contiguous:
            self.weight, self.bias = Parameter(torch.randn(10, 5)), Parameter(torch.randn(10))
        else:
            self.weight, self.bias = Parameter(torch.randn(10, 5, 2)[..., 0]), Parameter(torch.randn(10, 2)[..., 0])
        self.input = torch.randn(5)

    @property
    def params(self) -> list[Parameter]:
        return [self.weight, self.bias]

    def loss(self) -> Tensor:
        return (self.weight.mv(self.input) + self.bias).pow(2).sum()

    def closure(self, optimizer: torch.optim.Optimizer) -> Callable[[], Tensor]:
        def call() -> Tensor:
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            return loss

        return call

    def step(self, optimizer: torch.optim.Optimizer) -> Tensor:
        return optimizer.step(self.closure(optimizer))


def check_direction(problem: Problem, optimizer: torch.optim.Optimizer, options: dict[str, Any], schedulers=()) -> None:
    before = problem.loss().item()
    for _ in range(20):
        loss = problem.step(optimizer)
        for scheduler in schedulers:
            scheduler.step(*([loss.detach()] if isinstance(scheduler, ReduceLROnPlateau) else []))
    after = problem.loss().item()
    assert after > before if options.get("maximize") else after < before


def test_the_table_is_true() -> None:
    here = globals()
    for check, where in CHECKS.items():
        name = where.partition(";")[0]
        if name.startswith("test_") and "." not in name:
            assert callable(here.get(name)), f"{check}: there is no {name}"
        else:
            assert " " in where, f"{check}: no reason is given"
    written = {name for name in here if name.startswith("test_")}
    told = {part.strip() for where in CHECKS.values() for part in where.replace(";", ":").split(":")}
    assert written - told == {"test_the_table_is_true"}


def test_inputs_leave_the_implementation_open() -> None:
    for info in INFOS.values():
        for given in info.optim_inputs_func("cpu"):
            assert not {"foreach", "fused", "differentiable"} & set(given.kwargs)


ERRORS = get_error_inputs_for_all_optims("cpu", torch.float32)


@pytest.mark.parametrize("error", ERRORS, ids=[e.optimizer_error_input.desc for e in ERRORS])
@pytest.mark.parametrize("info", INFOS.values(), ids=INFOS)
def test_error_inputs(info: OptimizerInfo, error: Any) -> None:
    given = error.optimizer_error_input
    params = [Parameter(torch.randn(1))] if given.params is None else given.params
    if isinstance(params, list):
        # torch's constructors fill in the groups that they are given.
        params = [dict(item) if isinstance(item, dict) else item for item in params]
    expects = pytest.warns if issubclass(error.error_type, Warning) else pytest.raises
    with expects(error.error_type, match=error.error_regex):
        info.optim_cls(params, **given.kwargs)


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("scheduled", [True, False])
@plainly
def test_goes_in_the_right_direction(info: OptimizerInfo, options, scheduled: bool, contiguous: bool) -> None:
    for schedulers in info.scheduler_inputs if scheduled else [[]]:
        problem, given = Problem(contiguous), fresh(options)
        if "foreach" in info.supported_impls:
            given["foreach"] = False
        optimizer = info.optim_cls(problem.params, **given)
        check_direction(problem, optimizer, options, [make(optimizer) for make in schedulers])


@pytest.mark.parametrize("info", INFOS.values(), ids=INFOS)
def test_a_group_under_a_scheduler_goes_the_right_way(info: OptimizerInfo) -> None:
    for schedulers in info.scheduler_inputs:
        problem = Problem()
        optimizer = info.optim_cls([{"params": [problem.weight]}, {"params": [problem.bias], "lr": 0.01}])
        check_direction(problem, optimizer, {}, [make(optimizer) for make in schedulers])


@everywhere
def test_tensor_lr(info: OptimizerInfo, options, device: torch.device) -> None:
    options = {key: value for key, value in options.items() if key != "lr"}
    a = Problem()
    b = deepcopy(a)
    number = info.optim_cls(a.params, lr=1e-3, **options)
    tensor = info.optim_cls(b.params, lr=torch.tensor(1e-3, dtype=torch.float64), **options)
    for _ in range(5):
        a.step(number)
        b.step(tensor)
        for p, q in zip(a.params, b.params, strict=True):
            if device.type == "cpu":
                assert torch.equal(p, q)
            else:  # it is not read, and its products are rounded on the device
                torch.testing.assert_close(p, q)
    assert isinstance(tensor.param_groups[0]["lr"], Tensor)


@pytest.mark.not_simulated("sparse tensors")
@plainly
def test_sparse_is_refused(info: OptimizerInfo, options) -> None:
    p = Parameter(torch.tensor([1.5, 1.5]))
    optimizer = info.optim_cls([p], **fresh(options))

    def closure() -> Tensor:
        p.grad = torch.sparse_coo_tensor(torch.tensor([[0, 0]]), torch.tensor([0.5, 1.5]), (2,))
        return p.detach().sum()

    with pytest.raises(GradientError, match="sparse"):
        optimizer.step(closure)
    assert torch.equal(p, torch.tensor([1.5, 1.5]))


def complex_inputs() -> list[Any]:
    return [c for c in _configurations() if c.values[1].get("preconditioner") not in ("spectral", SOAP)]


@pytest.mark.parametrize(("info", "options"), complex_inputs())
def test_complex_is_its_real_view(info: OptimizerInfo, options) -> None:
    shapes = [((10, 5), torch.complex64), ((10,), torch.complex64), ((10, 5), torch.float32)]
    ours = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape, dtype in shapes]
    reals = [(torch.view_as_real(p) if p.is_complex() else p).detach().clone().requires_grad_() for p in ours]
    optimizers = [info.optim_cls(ps, **fresh(options)) for ps in (ours, reals)]
    for _ in range(3):
        grads = [torch.randn_like(p) for p in reals]

        def closure(params: list[Tensor], grads: list[Tensor] = grads) -> Tensor:
            for p, g in zip(params, grads, strict=True):
                p.grad = torch.view_as_complex(g.clone()) if p.is_complex() else g.clone()
            return torch.zeros(())

        for optimizer, params in zip(optimizers, (ours, reals), strict=True):
            optimizer.step(lambda params=params: closure(params))
        for p, q in zip(ours, reals, strict=True):
            torch.testing.assert_close(torch.view_as_real(p) if p.is_complex() else p, q)


def rosenbrock(point: Tensor) -> Tensor:
    x, y = point
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


@pytest.mark.parametrize(("info", "options"), complex_inputs())
def test_complex_is_its_two_parts(info: OptimizerInfo, options) -> None:
    z = torch.randn(2, dtype=torch.complex64, requires_grad=True)
    real, imaginary = (part.detach().clone().requires_grad_() for part in (z.real, z.imag))
    one, two = info.optim_cls([z], **fresh(options)), info.optim_cls([real, imaginary], **fresh(options))
    tracker, checker = TensorTracker(), TestCase()
    for _ in range(3):
        parts = []

        def whole() -> Tensor:
            one.zero_grad()
            loss = rosenbrock(z).abs()
            loss.backward()
            return loss

        def halves() -> Tensor:
            two.zero_grad()
            loss = rosenbrock(torch.complex(real, imaginary)).abs()
            loss.backward()
            return loss

        one.step(whole)
        two.step(halves)
        for part in (z.real, z.imag):
            tracker.add(part)
        # The points are set equal, so that rounding does not grow from step to step in this steep valley.
        parts = [real, imaginary]
        for part in parts:
            tracker.pop_check_set(part, checker)
    assert tracker.all_popped()


def compare(first: Any, second: Any, dtype: torch.dtype, tolerances: dict[str, float]) -> None:
    """Seven steps of a small network by two implementations; one without gradients, two with a frozen layer."""
    tracker, checker = TensorTracker(tolerances), TestCase()
    data = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], dtype=dtype).reshape(3, 2)
    sides = []
    for make in (first, second):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), nn.Sigmoid()).to(dtype)
        alone = torch.zeros((), dtype=dtype, requires_grad=True)
        empty = torch.zeros((0,), dtype=dtype, requires_grad=True)
        alone.grad, empty.grad = torch.ones_like(alone), torch.ones_like(empty)
        params = [*model.parameters(), alone, empty]
        sides.append((model, params, make(params)))
    for i in range(7):
        for side, (model, params, optimizer) in enumerate(sides):
            optimizer.zero_grad()
            if i in (3, 5):
                model[2].requires_grad_(i == 5)
            if i != 2:
                model(data).sum().backward()
            optimizer.step()
            for p in params:
                for tensor in (p, *(optimizer.state[p][key] for key in sorted(optimizer.state.get(p, {})))):
                    if side == 0:
                        tracker.add(tensor)
                    else:
                        tracker.pop_check_set(tensor, checker)
    assert tracker.all_popped()


TOLERANCES = {
    torch.float64: {"rtol": 1e-11, "atol": 1e-12},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2e-2, "atol": 1e-2},
}
# A sign, or an entry that is only rounding over ε, may be anything: in low precision there is nothing to compare.
IN_DTYPES = [
    pytest.param(c.values[0], c.values[1], dtype, id=f"{c.id}-{str(dtype).removeprefix('torch.')}")
    for c in _configurations("multistep", implementations=False)
    for dtype in TOLERANCES
    if dtype == torch.float64 or c.values[1].get("preconditioner") not in (SOAP, "sign")
]


@pytest.mark.parametrize("implementation", ["foreach", "fused"])
@pytest.mark.parametrize(("info", "options", "dtype"), IN_DTYPES)
def test_implementations_agree(info: OptimizerInfo, options, dtype: torch.dtype, implementation: str) -> None:
    base = {"foreach": False, "fused": False}
    compare(
        lambda params: info.optim_cls(params, **fresh(options), **base),
        lambda params: info.optim_cls(params, **fresh(options), **{**base, implementation: True}),
        dtype,
        TOLERANCES[dtype],
    )


@pytest.mark.parametrize("implementation", ["foreach", "fused"])
@multistep
def test_dtypes_may_be_mixed(info: OptimizerInfo, options, implementation: str) -> None:
    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    start = [torch.rand(2, 3, dtype=dtype) for dtype in dtypes]
    grads = [torch.rand(2, 3, dtype=dtype) for dtype in dtypes]
    if options.get("preconditioner") == SOAP:
        start, grads = start[:2], grads[:2]
    results = []
    for on in (False, True):
        params = [p.clone().requires_grad_() for p in start]
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        optimizer = info.optim_cls(params, **fresh(options), **{"foreach": False, "fused": False, implementation: on})
        optimizer.step()
        results.append(params)
    for p, q in zip(*results, strict=True):
        rtol, atol = torch.testing._comparison.get_tolerances(p.dtype, rtol=None, atol=None)
        torch.testing.assert_close(p, q, rtol=5 * rtol, atol=5 * atol)


@pytest.mark.parametrize("default", [torch.float64, torch.float16], ids=str)
@multistep
def test_the_default_dtype_changes_nothing(info: OptimizerInfo, options, default: torch.dtype) -> None:
    results = []
    for dtype in (torch.float32, default):
        torch.set_default_dtype(dtype)
        try:
            p = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3).requires_grad_()
            optimizer = info.optim_cls([p], **fresh(options))
            for n in range(4):
                p.grad = torch.cos(3 * p.detach() + n)
                optimizer.step()
            results.append((p.detach(), optimizer.state[p]))
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(results[0][0], results[1][0])
    for key, value in results[0][1].items():
        assert value.dtype == results[1][1][key].dtype
        assert key != "step" or value.dtype == torch.float32


@pytest.mark.cpu_only("memory as the profiler of the CPU sees it")
@multistep
def test_peak_memory_of_foreach(info: OptimizerInfo, options) -> None:
    """At most one intermediate of the size of all parameters beyond the loop's own, as torch asks of its foreach."""
    peaks = []
    for foreach in (False, True):
        params = [torch.rand(16, 8) for _ in range(10)]
        optimizer = info.optim_cls(params, foreach=foreach, **fresh(options))
        for p in params:
            p.grad = torch.rand_like(p)
        optimizer.step()
        peaks.append(peak_extra_bytes(optimizer.step, torch.device("cpu")))
    whole = sum(p.nbytes for p in params)
    # What the iteration holds of one matrix in the loop, it holds of all ten at once: X, XXᵀ, its square, and sums.
    intermediates = {"spectral": 6, SOAP: 2}.get(options.get("preconditioner"), 1)
    assert peaks[1] <= peaks[0] + intermediates * whole


def test_fused_on_meta_parameters() -> None:
    """torch refuses them; here the step is carried out on shapes alone, and nothing is compiled."""
    p = Parameter(torch.ones(2, 3, device="meta"))
    p.grad = torch.ones(2, 3, device="meta")
    optimizer = _Multistep([p], scheme="nesterov", fused="native")
    optimizer.step()
    assert optimizer.compile_s == 0
    assert optimizer.state[p]["velocity_0"].is_meta


def parts(info: OptimizerInfo, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(for a group, for the constructor): the scheme of a Runge–Kutta method is common to all groups."""
    group = fresh(options)
    whole = {"scheme": group.pop("scheme")} if info.step_requires_closure and "scheme" in group else {}
    return group, whole


@everywhere
def test_groups_with_their_own_weight_decay(info: OptimizerInfo, options) -> None:
    problem = Problem()
    group, whole = parts(info, options)
    groups = [{"params": [problem.weight], **group}, {"params": [problem.bias], **group, "weight_decay": 0.0}]
    check_direction(problem, info.optim_cls(groups, **whole), options)


@everywhere
def test_groups_with_their_own_lr(info: OptimizerInfo, options) -> None:
    problem, still = Problem(), Parameter(torch.randn(2))
    kept = still.detach().clone()
    group, whole = parts(info, {"lr": 1e-3, **options})
    optimizer = info.optim_cls([{"params": problem.params, **group}, {"params": [still]}], lr=1e-28, **whole)
    before = problem.loss().item()
    for _ in range(20):
        call = problem.closure(optimizer)

        def closure(call: Callable[[], Tensor] = call) -> Tensor:
            loss = call()
            still.grad = torch.ones_like(still)
            return loss

        optimizer.step(closure)
    assert problem.loss().item() > before if options.get("maximize") else problem.loss().item() < before
    torch.testing.assert_close(still.detach(), kept)


@everywhere
def test_no_gradient_is_no_step(info: OptimizerInfo, options) -> None:
    params = [torch.randn(2, 3) for _ in range(2)]
    kept = [p.clone() for p in params]
    info.optim_cls(params, **fresh(options)).step(lambda: torch.ones(1))
    assert all(torch.equal(p, k) for p, k in zip(params, kept, strict=True))


# With weight decay a parameter decays without a gradient too, as torch's does.
@pytest.mark.parametrize(("info", "options"), [c for c in _configurations() if not c.values[1].get("weight_decay")])
def test_a_zero_gradient_is_no_step(info: OptimizerInfo, options) -> None:
    p = torch.randn(5, 2, requires_grad=True)
    kept = p.detach().clone()
    optimizer = info.optim_cls([p], **fresh(options))

    def closure() -> Tensor:
        p.grad = torch.zeros_like(p)
        return torch.zeros(1)

    for _ in range(3):
        optimizer.step(closure)
    torch.testing.assert_close(p.detach(), kept, rtol=0, atol=0)


@everywhere
def test_it_can_be_printed(info: OptimizerInfo, options) -> None:
    text = repr(info.optim_cls([Parameter(torch.randn(2, 3))], **fresh(options)))
    assert all(key in text for key in options)


def named(params: list[Parameter], on: bool) -> Any:
    return [(f"name{i}", p) for i, p in enumerate(params)] if on else params


def without_names(state: dict[str, Any]) -> dict[str, Any]:
    state = deepcopy(state)
    for group in state["param_groups"]:
        group.pop("param_names", None)
    return state


@pytest.mark.parametrize("names", [(True, True), (True, False), (False, True), (False, False)], ids=str)
@plainly
def test_state_dict_is_deterministic(info: OptimizerInfo, options, names: tuple[bool, bool]) -> None:
    problem = Problem()
    optimizer = info.optim_cls(named(problem.params, names[0]), **fresh(options))
    for _ in range(5):
        problem.step(optimizer)
    twin = deepcopy(problem)
    other = info.optim_cls(named(twin.params, names[1]), **fresh(options))
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    for _ in range(5):
        problem.step(optimizer)
        twin.step(other)
        assert all(torch.equal(p, q) for p, q in zip(problem.params, twin.params, strict=True))
    equal(without_names(optimizer.state_dict()), without_names(other.state_dict()))
    # A parameter that occurs twice is written down alike.
    other.param_groups.extend(other.param_groups)
    equal(
        without_names(optimizer.state_dict())["param_groups"][-1], without_names(other.state_dict())["param_groups"][-1]
    )


def convolution() -> tuple[nn.Module, Callable[[torch.optim.Optimizer], Callable[[], Tensor]]]:
    model = nn.Sequential(nn.Conv2d(4, 2, 1, stride=2), nn.BatchNorm2d(2))
    data = torch.rand(1, 4, 16, 16)

    def closure(optimizer: torch.optim.Optimizer) -> Callable[[], Tensor]:
        def call() -> Tensor:
            optimizer.zero_grad()
            loss = model(data).sum()
            loss.backward()
            return loss

        return call

    return model, closure


@everywhere
def test_an_older_state_dict_can_be_loaded(info: OptimizerInfo, options) -> None:
    model, closure = convolution()
    optimizer = info.optim_cls(model.parameters(), **fresh(options))
    for _ in range(3):
        optimizer.step(closure(optimizer))
    state = deepcopy(optimizer.state_dict())
    for group in state["param_groups"]:
        for flag in info.not_og_supported_flags:
            group.pop(flag, None)
    optimizer.load_state_dict(state)
    optimizer.step(closure(optimizer))


@pytest.mark.parametrize("names", [(True, True), (True, False), (False, True), (False, False)], ids=str)
@plainly
def test_named_and_unnamed_state_dicts_load_into_each_other(info: OptimizerInfo, options, names) -> None:
    model, closure = convolution()
    optimizer, other = (
        info.optim_cls(model.named_parameters() if on else model.parameters(), **fresh(options)) for on in names
    )
    for _ in range(3):
        optimizer.step(closure(optimizer))
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    other.step(closure(other))
    if any(names):
        expected = ["0.weight", "0.bias", "1.weight", "1.bias"]
        assert other.state_dict()["param_groups"][0]["param_names"] == expected


@everywhere
def test_saved_and_loaded_state_is_equal(info: OptimizerInfo, options) -> None:
    problem = Problem()
    optimizer = info.optim_cls(named(problem.params, True), **fresh(options))
    for _ in range(3):
        problem.step(optimizer)
    state = optimizer.state_dict()
    for weights_only in (True, False):
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        equal(torch.load(file, weights_only=weights_only), state)


@everywhere
def test_a_step_that_is_no_tensor_can_be_loaded(info: OptimizerInfo, options) -> None:
    problem = Problem()
    optimizer = info.optim_cls(problem.params, **fresh(options))
    for _ in range(3):
        problem.step(optimizer)
    state = deepcopy(optimizer.state_dict())
    for held in state["state"].values():
        if "step" in held:
            held["step"] = held["step"].item()
    optimizer.load_state_dict(state)
    problem.step(optimizer)
    assert all(held["step"].item() == 4 for held in optimizer.state.values() if "step" in held)


@plainly
def test_state_dict_hooks(info: OptimizerInfo, options) -> None:
    def before(optimizer: torch.optim.Optimizer) -> None:
        optimizer.state["test"] = 1

    def after(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "had": state["state"].pop("test", None)}

    for hooks, expected in ((("before",), 1), (("after",), None), (("before", "after"), 1)):
        optimizer = info.optim_cls([torch.rand(2, 3, requires_grad=True)], **fresh(options))
        if "before" in hooks:
            optimizer.register_state_dict_pre_hook(before)
        if "after" in hooks:
            optimizer.register_state_dict_post_hook(after)
        state = optimizer.state_dict()
        assert (state["had"] if "after" in hooks else state["state"]["test"]) == expected


@plainly
def test_load_state_dict_hooks(info: OptimizerInfo, options) -> None:
    def first(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        state["param_groups"][0]["lr"] = 0.002

    def second(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        state = deepcopy(state)
        state["param_groups"][0]["lr"] = 0.003
        return state

    def after(optimizer: torch.optim.Optimizer) -> None:
        optimizer.state["seen"] = optimizer.param_groups[0]["lr"]

    optimizer = info.optim_cls([torch.rand(2, 3, requires_grad=True)], **fresh(options))
    optimizer.register_load_state_dict_post_hook(after)
    state = optimizer.state_dict()
    optimizer.register_load_state_dict_pre_hook(first)
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == optimizer.state["seen"] == 0.002
    optimizer.register_load_state_dict_pre_hook(second, prepend=True)
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.002  # the other hook came last
    optimizer.register_load_state_dict_pre_hook(second)
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == optimizer.state["seen"] == 0.003


@pytest.fixture
def global_hooks() -> Iterator[list[str]]:
    called: list[str] = []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: called.append("all before")),
        register_optimizer_step_post_hook(lambda *_: called.append("all after")),
    ]
    yield called
    for handle in handles:
        handle.remove()


@plainly
def test_step_hooks(info: OptimizerInfo, options, global_hooks: list[str]) -> None:
    params = [torch.tensor([1.0, 1.0])]
    optimizer, other = info.optim_cls(params, **fresh(options)), torch.optim.SGD(params)
    handles = [
        hook
        for one in (optimizer, other)
        for hook in (
            one.register_step_pre_hook(lambda *_: global_hooks.append("before")),
            one.register_step_post_hook(lambda *_: global_hooks.append("after")),
        )
    ]
    expected = ["all before", "before", "after", "all after"]
    for n, one in enumerate((optimizer, other, optimizer), start=1):
        one.step(lambda: 1)
        assert global_hooks == expected * n
    for handle in handles:
        handle.remove()
    global_hooks.clear()
    optimizer.step(lambda: 1)
    assert global_hooks == ["all before", "all after"]


@everywhere
def test_a_deepcopy_has_all_public_attributes(info: OptimizerInfo, options) -> None:
    problem = Problem()
    optimizer = info.optim_cls(problem.params, **fresh(options))
    for _ in range(3):
        problem.step(optimizer)

    def public(value: object) -> set[str]:
        return {name for name in vars(value) if not name.startswith("_")}

    assert public(optimizer) == public(deepcopy(optimizer)) >= {"defaults", "state", "param_groups"}


@plainly
def test_state_is_never_empty(info: OptimizerInfo, options) -> None:
    problem = Problem()
    optimizer = info.optim_cls(problem.params, **fresh(options))
    problem.step(optimizer)
    stateless = info.step_requires_closure or (
        options.get("scheme", "euler") == "euler" and "preconditioner" not in options and "averaging" not in options
    )
    assert len(optimizer.state) == (0 if stateless else 2)
    assert all(optimizer.state.values())
