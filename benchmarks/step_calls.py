"""Python calls and files that one steady optimizer step enters, in sabun's own code.

PYTHONPATH=src python benchmarks/step_calls.py [--source OTHER_CHECKOUT/src] [--list]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any


def steady(optimizer: Any, params: list[Any]) -> Counter[tuple[str, str]]:
    """The functions of sabun that the sixth step calls: (file, function) → number of calls."""
    import torch

    import sabun

    root = str(Path(sabun.__file__).parent)
    calls: Counter[tuple[str, str]] = Counter()

    def count(frame: Any, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(root):
            calls[str(Path(code.co_filename).relative_to(root)), code.co_qualname] += 1

    for n in range(6):
        for p in params:
            p.grad = torch.ones_like(p)
        if n == 5:
            sys.setprofile(count)
        try:
            optimizer.step()
        finally:
            sys.setprofile(None)
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help="measure the sabun of this folder instead")
    parser.add_argument("--list", action="store_true", help="list the functions")
    arguments = parser.parse_args()
    if arguments.source:
        sys.path.insert(0, arguments.source)
    import torch

    import sabun

    def parameters() -> list[torch.nn.Parameter]:
        torch.manual_seed(0)
        return list(torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)).parameters())

    def model() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(4)))

    def plain(fused: bool | None) -> tuple[Any, list[Any]]:
        params = parameters()
        return sabun.Optimizer(params, 0.1, scheme="nesterov", preconditioner="adam", fused=fused), params

    def preset(fused: str | None) -> tuple[Any, list[Any]]:
        network = model()
        return sabun.create("sabun", network, fused=fused), list(network.parameters())

    cases = {
        "Optimizer(scheme='nesterov', preconditioner='adam')": plain(None),
        "the same, fused=True": plain(True),
        "create('sabun', …, fused=None)": preset(None),
        "create('sabun', …), fused='auto'": preset("auto"),
    }
    print(f"{Path(sabun.__file__).parent}: calls and files of one steady step()")
    for name, (optimizer, params) in cases.items():
        calls = steady(optimizer, params)
        print(f"{name:54} {sum(calls.values()):4} calls in {len({file for file, _ in calls})} files")
        if arguments.list:
            for (file, function), number in sorted(calls.items(), key=lambda item: -item[1]):
                print(f"    {number:4}  {file}: {function}")


if __name__ == "__main__":
    import piped

    piped.run(main)
