"""Every preset against the public implementation that it names, step for step."""

from __future__ import annotations

import math

import pytest
import pytorch_optimizer
import schedulefree
import torch
from torch import nn
from training import backward, batches, deviation, flat, network, trajectory

import sabun
from sabun.errors import OptionError, SchemeError
from sabun.optim import AVERAGING, PRECONDITIONERS, Adam, Identity, Kronecker, Spectral, create, presets
from sabun.optim.notation import resolve


def matrices(
    make, steps: int, *, twice_first: bool = False, dtype=torch.float64, noise: float = 1.0, pull: float = 0.1
):
    """Trajectory of two free matrices under given gradients plus their own values; the same for every optimizer."""
    generator = torch.Generator().manual_seed(3)
    params = [
        torch.randn(8, 5, generator=generator, dtype=dtype).requires_grad_(),
        torch.randn(6, 12, generator=generator, dtype=dtype).requires_grad_(),
    ]
    optimizer = make(params)
    path = []
    for n in range(steps):
        grads = [noise * torch.randn(p.shape, generator=generator, dtype=dtype) for p in params]
        for p, g in zip(params, grads, strict=True):
            p.grad = g + pull * p.detach()
        if n == 0 and twice_first:
            kept = [p.grad.clone() for p in params]
            optimizer.step()
            for p, g in zip(params, kept, strict=True):
                p.grad = g
        optimizer.step()
        path.append(flat(params))
    return torch.stack(path)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda p: create("sgd", p, 0.1), lambda p: torch.optim.SGD(p, 0.1)),
        (lambda p: create("heavy-ball", p, 0.5), lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)),
        (lambda p: create("nesterov", p, 0.5), lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True)),
        (
            lambda p: create("qhm", p, 0.3),
            lambda p: pytorch_optimizer.QHM(p, lr=0.3, momentum=0.9, nu=0.7),
        ),
        (lambda p: create("adamw", p, 0.01), lambda p: torch.optim.AdamW(p, 0.01)),
        (lambda p: create("lion", p, 0.001), lambda p: pytorch_optimizer.Lion(p, lr=0.001, betas=(0.9, 0.99))),
        # A preset's name with parameters is the preset with these, and the row's own for the others.
        (
            lambda p: create("lion(0.95, 0.98)", p, 0.001),
            lambda p: pytorch_optimizer.Lion(p, lr=0.001, betas=(0.95, 0.98)),
        ),
        (
            lambda p: resolve("lion(beta1=0.95, weight_decay=0.1)").make(p, {"lr": 0.001, "beta2": 0.98}),
            lambda p: pytorch_optimizer.Lion(p, lr=0.001, betas=(0.95, 0.98), weight_decay=0.1),
        ),
        (lambda p: create("qhm(0.5)", p, 0.3), lambda p: pytorch_optimizer.QHM(p, lr=0.3, momentum=0.9, nu=0.5)),
        (
            lambda p: resolve("adamw(0.8)").make(p, {"lr": 0.01}),
            lambda p: torch.optim.AdamW(p, 0.01, betas=(0.8, 0.999)),
        ),
    ],
    ids=[
        "sgd",
        "heavy-ball",
        "nesterov",
        "qhm",
        "adamw",
        "lion",
        "lion-betas",
        "lion-keywords",
        "qhm-nu",
        "adamw-beta",
    ],
)
def test_the_preset_is_the_public_implementation(ours, theirs) -> None:
    assert deviation(trajectory(ours), trajectory(theirs)) < 1e-12


def test_nadamw_is_torch_nadam_once_the_start_is_forgotten() -> None:
    # Gradients that do not depend on θ, so that the increments can be compared after the start-ups have differed.
    generator = torch.Generator().manual_seed(5)
    ours, theirs = (torch.ones(7, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mine = create("nadamw", [ours], 0.01, weight_decay=0.0)
    torchs = torch.optim.NAdam([theirs], 0.01, betas=(0.9, 0.999), momentum_decay=1e9, decoupled_weight_decay=True)
    first = worst = 0.0
    for n in range(420):
        ours.grad = torch.randn(7, generator=generator, dtype=torch.float64)
        theirs.grad = ours.grad.clone()
        before = [ours.detach().clone(), theirs.detach().clone()]
        mine.step()
        torchs.step()
        a, b = ours.detach() - before[0], theirs.detach() - before[1]
        relative = float((a - b).abs().max() / b.abs().max())
        first, worst = (relative if n == 0 else first), (max(worst, relative) if n >= 380 else worst)
    assert first > 0.1  # the difference that the row tells
    assert worst < 1e-12


@pytest.mark.cpu_only("bits of bfloat16, which products of stacked matrices round otherwise")
@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no torch.optim.Muon")
def test_muon_is_torch_muon_in_bfloat16() -> None:
    def muon(p):
        # The last matrix of a bare list would be taken for the head; here all are hidden.
        groups = [{"params": p, "preconditioner": "spectral(dtype='bfloat16')"}]
        return create("muon", groups, 0.01, foreach=False)

    ours = matrices(muon, 40)
    theirs = matrices(lambda p: torch.optim.Muon(p, lr=0.01, adjust_lr_fn="match_rms_adamw"), 40)
    # In float64 both feed the same bits to bfloat16; one flipped rounding would show as 1e-3.
    assert deviation(ours, theirs) < 1e-12


def test_mars_has_the_momentum_of_mars() -> None:
    # With the sign (mars_type='lion') and gradients too small to be clipped, MARS is this momentum and no more.
    def mars(p):
        return pytorch_optimizer.MARS(
            p, lr=0.01, betas=(0.95, 0.99), gamma=0.025, mars_type="lion", optimize_1d=True, foreach=False
        )

    ours = matrices(lambda p: create("mars", p, 0.01, preconditioner="sign"), 60, noise=0.01, pull=0.001)
    assert deviation(ours, matrices(mars, 60, noise=0.01, pull=0.001)) < 1e-12


def test_mars_differs_as_its_row_says() -> None:
    """The row's formula, written out: second moment of the gradient itself, direction divided by its mass."""
    beta, gamma, beta2, lr = 0.95, 0.475, 0.99, 0.01
    p = torch.ones(5, dtype=torch.float64, requires_grad=True)
    optimizer = create("mars", [p], lr)
    generator = torch.Generator().manual_seed(2)
    m = v = last = torch.zeros(5, dtype=torch.float64)
    mass_m = mass_last = 0.0
    theta = p.detach().clone()
    for n in range(1, 30):
        g = torch.randn(5, generator=generator, dtype=torch.float64)
        p.grad = g.clone()
        optimizer.step()
        m = beta * m + (1 - beta) * (g + gamma * (g - last))
        mass_m = beta * mass_m + (1 - beta) * (1 + gamma * (1 - mass_last))
        v, last, mass_last = beta2 * v + (1 - beta2) * g**2, g, 1.0
        theta = theta - lr * (m / mass_m) / ((v / (1 - beta2**n)).sqrt() + 1e-8)
        assert torch.allclose(p.detach(), theta, rtol=1e-12, atol=0)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_schedule_free_adamw_is_schedulefree(decay: float) -> None:
    def run(make):
        model = network()
        optimizer = make(model.parameters())
        if hasattr(optimizer, "train"):
            optimizer.train()
        training, handed_out = [], []
        for n, batch in enumerate(batches(200)):
            optimizer.zero_grad()
            backward(model, batch)
            optimizer.step()
            training.append(flat(model.parameters()))
            if n % 20 == 7:
                if isinstance(optimizer, sabun.Optimizer):
                    with optimizer.averaged():
                        handed_out.append(flat(model.parameters()))
                else:
                    optimizer.eval()
                    handed_out.append(flat(model.parameters()))
                    optimizer.train()
        return torch.stack(training), torch.stack(handed_out)

    ours = run(lambda p: create("schedule-free-adamw", p, 0.01, weight_decay=decay))
    theirs = run(lambda p: schedulefree.AdamWScheduleFree(p, lr=0.01, weight_decay=decay, foreach=False))
    assert deviation(ours[0], theirs[0]) < 1e-11  # their eval/train round trips add rounding of their own
    assert deviation(ours[1], theirs[1]) < 1e-11


@pytest.mark.parametrize(("refresh", "tolerance"), [(1000, 1e-9), (3, 1e-5)], ids=["one-basis", "refreshed"])
def test_soap_is_soap_that_steps_on_its_first_gradient(refresh: int, tolerance: float) -> None:
    # In the first gradient's own singular basis its off-diagonal entries are rounding errors, and Adam divides them by
    # themselves plus ε: what remains of them, about 1e-17/ε·lr, is the first tolerance.
    def soap(p):
        return pytorch_optimizer.SOAP(p, lr=0.01, betas=(0.95, 0.95), weight_decay=0.0, precondition_frequency=refresh)

    def run(make, twice):
        generator = torch.Generator().manual_seed(9)
        p = torch.randn(6, 6, generator=generator, dtype=torch.float64).requires_grad_()
        optimizer, path = make([p]), []
        for n in range(40):
            g = torch.randn(6, 6, generator=generator, dtype=torch.float64)
            for _ in range(2 if twice and n == 0 else 1):
                p.grad = g.clone()
                optimizer.step()
            path.append(flat([p]))
        return torch.stack(path)

    ours = run(
        lambda p: sabun.Optimizer(
            p, 0.01, scheme="heavy-ball(0.95)", preconditioner=Kronecker(beta2=0.95, refresh_every=refresh)
        ),
        False,
    )
    # Their QR is in float32 whatever the parameters are, which the second tolerance allows for.
    assert deviation(ours, run(soap, True)) < tolerance


def test_every_row_builds_what_it_says() -> None:
    for name, row in presets().items():
        optimizer = create(name, network())
        group = optimizer.param_groups[0]
        assert group["preconditioner"] == PRECONDITIONERS.make(row.preconditioner)
        assert group["averaging"] == AVERAGING.make(row.averaging)
        assert group["scheme"] == sabun.schemes.get(row.scheme)
        assert group["lr"] == row.lr
        assert row.summary
        assert row.source
        for key, value in row.options.items():
            assert group[key] == value
    with pytest.raises(TypeError):
        presets()["mine"] = row  # type: ignore[index]


def test_matrix_presets_leave_the_rest_to_adam() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(30, 8)
            self.up, self.norm, self.down = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 8)
            self.head = nn.Linear(8, 30, bias=False)
            self.head.weight = self.embedding.weight

    model = Model()
    optimizer = create("sabun", model, 0.02)
    (group,) = optimizer.param_groups
    rest = group["rest"]
    parts = dict(zip(group["param_names"], group["parts"], strict=True))
    assert list(parts) == [name for name, _ in model.named_parameters()]
    assert {name for name, part in parts.items() if part == "matrix"} == {"up.weight", "down.weight"}
    assert (group["preconditioner"], rest["preconditioner"]) == (Spectral(), Adam())
    assert (group["lr"], rest["lr_factor"]) == (0.02, 0.5)
    assert (group["weight_decay"], rest["weight_decay"]) == (0.01, 0.1)
    assert rest["scheme"] == sabun.schemes.get("nesterov(0.9)")
    for members in (list(model.named_parameters()), list(model.parameters())):
        (other,) = create("muon", members).param_groups
        assert other["parts"] == group["parts"]


def test_another_role_takes_the_rows_options_of_that_role_along() -> None:
    with_scheme = create("sabun", network(), scheme="euler").param_groups[0]
    assert with_scheme["preconditioner"] == Spectral()
    with_metric = create("sabun", network(), preconditioner="adam").param_groups[0]
    assert (with_metric["scheme"], with_metric["preconditioner"]) == (sabun.schemes.get("look-ahead(0.8, 2)"), Adam())
    given = create("soap", network(), preconditioner="adam", beta2=0.9).param_groups[0]
    assert (given["preconditioner"], given["weight_decay"]) == (Adam(beta2=0.9), 0.01)
    end = create("sabun", network(), scheme="nesterov(0.8)", momentum_end=0.9).param_groups[0]["momentum_end"]
    assert end == 0.9


def test_options_of_the_update_concern_both_parts() -> None:
    for given in (0.0, 0.02):
        (group,) = create("sabun", network(), weight_decay=given).param_groups
        assert group["weight_decay"] == given
        assert "weight_decay" not in group["rest"]
    for name in ("sabun", "soap"):  # an option of the preconditioner, of one value for both in the row
        (group,) = create(name, network(), beta2=0.9).param_groups
        assert [part["preconditioner"].beta2 for part in (group, group["rest"])] == [0.9, 0.9]


def test_the_head_is_found_by_name_or_as_the_last_matrix() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6), nn.Conv2d(3, 4, 3), nn.Linear(6, 7))

    def hidden(**options) -> list[str]:
        (group,) = create("muon", model, **options).param_groups
        return [name for name, part in zip(group["param_names"], group["parts"], strict=True) if part != "rest"]

    assert hidden() == ["0.weight", "1.weight", "2.weight"]
    assert hidden(matrices={"*": "matrix"}) == ["0.weight", "1.weight", "2.weight", "3.weight"]
    assert hidden(matrices="1.weight: rest; 3.weight: matrix") == ["0.weight", "2.weight", "3.weight"]
    for wrong, says in (
        ({"4.weight": "matrix"}, "no parameter is called"),
        ({"0.weight": "matrices"}, "not a layout"),
        ({"0.bias": "stack"}, "is no stack"),
        ({"0.weight": "matrix(split=2)"}, "cannot be divided"),
        ("0.weight", "must map patterns"),
    ):
        with pytest.raises(OptionError, match=says):
            hidden(matrices=wrong)


def test_create_names_what_is_near() -> None:
    with pytest.raises(OptionError, match="Did you mean 'adamw'"):
        create("adamv", network())
    with pytest.raises(SchemeError, match=r"2\.686"):
        create("lagrange-4", network().parameters())
    with pytest.raises(OptionError, match="lr must be"):
        create("adamw", network(), lr=math.nan)
    assert create("look-ahead(0.9, 2)", network()).param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize("read", [lambda t: create(t, network()), lambda t: resolve(t).make(network(), {"lr": 0.1})])
def test_a_presets_parameters_are_those_of_its_scheme(read) -> None:
    for text, scheme, preconditioner in (
        ("muon(0.9)", "nesterov(0.9)", "spectral"),
        ("lion(0.8)", "lion(0.8, 0.99)", "sign"),
        ("mars(gamma=1)", "look-ahead(0.95, 1)", "adam"),
        ("nesterov(0.8)", "nesterov(0.8)", "none"),
        ("look-ahead(0.8, 3)", "look-ahead(0.8, 3)", "none"),
    ):
        group = read(text).param_groups[0]
        assert group["scheme"] == sabun.schemes.get(scheme), text
        assert group["preconditioner"].name == preconditioner, text
    assert resolve("lion@none").make(network(), {"lr": 0.1}).param_groups[0]["preconditioner"] == Identity()
    for text, says in (
        ("sgd(0.9)", "too many parameters"),
        ("lion(0.9, 1.5)", r"in \[0, 1\)"),
        ("muon(0.9, 2, 3)", "too many"),
    ):
        with pytest.raises(SchemeError, match=says):
            read(text)


@pytest.mark.parametrize("name", ["adamw", "muon", "sabun"])
def test_a_bare_tensor_is_refused_as_torch_refuses_it(name: str) -> None:
    with pytest.raises(TypeError, match="iterable of Tensors"):
        create(name, torch.ones(3, 3, requires_grad=True))


def test_bare_parameters_may_join_named_ones() -> None:
    optimizer = create("muon", network())
    joined = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))]
    optimizer.add_param_group({"params": joined, "preconditioner": "adam"})
    optimizer.add_param_group({"params": nn.Parameter(torch.ones(1)), "preconditioner": "adam"})
    assert optimizer.param_groups[-2]["params"] == joined
    assert optimizer.param_groups[-2]["param_names"] == ["group_1.0", "group_1.1"]
    assert optimizer.param_groups[-1]["param_names"] == ["group_2.0"]
