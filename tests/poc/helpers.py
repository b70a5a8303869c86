"""What several tests of the engine share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sabun.poc.records import RunResult
from sabun.poc.spec import Study
from sabun.poc.study import default_study

TINY = Path(__file__).with_name("tiny.py")
SGD = "torch.optim:SGD(momentum=0.9)"


def task(name: str = "Tiny") -> str:
    return f"{TINY}:{name}"


def tiny_study(*candidates: str, task_name: str = "Tiny", **options: Any) -> Study:
    budget = {"epochs": 3, "trials": 4, "tuning_seeds": 2, "seeds": 3, "seed": 0}
    return default_study(
        task=task(task_name), baseline=SGD, candidates=candidates or ("torch.optim:SGD", "torch.optim:AdamW"),
        **{**budget, **options},
    )  # fmt: skip


def small(**options: Any) -> Study:
    """A study of one candidate that takes a tenth of a second."""
    return tiny_study("torch.optim:SGD", **{"trials": 2, "tuning_seeds": 1, "seeds": 2, "epochs": 1, **options})


def untimed(results: Iterable[RunResult]) -> list[dict[str, Any]]:
    """The records without what a clock or the memory of a process says."""
    stripped = []
    for result in results:
        fields = dataclasses.asdict(result)
        for key in ("started", "ended", "peak_memory_bytes"):
            del fields[key]
        for epoch in fields["epochs"]:
            for key in ("train_s", "eval_s", "optimizer_s", "load"):
                del epoch[key]
        stripped.append(fields)
    return stripped
