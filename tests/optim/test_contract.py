"""What every optimizer owes a training loop, over the whole table of cases."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import warnings

import pytest
import torch
from capabilities import CASES, Case, step
from torch import Tensor, nn
from torch.optim import lr_scheduler, swa_utils
from torch.testing._internal.common_optimizers import TensorTracker
from torch.testing._internal.common_utils import TestCase
from training import backward, batches, flat, network, train

import sabun
from sabun.errors import GradientError, OptionError
from sabun.optim import OPTIONS, Adam, Ema
from sabun.optim.role_registry import Role
from sabun.schemes import ButcherTableau, LinearMultistep


def over(*cases: Case):
    return pytest.mark.parametrize("case", cases, ids=str)


every = over(*CASES)
multistep = over(*(c for c in CASES if c.name != "runge-kutta"))
without_closure = over(*(c for c in CASES if not c.closure))


def run(case: Case, model: nn.Module, data, **options) -> torch.optim.Optimizer:
    optimizer = case(model.parameters(), **options)
    go(optimizer, model, data)
    return optimizer


def go(optimizer: torch.optim.Optimizer, model: nn.Module, data) -> None:
    for x, y in data:
        step(optimizer, lambda x=x, y=y: ((model(x) - y) ** 2).mean())


@every
def test_it_goes_downhill_and_returns_the_closures_loss(case: Case) -> None:
    model, (x, y) = network(), batches(1)[0]
    optimizer = case(model.parameters())
    losses = [float(step(optimizer, lambda: ((model(x) - y) ** 2).mean()).detach()) for _ in range(30)]
    assert losses[-1] < losses[0]


SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda n: 1 / (n + 1)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda n: 0.8),
    "StepLR": lambda o: lr_scheduler.StepLR(o, step_size=3, gamma=0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, milestones=[2, 5], gamma=0.1),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, factor=0.1, total_iters=3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, start_factor=0.4, end_factor=0.0, total_iters=6),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(o, T_max=4)], milestones=[3]
    ),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=8),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, total_iters=4), lr_scheduler.ExponentialLR(o, gamma=0.9)]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.01, step_size_up=3, cycle_momentum=False),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=4),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.02, total_steps=9, cycle_momentum="momentum" in o.defaults),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, total_iters=8, power=0.9),
    "SWALR": lambda o: swa_utils.SWALR(o, swa_lr=0.02, anneal_epochs=4),
}


def test_no_scheduler_of_torch_is_left_out() -> None:
    assert set(lr_scheduler.__all__) - {"LRScheduler"} == set(SCHEDULERS) - {"SWALR"}


def test_the_learning_rates_are_those_that_torchs_own_optimizer_gets() -> None:
    for name, make in SCHEDULERS.items():
        rates = []
        for cls in (torch.optim.SGD, sabun.Optimizer):
            optimizer = cls(network().parameters(), lr=0.01, **({"momentum": 0.9} if cls is torch.optim.SGD else {}))
            scheduler = make(optimizer)
            rates.append([])
            for n in range(8):
                optimizer.step()
                rates[-1].append(float(optimizer.param_groups[0]["lr"]))
                scheduler.step(*([torch.tensor(float(n))] if name == "ReduceLROnPlateau" else []))
        assert rates[0] == rates[1], name


@every
def test_every_scheduler_works_and_is_obeyed(case: Case) -> None:
    for make in SCHEDULERS.values():
        model = network()
        optimizer = case(model.parameters())
        scheduler = make(optimizer)
        for batch in batches(8):
            x, y = batch
            before = flat(model.parameters())
            loss = step(optimizer, lambda x=x, y=y, model=model: ((model(x) - y) ** 2).mean())
            used = float(optimizer.param_groups[0]["lr"])
            moved = float((flat(model.parameters()) - before).abs().max())
            assert torch.isfinite(torch.tensor(moved))
            if used == 0 and case.averaging is None:
                assert moved == 0
            scheduler.step(*([loss.detach()] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))


@every
def test_a_tensor_learning_rate_is_the_same_number(case: Case, device: torch.device) -> None:
    a, b = network(), network()
    run(case, a, batches(5), lr=0.01)
    run(case, b, batches(5), lr=torch.tensor(0.01, dtype=torch.float64))
    # On an accelerator it is not read, and its products with other numbers are rounded there. Bases that are renewed
    # every few steps make 10⁻¹⁰ of that.
    tolerance = 0 if device.type == "cpu" else 1e-9 if "kronecker" in str(case) else 1e-13
    torch.testing.assert_close(flat(a.parameters()), flat(b.parameters()), rtol=tolerance, atol=tolerance)


@every
def test_gradients_are_read_and_never_written(case: Case) -> None:
    model = network()
    optimizer = case(model.parameters())
    if case.closure:
        # The closure is called again for probes and stages; the gradients of the first call must survive untouched
        # where the control only looks (the stages of a Runge–Kutta step leave the last stage's, as documented).
        x, y = batches(1)[0]
        seen: list[tuple[Tensor, Tensor, int]] = []

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = ((model(x) - y) ** 2).mean()
            loss.backward()
            seen.extend((p.grad, p.grad.clone(), p.grad._version) for p in model.parameters())
            return loss

        for _ in range(4):
            optimizer.step(closure)
        assert all(torch.equal(g, kept) and g._version == version for g, kept, version in seen)
        return
    for maximize in (False, True):
        optimizer = case(model.parameters(), maximize=maximize)
        for batch in batches(4):
            optimizer.zero_grad()
            backward(model, batch)
            kept = [(p.grad, p.grad.clone(), p.grad._version) for p in model.parameters()]
            optimizer.step()
            for p, (grad, clone, version) in zip(model.parameters(), kept, strict=True):
                assert p.grad is grad
                assert torch.equal(grad, clone)
                assert grad._version == version
                for value in optimizer.state[p].values():
                    assert value.untyped_storage().data_ptr() != grad.untyped_storage().data_ptr()


@every
def test_a_parameter_without_gradient_stands_still_and_may_come_back(case: Case) -> None:
    model = network()
    params = list(model.parameters())
    optimizer = case(model.parameters())
    go(optimizer, model, batches(2))
    params[0].requires_grad_(False)
    optimizer.zero_grad()
    kept = params[0].detach().clone()
    go(optimizer, model, batches(3))
    assert torch.equal(params[0].detach(), kept)
    params[0].requires_grad_(True)
    go(optimizer, model, batches(3))
    assert not torch.equal(params[0].detach(), kept)


# Where the step length, or the weight of an iterate, is common to all parameters by design, there is nothing to test.
@over(*(c for c in CASES if not c.closure and not c.adapts and c.averaging != "schedule-free"))
def test_a_parameter_that_skips_steps_counts_its_own(case: Case) -> None:
    """One parameter that misses every other gradient moves as if it had been trained alone on those it got."""
    generator = torch.Generator().manual_seed(0)
    p, q, alone = (torch.ones(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    together, single = case([p, q]), case([alone])
    for n in range(9):
        grads = [torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2)]
        p.grad, q.grad = grads[0].clone(), grads[1].clone() if n % 2 == 0 else None
        together.step()
        if n % 2 == 0:
            alone.grad = grads[1].clone()
            single.step()
        torch.testing.assert_close(q.detach(), alone.detach(), rtol=1e-12, atol=1e-12)


@without_closure
def test_no_gradients_at_all_is_no_step(case: Case) -> None:
    model = network()
    optimizer, kept = case(model.parameters()), flat(model.parameters())
    optimizer.step()
    assert torch.equal(flat(model.parameters()), kept)


@every
def test_a_group_added_later_trains_with_its_own_options(case: Case) -> None:
    model = network()
    first, *others = model.parameters()
    optimizer = case([first])
    x, y = batches(1)[0]
    step(optimizer, lambda: ((model(x) - y) ** 2).mean())
    optimizer.add_param_group({"params": others, "lr": 1e-9, "weight_decay": 0.0})
    kept = flat(others)
    for p in others:
        p.grad = None
    step(optimizer, lambda: ((model(x) - y) ** 2).mean())
    moved = float((flat(others) - kept).abs().max())
    assert 0 < moved < 1e-7
    assert set(optimizer.param_groups[0]) >= set(optimizer.param_groups[1]) - {"momentum"}


@every
def test_maximize_is_minimizing_the_opposite(case: Case) -> None:
    a, b = network(), network()
    up, down = case(a.parameters(), maximize=True), case(b.parameters())
    for x, y in batches(6):
        step(up, lambda x=x, y=y: -((a(x) - y) ** 2).mean())
        step(down, lambda x=x, y=y: ((b(x) - y) ** 2).mean())
    assert torch.equal(flat(a.parameters()), flat(b.parameters()))


@every
def test_complex_parameters_move_as_their_real_view(case: Case) -> None:
    generator = torch.Generator().manual_seed(4)
    z = torch.randn(5, 4, generator=generator, dtype=torch.complex128).requires_grad_()
    pair = torch.view_as_real(z.detach()).clone().requires_grad_()
    target = torch.randn(5, 4, generator=generator, dtype=torch.complex128)
    if not case.supports_complex:
        with pytest.raises(OptionError, match="complex"):
            step(case([z]), lambda: (z - target).abs().square().sum())
        return
    a, b = case([z]), case([pair])
    for _ in range(6):
        step(a, lambda: (z - target).abs().square().sum())
        step(b, lambda: (torch.view_as_complex(pair) - target).abs().square().sum())
        torch.testing.assert_close(torch.view_as_real(z.detach()), pair.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.not_simulated("sparse tensors")
@every
def test_sparse_gradients_are_refused(case: Case) -> None:
    table = nn.Embedding(6, 3, sparse=True)
    kept = table.weight.detach().clone()
    with pytest.raises(GradientError, match="sparse") as caught:
        step(case(table.parameters()), lambda: table(torch.tensor([1, 2])).sum())
    assert "SparseAdam" in caught.value.fix
    assert torch.equal(table.weight.detach(), kept)


@pytest.mark.not_simulated("sparse tensors")
@every
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("before", [0, 3])
def test_a_sparse_gradient_is_refused_before_anything_moves(case: Case, grouped: bool, before: int) -> None:
    """Also where it comes late, behind dense ones in other buckets and groups; and the refusal leaves no trace."""
    params = [torch.ones(4, 3, dtype=torch.float64, requires_grad=True), torch.ones(5, 2, requires_grad=True),
              torch.ones(6, 3, dtype=torch.float64, requires_grad=True)]  # fmt: skip
    twins = [p.detach().clone().requires_grad_() for p in params]
    optimizer, plain = (
        case([{"params": ps[:2]}, {"params": ps[2:]}] if grouped else ps, **({} if case.closure else {"foreach": True}))
        for ps in (params, twins)
    )
    rows = torch.tensor([1, 2])

    def loss(ps: list[Tensor], sparse: bool) -> Tensor:
        table = nn.functional.embedding(rows, ps[2], sparse=sparse)
        return sum(((p - 2) ** 2).sum() for p in ps[:2]) + ((table - 3) ** 2).sum()

    for _ in range(before):
        for o, ps in ((optimizer, params), (plain, twins)):
            step(o, lambda ps=ps: loss(ps, False))
    kept = [p.detach().clone() for p in params]
    with pytest.raises(GradientError, match="sparse"):
        step(optimizer, lambda: loss(params, True))
    assert all(torch.equal(p, k) for p, k in zip(params, kept, strict=True))
    for _ in range(4):
        for o, ps in ((optimizer, params), (plain, twins)):
            step(o, lambda ps=ps: loss(ps, False))
    assert all(torch.equal(p, t) for p, t in zip(params, twins, strict=True))


def test_a_scheme_with_another_memory_begins_its_history_anew() -> None:
    """A group's scheme may be changed on the way; buffers of another meaning are not taken for its own."""
    changes = [
        ("heavy-ball(0.9)", "nesterov(0.8)", True),
        ("heavy-ball(0.9)", "adams-bashforth-2", False),
        ("taylor-4", "look-ahead(0.9, 2)", False),
        ("taylor-4", "adams-bashforth-3", False),
    ]
    for first, then, kept in changes:
        generator = torch.Generator().manual_seed(0)
        p, fresh = (torch.ones(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
        optimizer = sabun.Optimizer([p], 0.01, scheme=first)
        for _ in range(3):
            p.grad = torch.randn(4, 3, generator=generator, dtype=torch.float64)
            optimizer.step()
        group = optimizer.param_groups[0]
        group["scheme"] = then
        group.pop("momentum", None)
        with torch.no_grad():
            fresh.copy_(p)
        restarted = sabun.Optimizer([fresh], 0.01, scheme=then)
        for n in range(4):
            p.grad = torch.randn(4, 3, generator=generator, dtype=torch.float64)
            fresh.grad = p.grad.clone()
            optimizer.step()
            restarted.step()
            assert torch.equal(p, fresh) is not kept, (first, then, n)


@every
def test_layout_in_memory_makes_no_difference(case: Case) -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    plain, turned = values.clone().requires_grad_(), values.t().contiguous().t().requires_grad_()
    assert not turned.is_contiguous()
    target = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    a, b = case([plain]), case([turned])
    for _ in range(6):
        step(a, lambda: ((plain - target) ** 4).sum())
        step(b, lambda: ((turned - target) ** 4).sum())
    torch.testing.assert_close(plain.detach(), turned.detach(), rtol=1e-10, atol=1e-12)


@every
def test_hooks_are_called_around_a_step(case: Case) -> None:
    model, calls = network(), []
    optimizer = case(model.parameters())
    optimizer.register_step_pre_hook(lambda o, args, kwargs: calls.append("before"))
    optimizer.register_step_post_hook(lambda o, args, kwargs: calls.append("after"))
    go(optimizer, model, batches(2))
    assert calls == ["before", "after"] * 2


def _copies(optimizer: torch.optim.Optimizer, case: Case):
    """The same optimizer by every road that a checkpoint or a framework may take, with its own parameters."""
    for road in ("deepcopy", "pickle", "state_dict", "torch.save"):
        if road == "deepcopy":
            other = copy.deepcopy(optimizer)
        elif road == "pickle":
            other = pickle.loads(pickle.dumps(optimizer))
        else:
            params = [nn.Parameter(p.detach().clone()) for g in optimizer.param_groups for p in g["params"]]
            other = case(params, lr=0.5)
            state = optimizer.state_dict()
            if road == "torch.save":
                file = io.BytesIO()
                torch.save(state, file)
                file.seek(0)
                state = torch.load(file, weights_only=True)
            other.load_state_dict(state)
        yield road, other


@every
def test_a_copy_continues_to_the_bit(case: Case) -> None:
    model, data = network(), batches(14)
    optimizer = run(case, model, data[:7])
    twins = []
    for road, other in _copies(optimizer, case):
        twin = network()
        params = [p for g in other.param_groups for p in g["params"]]
        # Let the twin's modules use the copied optimizer's own parameters.
        for module, own in zip((twin[0], twin[2]), (params[:2], params[2:]), strict=True):
            module.weight, module.bias = own
        twins.append((road, twin, other))
    go(optimizer, model, data[7:])
    for road, twin, other in twins:
        go(other, twin, data[7:])
        assert torch.equal(flat(model.parameters()), flat(twin.parameters())), road


@every
def test_the_state_is_tensors_under_fixed_keys(case: Case) -> None:
    model = network()
    optimizer = run(case, model, batches(3))
    first = {p: set(held) for p, held in optimizer.state.items()}
    go(optimizer, model, batches(5))
    for p, held in optimizer.state.items():
        assert set(held) == first[p]
        assert all(isinstance(key, str) and isinstance(value, Tensor) for key, value in held.items())
    for group in optimizer.param_groups:
        roles = {k for k, v in group.items() if isinstance(v, Role | LinearMultistep | ButcherTableau)}
        assert roles <= {"scheme", "preconditioner", "averaging", "step_control"}
        assert all(is_plain(v) for k, v in group.items() if k not in roles and k != "params")
    for group in optimizer.state_dict()["param_groups"]:
        assert all(is_plain(v) for k, v in group.items() if k != "params")


def is_plain(value: object) -> bool:
    """A scalar or a text, a list of texts (the parts of a group), or a dictionary of them (the options of its rest)."""
    if isinstance(value, list):
        return all(isinstance(part, str) for part in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(one) for key, one in value.items())
    return isinstance(value, bool | int | float | str | type(None))


@over(*(c for c in CASES if not c.closure and not c.adapts))
def test_one_group_may_differ_from_another(case: Case) -> None:
    """Two groups of one optimizer are two optimizers."""
    a, b = network(), network()
    first, *others = a.parameters()
    together = case([{"params": [first], "lr": 0.001}, {"params": others, "weight_decay": 0.2}])
    first, *others = b.parameters()
    apart = [case([first], lr=0.001), case(others, weight_decay=0.2)]
    for batch in batches(6):
        together.zero_grad()
        backward(a, batch)
        together.step()
        b.zero_grad()
        backward(b, batch)
        for optimizer in apart:
            optimizer.step()
    torch.testing.assert_close(flat(a.parameters()), flat(b.parameters()), rtol=1e-12, atol=1e-13)


@multistep
def test_one_at_a_time_is_the_same_as_all_together(case: Case) -> None:
    """torch's own tracker compares parameters and state after every step."""
    a, b, data = network(), network(), batches(5)
    tracker, checker = TensorTracker({"rtol": 1e-12, "atol": 1e-12}), TestCase()
    for model, foreach in ((a, True), (b, False)):
        optimizer = case(model.parameters(), foreach=foreach)
        for x, y in data:
            step(optimizer, lambda x=x, y=y, model=model: ((model(x) - y) ** 2).mean())
            for p in model.parameters():
                for tensor in (p, *(optimizer.state[p][key] for key in sorted(optimizer.state[p]))):
                    if foreach:
                        tracker.add(tensor)
                    else:
                        tracker.pop_check_set(tensor, checker)
    assert tracker.all_popped()


@every
def test_gradient_accumulation_is_one_large_batch(case: Case) -> None:
    a, b, (x, y) = network(), network(), batches(1)[0]
    one, two = case(a.parameters()), case(b.parameters())
    for _ in range(4):
        step(one, lambda: ((a(x) - y) ** 2).mean())

        def closure() -> Tensor:
            two.zero_grad()
            losses = [((b(x[part]) - y[part]) ** 2).mean() / 2 for part in (slice(0, 16), slice(16, 32))]
            for loss in losses:
                loss.backward()
            return sum(losses)

        two.step(closure)
    torch.testing.assert_close(flat(a.parameters()), flat(b.parameters()), rtol=1e-9, atol=1e-9)


@without_closure  # torch's GradScaler does not take closures
def test_a_grad_scaler_skips_what_overflowed_and_steps_the_rest(case: Case) -> None:
    a, b = network(torch.float32), network(torch.float32)
    scaled, plain = case(a.parameters()), case(b.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for n, batch in enumerate(batches(5, torch.float32)):
        x, y = batch
        scaled.zero_grad()
        scaler.scale(((a(x) - y) ** 2).mean()).backward()
        if n == 2:
            next(a.parameters()).grad[0] = torch.inf
        kept = flat(a.parameters())
        scaler.step(scaled)
        scaler.update()
        if n == 2:
            assert torch.equal(flat(a.parameters()), kept)
            continue
        plain.zero_grad()
        backward(b, batch)
        plain.step()
    torch.testing.assert_close(flat(a.parameters()), flat(b.parameters()), rtol=1e-3, atol=1e-3)


@every
def test_a_shorter_program_reads_well(case: Case) -> None:
    optimizer = case(network().parameters())
    assert "scheme" in repr(optimizer)
    assert case.scheme.split("(")[0] in repr(optimizer) or case.name == "runge-kutta"


def test_state_that_somebody_clears_is_made_again() -> None:
    model = network()
    optimizer = sabun.Optimizer(model.parameters(), 0.1, scheme="nesterov")
    train(model, optimizer, batches(2))
    optimizer.state.clear()
    train(model, optimizer, batches(1))
    assert all("velocity_0" in optimizer.state[p] for p in model.parameters())


def test_the_signature_offers_every_option_with_its_default() -> None:
    signature = inspect.signature(sabun.Optimizer).parameters
    for name, option in OPTIONS.items():
        assert signature[name].default == option.default, name
        assert option.legal.accepts(option.default)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sabun.Optimizer(network().parameters(), 0.1, **{n: o.default for n, o in OPTIONS.items()})


@pytest.mark.parametrize("as_text", [True, False])
def test_roles_may_be_replaced_in_a_group_by_text_or_object(as_text: bool) -> None:
    """What is replaced in ``param_groups`` applies from the next step, as if the optimizer had been made with it."""
    model, twin = network(), network()
    optimizer = sabun.Optimizer(model.parameters(), 0.01, scheme="nesterov")
    chosen = {"preconditioner": Adam(beta2=0.9), "averaging": Ema(0.5), "scheme": sabun.heavy_ball(0.8)}
    group = optimizer.param_groups[0]
    group |= (
        {key: str(value) if key != "scheme" else value.name for key, value in chosen.items()} if as_text else chosen
    )
    group["momentum"] = 0.8
    other = sabun.Optimizer(twin.parameters(), 0.01, **chosen)
    with optimizer.averaged():  # before a step, too
        assert group["averaging"] == Ema(0.5)
    train(model, optimizer, batches(5))
    train(twin, other, batches(5))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))
    assert group["preconditioner"] == Adam(beta2=0.9)
    group["preconditioner"] = "adamm"
    with pytest.raises(OptionError, match="Did you mean 'adam'"):
        train(model, optimizer, batches(1))


def test_a_steady_step_reads_no_text_and_makes_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    optimizer = sabun.create("sabun", model)
    train(model, optimizer, batches(2))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a steady step came here")

    for name in (
        "sabun.optim.momentum.realize",
        "sabun.optim.role_registry.parse_call",
        "sabun.optim.scheme_codec.decode",
    ):
        monkeypatch.setattr(name, refuse)
    monkeypatch.setattr(LinearMultistep, "__hash__", refuse)
    train(model, optimizer, batches(3))


def test_the_step_control_cannot_be_replaced_in_a_live_group() -> None:
    """It belongs to the whole optimizer: a silent edit would only be saved, and its checkpoint refused."""
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = sabun.Optimizer([p], lr=0.1)
    p.grad = torch.ones(3)
    optimizer.step()
    optimizer.param_groups[0]["step_control"] = "stability"
    with pytest.raises(OptionError, match="belongs to the whole optimizer"):
        optimizer.step()
