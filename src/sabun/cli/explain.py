"""``sabun explain``: one scheme in words, numbers and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from sabun.cli import console
from sabun.cli.options import OUTPUT, Json, Lang, argument, flag, language_of, option

if TYPE_CHECKING:
    from sabun.schemes import Certificate, Scheme

__all__ = ["EPILOG", "explain"]

EPILOG = """Everything is computed from the scheme's coefficients; nothing is trained. A refused scheme is explained
too, with a scheme to use instead.

**Examples**

- `sabun explain nesterov --lr 0.1` — the curvature up to which a learning rate of 0.1 is stable

- `sabun explain "look-ahead(0.9, 2)" --lang ja --png look-ahead.png` — in Japanese, with pictures

- `sabun explain --plane --png plane.png` — common optimizers on one map

**Exit codes**

0 success · 2 bad input
"""


def explain(
    name: Annotated[str | None, argument("A scheme, such as nesterov or 'look-ahead(0.9, 2)'.", "SCHEME")] = None,
    lr: Annotated[float | None, option("Learning rate to judge: the time step h of the gradient flow.", "H")] = None,
    png: Annotated[Path | None, option("Write the pictures to this file.", "FILE.png", OUTPUT)] = None,
    plane: Annotated[
        bool, flag("Draw only the map of look-ahead schemes; needs --png.", "--plane", panel=OUTPUT)
    ] = False,
    lang: Lang = "en",
    as_json: Json = False,
) -> None:
    """Explain a scheme: its certificate, what that means for a learning rate, and its pictures."""
    from sabun import schemes
    from sabun.errors import OptionError, SchemeError

    lang = language_of(lang)  # refuse an unknown language before anything is written
    if plane:
        if png is None:
            raise OptionError(
                "--plane needs --png FILE.", fix="Give both, as in `sabun explain --plane --png plane.png`."
            )
        _draw_plane(name, png, lang)
        return
    if name is None:
        raise SchemeError(
            "no scheme is given.", fix="Name one, as in `sabun explain nesterov`. `sabun schemes` lists them."
        )
    scheme = schemes.get(name)
    certificate = schemes.certify(scheme)
    sentences = certificate.sentences(lang, lr=lr)
    if png is not None:
        from sabun.report.altair_style import save_png
        from sabun.report.scheme_charts import explain as draw

        save_png(draw(scheme, lang, lr=lr), png)
    if as_json:
        found = certificate.to_dict() | {"lr": lr, "sentences": sentences}
        if lr is not None:
            found["largest_curvature"] = certificate.largest_curvature(lr)
        if png is not None:
            found["png"] = str(png)
        console.print_json(found, indent=2)
        return
    _print(scheme, certificate, sentences, lr, lang)
    if png is not None:
        console.echo(f"\n{png}")


def _draw_plane(name: str | None, png: Path, lang: str) -> None:
    from sabun import schemes
    from sabun.report.altair_style import save_png
    from sabun.report.look_ahead_plane import look_ahead_plane

    highlight = None if name is None else schemes.get(name)
    save_png(look_ahead_plane(lang, highlight=highlight), png)
    console.echo(str(png))


def _print(scheme: Scheme, certificate: Certificate, sentences: list[str], lr: float | None, lang: str) -> None:
    from rich.table import Table

    from sabun.messages.sentences import text

    out = console.stdout()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in certificate.rows(lang):
        table.add_row(label, value)
    out.print(table)
    out.print()
    more = list(sentences)
    if certificate.usable:
        torch = _in_torch(scheme, lr, lang)
        more += [*([torch] if torch else []), text("certificate.preconditioner_note", lang)]
    elif certificate.alternative is not None:
        from sabun import schemes

        other = schemes.certify(certificate.alternative)
        more.append(text("certificate.alternative", lang, {"name": other.scheme}))
        more += other.sentences(lang, lr=lr)[:2]
    for sentence in more:
        out.print(f"• {sentence}", soft_wrap=True)


def _in_torch(scheme: Scheme, lr: float | None, lang: str) -> str | None:
    """Return the equivalent call of torch, where SGD with momentum takes the learning rate of sabun times 1 − β."""
    from sabun.messages.formatting import short
    from sabun.messages.sentences import text

    family = scheme.name.partition("(")[0]
    if family not in ("heavy-ball", "nesterov"):
        return None
    beta = scheme.parameters["beta"]
    step = f"lr·{short(1 - beta)}" if lr is None else short(lr * (1 - beta))
    nesterov = ", nesterov=True" if family == "nesterov" else ""
    return text("certificate.in_torch", lang, {"call": f"torch.optim.SGD(lr={step}, momentum={beta!r}{nesterov})"})
