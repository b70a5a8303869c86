"""Docstrings for the site: cross-references such as ``:func:`~sabun.schemes.get``` become links."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|class|meth|mod|data|attr|exc):`(?:([^`<]+?)\s*<)?(~?)([\w.]+)>?`")
LITERAL = re.compile(r"::$", re.MULTILINE)


class Roles(griffe.Extension):
    """Rewrites every docstring of the package once, after loading."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value, obj)


def markdown(text: str, obj: griffe.Object) -> str:
    """``text`` with roles replaced by links and ``::`` by a single colon."""

    def link(match: re.Match[str]) -> str:
        title, short, target = match.groups()
        shown = title or (target.rpartition(".")[2] if short else target)
        path = resolve(target, obj)
        return f"`{shown}`" if path is None else f'<autoref optional identifier="{path}">`{shown}`</autoref>'

    return LITERAL.sub(":", ROLE.sub(link, text))


def resolve(target: str, obj: griffe.Object) -> str | None:
    """The full path of ``target`` as seen from ``obj``: a member of it, of its class, of its module, or absolute."""
    place: griffe.Object | None = obj
    while place is not None:
        try:
            return str(place[target].path)
        except (KeyError, ValueError, griffe.GriffeError):
            place = place.parent  # type: ignore[assignment]
    return target if target.startswith("sabun.") else None
