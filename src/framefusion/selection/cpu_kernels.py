"""Machine code of the Numba backend: Gram matrices from registers and cache, and the greedy loop on them.

The Gram matrix of a segment is the cost of selecting on a CPU. Only the blocks of its lower triangle are computed, and
only of tokens that are relevant enough to be picked (:func:`_select`), ``CHUNK_BYTES`` of each row at a time: the rows
are copied once into a panel that stays in the second-level cache (converted, gathered, and padded with zeros on the
way, so nothing else knows about dtypes, row indices or odd widths), and small tiles of dot products run over the panel
with all their accumulators in vector registers. bfloat16 features on processors with AMX go through its matrix unit
instead: the products of bfloat16 numbers, accumulated in float32. Numba cannot express vectors or AMX tiles, so the
innermost loops are written in LLVM's intermediate representation.

Everything compiled lives in this one file, because Numba's on-disk cache notices changes of the file it compiles only.
"""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import overload as numba_overload

# Compiling logs thousands of DEBUG records, which would drown ours where the root logger is at DEBUG.
if logging.getLogger("numba").level == logging.NOTSET:
    logging.getLogger("numba").setLevel(logging.WARNING)

_TARGET: str = cpu_target.target_context.codegen().magic_tuple()[2]
"""What Numba compiles for: this processor, unless the user told Numba otherwise."""

AMX = "+amx-tile" in _TARGET and "+amx-bf16" in _TARGET
"""Whether Numba's target has AMX; the operating system must allow it too."""

REGISTER_BYTES = 64 if "+avx512f" in _TARGET else 32
TILE_ROWS = 6 if REGISTER_BYTES == 64 else 3
TILE_COLUMNS = 4
"""The accumulators of a tile, the shorter side and one of the longer fit the vector registers: 29 of AVX-512's 32, all
16 of the others."""

CHUNK_BYTES = 4096 if REGISTER_BYTES == 64 else 1024
"""Bytes of a row in a panel; a panel of a whole block is 306 KiB, 1.2 MiB with AVX-512, and stays in the second-level
cache of most processors."""

STRIPE = 8 if REGISTER_BYTES == 64 else 16
"""Columns of the Gram matrix that are done before the next ones, a multiple of TILE_COLUMNS: their rows stay in the
first-level cache."""

WIDTH_BYTES = 4 * REGISTER_BYTES
"""Candidates of a block of the greedy loop, in bytes."""

MOST_STEPS = 4 if REGISTER_BYTES == 64 else 3
"""Steps that such a block catches up with in one reading: theirs and their factors fit the vector registers."""

ROW_MULTIPLE = 96
"""Gram matrices are padded to a multiple of all tiles' rows and columns: 3, 4, 6, and 32 for AMX."""

BLOCK = 3 * ROW_MULTIPLE
"""Rows of a block of the Gram matrix. Segments up to this long are one block."""

PITCH_BYTES = CHUNK_BYTES + 64
"""Distance of the rows of a panel, not a power of two: rows then fall into different sets of the cache."""

LAZY_ROWS = 96
"""Rows of a block of pivoted Gram–Schmidt."""

LAZY_STEPS = 32
"""Steps such a block catches up with in one reading."""

_PANEL_BYTES = BLOCK * PITCH_BYTES

SCRATCH_BYTES = 64 + 2 * _PANEL_BYTES + BLOCK * CHUNK_BYTES // 2
"""What a thread works in, aligned to 64 bytes: AMX's configuration, panels of rows and of columns, transposed tiles."""

FILL, STOP, RESTART = range(3)
"""What to do when all candidates are exhausted: fill up by relevance, stop, or begin a new greedy over what is left."""

PLAIN, BFLOAT16, FLOAT16, BFLOAT16_AMX = range(4)
"""How features are read: float32 or float64 as they are; 16 bits converted to float32; bfloat16 by AMX."""

_AMX_TILE = 1024
_AMX_CHUNK = CHUNK_BYTES // 4
_AMX_ROWS = 16
_LANE_BYTES = REGISTER_BYTES
_TILE_MULTIPLE = math.lcm(TILE_ROWS, TILE_COLUMNS)


ZERO = np.int64(0)
"""An argument, where a literal would have the callee compiled a second time, for just that."""


class Features(NamedTuple):
    """The features of a sample as compiled code reads them.

    Attributes:
        numbers: float32 or float64, flat; its dtype is that of all arithmetic. Empty if they are in ``halves``.
        halves: uint16, flat, the bits of bfloat16 or float16 features.
        how: PLAIN, BFLOAT16, FLOAT16 or BFLOAT16_AMX.
        stride: distance of two tokens in the flat array.
        dim: D.
    """

    numbers: np.ndarray
    halves: np.ndarray
    how: int
    stride: int
    dim: int


class Segments(NamedTuple):
    """Segments of a sample.

    Attributes:
        rows: (R,) int64, their tokens' positions, one segment after the other.
        starts: (S + 1,) int64, where each segment begins in ``rows``.
        counts: (S,) int64, tokens to keep, at most the segment's length.
        firsts: (S,) int64, where the picks of each begin in the result.
    """

    rows: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    firsts: np.ndarray


class Result(NamedTuple):
    """What is selected.

    Attributes:
        picks: (K,) int64, positions of the tokens that are kept.
        found: (S,) int64, how many each segment keeps; −1 if NaN or Inf was found in it.
        trace: (K, 2) float64 zeros, to be filled as in :class:`~framefusion.selection.plan.Picks`; (0, 2) to leave out.
        nearest: (R,) int64, the position of the most similar token that the segment keeps, for each of the segments'
            ``rows`` (itself for a kept one), −1 where it keeps none; ties go to the earliest. (0,) to leave out.
        similarity: (R,) float32, the cosine of the two; (0,) to leave out.
    """

    picks: np.ndarray
    found: np.ndarray
    trace: np.ndarray
    nearest: np.ndarray
    similarity: np.ndarray


_intrinsic: Any = numba_intrinsic
_overload: Any = numba_overload


def _compile(function: Any) -> Any:
    """Compile a function that Python calls."""
    return _compiled(function, {})


def _inner(function: Any) -> Any:
    """Compile a function that only compiled code calls: without the code for Python's arguments, in half the time."""
    return _compiled(function, {"no_cpython_wrapper": True, "no_cfunc_wrapper": True})


def _in_any_order(function: Any) -> Any:
    """The same, with sums taken in any order, which compiles to vectors."""
    options = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "fastmath": {"reassoc"}}
    return _compiled(function, options)


def _compiled(function: Any, extra: dict[str, Any]) -> Any:
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, **extra}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # Neither the package's nor the user's cache directory can be written: compile in each process.
        return numba.njit(**options)(function)


_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


def _pointer(builder: Any, address: Any, kind: Any, offset: int = 0) -> Any:
    if offset:
        address = builder.add(address, ir.Constant(_I64, offset))
    return builder.inttoptr(address, kind.as_pointer())


def _call(builder: Any, name: str, result: Any, arguments: Sequence[Any]) -> Any:
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _shuffle(builder: Any, x: Any, y: Any, lanes: Sequence[int]) -> Any:
    return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(_I32, len(lanes)), list(lanes)))


def _loop(builder: Any, last: Any, step: int, carried: Sequence[Any], body: Any) -> list[Any]:
    """``for offset in range(0, last, step): carried = body(offset, carried)``, at least once."""
    before = builder.block
    inside, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
    builder.branch(inside)
    builder.position_at_end(inside)
    offset = builder.phi(_I64)
    offset.add_incoming(ir.Constant(_I64, 0), before)
    states = [builder.phi(c.type) for c in carried]
    for state, start in zip(states, carried, strict=True):
        state.add_incoming(start, before)
    updated = body(offset, states)
    following = builder.add(offset, ir.Constant(_I64, step))
    offset.add_incoming(following, inside)
    for state, value in zip(states, updated, strict=True):
        state.add_incoming(value, inside)
    builder.cbranch(builder.icmp_signed("<", following, last), inside, after)
    builder.position_at_end(after)
    return list(updated)


def _sums(builder: Any, vectors: Sequence[Any], size: int) -> Any:
    """The sum of each of four vectors as one vector. Neighbours are added within 128 bits as long as that leaves
    several sums there, which takes the cheapest shuffles; then halves are added to halves."""
    lanes, lane = REGISTER_BYTES // size, 16 // size
    while len(vectors) > 1 and lane > 1:
        even = [first + k for first in range(0, lanes, 16 // size) for k in range(0, 16 // size, 2)]
        low = [
            x
            for at in range(0, len(even), 8 // size)
            for y in (0, lanes)
            for x in (e + y for e in even[at:][: 8 // size])
        ]
        vectors = [
            builder.fadd(_shuffle(builder, x, y, low), _shuffle(builder, x, y, [i + 1 for i in low]))
            for x, y in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        lane //= 2
    folded = []
    for vector in vectors:
        width = lanes
        while width > 16 // size // lane:
            width //= 2
            halves = (_shuffle(builder, vector, vector, range(at, at + width)) for at in (0, width))
            vector = builder.fadd(*halves)
        folded.append(vector)
    while len(folded) > 1:
        width = folded[0].type.count
        folded = [_shuffle(builder, x, y, range(2 * width)) for x, y in zip(folded[::2], folded[1::2], strict=True)]
    return folded[0]


def _tile_of_dots(element: Any, size: int) -> Any:
    """An intrinsic that adds ``A Bᵀ`` of TILE_ROWS and TILE_COLUMNS rows to a tile of the result."""
    lanes = REGISTER_BYTES // size
    vector, piece = ir.VectorType(element, lanes), ir.VectorType(element, TILE_COLUMNS)
    multiply_add = f"llvm.fma.v{lanes}f{8 * size}"

    @_intrinsic
    def add_tile(
        typing_context: Any, a: Any, a_pitch: Any, b: Any, b_pitch: Any, length: Any, out: Any, out_pitch: Any
    ) -> Any:
        """Addresses of the first row of A, of B and of the result, each with the distance of its rows; length of A's
        and B's rows, a positive multiple of a register. All in bytes."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            a, a_pitch, b, b_pitch, length, out, out_pitch = arguments
            starts_a = [builder.add(a, builder.mul(a_pitch, ir.Constant(_I64, i))) for i in range(TILE_ROWS)]
            starts_b = [builder.add(b, builder.mul(b_pitch, ir.Constant(_I64, j))) for j in range(TILE_COLUMNS)]
            by_row = TILE_ROWS >= TILE_COLUMNS
            longer, shorter = (starts_a, starts_b) if by_row else (starts_b, starts_a)

            def load(start: Any, offset: Any) -> Any:
                return builder.load(_pointer(builder, builder.add(start, offset), vector), align=size)

            def step(offset: Any, sums: Any) -> list[Any]:
                held = [load(start, offset) for start in shorter]
                updated = list(sums)
                for x, start in enumerate(longer):
                    one = load(start, offset)
                    for y, other in enumerate(held):
                        place = x * TILE_COLUMNS + y if by_row else y * TILE_COLUMNS + x
                        updated[place] = _call(builder, multiply_add, vector, [one, other, sums[place]])
                return updated

            zero = ir.Constant(vector, [0.0] * lanes)
            sums = _loop(builder, length, REGISTER_BYTES, [zero] * (TILE_ROWS * TILE_COLUMNS), step)
            for i in range(TILE_ROWS):
                own = _sums(builder, sums[i * TILE_COLUMNS : (i + 1) * TILE_COLUMNS], size)
                place = builder.add(out, builder.mul(out_pitch, ir.Constant(_I64, i)))
                target = _pointer(builder, place, piece)
                builder.store(builder.fadd(builder.load(target, align=size), own), target, align=size)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return add_tile


def _projection(element: Any, size: int, steps: int) -> Any:
    """An intrinsic that takes earlier steps out of a few rows of ``WIDTH_BYTES``."""
    lanes = REGISTER_BYTES // size
    vector = ir.VectorType(element, lanes)
    multiply_add = f"llvm.fma.v{lanes}f{8 * size}"
    vectors = WIDTH_BYTES // REGISTER_BYTES

    @_intrinsic
    def project(typing_context: Any, rows: Any, factors: Any, pitch: Any, earlier: Any, count: Any) -> Any:
        """``rows[s] −= Σ_p factors[s, p] · earlier[p]`` for ``count`` ≥ 1 rows ``earlier`` and ``steps`` rows
        ``rows`` that follow each other; all are addresses, ``pitch`` the distance of the rows of factors in bytes."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            rows, factors, pitch, earlier, count = arguments
            places = [
                _pointer(builder, rows, vector, s * WIDTH_BYTES + v * REGISTER_BYTES)
                for s in range(steps)
                for v in range(vectors)
            ]
            starts = [builder.add(factors, builder.mul(pitch, ir.Constant(_I64, s))) for s in range(steps)]

            def step(p: Any, sums: Any) -> list[Any]:
                row = builder.add(earlier, builder.mul(p, ir.Constant(_I64, WIDTH_BYTES)))
                weights = []
                for start in starts:
                    place = builder.add(start, builder.mul(p, ir.Constant(_I64, size)))
                    weight = builder.fneg(builder.load(_pointer(builder, place, element), align=size))
                    first = builder.insert_element(ir.Constant(vector, ir.Undefined), weight, ir.Constant(_I32, 0))
                    weights.append(_shuffle(builder, first, first, [0] * lanes))
                updated = list(sums)
                for v in range(vectors):
                    term = builder.load(_pointer(builder, row, vector, v * REGISTER_BYTES), align=size)
                    for s, weight in enumerate(weights):
                        place = s * vectors + v
                        updated[place] = _call(builder, multiply_add, vector, [weight, term, sums[place]])
                return updated

            sums = _loop(builder, count, 1, [builder.load(place, align=size) for place in places], step)
            for value, place in zip(sums, places, strict=True):
                builder.store(value, place, align=size)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return project


_PROJECTIONS = {
    size: tuple(_projection(element, size, steps) for steps in range(1, MOST_STEPS + 1))
    for size, element in ((4, ir.FloatType()), (8, ir.DoubleType()))
}
_add_tile_float32 = _tile_of_dots(ir.FloatType(), 4)
_add_tile_float64 = _tile_of_dots(ir.DoubleType(), 8)


@_intrinsic
def _amx_begin(typing_context: Any, configuration: Any) -> Any:
    """Configure the tiles of this thread from 64 bytes at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _call(builder, "llvm.x86.ldtilecfg", ir.VoidType(), [_pointer(builder, arguments[0], _I8)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@_intrinsic
def _amx_end(typing_context: Any) -> Any:
    """Give the tiles back: a thread that holds them pays for them at every context switch."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _call(builder, "llvm.x86.tilerelease", ir.VoidType(), [])
        return context.get_dummy_value()

    return types.void(), generate


@_intrinsic
def _amx_add_tiles(
    typing_context: Any, a: Any, a_pitch: Any, b: Any, b_pitch: Any, steps: Any, out: Any, out_pitch: Any
) -> Any:
    """Add to 16 × 32 float32 at ``out``: 16 rows of ``steps`` × 32 bfloat16 at ``a``, times two panels of transposed
    tiles at ``b``, ``b_pitch`` bytes apart.

    Five of the eight tile registers: with all of them in use the unit stalls on renaming when a neighbour shares the
    core, and is four times slower.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, a_pitch, b, b_pitch, steps, out, out_pitch = arguments
        first, second, row, column = (ir.Constant(_I8, i) for i in range(4))

        def load(tile: Any, address: Any, pitch: Any) -> None:
            _call(builder, "llvm.x86.tileloadd64", ir.VoidType(), [tile, _pointer(builder, address, _I8), pitch])

        def step(offset: Any, nothing: Any) -> list[Any]:
            load(row, builder.add(a, builder.udiv(offset, ir.Constant(_I64, _AMX_TILE // 64))), a_pitch)
            tile = builder.add(b, offset)
            for sums in (first, second):
                load(column, tile, ir.Constant(_I64, 64))
                _call(builder, "llvm.x86.tdpbf16ps", ir.VoidType(), [sums, row, column])
                tile = builder.add(tile, b_pitch)
            return []

        right = builder.add(out, ir.Constant(_I64, 64))
        load(first, out, out_pitch)
        load(second, right, out_pitch)
        _loop(builder, builder.mul(steps, ir.Constant(_I64, _AMX_TILE)), _AMX_TILE, [], step)
        for tile, place in ((first, out), (second, right)):
            target = _pointer(builder, place, _I8)
            _call(builder, "llvm.x86.tilestored64", ir.VoidType(), [tile, target, out_pitch])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), generate


@_intrinsic
def _transpose(typing_context: Any, source: Any, pitch: Any, target: Any) -> Any:
    """16 rows of 16 times 4 bytes, ``pitch`` bytes apart, transposed into 1,024 consecutive bytes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, pitch, target = arguments
        vector = ir.VectorType(_I32, 16)
        rows = []
        for i in range(16):
            place = builder.add(source, builder.mul(pitch, ir.Constant(_I64, i)))
            rows.append(builder.load(_pointer(builder, place, vector), align=4))
        for half in (8, 4, 2, 1):
            low = [16 + k - half if k & half else k for k in range(16)]
            high = [16 + k if k & half else k + half for k in range(16)]
            for i in range(16):
                if not i & half:
                    x, y = rows[i], rows[i + half]
                    rows[i], rows[i + half] = _shuffle(builder, x, y, low), _shuffle(builder, x, y, high)
        for i, row in enumerate(rows):
            builder.store(row, _pointer(builder, target, vector, 64 * i), align=64)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


@_intrinsic
def _prefetch(typing_context: Any, address: Any, length: Any) -> Any:
    """Bring ``length`` ≥ 1 bytes from an address on into the second-level cache."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, length = arguments

        def step(offset: Any, nothing: Any) -> list[Any]:
            place = _pointer(builder, builder.add(address, offset), _I8)
            read, second_level, data = (ir.Constant(_I32, x) for x in (0, 2, 1))
            _call(builder, "llvm.prefetch.p0", ir.VoidType(), [place, read, second_level, data])
            return []

        _loop(builder, length, 64, [], step)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@_intrinsic
def _add(typing_context: Any, place: Any, amount: Any) -> Any:
    """Add to the int64 at an address and return what it was. Atomic; what other threads wrote before they added to it
    is seen, and so is what this one wrote by those that add to it or read it later."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place, amount = arguments
        return builder.atomic_rmw("add", _pointer(builder, place, _I64), amount, "acq_rel")

    return types.int64(types.int64, types.int64), generate


@_intrinsic
def _pause(typing_context: Any) -> Any:
    """Leave the core to its other thread for some cycles, where there may be one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if platform.machine().lower() in ("x86_64", "amd64"):
            _call(builder, "llvm.x86.sse2.pause", ir.VoidType(), [])
        return context.get_dummy_value()

    return types.void(), generate


@_intrinsic
def _read(typing_context: Any, place: Any) -> Any:
    """The int64 at an address, that :func:`_add` adds to."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_pointer(builder, arguments[0], _I64), "acquire", 8)

    return types.int64(types.int64), generate


@_compile
def _read_row(features, row, first, line):  # type: ignore[no-untyped-def]
    """Fill ``line`` with a token's features from column ``first`` on, as float32 or float64.

    Slices, not sums of indices: Numba would guard those against negative values, and not vectorise the loops.
    """
    start = row * features.stride + first
    if features.how == PLAIN:
        numbers = features.numbers[start : start + len(line)]
        for k in range(len(line)):
            line[k] = numbers[k]
        return
    source = features.halves[start : start + len(line)]
    bits = line.view(np.uint32)
    if features.how == FLOAT16:
        for k in range(len(line)):
            half = np.uint32(source[k])
            bits[k] = ((half & np.uint32(0x8000)) << np.uint32(16)) | ((half & np.uint32(0x7FFF)) << np.uint32(13))
        # The exponent's bias differs by 112. What then exceeds float16 was Inf or NaN.
        for k in range(len(line)):
            value = line[k] * np.float32(2.0**112)
            line[k] = value if abs(value) < np.float32(65536.0) else np.float32(np.inf)
    else:
        for k in range(len(line)):
            bits[k] = np.uint32(source[k]) << np.uint32(16)


@_inner
def _fill_panel(features, rows, tall, first, width, wide, exponents, panel, pitch):  # type: ignore[no-untyped-def]
    """Columns ``first … first + width`` of the rows, and zeros up to ``tall`` rows of ``wide`` numbers."""
    for r in range(tall):
        line = panel[r * pitch : r * pitch + wide]
        if r >= len(rows):
            line[:] = 0
            continue
        line[width:] = 0
        line = line[:width]
        _read_row(features, rows[r], first, line)
        if len(exponents) > 0:
            # One factor could overflow for subnormal rows (2^149 in float32); two factors cannot.
            half = exponents[r] // 2
            one, other = 2.0 ** float(half), 2.0 ** float(exponents[r] - half)
            for k in range(width):
                line[k] = (line[k] * one) * other


@_inner
def _fill_panel_bfloat16(features, rows, tall, first, width, wide, panel, pitch):  # type: ignore[no-untyped-def]
    """The same, bit by bit."""
    for r in range(tall):
        line = panel[r * pitch : r * pitch + wide]
        if r >= len(rows):
            line[:] = 0
            continue
        start = rows[r] * features.stride + first
        source = features.halves[start : start + width]
        for k in range(width):
            line[k] = source[k]
        line[width:] = 0


@_inner
def _padded(count, multiple):  # type: ignore[no-untyped-def]
    return (count + multiple - 1) // multiple * multiple


def _add_tile(a, a_pitch, b, b_pitch, length, out, out_pitch, kind):  # type: ignore[no-untyped-def]
    """A tile of dot products of the dtype of ``kind``, any array."""
    raise NotImplementedError("compiled code only")


@_overload(_add_tile)
def _add_tile_of(a, a_pitch, b, b_pitch, length, out, out_pitch, kind):  # type: ignore[no-untyped-def]
    add = _add_tile_float32 if kind.dtype == types.float32 else _add_tile_float64

    def generic(a, a_pitch, b, b_pitch, length, out, out_pitch, kind):  # type: ignore[no-untyped-def]
        add(a, a_pitch, b, b_pitch, length, out, out_pitch)

    return generic


@_inner
def _prefetch_rows(features, rows, first, width):  # type: ignore[no-untyped-def]
    """Have columns ``first … first + width`` of the rows come into the cache while something else is computed."""
    if features.how == PLAIN:
        begin, size = features.numbers.ctypes.data, features.numbers.itemsize
    else:
        begin, size = features.halves.ctypes.data, features.halves.itemsize
    for row in rows:
        _prefetch(begin + (row * features.stride + first) * size, width * size)


@_inner
def _add_block(features, left, top, exponents_left, exponents_top, out, pitch, scratch, kind):  # type: ignore[no-untyped-def]
    """Add the dot products of the rows ``left`` and ``top`` to the matrix at address ``out``, rows ``pitch`` bytes
    apart; only the lower triangle if ``left`` and ``top`` are the same (``top`` is empty). ``kind`` is any array of
    the result's dtype.

    The memory is idle while a chunk is multiplied, so the next one is fetched in the meantime, a few rows a tile."""
    size = kind.itemsize
    lanes, chunk = REGISTER_BYTES // size, CHUNK_BYTES // size
    panel_pitch = PITCH_BYTES // size
    triangle = len(top) == 0
    tall = _padded(len(left), _TILE_MULTIPLE)
    broad = tall if triangle else _padded(len(top), _TILE_MULTIPLE)
    left_panel = scratch[64 : 64 + _PANEL_BYTES].view(kind.dtype)
    top_panel = scratch[64 + _PANEL_BYTES : 64 + 2 * _PANEL_BYTES].view(kind.dtype)
    # What a step fetches of the next chunk; a triangle has at least half as many steps as a square.
    steps = max(1, tall // TILE_ROWS * (broad // STRIPE) // 2 if triangle else tall // TILE_ROWS * (broad // STRIPE))
    share_left, share_top = (len(left) + steps - 1) // steps, (len(top) + steps - 1) // steps
    for first in range(0, features.dim, chunk):
        width = min(chunk, features.dim - first)
        wide = _padded(width, lanes)
        following = min(chunk, features.dim - first - width)
        _fill_panel(features, left, tall, first, width, wide, exponents_left, left_panel, panel_pitch)
        a = left_panel.ctypes.data
        b = a
        if not triangle:
            _fill_panel(features, top, broad, first, width, wide, exponents_top, top_panel, panel_pitch)
            b = top_panel.ctypes.data
        fetched_left, fetched_top = 0, 0
        for stripe in range(0, broad, STRIPE):
            for i in range(stripe // TILE_ROWS * TILE_ROWS if triangle else 0, tall, TILE_ROWS):
                if following > 0:
                    _prefetch_rows(features, left[fetched_left : fetched_left + share_left], first + width, following)
                    _prefetch_rows(features, top[fetched_top : fetched_top + share_top], first + width, following)
                    fetched_left += share_left
                    fetched_top += share_top
                end = min(stripe + STRIPE, broad)
                for j in range(stripe, min(end, i + TILE_ROWS) if triangle else end, TILE_COLUMNS):
                    row, column, target = a + i * PITCH_BYTES, b + j * PITCH_BYTES, out + i * pitch + j * size
                    _add_tile(row, PITCH_BYTES, column, PITCH_BYTES, wide * size, target, pitch, kind)


@_inner
def _add_block_amx(features, left, top, out, pitch, scratch):  # type: ignore[no-untyped-def]
    """:func:`_add_block` for bfloat16 by AMX, into float32."""
    panel_pitch = _AMX_CHUNK + 32
    b_pitch = _AMX_CHUNK // 32 * _AMX_TILE
    triangle = len(top) == 0
    tall = _padded(len(left), 2 * _AMX_ROWS)
    broad = tall if triangle else _padded(len(top), 2 * _AMX_ROWS)
    left_panel = scratch[64 : 64 + _PANEL_BYTES].view(np.uint16)
    top_panel = scratch[64 + _PANEL_BYTES : 64 + 2 * _PANEL_BYTES].view(np.uint16)
    b = scratch[64 + 2 * _PANEL_BYTES :].ctypes.data
    _amx_begin(scratch.ctypes.data)
    for first in range(0, features.dim, _AMX_CHUNK):
        width = min(_AMX_CHUNK, features.dim - first)
        steps = (width + 31) // 32
        _fill_panel_bfloat16(features, left, tall, first, width, steps * 32, left_panel, panel_pitch)
        a = left_panel.ctypes.data
        columns = a
        if not triangle:
            _fill_panel_bfloat16(features, top, broad, first, width, steps * 32, top_panel, panel_pitch)
            columns = top_panel.ctypes.data
        for j in range(broad // _AMX_ROWS):
            source = columns + j * _AMX_ROWS * panel_pitch * 2
            for step in range(steps):
                _transpose(source + 64 * step, panel_pitch * 2, b + j * b_pitch + step * _AMX_TILE)
        for i in range(0, tall, _AMX_ROWS):
            for j in range(0, i + 1 if triangle else broad, 2 * _AMX_ROWS):
                _amx_add_tiles(
                    a + i * panel_pitch * 2,
                    panel_pitch * 2,
                    b + j // _AMX_ROWS * b_pitch,
                    b_pitch,
                    steps,
                    out + i * pitch + j * 4,
                    pitch,
                )
    _amx_end()


@_inner
def _gram_block(features, rows, i, j, exponents, gram, scratch):  # type: ignore[no-untyped-def]
    """Fill block (i, j ≤ i) of the lower triangle of ``X Xᵀ``.

    Args:
        features: :class:`Features`.
        rows: (n,) positions of the segment's tokens.
        exponents: (n,) int64, each row is multiplied by two to this power; empty for no scaling.
        gram: (m, m) float32 or float64 with m a multiple of ROW_MULTIPLE, at least n.
        scratch: SCRATCH_BYTES uint8, see :func:`make_scratch`.
    """
    left, top = rows[i * BLOCK : (i + 1) * BLOCK], rows[j * BLOCK : (j + 1) * BLOCK]
    scale_left, scale_top = exponents[i * BLOCK : (i + 1) * BLOCK], exponents[j * BLOCK : (j + 1) * BLOCK]
    if i == j:
        top = rows[:0]
    _fill_block(features, left, top, i * BLOCK, j * BLOCK, scale_left, scale_top, gram, scratch)


@_inner
def _fill_block(features, left, top, row, column, scale_left, scale_top, gram, scratch):  # type: ignore[no-untyped-def]
    """Write the dot products of at most BLOCK rows ``left`` and ``top`` to a place in the matrix; only the lower
    triangle if they are the same (``top`` is empty). What follows in the matrix, up to BLOCK rows and columns, is
    overwritten."""
    block = gram[row : row + BLOCK, column : column + BLOCK]
    block[:] = 0
    out = gram.ctypes.data + (row * gram.shape[1] + column) * gram.itemsize
    pitch = gram.shape[1] * gram.itemsize
    # Without AMX the constant removes the branch, whose instructions could not be compiled.
    if AMX and features.how == BFLOAT16_AMX and len(scale_left) == 0:
        _add_block_amx(features, left, top, out, pitch, scratch)
    else:
        _add_block(features, left, top, scale_left, scale_top, out, pitch, scratch, gram)


@_inner
def _extend_gram(features, rows, known, wanted, gram, scratch):  # type: ignore[no-untyped-def]
    """Let the lower triangle for the first ``known`` rows become that for the first ``wanted``, at most BLOCK.

    ``known`` must be a multiple of :func:`_growth`, or the padded rows leave the matrix."""
    exponents = np.empty(0, np.int64)
    top = rows[:0] if known == 0 else rows[:wanted]
    _fill_block(features, rows[known:wanted], top, known, ZERO, exponents, exponents, gram, scratch)


@_compile
def _gram(features, rows, exponents, gram, scratch):  # type: ignore[no-untyped-def]
    """All blocks of a segment's Gram matrix."""
    for i in range((len(rows) + BLOCK - 1) // BLOCK):
        for j in range(i + 1):
            _gram_block(features, rows, i, j, exponents, gram, scratch)


@_inner
def _in_range(gram, first, end, low, high):  # type: ignore[no-untyped-def]
    """Whether the squared norms of some rows carry full precision."""
    good = True
    for i in range(first, end):
        good = good and gram[i, i] > low and gram[i, i] < high
    return good


@_inner
def _mend_range(features, rows, low, high, gram, scratch):  # type: ignore[no-untyped-def]
    """Recompute the Gram matrix from exactly rescaled rows where squares under- or overflow; False for NaN or Inf.

    Scaling a row by a power of two changes neither its direction nor, therefore, any cosine.
    """
    line = scratch[64 : 64 + CHUNK_BYTES].view(gram.dtype)
    exponents = np.zeros(len(rows), np.int64)
    needed = False
    for i in range(len(rows)):
        peak = 0.0
        for first in range(0, features.dim, len(line)):
            part = line[: min(len(line), features.dim - first)]
            _read_row(features, rows[i], first, part)
            for k in range(len(part)):
                size = abs(part[k])
                if not size < np.inf:
                    return False
                peak = max(peak, size)
        needed = needed or (peak > 0 and not (gram[i, i] > low and gram[i, i] < high))
        exponents[i] = -math.frexp(peak)[1]
    if needed:
        _gram(features, rows, exponents, gram, scratch)
    return True


@_inner
def _weigh(relevance, rows, scale):  # type: ignore[no-untyped-def]
    """Write relevance, brought into [0.5, 1) by a power of two, and return its exponent. Greedy MAP does not change
    with it, and squares cannot overflow."""
    top = 1.0
    if len(relevance) > 0:
        top = 0.0
        for row in rows:
            top = max(top, relevance[row])
    exponent = math.frexp(top)[1]
    for i in range(len(rows)):
        weight = 1.0
        if len(relevance) > 0:
            weight = relevance[rows[i]]
        scale[i] = math.ldexp(weight, -exponent)
    return exponent


@_inner
def _scale(gram, first, end, scale, diagonal):  # type: ignore[no-untyped-def]
    """From :func:`_weigh`'s ``r``, write ``r / ‖X‖`` and ``r²`` of some rows, 0 for zero vectors."""
    for i in range(first, end):
        square = gram[i, i]
        if not (square > 0 and square < np.inf):
            scale[i] = 0
        diagonal[i] = scale[i] * scale[i]
        if scale[i] > 0:
            scale[i] /= np.sqrt(square)


@_inner
def _gaussian(gram, first, end, scale, diagonal, inverse, gamma):  # type: ignore[no-untyped-def]
    """Instead of :func:`_scale`, make the rows ``first … end`` of the lower triangle those of the Gaussian kernel, with
    a diagonal of 1; write ``r²``, and 0 for ``r`` of zero vectors. ``inverse`` keeps ``1 / ‖X‖``, 0 for those."""
    double, one = gram.dtype.type(2 * gamma), gram.dtype.type(1)
    for i in range(first, end):
        square = gram[i, i]
        inverse[i] = 1 / np.sqrt(square) if square > 0 and square < np.inf else 0
        if inverse[i] == 0:
            scale[i] = 0
        diagonal[i] = scale[i] * scale[i]
        row = gram[i, :i]
        for j in range(i):
            row[j] = math.exp(double * (row[j] * (inverse[j] * inverse[i]) - one))
        gram[i, i] = 1


@_inner
def _mirror(gram, first, end):  # type: ignore[no-untyped-def]
    """Copy the rows ``first … end`` of the lower triangle to the upper one, a cache-sized square at a time."""
    side = 32
    for left in range(0, end, side):
        for top in range(max(left, first // side * side), end, side):
            for j in range(left, min(left + side, end)):
                begin, after = max(top, first, j + 1), min(top + side, end)
                target, column = gram[j, begin:after], gram[begin:after, j]
                for i in range(len(target)):
                    target[i] = column[i]


def _project(block, factors, s, steps, count):  # type: ignore[no-untyped-def]
    """Take the first ``count`` steps out of ``steps`` ≤ MOST_STEPS rows of a block from row ``s`` on."""
    raise NotImplementedError("compiled code only")


@_overload(_project)
def _project_of(block, factors, s, steps, count):  # type: ignore[no-untyped-def]
    projections = _PROJECTIONS[4 if block.dtype == types.float32 else 8]
    one, two, three, most = *projections[:3], projections[-1]

    def generic(block, factors, s, steps, count):  # type: ignore[no-untyped-def]
        if count == 0:
            return
        pitch = factors.shape[1] * factors.itemsize
        earlier = block.ctypes.data
        rows, own = earlier + s * WIDTH_BYTES, factors.ctypes.data + s * pitch
        if steps == 1:
            one(rows, own, pitch, earlier, count)
        elif steps == 2:
            two(rows, own, pitch, earlier, count)
        elif steps == 3:
            three(rows, own, pitch, earlier, count)
        else:
            most(rows, own, pitch, earlier, count)

    return generic


@_inner
def _catch_up(gram, members, scale, picks, factors, inverse, begin, end, left, block, gain):  # type: ignore[no-untyped-def]
    """Bring a block of candidates from step ``begin`` to step ``end``.

    Args:
        gram, members, scale: see :func:`greedy`.
        picks: (k,) int64, at least ``end`` of them made.
        factors: (k, k); row s holds ``c[p, picks[s]]`` of the steps p before s.
        inverse: (k,), ``1 / d`` of each pick when it was made.
        left: the block's first candidate.
        block: (k, w); the candidates' ``c[p]``, row by row, extended by the steps' rows; w numbers are WIDTH_BYTES.
        gain: (w,) their ``d²``, updated.
    """
    wide = min(block.shape[1], len(scale) - left)
    scales = scale[left : left + wide]
    s = begin
    while s < end:
        steps = min(end - s, MOST_STEPS)
        for q in range(s, s + steps):
            j = picks[q]
            update, weight = block[q], scale[j]
            if len(members) > 0:
                products, own = gram[members[j]], members[left : left + wide]
                for i in range(wide):
                    update[i] = products[own[i]] * weight * scales[i]
            else:
                products = gram[j, left : left + wide]
                for i in range(wide):
                    update[i] = products[i] * weight * scales[i]
            for i in range(wide, len(update)):
                update[i] = 0
        _project(block, factors, s, steps, s)
        for q in range(s, s + steps):
            update, norm = block[q], inverse[q]
            for p in range(s, q):
                before, weight = block[p], factors[q, p]
                for i in range(len(update)):
                    update[i] -= weight * before[i]
            for i in range(len(update)):
                update[i] *= norm
                gain[i] -= update[i] * update[i]
        s += steps


class Search(NamedTuple):
    """The state of the greedy loop over n candidates in b blocks of w = WIDTH_BYTES.

    Attributes:
        cholesky: (b, k − 1, w), each block's ``c[p]``.
        factors: (k, k); row s holds ``c[p, picks[s]]`` of the steps p before s.
        inverse: (k,), ``1 / d`` of each pick when it was made.
        gain: (b · w,), ``d²`` as of the step its block is at.
        threshold: (n,), gains at or below it are exhausted; Inf for what is picked.
        level: (b,) int64, the step each block is at.
        stale: (b,) bool, whether that is not the present one.
        top, place: (b,) the largest gain that is not exhausted, Inf before the first step, and its candidate.
    """

    cholesky: np.ndarray
    factors: np.ndarray
    inverse: np.ndarray
    gain: np.ndarray
    threshold: np.ndarray
    level: np.ndarray
    stale: np.ndarray
    top: np.ndarray
    place: np.ndarray


@_inner
def _begin(n, count, kind):  # type: ignore[no-untyped-def]
    """A :class:`Search` for ``count`` of n candidates, none of which is there yet. ``kind``: any array of the dtype."""
    width = WIDTH_BYTES // kind.itemsize
    blocks = (n + width - 1) // width
    return Search(
        np.empty((blocks, max(count - 1, 0), width), kind.dtype),
        np.empty((count, count), kind.dtype),
        np.empty(count, kind.dtype),
        np.zeros(blocks * width, kind.dtype),
        np.empty(n, kind.dtype),
        np.zeros(blocks, np.int64),
        np.ones(blocks, np.bool_),
        np.full(blocks, np.inf, kind.dtype),
        np.zeros(blocks, np.int64),
    )


@_inner
def _admit(search, diagonal, first, end, factor):  # type: ignore[no-untyped-def]
    """Add the candidates ``first … end``. The others of the first one's block catch up again, with them."""
    for i in range(first, end):
        search.threshold[i] = diagonal[i] * diagonal.dtype.type(factor)
    width = search.cholesky.shape[2]
    b = first // width
    for i in range(b * width, end):
        search.gain[i] = diagonal[i]
    search.level[b], search.stale[b], search.top[b] = 0, True, np.inf


@_inner
def _advance(gram, members, ties, scale, diagonal, n, bound, search, t, picks, trace):  # type: ignore[no-untyped-def]
    """Pick from the first n candidates until all picks are made, all candidates are exhausted, or the best gain is not
    above ``bound``; return how many picks there are then. ``t``: how many there are already. The other arguments are
    those of :func:`greedy`."""
    cholesky, factors, inverse, gain, threshold, level, stale, top, place = search
    zero = scale.dtype.type(0)
    count, width = len(picks), WIDTH_BYTES // gram.itemsize
    blocks = (n + width - 1) // width
    while t < count:
        b = 0
        everyone = len(trace) > 0
        while True:
            if everyone:
                everyone = b + 1 < blocks
            else:
                b = 0
                for other in range(1, blocks):
                    tied = top[other] == top[b] and not stale[b]
                    if top[other] > top[b] or (tied and (stale[other] or ties[place[other]] < ties[place[b]])):
                        b = other
                if not stale[b]:
                    break
            left, right = b * width, min((b + 1) * width, n)
            own = gain[left : left + width]
            _catch_up(gram, members, scale, picks, factors, inverse, level[b], t, left, cholesky[b], own)
            level[b], stale[b] = t, False
            best, j = zero, left
            for i in range(left, right):
                if gain[i] >= best and gain[i] > threshold[i] and (gain[i] > best or ties[i] < ties[j]):
                    best = gain[i]
                    j = i
            top[b], place[b] = best, j
            if everyone:
                b += 1
        best, j = top[b], place[b]
        if not best > max(bound, zero):
            break
        picks[t] = j
        if len(trace) > 0:
            novelty = zero
            for i in range(n):
                if threshold[i] < np.inf and diagonal[i] > 0 and gain[i] > novelty * diagonal[i]:
                    novelty = gain[i] / diagonal[i]
            trace[t, 0] = best
            trace[t, 1] = novelty
        inverse[t] = 1 / np.sqrt(best)
        for p in range(t):
            factors[t, p] = cholesky[b, p, j - b * width]
        threshold[j] = np.inf
        stale[:] = True
        t += 1
    return t


@_compile
def greedy(gram, members, ties, scale, diagonal, factor, picks, trace):  # type: ignore[no-untyped-def]
    """Greedy MAP of ``L[i, j] = gram[members[i], members[j]] · scale[i] · scale[j]``.

    Chen, Zhang & Zhou 2018, Algorithm 1.

    Gains never increase, so an old gain is a bound for the present one: the candidates stand in blocks, and a block
    catches up with the steps it missed only when the largest of its old gains is the largest of all. That is exact,
    and makes the loop several steps on a block that stays in the cache rather than one step on all candidates.

    Args:
        gram: (m, m) float32 or float64, symmetric.
        members: (n,) int64, rows of ``gram``; (0,) for the first n.
        ties: (n,) int64, different ones: among equal gains the candidate with the least wins.
        scale: (n,), same dtype.
        diagonal: (n,) exact L[i, i], same dtype; 0 excludes a candidate.
        factor: a candidate is exhausted once its gain is at most this times its diagonal.
        picks: (k,) int64, filled in greedy order.
        trace: (k, 2) float64, filled with each pick's gain and the novelty before it; (0, 2) to leave out. Needs all
            gains at every step.

    Returns:
        How many picks were made before all candidates were exhausted.
    """
    n = len(diagonal)
    search = _begin(n, len(picks), scale)
    _admit(search, diagonal, ZERO, n, factor)
    return _advance(gram, members, ties, scale, diagonal, n, scale.dtype.type(0), search, ZERO, picks, trace)


@_inner
def _fill(relevance, rows, picks, found):  # type: ignore[no-untyped-def]
    """Complete the first ``found`` picks with the remaining tokens, by descending relevance, then by index."""
    free = np.ones(len(rows), np.bool_)
    for t in range(found):
        free[picks[t]] = False
    for t in range(found, len(picks)):
        j = -1
        for i in range(len(rows)):
            if free[i] and (j < 0 or (len(relevance) > 0 and relevance[rows[i]] > relevance[rows[j]])):
                j = i
                if len(relevance) == 0:
                    break
        picks[t] = j
        free[j] = False


@_inner
def _greedy_again(gram, ties, scale, diagonal, factor, found, picks, trace):  # type: ignore[no-untyped-def]
    """:func:`greedy` over the tokens that are left after the first ``found`` picks, again whenever all of them are
    exhausted; return how many picks there are then."""
    fresh = found
    while fresh > 0 and found < len(picks):
        for t in range(found - fresh, found):
            diagonal[picks[t]] = 0
        members = np.nonzero(diagonal > 0)[0]
        if len(members) == 0:
            break
        # Fewer may be left than picks are wanted.
        wanted = picks[found : found + len(members)]
        own_ties, own_scale, own_diagonal = ties[members], scale[members], diagonal[members]
        fresh = greedy(gram, members, own_ties, own_scale, own_diagonal, factor, wanted, trace[found:])
        for t in range(fresh):
            wanted[t] = members[wanted[t]]
        found += fresh
    return found


@_inner
def _find_nearest(gram, rows, picks, gamma, nearest, similarity):  # type: ignore[no-untyped-def]
    """Write each token's most similar pick and their cosine, from the lower triangle, row by row; with ``gamma`` > 0
    the matrix is :func:`_gaussian`'s, which grows with the cosine."""
    n = len(rows)
    inverse, kept = np.empty(n, gram.dtype), np.zeros(n, np.bool_)
    for i in range(n):
        square = gram[i, i]
        inverse[i] = 1 / np.sqrt(square) if square > 0 and square < np.inf else 0
    for j in picks:
        kept[j] = True
    best, place = np.full(n, -np.inf, gram.dtype), np.full(n, -1, np.int64)
    for i in range(n):
        row = gram[i, :i]
        if kept[i]:
            for j in range(i):
                cosine = row[j] * (inverse[j] * inverse[i])
                if cosine > best[j]:
                    best[j] = cosine
                    place[j] = i
        else:
            for j in range(i):
                cosine = row[j] * (inverse[j] * inverse[i])
                if kept[j] and cosine > best[i]:
                    best[i] = cosine
                    place[i] = j
    for i in range(n):
        if kept[i]:
            place[i] = i
            best[i] = 1
        elif gamma > 0 and place[i] >= 0:
            best[i] = 1 + math.log(best[i]) / (2 * gamma)
        nearest[i] = rows[place[i]] if place[i] >= 0 else -1
        similarity[i] = best[i]


@_in_any_order
def _sum_of_zeros(numbers):  # type: ignore[no-untyped-def]
    """The sum of 0 times each of some numbers: NaN if one is NaN or Inf."""
    total = numbers.dtype.type(0)
    for k in range(len(numbers)):
        total += numbers[k] * numbers.dtype.type(0)
    return total


@_inner
def _by_relevance(relevance, rows):  # type: ignore[no-untyped-def]
    """Rows in the order of descending relevance, equal ones as they were."""
    return rows[np.argsort(-relevance[rows], kind="mergesort")]


@_inner
def _growth(features):  # type: ignore[no-untyped-def]
    """The Gram matrix grows to multiples of this, whole tiles, as few as its reader pads to."""
    return 2 * _AMX_ROWS if AMX and features.how == BFLOAT16_AMX else _TILE_MULTIPLE


@_inner
def _first_guess(scale, count, growth):  # type: ignore[no-untyped-def]
    """How many candidates ``count`` picks may need, given their descending relevance: as many as have half the ``r²``
    of the least relevant that could be picked last."""
    guess = count
    while guess < len(scale) and 2 * scale[guess] ** 2 >= scale[count - 1] ** 2:
        guess += 1
    return min(_padded(guess, growth), len(scale))


@_inner
def _next_guess(scale, known, best, growth):  # type: ignore[no-untyped-def]
    """How many candidates to have next: all that could exceed the best gain, and an eighth more in any case, since each
    time all rows are read again."""
    guess = known
    while guess < len(scale) and scale[guess] * scale[guess] >= best:
        guess += 1
    return min(_padded(max(guess, known + known // 8, known + 1), growth), len(scale))


@_inner
def _is_finite(features, row):  # type: ignore[no-untyped-def]
    """Whether a token has neither NaN nor Inf."""
    begin, end = row * features.stride, row * features.stride + features.dim
    if features.how == PLAIN:
        return _sum_of_zeros(features.numbers[begin:end]) == 0
    # The lowest bit of the exponent added to it reaches the sign only where all its bits are set.
    exponent = np.uint16(0x7C00 if features.how == FLOAT16 else 0x7F80)
    lowest, seen = np.uint16(exponent & -exponent), np.uint16(0)
    halves = features.halves[begin:end]
    for k in range(len(halves)):
        seen |= np.uint16((halves[k] & exponent) + lowest)
    return seen < 0x8000


@_inner
def _select(features, relevance, segments, s, known, exhausted, limits, gram, scratch, result):  # type: ignore[no-untyped-def]
    """Select from segment ``s``, of whose rows the first ``known``, none or all, have their Gram matrix.

    No gain exceeds its ``r²``. So, without a Gram matrix, the most relevant candidates come first, and others join them
    only when the best gain is not above all their ``r²``: what could not be picked is not multiplied. Where gains or
    similarities are asked for, all is: those need all tokens.
    """
    begin, end = segments.starts[s], segments.starts[s + 1]
    rows = segments.rows[begin:end]
    n, first, count = len(rows), segments.firsts[s], segments.counts[s]
    picks, trace = result.picks[first : first + count], result.trace[first : first + count]
    low, high, factor, gamma = limits
    wanted = n
    growing = known == 0 and count < n and len(relevance) > 0 and len(trace) == 0 and len(result.nearest) == 0
    if growing:
        rows = _by_relevance(relevance, rows)
    scale, diagonal, inverse = np.empty(n, gram.dtype), np.empty(n, gram.dtype), np.empty(n, gram.dtype)
    exponent = _weigh(relevance, rows, scale)
    if growing:
        wanted = _first_guess(scale, count, _growth(features))
    search, nobody = _begin(n, count, scale), np.empty(0, np.int64)
    found, admitted, width = ZERO, ZERO, WIDTH_BYTES // gram.itemsize
    while True:
        if known < wanted:
            _extend_gram(features, rows, known, wanted, gram, scratch)
        if low < high and not _in_range(gram, admitted, wanted, low, high):
            if gamma > 0 and admitted > 0:
                # What was admitted holds products no more.
                _extend_gram(features, rows, ZERO, n, gram, scratch)
            elif wanted < n:
                _extend_gram(features, rows, wanted, n, gram, scratch)
            wanted = n
            if not _mend_range(features, rows, low, high, gram, scratch):
                result.found[s] = -1
                return
            # All of the matrix may be another.
            search = _begin(n, count, scale)
            _weigh(relevance, rows, scale)
            found, admitted = ZERO, ZERO
        if gamma > 0:
            _gaussian(gram, admitted, wanted, scale, diagonal, inverse, gamma)
        else:
            _scale(gram, admitted, wanted, scale, diagonal)
        _mirror(gram, admitted, wanted)
        _admit(search, diagonal, admitted, wanted, factor)
        known = admitted = wanted
        bound = scale[known] * scale[known] if known < n else gram.dtype.type(0)
        found = _advance(gram, nobody, rows, scale, diagonal, known, bound, search, found, picks, trace)
        if found == count or known == n:
            break
        wanted = _next_guess(scale, known, search.top[: (known + width - 1) // width].max(), _growth(features))
    for i in range(known, n):
        if low < high and not _is_finite(features, rows[i]):
            result.found[s] = -1
            return
    if exhausted == RESTART:
        found = _greedy_again(gram, rows, scale, diagonal, factor, found, picks, trace)
    for t in range(min(found, len(trace))):
        # The square of the scale could overflow where the gain does not; its factors cannot.
        trace[t, 0] = math.ldexp(math.ldexp(trace[t, 0], exponent), exponent)
    if found < count and exhausted != STOP:
        _fill(relevance, rows, picks, found)
        found = count
    if len(result.nearest) > 0:
        _find_nearest(gram, rows, picks[:found], gamma, result.nearest[begin:end], result.similarity[begin:end])
    for t in range(found):
        picks[t] = rows[picks[t]]
    result.found[s] = found


@_compile
def select_short(features, relevance, segments, order, exhausted, limits, result, scratch, counter):  # type: ignore[no-untyped-def]
    """Select from segments of at most BLOCK tokens, one after the other as they come off the counter.

    Args:
        features: :class:`Features`.
        relevance: (N,) float64, or (0,) for uniform relevance.
        segments: :class:`Segments`.
        order: (n,) int64, the segments to do.
        exhausted: FILL, STOP or RESTART.
        limits: squared norms between the first and the second carry full precision (no check if the first is not
            less); the factor of exhaustion; ``gamma`` of the Gaussian kernel, 0 for cosines.
        result: :class:`Result`, to be filled.
        scratch: see :func:`make_scratch`; one for each thread.
        counter: (1,) int64, shared by all threads that work on this.
    """
    memory = np.empty(BLOCK * BLOCK, features.numbers.dtype)
    while True:
        place = _add(counter.ctypes.data, 1)
        if place >= len(order):
            return
        s = order[place]
        gram = _square(memory, segments.starts[s + 1] - segments.starts[s])
        _select(features, relevance, segments, s, ZERO, exhausted, limits, gram, scratch, result)


@_inner
def _square(memory, n):  # type: ignore[no-untyped-def]
    """The beginning of flat memory as the Gram matrix of n tokens."""
    size = _padded(n, ROW_MULTIPLE)
    return memory[: size * size].reshape(size, size)


class Shared(NamedTuple):
    """Tasks of segments whose Gram matrices all threads work at, in an order in which each needs only earlier ones.

    Attributes:
        tasks: (n, 3) int64: a segment and a block of its Gram matrix, see :func:`_gram_block`; or a segment and −1
            twice, to select from it.
        memory: flat, in the dtype of the arithmetic.
        offsets: (S,) int64, where each segment's matrix begins in ``memory``.
        after: (S,) int64, the segment that had the place in the memory before, which must have been selected from; −1
            for none.
        pending: (S,) int64, how many blocks of each segment are not done; −1 once it has been selected from.
        failed: (1,) int64, not 0 once a thread has left its task unfinished.
    """

    tasks: np.ndarray
    memory: np.ndarray
    offsets: np.ndarray
    after: np.ndarray
    pending: np.ndarray
    failed: np.ndarray


@_inner
def _wait(shared, s, value):  # type: ignore[no-untyped-def]
    """Until another thread has brought ``pending[s]`` down to a value; whether it has."""
    while _read(shared.pending.ctypes.data + 8 * s) > value:
        if _read(shared.failed.ctypes.data) != 0:
            return False
        _pause()
    return True


@_compile
def select_shared(features, relevance, segments, shared, exhausted, limits, result, scratch, counter):  # type: ignore[no-untyped-def]
    """Do one task after the other as they come off the counter.

    Args:
        shared: :class:`Shared`.
        features, relevance, segments, exhausted, limits, result, scratch, counter: see :func:`select_short`.
    """
    exponents = np.empty(0, np.int64)
    while True:
        place = _add(counter.ctypes.data, 1)
        if place >= len(shared.tasks):
            return
        s, i, j = shared.tasks[place]
        rows = segments.rows[segments.starts[s] : segments.starts[s + 1]]
        gram = _square(shared.memory[shared.offsets[s] :], len(rows))
        if i >= 0:
            if shared.after[s] >= 0 and not _wait(shared, shared.after[s], -1):
                return
            _gram_block(features, rows, i, j, exponents, gram, scratch)
        else:
            if not _wait(shared, s, 0):
                return
            _select(features, relevance, segments, s, len(rows), exhausted, limits, gram, scratch, result)
        _add(shared.pending.ctypes.data + 8 * s, -1)


class LazyGains(NamedTuple):
    """The state of pivoted Gram–Schmidt on blocks of LAZY_ROWS rows, each as of the step it last caught up with.

    Attributes:
        gain: (n,) ``d²``.
        diagonal: (n,) ``r²``.
        threshold: (n,) gains at or below it are exhausted; Inf for what is picked.
        scale: (n,) ``r / ‖X‖``.
        exponents: (n,) int64, each row is multiplied by two to this power; empty for no scaling.
        directions: (k + TILE_COLUMNS, m) orthonormal rows, zeros from the present step on; m a multiple of all
            registers, at least D.
        step: (b,) int64, the step each block is at; −1 before the first.
        best, place, novelty: (b,) the largest gain that is not exhausted, its row, and the largest ``d²/r²``.
    """

    gain: np.ndarray
    diagonal: np.ndarray
    threshold: np.ndarray
    scale: np.ndarray
    exponents: np.ndarray
    directions: np.ndarray
    step: np.ndarray
    best: np.ndarray
    place: np.ndarray
    novelty: np.ndarray


@_inner
def _catch_up_rows(features, rows, state, b, t, scratch):  # type: ignore[no-untyped-def]
    """Bring block b to step t. Each step is rounded alike, whether it comes alone or with others."""
    left, right = b * LAZY_ROWS, min((b + 1) * LAZY_ROWS, len(rows))
    gain, size = state.gain[left:right], state.gain.itemsize
    tall, chunk = _padded(right - left, TILE_ROWS), CHUNK_BYTES // size
    panel = scratch[64 : 64 + _PANEL_BYTES].view(state.gain.dtype)
    products = scratch[64 + _PANEL_BYTES : 64 + 2 * _PANEL_BYTES].view(state.gain.dtype)
    exponents = state.exponents[left:right]
    for first_step in range(max(state.step[b], 0), t, LAZY_STEPS):
        steps = min(LAZY_STEPS, t - first_step)
        products[: tall * LAZY_STEPS] = 0
        for first in range(0, features.dim, chunk):
            width = min(chunk, features.dim - first)
            wide = _padded(width, REGISTER_BYTES // size)
            _fill_panel(features, rows[left:right], tall, first, width, wide, exponents, panel, PITCH_BYTES // size)
            b_pitch = state.directions.shape[1] * size
            directions = state.directions.ctypes.data + first_step * b_pitch + first * size
            for j in range(0, steps, TILE_COLUMNS):
                for i in range(0, tall, TILE_ROWS):
                    _add_tile(
                        panel.ctypes.data + i * PITCH_BYTES,
                        PITCH_BYTES,
                        directions + j * b_pitch,
                        b_pitch,
                        wide * size,
                        products.ctypes.data + (i * LAZY_STEPS + j) * size,
                        LAZY_STEPS * size,
                        products,
                    )
        for i in range(right - left):
            for j in range(steps):
                product = products[i * LAZY_STEPS + j] * state.scale[left + i]
                gain[i] -= product * product
    best, place = gain.dtype.type(0), left
    novelty = gain.dtype.type(0)
    for i in range(left, right):
        value = state.gain[i]
        if value > best and value > state.threshold[i]:
            best = value
            place = i
        if state.threshold[i] < np.inf and value > novelty * state.diagonal[i] and state.diagonal[i] > 0:
            novelty = value / state.diagonal[i]
    state.step[b], state.best[b], state.place[b], state.novelty[b] = t, best, place, novelty


@_compile
def next_pick(features, rows, state, t, with_novelty, scratch):  # type: ignore[no-untyped-def]
    """The row with the largest gain at step t (ties to the lowest), that gain (0 if all are exhausted), and the novelty
    (0 unless asked for). Only blocks whose old gains could still be the largest catch up."""
    while True:
        b = np.argmax(state.best)
        if state.step[b] == t:
            break
        _catch_up_rows(features, rows, state, b, t, scratch)
    novelty = state.gain.dtype.type(0)
    while with_novelty:
        newest = np.argmax(state.novelty)
        if state.step[newest] == t:
            novelty = state.novelty[newest]
            break
        _catch_up_rows(features, rows, state, newest, t, scratch)
    return state.place[b], state.best[b], novelty


def make_scratch() -> np.ndarray:
    """SCRATCH_BYTES aligned to 64, with AMX's configuration in front: eight tiles of 16 rows of 64 bytes."""
    memory = np.zeros(SCRATCH_BYTES + 64, np.uint8)
    begin = -memory.ctypes.data % 64
    scratch = memory[begin : begin + SCRATCH_BYTES]
    scratch[0] = 1
    scratch[16:32:2] = 64
    scratch[48:56] = _AMX_ROWS
    return scratch
