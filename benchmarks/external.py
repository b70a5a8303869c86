"""Yardsticks that others made: LightBench, the tabular optimizer study, and the convergence tests of two packages.

    python benchmarks/external.py convergence                 # seconds
    python benchmarks/external.py tabular --data DIR          # about an hour on one core
    python benchmarks/external.py lightbench                  # makes an environment of its own first
    python benchmarks/external.py page                        # only the tables, from the stored records

Every run is stored in ``runs/external/`` as it ends: a command that was ended goes on there. Records go to
``benchmarks/results/external-*.json`` once all arms have all runs, and from there into the tables of
``docs/research/external.md``. Nothing of these projects is copied into this one: LightBench and the tests of
pytorch_optimizer come from PyPI, the tests of PyTorch from its repository or a checkout (``--torch-tests``), the
data sets from the study's archive (``--data``). "COMMAND --help" says what each needs.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

from sabun.optim import presets  # noqa: E402
from yardsticks import convergence, lightbench, page, tabular  # noqa: E402
from yardsticks.arms import ALL  # noqa: E402

WORK = Path("runs/external")
RESULTS = Path("benchmarks/results")
PAGE = Path("docs/research/external.md")


def records(name: str) -> Path:
    return RESULTS / f"external-{name}.json"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help_: str, text: str | None) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=help_, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    one = add("lightbench", "LightBench's tasks at the levels trivial and easy", lightbench.__doc__)
    one.add_argument("--task", action="append", default=[], help="only this task (repeatable)")
    one.add_argument("--steps", type=int, default=page.STEPS, help=f"steps of a trial, at least {lightbench.GROUP} "
                     "(default %(default)s; LightBench: 100,000)")  # fmt: skip
    one.add_argument(
        "--trials", type=int, default=page.TRIALS, help="trials of the search (default %(default)s; LightBench: 1,000)"
    )
    one.add_argument("--seeds", type=int, default=1, help="seeds of a task (default %(default)s; LightBench: 4)")
    one.add_argument(
        "--seconds", type=int, default=120, help="after which a search begins no further trial (default %(default)s)"
    )
    one.add_argument(
        "--minutes", type=float, help="begin nothing new after so many; the records have the tasks that all arms have"
    )
    one.add_argument("--environment", type=Path, default=WORK / "environment",
                     help="where the environment is, or is to be made (default %(default)s)")  # fmt: skip
    two = add("tabular", "three data sets of the tabular study, run again", tabular.__doc__)
    two.add_argument("--data", type=Path, help=f"folder with churn/, california/ and house/: data/ of {tabular.SOURCE} "
                     "(default: $SABUN_DATA/tabular)")  # fmt: skip
    two.add_argument("--set", action="append", default=[], choices=tabular.SETS, help="only this data set (repeatable)")
    two.add_argument("--epochs", type=int, default=page.EPOCHS, help="epochs at most (default %(default)s)")
    for command in (one, two):
        command.add_argument("--arm", action="append", default=[], choices=ALL, metavar="ARM",
                             help=f"only this arm (repeatable): {'; '.join(ALL)}")  # fmt: skip
    three = add("convergence", "the convergence tests of PyTorch and pytorch_optimizer", convergence.__doc__)
    three.add_argument(
        "--torch-tests", type=Path, help="test/test_optim.py of a checkout of PyTorch (default: from its repository)"
    )
    three.add_argument(
        "--package-tests", type=Path, help="source distribution of pytorch_optimizer, .tar.gz (default: from PyPI)"
    )
    three.add_argument(
        "--preset", action="append", default=[], choices=[*presets()], help="only this preset (repeatable)"
    )
    add("page", "the tables of docs/research/external.md, from the stored records", None)
    return made


def main(arguments: list[str] | None = None) -> int:
    made = parser()
    given = made.parse_args(arguments)
    os.chdir(ROOT)
    torch.set_num_threads(1)
    try:
        if given.command == "lightbench":
            if given.steps < lightbench.GROUP or min(given.trials, given.seeds, given.seconds) < 1:
                made.error(
                    f"--steps has to be at least {lightbench.GROUP}, --trials, --seeds and --seconds at least 1."
                )
            names = ("torch", "pytorch_optimizer", "schedulefree")
            versions = {name: importlib.metadata.version(name) for name in names}
            python = lightbench.environment(given.environment, versions)
            lightbench.measure(python.absolute(), WORK.absolute(), records("lightbench"), given)
        elif given.command == "tabular":
            place = given.data or Path(os.environ.get("SABUN_DATA", ".")) / "tabular"
            tabular.measure(
                place, WORK, records("tabular"), given.set or [*tabular.SETS], given.arm or [*ALL], given.epochs
            )
        elif given.command == "convergence":
            convergence.measure(
                records("convergence"), given.torch_tests, given.package_tests, given.preset or [*presets()]
            )
    except (lightbench.EnvironmentMissingError, tabular.DataError, convergence.TestsMissingError) as error:
        print(error, file=sys.stderr)
        return 1
    page.fill(PAGE, RESULTS)
    return 0


if __name__ == "__main__":
    import piped

    piped.run(main)
