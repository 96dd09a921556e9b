"""Compile every Triton kernel as it is launched, without a device, and tell what the compiler made of it.

    python -m tests.selection.compile_kernels 80 90
    python -m tests.selection.compile_kernels 80 90 --in-turns  # each variant for one of them

Prints a JSON list with one entry for each compiled variant.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from framefusion.reduction import relevance_triton as attention
from framefusion.selection import triton_kernels as kernels

NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64", torch.bool: "i1"}
INTEGERS = ("rows", "table", "tiles", "picks", "exponents", "partial_index", "asked_rows")
DOUBLES = ("weights", "trace")
READ = ("features", "relevance", "query", "key", "mask")
SCALARS = {"scaling": "fp32", "softcap": "fp32"}
SIZES = ("width", "step", "partials", "groups", "group_heads", "n_rows", "n_keys", "held", "keys_per_split")
STRIDES = ("row_stride", "query_head", "query_row", "key_head", "key_row", "mask_row", "mask_key")
HINT = [["tt.divisibility", 16]]

Variant = tuple[Any, torch.dtype, torch.dtype, dict[str, Any]]
"""Kernel, dtype of what it reads, accumulation dtype, options and flags."""


def selection_variants() -> Iterator[Variant]:
    """Every kernel of the selection in its widest launches; float16 is as bfloat16."""
    for read in (torch.float32, torch.bfloat16, torch.float64):
        own = torch.float64 if read == torch.float64 else torch.float32
        yield kernels.gram_tiles, read, own, kernels.gram_options(read)
        yield kernels.row_norms, read, own, kernels.rows_options(read)
        yield kernels.project, read, own, kernels.project_options(read, own)
        widest = kernels.DIRECTION_BYTES // own.itemsize
        yield kernels.next_direction, read, own, {**kernels.direction_options(widest), "TRACED": True}
    for own in (torch.float32, torch.float64):
        yield kernels.scale_segments, own, own, {**kernels.scale_options(), "UNIFORM": False}
        for width in (20, 196, kernels.RESIDENT):
            for flags in (
                {"FILL": True, "TRACED": False, "GAMMA": 0.0},
                {"FILL": False, "TRACED": True, "GAMMA": 0.0},
                {"FILL": True, "TRACED": False, "GAMMA": 1.0},
            ):
                yield kernels.greedy_resident, own, own, {**kernels.resident_options(width, own), **flags}
        for tile in (kernels.ROW_TILE, kernels.STEP_TILE):
            yield kernels.first_gains, own, own, kernels.start_options(tile, own)
        for gamma in (0.0, 1.0):
            yield kernels.greedy_step, own, own, {**kernels.step_options(own), "TRACED": True, "GAMMA": gamma}


def attention_variants() -> Iterator[Variant]:
    """Both kernels of the attention received, for heads of 64 to 256 columns."""
    for read, width, rows, mask in (
        (torch.bfloat16, 128, 224, attention.CAUSAL),
        (torch.float16, 64, 64, attention.BOOL),
        (torch.bfloat16, 256, 64, attention.ADDED),
        (torch.float32, 128, 64, attention.CAUSAL),
        (torch.float32, 256, 64, attention.ADDED),
    ):
        flags = {"MASK": mask.value, "CAPPED": mask is attention.ADDED, "WIDEN": read == torch.float32}
        options = {**attention.tile_options(read, width, rows), **flags}
        yield attention.row_normalisers, read, torch.float32, options
        yield attention.column_sums, read, torch.float32, {**options, "PER_VIEWER": True}


def argument_type(name: str, read: torch.dtype, own: torch.dtype, flags: dict[str, Any]) -> str:
    """The type of a kernel's argument, by its name."""
    if name in flags:
        return "constexpr"
    if name == "valid" or (name == "mask" and flags["MASK"] != attention.ADDED.value):
        return "*i1"
    if name in INTEGERS:
        return "*i64"
    if name in DOUBLES:
        return "*fp64"
    if name in READ:
        return "*" + NAMES[read]
    if name in SCALARS:
        return SCALARS[name]
    if name in ("sample_stride", "query_sample", "key_sample", "mask_sample"):
        return "i64"
    return "i32" if name in SIZES or name in STRIDES else "*" + NAMES[own]


def compiled(variant: Variant, architecture: int, aligned: bool) -> dict[str, Any]:
    """What one variant needs; ``aligned``: pointers, strides and the width are multiples of 16, as they mostly are."""
    kernel, read, own, options = variant
    flags = {k: v for k, v in options.items() if k not in ("num_warps", "num_stages")}
    if "WIDEN" in flags:
        flags["WIDEN"] = kernel is not kernels.gram_tiles and flags["WIDEN"]
    signature = {name: argument_type(name, read, own, flags) for name in kernel.arg_names}
    hinted = [
        i
        for i, (name, kind) in enumerate(signature.items())
        if aligned and (kind[0] == "*" or kind == "i64" or name in (*STRIDES, "width"))
    ]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        made = triton.compile(
            ASTSource(kernel, signature, flags, {(i,): HINT for i in hinted}),
            target=GPUTarget("cuda", architecture, 32),
            options={k: options[k] for k in ("num_warps", "num_stages")},
        )
    return {
        "kernel": kernel.__name__,
        "architecture": architecture,
        "aligned": aligned,
        "dtype": NAMES[read],
        "options": {k: v for k, v in options.items() if k != "EXHAUSTED"},
        "registers": number(r"Used (\d+) registers", said.getvalue()),
        "spilled": number(r"(\d+) bytes spill stores", said.getvalue()),
        "shared": made.metadata.shared,
        "tf32": "tf32" in made.asm["ptx"],
    }


def number(pattern: str, text: str) -> int:
    """The number that a pattern finds in what the assembler said."""
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"the assembler did not say {pattern!r}: {text!r}")
    return int(found[1])


def main() -> None:
    """Compile for the architectures named on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("architectures", type=int, nargs="+")
    parser.add_argument("--in-turns", action="store_true")
    args = parser.parse_args()
    triton.knobs.nvidia.dump_ptxas_log = True
    triton.knobs.compilation.always_compile = True
    variants = [*selection_variants(), *attention_variants()]
    results: list[dict[str, Any]] = []
    for turn, architecture in enumerate(args.architectures):
        own = variants[turn :: len(args.architectures)] if args.in_turns else variants
        results += [compiled(v, architecture, True) for v in own]
    results += [compiled(v, 80, False) for v in variants if v[0] is kernels.gram_tiles]
    json.dump(results, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
