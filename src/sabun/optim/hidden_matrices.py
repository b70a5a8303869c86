"""What a parameter is to a matrix preconditioner: a hidden matrix, several of them, or the rest, which is for ``adam``.

Shapes do not suffice: an embedding is a table of rows, each used by few examples, and the output layer ("head") has one
row per class. The rule:

- **rest**: vectors; embeddings and other tables; the head; depthwise kernels; anything of three dimensions of which
  nothing is known.
- **matrix**: weights of two dimensions; convolution kernels of three to five dimensions, 1 × 1 included, flattened to
  (out, in·height·width); the adapters of LoRA; fused weights, unless they are declared to be several matrices.
- **stack**: weights of experts, (experts, in, out): one matrix each.

A tied weight is what any of its modules makes of it. A frozen weight counts like any other. What is known comes from
the modules that own the parameters (:mod:`sabun.optim.owners`), else from the names, else from the shapes alone. The
option ``matrices`` declares the parts of single parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from sabun.errors import OptionError
from sabun.optim import torch_internals as internals
from sabun.optim.layouts import REST, Layout, check_part, layout_of
from sabun.optim.owners import scopes
from sabun.optim.tensors import is_matrix

__all__ = ["Parts", "declarations", "find_parts", "named", "split"]

# Tables: one row per entry of a vocabulary, position or channel.
_TABLE = re.compile(
    r"(^|[._])(\w*embed(ding)?s?|\w*emb|wte|wpe|relative_attention_bias|relative_position_bias_table)([._]|$)"
    r"|(^|\.)(shared\.weight|A_log|rel_pos_[hw])$",
    re.IGNORECASE,
)
# A numbered member of a container, "encoder.layer.3.". Its modules are repeated, so none of them is the head.
_REPEATED = r"[A-Za-z_]\w*\.\d+\."
_HEAD = re.compile(
    r"(^|\.)(?!multi_?head|pre_classifier)(\w*head|heads|head_dist|(\w+_)?classifier|cls|qa_outputs|score|logits|lm_loss"
    r"|vocab_transform|vocab_projector|proj_out|fc_out|out_layer|output_layer)(\.|$)",
    re.IGNORECASE,
)
_BLOCK = re.compile(rf"(^|\.){_REPEATED}\w+\.")
_OUTPUT = re.compile(r"(^|\.)(fc|out|output|linear|decoder|final|unembed|generator\.proj)\.weight$", re.IGNORECASE)
_ADAPTER = re.compile(r"(^|[._])lora_", re.IGNORECASE)
_EXPERTS = re.compile(r"experts?([._]|$)|moe", re.IGNORECASE)
_KERNEL = re.compile(r"conv|kernel", re.IGNORECASE)
_ADDED_TYPES = (nn.Embedding, nn.EmbeddingBag)
_LARGEST_KERNEL = 5  # dimensions
Named = Sequence[tuple[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Parts:
    """What is known about parameters: their layouts as text (those without are no matrices), and which are hidden."""

    layouts: Mapping[int, str] = field(default_factory=dict)
    hidden: frozenset[int] = frozenset()
    searched: bool = False

    def of(self, parameters: Iterable[Tensor], *, split: bool) -> list[str]:
        """The part of each parameter; ``split``: of a group whose rest is treated otherwise, else all are hidden."""
        return [
            self.layouts.get(id(p), REST) if id(p) in self.hidden or not split else REST for p in parameters
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Seen:
    """A parameter with all names and all owners that are known."""

    parameter: Tensor
    names: list[str] = field(default_factory=list)
    owners: list[nn.Module] = field(default_factory=list)


def named(params: nn.Module | Iterable[Any]) -> Named:
    """(name, parameter) pairs of a module, of named parameters, or of bare parameters (which get empty names)."""
    if isinstance(params, nn.Module):
        return list(params.named_parameters())
    pairs = []
    for item in params:
        if isinstance(item, Tensor):
            pairs.append(("", item))
        elif isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], Tensor):
            pairs.append((str(item[0]), item[1]))
        else:
            raise OptionError(
                f"cannot find the hidden matrices among items of type {type(item).__name__}.",
                fix="Pass a module, its named_parameters() or its parameters().",
            )
    return pairs


def split(params: nn.Module | Iterable[Any]) -> tuple[Named, Named]:
    """Split the parameters of one group into hidden matrices and the rest, both in order."""
    pairs = named(params)
    found = find_parts([pairs], modules=[params] if isinstance(params, nn.Module) else [])
    return [pair for pair in pairs if id(pair[1]) in found.hidden], [
        pair for pair in pairs if id(pair[1]) not in found.hidden
    ]


def find_parts(
    groups: Sequence[Named],
    *,
    declared: Mapping[str, str] | None = None,
    modules: Iterable[nn.Module] = (),
    search: bool = True,
) -> Parts:
    """Find the parts of the parameters of an optimizer's groups; names may be empty.

    ``declared`` maps patterns of names to layouts, or to "rest". ``modules`` own parameters; others are looked for if
    these do not own all. Without ``search``, only layouts are asked for: modules then matter for parameters of three
    dimensions alone, and to find those that FSDP1 has flattened.

    Raises OptionError for a declaration that concerns no parameter or does not fit, and for parameters that FSDP1 has
    flattened.
    """
    parameters = {id(p): p for group in groups for _, p in group}
    names = {id(p): name for group in groups for name, p in group if name}
    layouts: dict[int, str] = {}
    hidden: set[int] = set()
    seen: dict[int, _Seen] = {}
    search = search or any(p.ndim == 3 for p in parameters.values()) or internals.fsdp1_is_loaded()
    for scope in scopes(list(parameters.values()), modules) if search else ():
        inside: dict[int, _Seen] = {}
        for member in scope:
            one = inside.setdefault(id(member.parameter), _Seen(member.parameter))
            one.names.append(member.name)
            one.owners.append(member.owner)
        _classify(list(inside.values()), layouts, hidden, last_is_head=True)
        seen |= inside
    rest = [_Seen(p, [names[key]] if key in names else []) for key, p in parameters.items() if key not in seen]
    # The order of several groups says nothing about the order of the layers.
    with_matrices = [group for group in groups if any(is_matrix(p.shape) for _, p in group)]
    _classify(rest, layouts, hidden, last_is_head=len(with_matrices) == 1)
    seen |= {id(one.parameter): one for one in rest}
    for pattern, part in (declared or {}).items():
        chosen = [key for key in parameters if _matches(pattern, [*seen[key].names, names.get(key, "")])]
        chosen = [key for key in chosen if part != "matrix" or is_matrix(parameters[key].shape)]
        if not chosen:
            raise OptionError(f"matrices: no parameter is called {pattern!r}.", fix=_names_of(names, seen))
        for key in chosen:
            check_part(part, parameters[key].shape)
            if layout_of(part) is None:
                hidden.discard(key)
                layouts.pop(key, None)
            else:
                hidden.add(key)
                layouts[key] = part
    return Parts(layouts, frozenset(hidden & set(parameters)), search)


def declarations(value: object) -> Mapping[str, str]:
    """The option ``matrices`` as a mapping: it is one already, or text such as ``"*.qkv.weight: matrix(split=3)"``.

    Text has one declaration after the other, with ``;`` between them. Raises OptionError for anything else.
    """
    if value is None:
        return {}
    if isinstance(value, str):
        pairs = [entry.rpartition(":") for entry in value.split(";") if entry.strip()]
        value = {name.strip(): part.strip() for name, _, part in pairs}
    if not isinstance(value, Mapping) or not all(isinstance(x, str) and x for pair in value.items() for x in pair):
        raise OptionError(
            f"matrices must map patterns of names to layouts, not {value!r}.",
            fix="Write matrices={'*.qkv.weight': 'matrix(split=3)'}, or as text '*.qkv.weight: matrix(split=3)'.",
        )
    for part in value.values():
        layout_of(part)
    return value


def _matches(pattern: str, names: Iterable[str]) -> bool:
    return any(name and (fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")) for name in names)


def _names_of(names: Mapping[int, str], seen: Mapping[int, _Seen]) -> str:
    known = [*names.values(), *(name for one in seen.values() for name in one.names)]
    matrices = [name for name in dict.fromkeys(known) if name.endswith("weight")] or known
    return f"The parameters are called {', '.join(matrices[:8])}, …" if known else "Pass named parameters."


# ---------------------------------------------------------------------- the rule


def _classify(members: list[_Seen], layouts: dict[int, str], hidden: set[int], *, last_is_head: bool) -> None:
    """Add the layouts of ``members``, the parameters of a network in order, and which of them are hidden."""
    found = {id(one.parameter): layout for one in members if (layout := _layout(one)) is not None}
    tables = {id(one.parameter) for one in members if _is_table(one)}
    heads = {id(one.parameter) for one in members if any(map(_is_head, one.names)) and one.parameter.ndim > 1}
    if not heads:
        outputs = [one for one in members if id(one.parameter) not in tables and _may_be_head(one)]
        if len(outputs) > 1:
            last = outputs[-1]
            if any(_OUTPUT.search(name) and not _BLOCK.search(name) for name in last.names) or (
                last_is_head and not tables
            ):
                heads = {id(last.parameter)}
    layouts |= {key: str(layout) for key, layout in found.items()}
    hidden |= set(found) - tables - heads


def _layout(one: _Seen) -> Layout | None:
    """The layout of a parameter as a matrix; None: it is none, or nothing is known."""
    shape = one.parameter.shape
    if len(shape) > 2 and not any(isinstance(owner, internals.Convolution) for owner in one.owners):
        labels = [*one.names, *(f"{type(owner).__name__}." for owner in one.owners)]
        if any(map(_EXPERTS.search, labels)):
            return Layout(stacked=True) if min(shape[-2:]) > 1 else None
        if len(shape) == 3 and (one.owners or not any(map(_KERNEL.search, one.names))):
            return None
    depthwise = len(shape) > 2 and shape[1] == 1
    return Layout() if is_matrix(shape) and not depthwise and len(shape) <= _LARGEST_KERNEL else None


def _is_table(one: _Seen) -> bool:
    by_type = any(isinstance(owner, _ADDED_TYPES) for owner in one.owners)
    return by_type or any(map(_TABLE.search, one.names))


def _is_head(name: str) -> bool:
    found = _HEAD.search(name)
    return found is not None and not re.search(rf"(^|\.){_REPEATED}", name[: found.start() + 1])


def _may_be_head(one: _Seen) -> bool:
    """Whether a parameter could be the weight of an output layer, which may have a single row."""
    shape = one.parameter.shape
    if any(map(_ADAPTER.search, one.names)) or len(shape) < 2:
        return False
    if _layout(one) is not None:
        return True
    if len(shape) > 2 and shape[1] == 1:
        return False
    if one.owners:
        return any(isinstance(owner, nn.Linear | internals.Convolution) for owner in one.owners)
    return len(shape) == 2 and shape[0] == 1 and (not one.names or any(name.endswith("weight") for name in one.names))
