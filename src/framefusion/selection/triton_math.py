"""Arithmetic that the Triton kernels of the selection share, correctly rounded where results decide what is kept."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def square_root(x):
    """Correctly rounded; ``tl.sqrt`` is approximate in float32 and takes subnormal numbers for 0."""
    if x.dtype == tl.float64:
        return tl.sqrt(x)
    else:
        return tl.sqrt_rn(x)


@triton.jit
def quotient(a, b):
    """Correctly rounded; ``/`` is approximate in float32."""
    if a.dtype == tl.float64:
        return a / b
    else:
        return tl.div_rn(a, b)


@triton.jit
def reciprocal(x):
    """Correctly rounded ``1 / x``."""
    return quotient(tl.full((), 1, x.dtype), x)


@triton.jit
def power_of_two(exponent):
    """``2 ** exponent`` in float64 for an int64 in -1022 … 1023."""
    return ((exponent + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit
def binary_exponent(x):
    """``e`` with ``x = m · 2 ** e``, ``m`` in [0.5, 1), for a float64 ``x`` > 0; 0 for 0, as ``torch.frexp``."""
    small = x < power_of_two(tl.full((), -1022, tl.int64))
    bits = (x * tl.where(small, power_of_two(tl.full((), 54, tl.int64)), 1.0)).to(tl.int64, bitcast=True)
    exponent = ((bits >> 52) & 0x7FF) - 1022
    return tl.where(x > 0, tl.where(small, exponent - 54, exponent), 0)


@triton.jit
def kernel_row(products, scale_j, diagonal_j, scale, diagonal, GAMMA: tl.constexpr):
    """A row of ``L`` from raw products: with GAMMA the Gaussian kernel of the directions, with 0 that of cosines."""
    if GAMMA == 0:
        return products * scale_j * scale
    else:
        r_j, r = square_root(diagonal_j), square_root(diagonal)
        cosine = products * quotient(scale_j, r_j) * quotient(scale, tl.where(r > 0, r, 1.0))
        return tl.exp(2 * GAMMA * (cosine - 1)) * r_j * r


@triton.jit
def novelty_of(gain, diagonal):
    """The largest share of a candidate's diagonal that is left."""
    some = diagonal > 0
    return tl.max(tl.where(some, quotient(gain, tl.where(some, diagonal, 1.0)), 0.0), 0)


@triton.jit
def note(trace, place, gain, novelty, exponent):
    """Write one row of a trace, (K, 2), undoing the scaling of relevance by ``2 ** -exponent``; 0 after 0."""
    half = exponent >> 1
    rest = exponent - half
    gain = gain.to(tl.float64) * power_of_two(half) * power_of_two(half) * power_of_two(rest) * power_of_two(rest)
    tl.store(trace + 2 * place, gain)
    tl.store(trace + 2 * place + 1, novelty)
