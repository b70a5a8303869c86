"""``sabun bench``: how long a step takes beside torch's, as ratios within one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sabun.errors import OptionError

__all__ = ["register"]


def register(parent: typer.Typer) -> None:
    """Add ``bench`` to the command line."""
    parent.command()(bench)


def bench(
    comparisons: Annotated[
        list[str] | None,
        typer.Argument(help="momentum, momentum-foreach, adam, adam-foreach, matrix; default: all of them."),
    ] = None,
    shapes: Annotated[
        str, typer.Option(help="gpt2-small, resnet18, many-small, mixed, or a .json file with a list of shapes.")
    ] = "gpt2-small",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved repeats; the median is shown.")] = 15,
    threads: Annotated[int, typer.Option(min=1, help="Threads that torch may use.")] = 1,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many parameters: the largest tensors are left out.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    picture: Annotated[Path | None, typer.Option("--picture", help="Draw the ratios: .svg or .png.")] = None,
) -> None:
    """Measure the optimizer step: time, share of the memory bandwidth, memory, compile time; beside torch's own.

    Every round runs every contestant once, and ratios are taken within rounds: they mean something on a busy machine
    too. The first line of each block is what the others are compared with.
    """
    if picture is not None and picture.suffix not in (".svg", ".png"):
        raise OptionError(f"{picture} is neither .svg nor .png.", fix="Give the picture one of these suffixes.")
    for path in (json_file, picture):
        if path is not None and not path.absolute().parent.is_dir():
            raise OptionError(f"there is no directory {path.absolute().parent}.", fix="Make it, or write elsewhere.")

    from sabun import bench as benchmark

    result = benchmark.run(
        shapes,
        contests=comparisons or (),
        device=device,
        rounds=rounds,
        threads=threads,
        limit=limit,
        on_row=lambda row: typer.echo(f"measured {row.contest}: {row.name}", err=True),
    )
    typer.echo(benchmark.table(result))
    if json_file is not None:
        json_file.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    if picture is not None:
        drawn = benchmark.picture(result)
        if picture.suffix == ".svg":
            picture.write_text(drawn, encoding="utf-8")
        else:
            import vl_convert

            picture.write_bytes(vl_convert.svg_to_png(drawn, scale=2))
