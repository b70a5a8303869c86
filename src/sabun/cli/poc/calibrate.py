"""``sabun poc calibrate``: the error rates of the verdict, measured on studies whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sabun.cli import console, options
from sabun.cli.options import argument, option

__all__ = ["EPILOG", "calibrate"]

EPILOG = """**Reads** a study to resample, if one is given; otherwise records are simulated. **Writes** nothing.

Without an effect all arms are equal (A/A studies), so that every go is false; at most 5% may be.

**Examples**

- `sabun poc calibrate` — false decisions on simulated records

- `sabun poc calibrate runs/digits --effect 0.03` — how often would a true improvement of 3% be found here?

**Exit codes**

0 success · 1 without an effect: more false go decisions than promised · 2 bad input
"""


def calibrate(
    directory: Annotated[
        Path | None, argument("A study whose records are resampled. Default: simulated records.", "DIR")
    ] = None,
    studies: Annotated[int, option("Number of studies to judge.", "N")] = 1000,
    candidates: Annotated[int, option("Candidates per study (simulated records only).", "N")] = 1,
    seeds: Annotated[int, option("Paired seeds per study.", "N")] = 10,
    looks: Annotated[str, option("Interim looks: numbers of seeds, such as 6,8. Default: none.", "N,N,…")] = "",
    effect: Annotated[
        float, option("True effect: 0.03 makes candidates 3% better; 0 makes all arms equal.", "X")
    ] = 0.0,
    margin: options.Margin = None,
    scenario: Annotated[
        str,
        option("Distribution of the simulated records: normal, heavy-tailed, skewed, two-basins, or mixed.", "NAME"),
    ] = "mixed",
    seed: Annotated[int, option("Seed of the simulation.", "N")] = 0,
    as_json: options.Json = False,
) -> None:
    """Measure how often the verdict is wrong, and how often it finds a true effect."""
    from dataclasses import asdict

    from sabun.errors import StudyError
    from sabun.poc.judgement import calibrate as calibration
    from sabun.poc.judgement.simulation import study_arrays
    from sabun.poc.spec import Thresholds

    try:
        early = [int(part) for part in looks.split(",") if part.strip()]
    except ValueError:
        raise StudyError(f"--looks {looks!r} is not a list of numbers.", fix="Write it as 6,8.") from None
    least = options.fraction("--margin", margin)
    source = None
    if directory is not None:
        from sabun.cli.poc.stored import evidence_of

        evidence = evidence_of(directory)
        source = study_arrays(evidence.study, evidence.runs)
    found = calibration.calibrate(
        studies, candidates=candidates, seeds=seeds, looks=early, effect=effect, scenario=scenario, source=source,
        thresholds=None if least is None else Thresholds(margin=least), seed=seed,
    )  # fmt: skip
    low, high = found.go_interval
    if as_json:
        console.print_json({**asdict(found), "go_rate": found.go_rate, "power": found.power})
    else:
        console.echo(
            f"{found.studies} studies of {found.candidates} candidate{'s' * (found.candidates > 1)} and {found.seeds} "
            f"paired seeds, on {found.scenario.removesuffix(' records')} records"
            + (f", interim looks at {', '.join(map(str, found.looks))}" if found.looks else "")
        )
        if effect == 0:
            console.echo(f"false go        {found.go_rate:.1%} ({low:.1%} to {high:.1%}); promised: at most 5%")
            console.echo(f"false no-go     {found.no_go_rate:.1%}")
        else:
            predicted = "" if found.predicted_power is None else f"; predicted: {found.predicted_power:.1%}"
            better = found.first_better / found.studies
            for name, share, (low, high), note in (
                ("K1 better", better, found.better_interval, predicted),
                ("go", found.power, found.power_interval, ""),
            ):
                console.echo(f"{name:<16}{share:.1%} ({low:.1%} to {high:.1%}) for an effect of {effect:.1%}{note}")
        if found.coverage is not None:
            console.echo(f"coverage        {found.coverage:.1%} of the K1 intervals contain the true value")
        console.echo(f"seeds used      {found.mean_seeds:.1f} on average")
    if effect == 0 and not found.is_calibrated:
        raise typer.Exit(1)
