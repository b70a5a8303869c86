"""The elementwise step in Triton: one kernel per rule, in one launch for all tensors of a bucket, and one pass.

The kernel is written from the formula that the C loop is written from. Its arguments are addresses: a table of pointers
in device memory, and a plan that says which part of which tensor a program takes. So a kernel serves any number of
tensors of any size, and a new learning rate or a new gradient compiles nothing. Every operand is read once and written
once; 16-bit operands are computed in float32 inside the kernel, without copies.

Stochastic rounding draws its noise inside the kernel, from a counter: Philox4x32 with 7 rounds, the fewest that pass
BigCrush (Salmon et al. 2011), of the entry's number, the parameter's place in the optimizer and the step. The key is 0
for the parameter, and the number of the column for a state tensor that is stored at random.

State in 8 bits (:mod:`sabun.optim.state_storage`) is a variant of the loads and stores: codes are looked up in the
table of levels and multiplied by their block's scale; what is stored is searched for in the table.

Under ``TRITON_INTERPRET=1`` the same text runs on CPU tensors, entry by entry in NumPy, for tests.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sabun.optim.compiled.c_compiler import NoCompilerError
from sabun.optim.compiled.c_elementwise import ElementwiseTable, block_size, operands
from sabun.optim.compiled.formula import Rule, Statements, step
from sabun.optim.preconditioners.preconditioner import Preconditioner
from sabun.optim.tensors import BLOCK as CODED
from sabun.optim.terms import Tensors
from sabun.optim.triton_source import kernel, takes

__all__ = ["BLOCK", "TYPES", "WARPS", "TritonKernel", "TritonTable", "make", "source", "takes"]

TYPES = {
    torch.float32: "tl.float32",
    torch.float64: "tl.float64",
    torch.bfloat16: "tl.bfloat16",
    torch.float16: "tl.float16",
    torch.uint8: "tl.uint8",
}
"""dtype of an operand in memory → its Triton type; uint8 are the codes of state in 8 bits."""

BLOCK, WARPS = 1024, 4  # entries of one pass of a program: 8 for each thread
_PROGRAMS = 2**13  # about as many as are started, where tensors are large enough for that
_ALIGNED = 16  # bytes of the widest load
_ROUNDS = 7


class TritonEmitter(Statements):
    """Arithmetic on names of variables in a Triton kernel. Root and quotient are rounded as IEEE 754 asks."""

    def __init__(self, *, double: bool) -> None:
        super().__init__("{name} = {expression}")
        self._sqrt, self._div = ("tl.sqrt({})", "{} / {}") if double else ("tl.sqrt_rn({})", "tl.div_rn({}, {})")

    def div(self, x: str, y: str) -> str:
        return self.assign(self._div.format(x, y))

    def sqrt(self, x: str) -> str:
        return self.assign(self._sqrt.format(x))

    def sign(self, x: str) -> str:
        return self.assign(f"tl.where({x} > 0, 1.0, tl.where({x} < 0, -1.0, 0.0)).to({x}.dtype)")


def source(rule: Rule, dtypes: Sequence[torch.dtype], *, at_random: Sequence[int] = ()) -> str:
    """The text of ``rule`` for :func:`operands` of these dtypes, rounded to nearest, or those ``at_random`` so.

    Whole blocks are read and written without masks, so that the accesses can be as wide as the hardware has them, and
    the last entries of a tensor with one. With state in 8 bits a pass takes whole blocks of that, each in a row of a
    tile, in accesses as wide if addresses, rows and blocks are multiples of 16.
    """
    kinds = {name: TYPES[dtype] for name, dtype in operands(rule, dtypes).items()}
    names = ["p", *[f"s{j}" for j in range(rule.states)]]
    coded = {name: f"levels_{j in rule.squares:d}" for j, name in enumerate(names[1:]) if f"{name}_scale" in kinds}
    real = "tl.float64" if torch.float64 in dtypes else "tl.float32"
    numbers = {name: f"k_{name}" for name in (*rule.operands, *(("count",) if at_random else ()))}
    emitter = TritonEmitter(double=real == "tl.float64")
    p, state = step(emitter, rule, numbers, "p", "g", names[1:])
    written = dict(zip(names, [p, *state], strict=True))

    def entries(mask: str) -> list[str]:
        lines = []
        for name in (*names, "g"):
            if name in coded:
                lines.append(f"{name}_by = tl.load({name}_scale_ + block, mask=exists).to({real})[:, None]")
                lines.append(f"{name} = decoded(tl.load({name}_ + i{mask}), {name}_by, {coded[name]})")
            else:
                lines.append(f"{name} = tl.load({name}_ + i{mask}).to({real})")
        lines += emitter.lines
        for key, (name, value) in enumerate(written.items()):
            word = f"random_word(i, place, k_count, {key})"
            if name in coded:
                value = f"tl.where(inside, {value}, 0.0), {word}, {coded[name]}"
                lines += [
                    f"{name}_codes, {name}_by = encoded({value})",
                    f"tl.store({name}_scale_ + block, {name}_by.to(tl.float32), mask=exists)",
                ]
                value = f"{name}_codes"
            elif key in at_random:
                value = f"rounded_at_random({value}.to(tl.float32), {word})"
            lines.append(f"tl.store({name}_ + i, {value}.to({kinds[name]}){mask})")
        return lines

    columns = 3 if coded else 2  # of the plan, a number for each tensor
    lines = [
        *((_RANDOM + (_CODED if coded else "")).splitlines() if at_random else []),
        '@triton.jit(do_not_specialize=["tensors", "chunk"])',
        f"def step(addresses, plan, numbers, {'levels, ' if coded else ''}tensors, chunk, BLOCK: tl.constexpr, "
        f"ALIGNED: tl.constexpr{', WIDTH: tl.constexpr' if coded else ''}):",
        "    program = tl.program_id(0)",
        f"    parts = plan + {columns} * tensors + 2 * program",
        "    tensor = tl.load(parts)",
        "    begin = tl.load(parts + 1) * BLOCK",
        "    length = tl.load(plan + tensor)",
        *(["    place = tl.load(plan + tensors + tensor)"] if at_random else []),
        *[f"    {variable} = tl.load(numbers + {j})" for j, variable in enumerate(numbers.values())],
    ]
    for j, (name, kind) in enumerate(kinds.items()):
        lines += [
            f"    {name}_ = tl.load(addresses + {j} * tensors + tensor).to(tl.pointer_type({kind}))",
            f"    if ALIGNED: {name}_ = tl.multiple_of({name}_, {_ALIGNED})",
        ]
    lines.append("    end = tl.minimum(begin + chunk, length)")
    if coded:
        lines += [
            *[
                f"    {levels} = tl.load(levels + {256 * int(levels[-1])} + tl.arange(0, 256)).to({real})"
                for levels in dict.fromkeys(coded.values())
            ],
            *_BLOCKS.splitlines(),
            *[f"        {line}" for line in entries(", mask=inside")],
        ]
    else:
        lines += [
            "    whole = begin + (end - begin) // BLOCK * BLOCK",
            "    for first in range(begin, whole, BLOCK):",
            "        i = first + tl.arange(0, BLOCK)",
            *[f"        {line}" for line in entries("")],
            "    if whole < end:",
            "        i = whole + tl.arange(0, BLOCK)",
            "        inside = i < end",
            *[f"        {line}" for line in entries(", mask=inside")],
        ]
    return "\n".join(lines) + "\n"


# A bfloat16 is the upper half of a float32: add noise below it, and truncate.
_RANDOM = f"""\
@triton.jit
def random_word(i, place, count, key: tl.constexpr):
    low, high = i.to(tl.uint32), (i >> 32).to(tl.uint32)
    zero = low * 0
    word, _, _, _ = tl.philox(key, low, high, zero + place.to(tl.uint32), zero + count.to(tl.uint32), {_ROUNDS})
    return word

@triton.jit
def rounded_at_random(x, word):
    bits = (x.to(tl.int32, bitcast=True) + (word & 0xFFFF).to(tl.int32)) & -65536
    return tl.where(tl.abs(x) < float("inf"), bits.to(tl.float32, bitcast=True), x)

"""

# As state_storage.decode and encode. Bits that are turned left by one, so that the sign comes last, have the order of
# the moduli, and those of a NaN are above all others.
_CODED = """\
@triton.jit
def decoded(codes, scale, levels):
    index = tl.reshape(codes.to(tl.int32), [codes.shape[0] * codes.shape[1]])
    return tl.reshape(tl.gather(levels, index, 0), codes.shape) * scale

@triton.jit
def encoded(x, word, levels):
    width: tl.constexpr = x.dtype.primitive_bitwidth
    kind: tl.constexpr = tl.uint64 if width == 64 else tl.uint32
    bits = x.to(kind, bitcast=True)
    turned = tl.max((bits << 1) | (bits >> (width - 1)), axis=1)
    scale = ((turned >> 1) | (turned << (width - 1))).to(x.dtype, bitcast=True)
    divisor = tl.where(scale == 0, 1.0, scale).to(x.dtype)[:, None] + tl.zeros_like(x)
    relative = x / divisor if width == 64 else tl.div_rn(x, divisor)
    relative = tl.where(relative == relative, relative, 1.0)
    relative = tl.reshape(relative, [x.shape[0] * x.shape[1]])
    noise = tl.reshape(word >> 8, [x.shape[0] * x.shape[1]]).to(x.dtype) * 2.0**-24
    code = tl.zeros_like(relative).to(tl.int32)
    for k in tl.static_range(8):
        further = code + (128 >> k)
        code = tl.where(tl.gather(levels, further, 0) <= relative, further, code)
    low = tl.gather(levels, code, 0)
    high = tl.gather(levels, tl.minimum(code + 1, 255), 0)
    code += (relative - low > noise * (high - low)).to(tl.int32)
    return tl.reshape(code, x.shape).to(tl.uint8), scale

"""

_BLOCKS = f"""\
    columns = tl.load(plan + 2 * tensors + tensor)
    number = (columns + {CODED - 1}) // {CODED}
    size = (columns + number - 1) // number
    if ALIGNED: columns, size = tl.multiple_of(columns, {_ALIGNED}), tl.multiple_of(size, {_ALIGNED})
    for first in range(begin, end, BLOCK):
        block = first + tl.arange(0, BLOCK)
        exists = block < end
        at = tl.arange(0, WIDTH)[None, :]
        row = block.to(tl.int32) // number.to(tl.int32)
        column = ((block - row * number) * size)[:, None] + at
        i = (row * columns)[:, None] + column
        inside = (at < size) & (column < columns) & exists[:, None]
"""


def make(text: str) -> Any:
    """The kernel of a text, not yet compiled. Raises NoCompilerError without Triton."""
    try:
        return kernel(text)
    except (ImportError, OSError) as error:  # a library of its own that cannot be loaded
        raise NoCompilerError(f"Triton cannot be imported ({error})") from None


@dataclass(slots=True)
class TritonTable(ElementwiseTable):
    """Dense tensors of one device whose state has the memory order of its parameter, with what a launch needs.

    - ``plan``: lengths of the tensors (in 8 bits their numbers of blocks), their places in the optimizer, in 8 bits
      their columns, and for each program its tensor and the pass that it begins with. ``places`` are those that were
      sent.
    - ``addresses``: a row per operand, g last. ``sent`` are those that were sent; ``aligned``: all are multiples of 16,
      and so are rows and blocks.
    - ``block``: entries of a pass, in 8 bits blocks; ``chunk``: those of a program. ``width``: the least power of two
      that holds a block in 8 bits, else 0.
    """

    plan: Tensor | None = None
    places: list[int] = field(default_factory=list)
    addresses: Tensor | None = None
    sent: list[int] = field(default_factory=list)
    aligned: bool = False
    block: int = 0
    width: int = 0
    chunk: int = 0
    programs: int = 0

    @classmethod
    def of(
        cls, params: Tensors, state: Sequence[Tensors], rows: Sequence[Tensors], preconditioner: Preconditioner
    ) -> TritonTable | None:
        device = params[0].device
        if not takes(device):
            raise NoCompilerError(f"Triton is not installed, or has no kernels for the device {device.type!r}")
        fields = cls.elementwise(params, state, rows, TYPES)
        return None if fields is None else cls(**fields)

    def schedule(self) -> list[int]:
        """For each program its tensor and the pass that it begins with; sets the fields of a launch but addresses."""
        self.block = BLOCK
        if self.columns:
            self.width = 1 << (max(map(block_size, self.columns)) - 1).bit_length()
            self.block = max(1, BLOCK // self.width)
        passes = [-(-n // self.block) for n in self.units]
        each = max(1, -(-sum(passes) // _PROGRAMS))
        parts = [x for t, n in enumerate(passes) for begin in range(0, n, each) for x in (t, begin)]
        self.chunk, self.programs = each * self.block, len(parts) // 2
        return parts

    def point(self, grads: Tensors, places: Sequence[int]) -> bool:
        """Send to the device what has changed. False while a CUDA graph is captured, which would keep the old."""
        device = self.params[0].device
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return False
        if self.plan is None or self.places != places:
            self.plan, self.places = (
                _sent([*self.units, *places, *self.columns, *self.schedule()], device),
                list(places),
            )
        addresses = [*self.pointers, *[g.data_ptr() for g in grads]]
        if addresses != self.sent:
            self.addresses, self.sent = _sent(addresses, device), addresses
            widths = [*self.columns, *map(block_size, self.columns)]
            self.aligned = not any(number % _ALIGNED for number in (*addresses, *widths))
        return True


def _sent(values: Sequence[float], device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.tensor(values, dtype=dtype, device="cpu").to(device, non_blocking=True)


class TritonKernel:
    """A rule for operands of some dtypes; compiled when it is first called."""

    def __init__(self, rule: Rule, dtypes: Sequence[torch.dtype], *, at_random: Sequence[int]) -> None:
        self._kernel = make(source(rule, dtypes, at_random=at_random))
        self._at_random = bool(at_random)
        self._real = torch.float64 if torch.float64 in dtypes else torch.float32

    def __call__(self, table: TritonTable, numbers: Sequence[float | Tensor], count: int) -> None:
        """Step every tensor of the table; ``numbers`` are the rule's operands in step ``count``. None is read here."""
        if not table.programs:
            return
        device = table.params[0].device
        made = {i: number for i, number in enumerate(numbers) if isinstance(number, Tensor)}
        known = [0.0 if isinstance(number, Tensor) else number for number in numbers]
        scalars = _sent([*known, count] if self._at_random else known, device, self._real)
        for i, number in made.items():
            scalars[i].copy_(number.reshape(()), non_blocking=True)
        coded: dict[str, Any] = {}
        if table.columns:
            from sabun.optim.state_storage import level_tables

            coded = {"levels": level_tables(device), "WIDTH": table.width}
        on_device: Any = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
        with on_device:
            self._kernel[(table.programs,)](
                addresses=table.addresses, plan=table.plan, numbers=scalars, tensors=len(table.params),
                chunk=table.chunk, BLOCK=table.block, ALIGNED=table.aligned, **coded,
                num_warps=WARPS, enable_fp_fusion=True,
            )  # fmt: skip

    def compile(self, table: TritonTable, numbers: Sequence[float | Tensor], count: int) -> None:
        """The first call. Raises NoCompilerError if the rule cannot be compiled here."""
        from triton.errors import TritonError  # has been imported

        try:
            self(table, numbers, count)
        except torch.OutOfMemoryError:
            raise
        except (TritonError, RuntimeError, OSError, subprocess.SubprocessError) as error:  # no C compiler among them
            raise NoCompilerError(f"Triton failed ({next(iter(str(error).strip().splitlines()), '')[:200]})") from error
