"""``sabun schemes`` and ``sabun explain``: the catalogue as a table, and one scheme in plain words and pictures.

Both take ``--json`` for machines. A refused scheme is explained like any other, with what to use instead.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sabun.schemes import Certificate, Scheme

__all__ = ["explain_command", "register", "schemes_command"]

Lang = Annotated[str, typer.Option(help="Language: en or ja.", metavar="en|ja")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else on standard output.")]


def register(app: typer.Typer) -> None:
    """Add both commands to the command line."""
    app.command("schemes")(schemes_command)
    app.command(
        "explain",
        epilog="""**Examples**

`sabun explain nesterov --lr 0.1` — what a learning rate of 0.1 is safe for

`sabun explain "look-ahead(0.9, 2)" --lang ja --png look-ahead.png` — in Japanese, with pictures

`sabun explain --plane --png plane.png` — every known optimizer on one map
""",
    )(explain_command)


def schemes_command(lang: Lang = "en", as_json: Json = False) -> None:
    """Show the catalogue: order, error constant, stability, noise and cost of every scheme."""
    from sabun.messages.sentences import text
    from sabun.schemes import SCHEMES, certify

    certificates = [certify(entry.build()) for entry in SCHEMES.values()]
    if as_json:
        print(json.dumps([c.to_dict() for c in certificates], ensure_ascii=False, indent=2))
        return
    from rich.table import Table

    from sabun.cli.console import stdout

    table = Table(
        box=None, pad_edge=False, header_style="bold", caption=text("certificate.caption", lang), caption_justify="left"
    )
    for key in ("scheme", "order_short", "constant_short", "interval_short", "noise_short", "gradients_short",
                "state_short"):  # fmt: skip
        table.add_column(
            text(f"certificate.{key}", lang), justify="left" if key == "scheme" else "right", no_wrap=key == "scheme"
        )
    table.add_column(text("certificate.what", lang), overflow="fold")
    for c in certificates:
        table.add_row(*_cells(c, lang), style=None if c.usable else "dim")
    stdout().print(table)


def _cells(c: Certificate, lang: str) -> list[str]:
    from math import isfinite

    from sabun.messages.formatting import short
    from sabun.messages.sentences import text

    what = c.summary.get(lang) or c.summary["en"]
    return [
        c.scheme,
        str(c.order),
        short(float(c.error_constant)),
        short(c.stability_interval) if c.usable else text("certificate.refused", lang),
        short(c.noise_gain) if isfinite(c.noise_gain) else "–",
        str(c.gradient_evaluations),
        str(c.state_copies),
        what,
    ]


def explain_command(
    name: Annotated[str | None, typer.Argument(help="A scheme, such as nesterov or 'look-ahead(0.9, 2)'.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate: the time step h of the gradient flow.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write the pictures to this PNG file.", metavar="FILE")] = None,
    plane: Annotated[bool, typer.Option("--plane", help="The look-ahead plane alone; needs --png.")] = False,
    lang: Lang = "en",
    as_json: Json = False,
) -> None:
    """Explain a scheme: its certificate, what it means for a learning rate, and its pictures."""
    from sabun import schemes
    from sabun.errors import OptionError, SchemeError
    from sabun.messages.languages import language

    language(lang)  # an unknown language is an error before anything is written
    if plane:
        if png is None:
            raise OptionError("--plane needs --png FILE.", fix="For example: sabun explain --plane --png plane.png")
        _draw_plane(name, png, lang)
        return
    if name is None:
        raise SchemeError("no scheme named.", fix="For example: sabun explain nesterov. `sabun schemes` lists them.")
    scheme = schemes.get(name)
    certificate = schemes.certify(scheme)
    sentences = certificate.sentences(lang, lr=lr)
    if png is not None:
        from sabun.report.altair_style import save_png
        from sabun.report.scheme_charts import explain

        save_png(explain(scheme, lang, lr=lr), png)
    if as_json:
        found = certificate.to_dict() | {"lr": lr, "sentences": sentences}
        if lr is not None:
            found["largest_curvature"] = certificate.largest_curvature(lr)
        if png is not None:
            found["png"] = str(png)
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    _tell(scheme, certificate, sentences, lr, lang)
    if png is not None:
        print(f"\n{png}")


def _draw_plane(name: str | None, png: Path, lang: str) -> None:
    from sabun import schemes
    from sabun.report.altair_style import save_png
    from sabun.report.look_ahead_plane import look_ahead_plane

    highlight = None if name is None else schemes.get(name)
    save_png(look_ahead_plane(lang, highlight=highlight), png)
    print(png)


def _tell(scheme: Scheme, certificate: Certificate, sentences: list[str], lr: float | None, lang: str) -> None:
    from rich.table import Table

    from sabun.cli.console import stdout
    from sabun.messages.sentences import text

    console = stdout()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in certificate.rows(lang):
        table.add_row(label, value)
    console.print(table)
    console.print()
    more = list(sentences)
    if certificate.usable:
        torch = _in_torch(scheme, lr, lang)
        more += [*([torch] if torch else []), text("certificate.metric_note", lang)]
    elif certificate.alternative is not None:
        from sabun import schemes

        other = schemes.certify(certificate.alternative)
        more.append(text("certificate.alternative", lang, {"name": other.scheme}))
        more += other.sentences(lang, lr=lr)[:2]
    for sentence in more:
        console.print(f"• {sentence}", soft_wrap=True)


def _in_torch(scheme: Scheme, lr: float | None, lang: str) -> str | None:
    """The same in torch, whose ``lr`` of SGD with momentum is that of sabun times 1 − β."""
    from sabun.messages.formatting import short
    from sabun.messages.sentences import text

    family = scheme.name.partition("(")[0]
    if family not in ("heavy-ball", "nesterov"):
        return None
    beta = scheme.parameters["beta"]
    step = f"lr·{short(1 - beta)}" if lr is None else short(lr * (1 - beta))
    nesterov = ", nesterov=True" if family == "nesterov" else ""
    return text("certificate.in_torch", lang, {"call": f"torch.optim.SGD(lr={step}, momentum={beta!r}{nesterov})"})
