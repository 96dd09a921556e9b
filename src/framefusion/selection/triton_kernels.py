"""Triton kernels of the selection; :mod:`framefusion.selection.triton_backend` launches them.

Segments of all samples lie one after the other. ``table`` (S, 9) int64 has a row for each segment of a launch, whose
columns are the constants below; per-token arrays (``rows``, ``norms``, ``scale``, …) are flat, a segment's tokens
starting at its ``FIRST``. ``tiles`` lists what each program works on, so that ragged segments have no idle programs.

A program touches one segment only, in an order that depends on that segment only; products that are subtracted are
fused by name (``tl.fma``), so that no compiled variant rounds them otherwise. That is why a sample has bitwise the same
result in every batch.

State is in the accumulation dtype: that of ``gram`` or ``gain``.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from framefusion.selection.numerics import EXHAUSTION_FACTOR
from framefusion.selection.triton_math import (
    binary_exponent,
    kernel_row,
    note,
    novelty_of,
    power_of_two,
    quotient,
    reciprocal,
    square_root,
)

FIRST = tl.constexpr(0)
"""Where the segment's tokens start in the per-token arrays."""
LENGTH = tl.constexpr(1)
COUNT = tl.constexpr(2)
"""Picks wanted; at most the length, and for Gram–Schmidt at most the features' width."""
SAMPLE = tl.constexpr(3)
PICKS = tl.constexpr(4)
"""Where its picks start in ``picks`` and ``trace``."""
GRAM = tl.constexpr(5)
"""Where its matrix starts in ``gram``."""
PITCH = tl.constexpr(6)
"""Distance of two rows of that matrix."""
STATE = tl.constexpr(7)
"""Where its Cholesky rows (COUNT × LENGTH) or its directions (COUNT × width) start."""
PARTIALS = tl.constexpr(8)
"""Where the maxima of its tiles start in ``partial_*``."""
COLUMNS = tl.constexpr(9)

RESIDENT = 1024
"""Longest segment whose gains one program keeps in registers; longer ones take a launch for each step."""
STEP_TILE = 256
"""Tokens of one program in a step of a longer segment."""
ROW_TILE = 32
"""Tokens of one program that reads features."""
DIRECTION_BYTES = 32 << 10
"""Size of the widest direction that a Gram–Schmidt step may have in registers: one program holds it."""

_PARTIALS_AT_ONCE = tl.constexpr(1024)
_UNROLL = tl.constexpr(4)


def gram_options(dtype: torch.dtype) -> dict[str, int]:
    """Tile shape and warps of :func:`gram_tiles` for features of ``dtype``."""
    if dtype == torch.float64:
        return {"TILE": 32, "DEPTH": 16, "WIDEN": INTERPRETED, "num_warps": 4, "num_stages": 2}
    return {"TILE": 64, "DEPTH": 32, "WIDEN": INTERPRETED, "num_warps": 4, "num_stages": 3}


def scale_options() -> dict[str, int]:
    """Launch options of :func:`scale_segments`."""
    return {"BLOCK": 1024, "num_warps": 4, "num_stages": 1}


def resident_options(width: int, dtype: torch.dtype) -> dict[str, Any]:
    """Launch options of :func:`greedy_resident` for segments of at most ``width`` tokens."""
    block = max(32, triton.next_power_of_2(width))
    return {"BLOCK": block, "num_warps": min(16, block // 32), "num_stages": 1, **exhaustion(dtype)}


def step_options(dtype: torch.dtype) -> dict[str, Any]:
    """Launch options of :func:`greedy_step`."""
    # In float64 the exponential of two tokens does not fit a thread's registers.
    return {"BLOCK": STEP_TILE, "num_warps": 8 if dtype == torch.float64 else 4, "num_stages": 1, **exhaustion(dtype)}


def start_options(tile: int, dtype: torch.dtype) -> dict[str, Any]:
    """Launch options of :func:`first_gains` for tiles of ``tile`` tokens."""
    return {"BLOCK": tile, "num_warps": max(1, tile // 64), "num_stages": 1, **exhaustion(dtype)}


def rows_options(dtype: torch.dtype) -> dict[str, int]:
    """Launch options of :func:`row_norms` for features of ``dtype``."""
    return {"BLOCK": ROW_TILE, "DEPTH": 64 if dtype == torch.float64 else 128, "num_warps": 4, "num_stages": 1}


def project_options(feature_dtype: torch.dtype, dtype: torch.dtype) -> dict[str, Any]:
    """Launch options of :func:`project`."""
    return {**rows_options(feature_dtype), **exhaustion(dtype)}


def direction_options(width: int) -> dict[str, int]:
    """Launch options of :func:`next_direction` for features of ``width`` columns."""
    block = max(128, triton.next_power_of_2(width))
    warps = max(4, min(32, block // 64))
    return {
        "TILE": ROW_TILE,
        "BLOCK": block,
        "AT_ONCE": max(1, min(16, 256 * warps // block)),
        "num_warps": warps,
        "num_stages": 1,
    }


def exhaustion(dtype: torch.dtype) -> dict[str, float]:
    """The share of its own diagonal at which a candidate is exhausted, see ``numerics.exhaustion_threshold``."""
    return {"EXHAUSTED": EXHAUSTION_FACTOR * torch.finfo(dtype).eps}


@triton.jit
def gram_tiles(
    features, sample_stride, row_stride, width, rows, table, tiles, gram, norms,
    TILE: tl.constexpr, DEPTH: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """One tile of the lower triangle of one segment's ``X Xᵀ``, written to the upper triangle too.

    ``features`` (B, N, width), columns adjacent; rows are gathered as they are read. ``tiles`` (P, 3): segment, row and
    column of the tile. Products of float32 features are exact to float32, never TF32; half precision is accumulated in
    float32. The diagonal also goes to ``norms``. WIDEN converts first, with the same result: Triton's interpreter would
    multiply the bits of bfloat16.
    """
    program = tl.program_id(0)
    entry = table + COLUMNS * tl.load(tiles + 3 * program)
    down, across = tl.load(tiles + 3 * program + 1), tl.load(tiles + 3 * program + 2)
    first, length = tl.load(entry + FIRST), tl.load(entry + LENGTH)
    sample = features + tl.load(entry + SAMPLE) * sample_stride
    i, j = down * TILE + tl.arange(0, TILE), across * TILE + tl.arange(0, TILE)
    left = sample + tl.load(rows + first + i, mask=i < length, other=0)[:, None] * row_stride
    right = sample + tl.load(rows + first + j, mask=j < length, other=0)[None, :] * row_stride
    products = tl.zeros((TILE, TILE), gram.dtype.element_ty)
    for begin in range(0, width, DEPTH):
        d = begin + tl.arange(0, DEPTH)
        a = tl.load(left + d[None, :], mask=(i < length)[:, None] & (d < width)[None, :], other=0.0)
        b = tl.load(right + d[:, None], mask=(j < length)[None, :] & (d < width)[:, None], other=0.0)
        if WIDEN:
            a, b = a.to(gram.dtype.element_ty), b.to(gram.dtype.element_ty)
        products = tl.dot(a, b, products, input_precision="ieee", out_dtype=gram.dtype.element_ty)
    matrix, pitch = gram + tl.load(entry + GRAM), tl.load(entry + PITCH)
    inside = (i < length)[:, None] & (j < length)[None, :]
    tl.store(matrix + i[:, None] * pitch + j[None, :], products, mask=inside)
    if down == across:
        tl.store(norms + first + i, tl.sum(tl.where(i[:, None] == j[None, :], products, 0.0), 1), mask=i < length)
    else:
        other = (j < length)[:, None] & (i < length)[None, :]
        tl.store(matrix + j[:, None] * pitch + i[None, :], tl.trans(products), mask=other)


@triton.jit
def row_norms(
    features, sample_stride, row_stride, width, rows, table, tiles, norms,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Squared norms of the rows of long segments. ``tiles`` (P, 2): segment and tile of BLOCK rows."""
    program = tl.program_id(0)
    entry = table + COLUMNS * tl.load(tiles + 2 * program)
    first, length = tl.load(entry + FIRST), tl.load(entry + LENGTH)
    i = tl.load(tiles + 2 * program + 1) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(rows + first + i, mask=i < length, other=0)[:, None] * row_stride
    row = features + tl.load(entry + SAMPLE) * sample_stride + row
    squares = tl.zeros((BLOCK, DEPTH), norms.dtype.element_ty)
    for begin in range(0, width, DEPTH):
        d = begin + tl.arange(0, DEPTH)
        x = tl.load(row + d[None, :], mask=(i < length)[:, None] & (d < width)[None, :], other=0.0)
        x = x.to(norms.dtype.element_ty)
        squares = tl.fma(x, x, squares)
    tl.store(norms + first + i, tl.sum(squares, 1), mask=i < length)


@triton.jit
def scale_segments(
    relevance, sample_stride, row_stride, rows, table, norms, scale, diagonal, weights, exponents,
    UNIFORM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Diagonal scalings of one segment, from its relevance (B, N) and its squared norms.

    ``weights`` (T,) float64 is the relevance as given; ``exponents`` (S,) that of its peak, by which ``r`` is scaled
    into [0, 1). ``scale`` (T,) is ``r / ‖X‖``, ``diagonal`` (T,) is ``r²``; both 0 for zero vectors and norms that are
    not finite. UNIFORM ignores ``relevance``.
    """
    segment = tl.program_id(0)
    entry = table + COLUMNS * segment
    first, length = tl.load(entry + FIRST), tl.load(entry + LENGTH)
    relevance += tl.load(entry + SAMPLE) * sample_stride
    peak = tl.full((), 0, tl.float64)
    for begin in range(0, length, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        if UNIFORM:
            r = tl.where(i < length, 1.0, 0.0).to(tl.float64)
        else:
            row = tl.load(rows + first + i, mask=i < length, other=0)
            r = tl.load(relevance + row * row_stride, mask=i < length, other=0.0).to(tl.float64)
        tl.store(weights + first + i, r, mask=i < length)
        peak = tl.maximum(peak, tl.max(r, 0))
    exponent = binary_exponent(peak)
    tl.store(exponents + segment, exponent)
    half = exponent >> 1
    tl.debug_barrier()
    for begin in range(0, length, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        r = tl.load(weights + first + i, mask=i < length, other=0.0) * power_of_two(-half)
        r = (r * power_of_two(half - exponent)).to(norms.dtype.element_ty)
        squared = tl.load(norms + first + i, mask=i < length, other=0.0)
        usable = (squared > 0) & (squared < float("inf"))
        norm = tl.sqrt(tl.where(usable, squared, 1.0).to(tl.float64))
        scaled = (r.to(tl.float64) / norm).to(norms.dtype.element_ty)
        tl.store(scale + first + i, tl.where(usable, scaled, 0.0), mask=i < length)
        tl.store(diagonal + first + i, tl.where(usable, r * r, 0.0), mask=i < length)


@triton.jit
def greedy_resident(
    gram, scale, diagonal, weights, exponents, table, cholesky, picks, trace,
    FILL: tl.constexpr, TRACED: tl.constexpr, GAMMA: tl.constexpr, BLOCK: tl.constexpr, EXHAUSTED: tl.constexpr,
):  # fmt: skip
    """Greedy MAP of one segment of at most BLOCK tokens; Chen, Zhang & Zhou 2018, Algorithm 1.

    ``L[i, j] = gram[i, j] · scale[i] · scale[j]`` is formed as it is read, or with GAMMA :func:`kernel_row`. Writes
    COUNT positions inside the segment to ``picks``; where no candidate is left, −1, or with FILL the remaining tokens
    by ``weights``, then by position. TRACED writes each greedy pick's gain and novelty.
    """
    segment = tl.program_id(0)
    entry = table + COLUMNS * segment
    first, length, count = tl.load(entry + FIRST), tl.load(entry + LENGTH), tl.load(entry + COUNT)
    matrix, pitch = gram + tl.load(entry + GRAM), tl.load(entry + PITCH)
    state, places = cholesky + tl.load(entry + STATE), tl.load(entry + PICKS)
    lane = tl.arange(0, BLOCK)
    inside = lane < length
    free = inside
    own_scale = tl.load(scale + first + lane, mask=free, other=0.0)
    own_diagonal = tl.load(diagonal + first + lane, mask=free, other=0.0)
    usable = own_scale != 0
    gain = own_diagonal
    best, j = tl.max(tl.where(free & (gain > EXHAUSTED * own_diagonal), gain, 0.0), 0, return_indices=True)
    t = 0
    while (t < count) & (best > 0):
        tl.store(picks + places + t, j)
        if TRACED:
            novelty = novelty_of(tl.where(free, gain, 0.0), own_diagonal)
            note(trace, places + t, best, novelty, tl.load(exponents + segment))
        update = tl.load(matrix + j * pitch + lane, mask=usable, other=0.0)
        scale_j, diagonal_j = tl.load(scale + first + j), tl.load(diagonal + first + j)
        update = kernel_row(update, scale_j, diagonal_j, own_scale, own_diagonal, GAMMA)
        before = state
        for _ in tl.range(0, t, loop_unroll_factor=_UNROLL):
            update = tl.fma(-tl.load(before + j), tl.load(before + lane, mask=inside, other=0.0), update)
            before += length
        update = update * reciprocal(square_root(best))
        tl.store(before + lane, update, mask=inside)
        # The next steps read what other threads have written.
        tl.debug_barrier()
        gain = tl.fma(-update, update, gain)
        free = free & (lane != j)
        best, j = tl.max(tl.where(free & (gain > EXHAUSTED * own_diagonal), gain, 0.0), 0, return_indices=True)
        t += 1
    if FILL:
        # What is not a number ≥ 0 was not checked, and comes last.
        weight = tl.load(weights + first + lane, mask=inside, other=0.0)
        weight = tl.where(weight >= 0, weight, -1.0)
        while t < count:
            j = tl.argmax(tl.where(free, weight, -2.0), 0)
            tl.store(picks + places + t, j)
            free = free & (lane != j)
            t += 1
    else:
        while t < count:
            tl.store(picks + places + t, -1)
            t += 1


@triton.jit
def store_partial(gain, diagonal, begin, slot, partial_gain, partial_index, partial_novelty, EXHAUSTED: tl.constexpr):
    """The largest gain of a tile, 0 if all are exhausted, where it is in the segment, and the largest novelty."""
    best, at = tl.max(tl.where(gain > EXHAUSTED * diagonal, gain, 0.0), 0, return_indices=True)
    tl.store(partial_gain + slot, best)
    tl.store(partial_index + slot, begin + at)
    tl.store(partial_novelty + slot, novelty_of(gain, diagonal))


@triton.jit
def best_of_partials(partial_gain, partial_index, partial_novelty, slot, tiles):
    """The largest gain of a segment, its lowest position, and the largest novelty, from the maxima of its tiles."""
    best = tl.full((), 0, partial_gain.dtype.element_ty)
    novelty = best
    j = tl.full((), 0, tl.int64)
    for begin in range(0, tiles, _PARTIALS_AT_ONCE):
        lane = begin + tl.arange(0, _PARTIALS_AT_ONCE)
        top, at = tl.max(tl.load(partial_gain + slot + lane, mask=lane < tiles, other=0.0), 0, return_indices=True)
        j = tl.where(top > best, tl.load(partial_index + slot + begin + at), j)
        best = tl.maximum(best, top)
        novelty = tl.maximum(novelty, tl.max(tl.load(partial_novelty + slot + lane, mask=lane < tiles, other=0.0), 0))
    return best, j, novelty


@triton.jit
def first_gains(
    diagonal, table, tiles, gain, partial_gain, partial_index, partial_novelty,
    BLOCK: tl.constexpr, EXHAUSTED: tl.constexpr,
):  # fmt: skip
    """Gains before the first pick, and their maxima. ``tiles`` (P, 2): segment and tile of BLOCK tokens."""
    program = tl.program_id(0)
    entry = table + COLUMNS * tl.load(tiles + 2 * program)
    tile = tl.load(tiles + 2 * program + 1)
    first, length = tl.load(entry + FIRST), tl.load(entry + LENGTH)
    i = tile * BLOCK + tl.arange(0, BLOCK)
    own = tl.load(diagonal + first + i, mask=i < length, other=0.0)
    tl.store(gain + first + i, own, mask=i < length)
    slot = tl.load(entry + PARTIALS) + tile
    store_partial(own, own, tile * BLOCK, slot, partial_gain, partial_index, partial_novelty, EXHAUSTED)


@triton.jit(do_not_specialize=["step"])
def greedy_step(
    gram, scale, diagonal, exponents, table, tiles, step, gain, cholesky,
    partial_gain, partial_index, partial_novelty, partials, picks, trace,
    TRACED: tl.constexpr, GAMMA: tl.constexpr, BLOCK: tl.constexpr, EXHAUSTED: tl.constexpr,
):  # fmt: skip
    """Pick ``step`` of long segments, and what it takes from the gains of one tile.

    Every program finds the pick from the maxima that the step before has left in one half of ``partial_*`` (2,
    ``partials``), and leaves those of its tile in the other half. ``tiles`` (P, 2): segment and tile of BLOCK tokens.
    """
    program = tl.program_id(0)
    segment = tl.load(tiles + 2 * program)
    entry = table + COLUMNS * segment
    tile = tl.load(tiles + 2 * program + 1)
    first, length, count = tl.load(entry + FIRST), tl.load(entry + LENGTH), tl.load(entry + COUNT)
    if step >= count:
        return
    slot, n_tiles = tl.load(entry + PARTIALS), tl.cdiv(length, BLOCK)
    before = (step % 2) * partials + slot
    best, j, novelty = best_of_partials(partial_gain, partial_index, partial_novelty, before, n_tiles)
    alive = best > 0
    if tile == 0:
        place = tl.load(entry + PICKS) + step
        tl.store(picks + place, tl.where(alive, j, -1))
        if TRACED:
            note(trace, place, best, tl.where(alive, novelty, 0.0), tl.load(exponents + segment))
    i = tile * BLOCK + tl.arange(0, BLOCK)
    inside = i < length
    own_diagonal = tl.load(diagonal + first + i, mask=inside, other=0.0)
    left = tl.load(gain + first + i, mask=inside, other=0.0)
    if alive:
        own_scale = tl.load(scale + first + i, mask=inside, other=0.0)
        row = gram + tl.load(entry + GRAM) + j * tl.load(entry + PITCH)
        state = cholesky + tl.load(entry + STATE)
        update = tl.load(row + i, mask=own_scale != 0, other=0.0)
        scale_j, diagonal_j = tl.load(scale + first + j), tl.load(diagonal + first + j)
        update = kernel_row(update, scale_j, diagonal_j, own_scale, own_diagonal, GAMMA)
        earlier = state
        for _ in tl.range(0, step, loop_unroll_factor=_UNROLL):
            update = tl.fma(-tl.load(earlier + j), tl.load(earlier + i, mask=inside, other=0.0), update)
            earlier += length
        update = update * reciprocal(square_root(best))
        tl.store(earlier + i, update, mask=inside)
        left = tl.where(i == j, -1.0, tl.fma(-update, update, left))
        tl.store(gain + first + i, left, mask=inside)
    after = ((step + 1) % 2) * partials + slot + tile
    store_partial(left, own_diagonal, tile * BLOCK, after, partial_gain, partial_index, partial_novelty, EXHAUSTED)


@triton.jit(do_not_specialize=["step"])
def next_direction(
    features, sample_stride, row_stride, width, rows, scale, exponents, table, step, directions,
    partial_gain, partial_index, partial_novelty, picks, trace,
    TRACED: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Pick ``step`` of one long segment and its direction, orthogonal to those before, of at most BLOCK columns.

    Orthogonalised twice, AT_ONCE directions at a time, because once is not enough in float32. 0 once exhausted.
    """
    segment = tl.program_id(0)
    entry = table + COLUMNS * segment
    first, length, count = tl.load(entry + FIRST), tl.load(entry + LENGTH), tl.load(entry + COUNT)
    if step >= count:
        return
    slot, n_tiles = tl.load(entry + PARTIALS), tl.cdiv(length, TILE)
    best, j, novelty = best_of_partials(partial_gain, partial_index, partial_novelty, slot, n_tiles)
    alive = best > 0
    place = tl.load(entry + PICKS) + step
    tl.store(picks + place, tl.where(alive, j, -1))
    if TRACED:
        note(trace, place, best, tl.where(alive, novelty, 0.0), tl.load(exponents + segment))
    d = tl.arange(0, BLOCK)
    own = directions + tl.load(entry + STATE)
    direction = tl.zeros((BLOCK,), scale.dtype.element_ty)
    if alive:
        row = features + tl.load(entry + SAMPLE) * sample_stride + tl.load(rows + first + j) * row_stride
        direction = tl.load(row + d, mask=d < width, other=0.0).to(scale.dtype.element_ty)
        direction = direction * tl.load(scale + first + j)
        for _ in tl.static_range(2):
            for begin in range(0, step, AT_ONCE):
                p = begin + tl.arange(0, AT_ONCE)
                known = (p < step)[:, None] & (d < width)[None, :]
                q = tl.load(own + p[:, None] * width + d[None, :], mask=known, other=0.0)
                share = tl.sum(q * direction[None, :], 1)
                direction = direction - tl.sum(share[:, None] * q, 0)
        norm = square_root(tl.sum(direction * direction, 0))
        direction = quotient(direction, tl.where(norm > 0, norm, 1.0))
    tl.store(own + step * width + d, direction, mask=d < width)


@triton.jit(do_not_specialize=["step"])
def project(
    features, sample_stride, row_stride, width, rows, scale, diagonal, table, tiles, step, directions,
    gain, partial_gain, partial_index, partial_novelty, picks,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr, EXHAUSTED: tl.constexpr,
):  # fmt: skip
    """Take the direction of ``step`` from the gains of one tile, and find their maxima: reads its features once.

    ``tiles`` (P, 2): segment and tile of BLOCK rows.
    """
    program = tl.program_id(0)
    entry = table + COLUMNS * tl.load(tiles + 2 * program)
    tile = tl.load(tiles + 2 * program + 1)
    first, length, count = tl.load(entry + FIRST), tl.load(entry + LENGTH), tl.load(entry + COUNT)
    if step >= count:
        return
    i = tile * BLOCK + tl.arange(0, BLOCK)
    inside = i < length
    own_scale = tl.load(scale + first + i, mask=inside, other=0.0)
    usable = own_scale != 0
    row = tl.load(rows + first + i, mask=inside, other=0)[:, None] * row_stride
    row = features + tl.load(entry + SAMPLE) * sample_stride + row
    direction = directions + tl.load(entry + STATE) + step * width
    products = tl.zeros((BLOCK, DEPTH), gain.dtype.element_ty)
    for begin in range(0, width, DEPTH):
        d = begin + tl.arange(0, DEPTH)
        x = tl.load(row + d[None, :], mask=usable[:, None] & (d < width)[None, :], other=0.0)
        q = tl.load(direction + d, mask=d < width, other=0.0)
        products = tl.fma(x.to(gain.dtype.element_ty), tl.broadcast_to(q[None, :], (BLOCK, DEPTH)), products)
    projection = tl.sum(products, 1) * own_scale
    left = tl.fma(-projection, projection, tl.load(gain + first + i, mask=inside, other=0.0))
    left = tl.where(i == tl.load(picks + tl.load(entry + PICKS) + step), -1.0, left)
    tl.store(gain + first + i, left, mask=inside)
    own_diagonal = tl.load(diagonal + first + i, mask=inside, other=0.0)
    slot = tl.load(entry + PARTIALS) + tile
    store_partial(left, own_diagonal, tile * BLOCK, slot, partial_gain, partial_index, partial_novelty, EXHAUSTED)


INTERPRETED = not isinstance(greedy_resident, triton.JITFunction)
"""Whether Triton's interpreter runs the kernels, which it does where TRITON_INTERPRET=1 was set when this was
imported."""
