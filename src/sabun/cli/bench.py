"""``sabun bench``: the time of an optimizer step relative to torch's, measured within one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from sabun.cli import console
from sabun.cli.options import OUTPUT, argument, option
from sabun.errors import OptionError

__all__ = ["EPILOG", "bench"]

EPILOG = """**Examples**

- `sabun bench` — every contest on the shapes of GPT-2 small

- `sabun bench adam adam-foreach --shapes resnet18 --rounds 30 --json ratios.json`

- `sabun bench momentum --limit 5000000` — on at most five million parameters

**Exit codes**

0 success · 2 bad input
"""


def bench(
    contests: Annotated[
        list[str] | None,
        argument("Any of momentum, momentum-foreach, adam, adam-foreach, matrix. Default: all.", "CONTEST"),
    ] = None,
    shapes: Annotated[
        str,
        option(
            "Parameter shapes: gpt2-small, resnet18, many-small, mixed, or a JSON file with a list of shapes.",
            "NAME|FILE.json",
        ),
    ] = "gpt2-small",
    device: Annotated[str, option("Device to measure on.", "cpu|cuda")] = "cpu",
    rounds: Annotated[int, option("Interleaved repetitions; the median is shown.", "N", least=1)] = 15,
    threads: Annotated[int, option("Threads that torch may use.", "N", least=1)] = 1,
    limit: Annotated[
        int | None, option("Largest number of parameters; the largest tensors are left out first.", "N", least=1)
    ] = None,
    json_file: Annotated[
        Path | None, option("Also write the results to a file.", "FILE", OUTPUT, name="--json")
    ] = None,
    picture: Annotated[Path | None, option("Also draw the ratios.", "FILE.svg|FILE.png", OUTPUT)] = None,
) -> None:
    """Measure the optimizer step: time, memory bandwidth, memory and compile time, relative to torch's optimizers.

    Each round runs every optimizer once and ratios are taken within rounds, so they are meaningful on a busy machine
    too. The first line of each block is the reference.
    """
    if picture is not None and picture.suffix not in (".svg", ".png"):
        raise OptionError(
            f"{picture} has neither the suffix .svg nor .png.", fix="Give --picture a file with one of them."
        )
    for path in (json_file, picture):
        if path is not None and not path.absolute().parent.is_dir():
            raise OptionError(
                f"the directory {path.absolute().parent} does not exist.", fix="Create it, or write elsewhere."
            )

    from sabun import bench as benchmark

    result = benchmark.run(
        shapes,
        contests=contests or (),
        device=device,
        rounds=rounds,
        threads=threads,
        limit=limit,
        on_row=lambda row: console.echo(f"measured {row.contest}: {row.name}", err=True),
    )
    console.echo(benchmark.table(result))
    if json_file is not None:
        json_file.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    if picture is not None:
        drawn = benchmark.picture(result)
        if picture.suffix == ".svg":
            picture.write_text(drawn, encoding="utf-8")
        else:
            import vl_convert

            picture.write_bytes(vl_convert.svg_to_png(drawn, scale=2))
