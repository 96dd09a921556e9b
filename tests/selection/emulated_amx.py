"""Let the compiled kernels be those for AVX-512 with AMX on a processor that has neither: a plugin for pytest.

    NUMBA_CACHE_DIR=$(mktemp -d) python -m pytest -p tests.selection.emulated_amx tests/selection/test_cpu_kernels.py

The kernels take their layout from the features that Numba compiles for. Here they are told of more than there are;
LLVM is not, and splits the long vectors. AMX's instructions are replaced by loops.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

_codegen = cpu_target.target_context.codegen()
_triple, _name, _features = _codegen.magic_tuple()
_codegen.magic_tuple = lambda: (_triple, _name, _features + ",+avx512f,+amx-tile,+amx-bf16")

# The target's features are read here.
from framefusion.selection import cpu_kernels, numba_backend  # noqa: E402

_VALUES = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
"""What the bits of a bfloat16 number mean. AMX takes subnormal ones for zeros."""
_VALUES[np.abs(_VALUES) < np.finfo(np.float32).tiny] = 0


@intrinsic
def _at(typing_context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


@numba.njit
def _begin(configuration):
    return None


@numba.njit
def _end():
    return None


@numba.njit
def _add_tiles(a, a_pitch, b, b_pitch, steps, out, out_pitch):
    """TDPBF16PS sums the even and the odd products of a tile by themselves before it adds them to what is there."""
    for step in range(steps):
        for i in range(16):
            row = numba.carray(_at(a + i * a_pitch + 64 * step), (16, 2), np.uint16)
            sums = numba.carray(_at(out + i * out_pitch), 32, np.float32)
            for j in range(32):
                tile = numba.carray(_at(b + j // 16 * b_pitch + 1024 * step), (16, 16, 2), np.uint16)
                even = odd = np.float32(0)
                for k in range(16):
                    even += _VALUES[row[k, 0]] * _VALUES[tile[k, j % 16, 0]]
                    odd += _VALUES[row[k, 1]] * _VALUES[tile[k, j % 16, 1]]
                sums[j] += even + odd


_fill_block = cpu_kernels._fill_block


@numba.njit
def _fill_block_inside(features, left, top, row, column, scale_left, scale_top, gram, scratch):
    """:func:`_fill_block`, if its tiles, which are written whole, stay in the matrix."""
    tile = 32 if features.how == cpu_kernels.BFLOAT16_AMX and not len(scale_left) else cpu_kernels._TILE_MULTIPLE
    tall = -(-len(left) // tile) * tile
    broad = -(-len(top) // tile) * tile if len(top) else tall
    if row + tall > gram.shape[0] or column + broad > gram.shape[1]:
        raise AssertionError("a tile beyond the matrix")
    _fill_block(features, left, top, row, column, scale_left, scale_top, gram, scratch)


assert cpu_kernels.AMX
assert cpu_kernels.REGISTER_BYTES == 64
cpu_kernels._amx_begin, cpu_kernels._amx_end, cpu_kernels._amx_add_tiles = _begin, _end, _add_tiles
cpu_kernels._fill_block = _fill_block_inside
numba_backend._amx_allowed = lambda: True
