"""Layers that several tasks share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

__all__ = ["Block"]


class Block(nn.Module):
    """Pre-norm self-attention and MLP; ``fused``: one weight for query, key and value."""

    def __init__(self, width: int, heads: int, *, causal: bool, fused: bool = True) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        names = ("qkv",) if fused else ("query", "key", "value")
        self.projections = nn.ModuleDict({name: nn.Linear(width, width * 3 // len(names)) for name in names})
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        normed = self.norm1(x)
        found = [projection(normed) for projection in self.projections.values()]
        q, k, v = found if len(found) == 3 else found[0].chunk(3, -1)
        q, k, v = (part.view(rows, length, self.heads, -1).transpose(1, 2) for part in (q, k, v))
        mixed = scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, length, width))
        return x + self.down(gelu(self.up(self.norm2(x))))
