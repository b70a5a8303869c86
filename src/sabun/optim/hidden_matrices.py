"""Parameter groups for matrix preconditioners: hidden matrices, which those are for, and the rest, for ``adam``.

Shapes do not suffice: an embedding is a table of rows, each used by few examples, and the output layer ("head") has one
row per class. So names are used as well, and the choice can be overridden.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sabun.errors import OptionError
from sabun.optim.tensors import is_matrix

__all__ = ["named", "param_groups", "split"]

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
Named = Sequence[tuple[str, Tensor]]


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


def _is_head(name: str) -> bool:
    found = _HEAD.search(name)
    return found is not None and not re.search(rf"(^|\.){_REPEATED}", name[: found.start() + 1])


def _is_map(shape: torch.Size) -> bool:
    """Whether a parameter of this shape maps channels to channels; a depthwise kernel does not."""
    return is_matrix(shape) and not (len(shape) > 2 and shape[1] == 1)


def split(
    params: nn.Module | Iterable[Any], is_hidden: Callable[[str, Tensor], bool] | None = None
) -> tuple[Named, Named]:
    """Split parameters into hidden matrices and the rest, both in order.

    A hidden matrix, flattened to (first dimension, all others), has two sides longer than one, and is not a depthwise
    kernel, an embedding or another table, or part of the head. Embeddings are recognised by ``nn.Embedding`` or by
    name. The head is recognised by name, outside of repeated blocks; without such a name it is the last matrix. In a
    model with embeddings the last matrix must also have the name of an output, because the weights may be tied.
    ``is_hidden(name, parameter)``, if given, decides instead.
    """
    pairs = named(params)
    if is_hidden is not None:
        chosen = {id(p) for name, p in pairs if is_hidden(name, p)}
    else:
        tables: set[int] = set()
        if isinstance(params, nn.Module):
            kinds = (nn.Embedding, nn.EmbeddingBag)
            tables = {id(p) for module in params.modules() if isinstance(module, kinds) for p in module.parameters()}
        # Tied weights under each of their names.
        every = list(params.named_parameters(remove_duplicate=False)) if isinstance(params, nn.Module) else pairs
        tables |= {id(p) for name, p in every if _TABLE.search(name)}
        heads = {id(p) for name, p in every if _is_head(name) and is_matrix(p.shape)}
        matrices = [(name, p) for name, p in pairs if _is_map(p.shape)]
        if not heads and len(matrices) > 1:
            name, last = matrices[-1]
            if not tables or (_OUTPUT.search(name) and not _BLOCK.search(name)):
                heads = {id(last)}
        chosen = {id(p) for _, p in matrices} - tables - heads
    return [(n, p) for n, p in pairs if id(p) in chosen], [(n, p) for n, p in pairs if id(p) not in chosen]


def param_groups(
    params: nn.Module | Iterable[Any],
    *,
    hidden: Mapping[str, Any] | None = None,
    rest: Mapping[str, Any] | None = None,
    is_hidden: Callable[[str, Tensor], bool] | None = None,
) -> list[dict[str, Any]]:
    """Make two parameter groups, the hidden matrices and the rest, for a matrix preconditioner::

        sabun.Optimizer(sabun.optim.param_groups(model), lr=0.01, scheme="nesterov", preconditioner="spectral")

    The rest gets ``preconditioner="adam"``. ``hidden`` and ``rest`` add or override options of the two groups,
    ``is_hidden`` overrides the choice of :func:`split`. An empty group is left out. Raises OptionError for items that
    are not parameters.
    """
    first, second = split(params, is_hidden)
    groups = []
    for name, pairs, options in (
        ("hidden", first, hidden or {}),
        ("rest", second, {"preconditioner": "adam", **(rest or {})}),
    ):
        if pairs:
            keep_names = all(n for n, _ in (*first, *second))
            members = list(pairs) if keep_names else [p for _, p in pairs]
            groups.append({"params": members, "name": name, **options})
    return groups
