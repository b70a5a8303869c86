"""A pytest plugin: our presets in the place of the optimizers that a suite tests, and outcomes written to a file.

``YARDSTICK`` says whose suite it is (``torch`` or ``package``), ``YARDSTICK_PRESETS`` which presets,
``YARDSTICK_OUT`` where the outcomes go.
"""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import torch

from sabun.optim import create, presets
from yardsticks.convergence import DOUBLINGS, STEPS

_FALLS: list[float] = []
_OUTCOMES: list[dict[str, Any]] = []


def _kind(name: str) -> type:
    """A class that makes our optimizer, for suites that ask a class for its name and its arguments."""

    def new(cls: type, params: Any, lr: Any = None, maximize: bool = False, weight_decay: float | None = None) -> Any:
        options: dict[str, Any] = {} if weight_decay is None else {"weight_decay": weight_decay}
        return create(name, params, lr, maximize=maximize, **options)

    return type("sabun_" + name.replace("-", "_"), (), {"__new__": new})


def _place_torch(names: list[str]) -> None:
    from torch.testing._internal import common_optimizers as their

    def inputs(name: str) -> Any:
        lr = presets()[name].lr

        def made(device: Any, dtype: Any = None) -> list[Any]:
            given: list[dict[str, Any]] = [{}, {"lr": lr / 10}, {"lr": torch.tensor(lr)}, {"weight_decay": 0.1},
                                           {"maximize": True}]  # fmt: skip
            return [their.OptimizerInput(params=None, kwargs=kwargs, desc=str(kwargs)) for kwargs in given]

        return made

    their.optim_db = [
        their.OptimizerInfo(
            _kind(name), optim_inputs_func=inputs(name), supported_impls=(), not_og_supported_flags=(),
            optim_error_inputs_func=None,
        )
        for name in names
    ]  # fmt: skip
    # The other test files, which that file only passes on.
    for part in ("optim", "optim.test_lrscheduler", "optim.test_optim", "optim.test_swa_utils"):
        module = types.ModuleType(part)
        module.__getattr__ = lambda name: type(name, (), {})  # type: ignore[method-assign]
        sys.modules[part] = module


def _place_package(names: list[str]) -> None:
    import tests.optimizer_cases as cases
    import tests.recipes as recipes
    import tests.utils as utils

    kinds = {f"sabun_{name}": _kind(name) for name in names}
    cases.COMPLEX_OPTIMIZERS |= set(kinds)
    recipes.COMPILE_SUPPORTED_OPTIMIZERS = []
    recipes.OPTIMIZER_RECIPES[:] = [
        (f"sabun_{name}", {"lr": presets()[name].lr * 2.0**n}, STEPS) for name in names for n in DOUBLINGS
    ]
    loader, judge = utils.load_optimizer, utils.Trainer.assert_loss_decreased
    utils.load_optimizer = lambda name: kinds[name] if name in kinds else loader(name)

    def recorded(self: Any, first: float, last: Any, threshold: float) -> None:
        value = float(last)
        _FALLS.append(first / value if value > 0 and value == value else 0.0)
        judge(self, first, last, threshold)

    utils.Trainer.assert_loss_decreased = recorded


def pytest_configure(config: Any) -> None:
    names = json.loads(os.environ["YARDSTICK_PRESETS"])
    {"torch": _place_torch, "package": _place_package}[os.environ["YARDSTICK"]](names)


def pytest_runtest_setup(item: Any) -> None:
    _FALLS.clear()


def pytest_runtest_logreport(report: Any) -> None:
    if report.when != "call" and not (report.when == "setup" and report.outcome != "passed"):
        return
    said = str((getattr(report.longrepr, "reprcrash", None) and report.longrepr.reprcrash.message) or "")
    outcome = {"test": report.nodeid.split("::")[-1], "outcome": report.outcome, "said": said.split("\n")[0][:160]}
    _OUTCOMES.append({**outcome, "fall": _FALLS[-1] if _FALLS else None})


def pytest_collection_modifyitems(items: list[Any]) -> None:
    for item in items:
        _KNOWN[item.nodeid.split("::")[-1]] = _what(item)


_KNOWN: dict[str, dict[str, Any]] = {}


def _what(item: Any) -> dict[str, Any]:
    """Which preset a test is of; for pytorch_optimizer's also the type and the rate."""
    callspec = getattr(item, "callspec", None)
    if callspec is not None and isinstance(callspec.params.get("optimizer_config"), tuple):
        name, options, _ = callspec.params["optimizer_config"]
        preset = name.removeprefix("sabun_")
        doubling = round(torch.log2(torch.tensor(options["lr"] / presets()[preset].lr)).item())
        return {"preset": preset, "doubling": doubling, "type": str(callspec.params["dtype"]).removeprefix("torch.")}
    owners = [name for name in presets() if "sabun_" + name.replace("-", "_") + "_" in item.nodeid]
    return {"preset": max(owners, key=len, default="")}


def pytest_sessionfinish() -> None:
    rows = [{**outcome, **_KNOWN.get(outcome["test"], {"preset": ""})} for outcome in _OUTCOMES]
    Path(os.environ["YARDSTICK_OUT"]).write_text(json.dumps([row for row in rows if row["preset"]]), encoding="utf-8")
