"""What it costs to know the attention that each token receives, beside the layer's own attention.

    python benchmarks/attention_received.py --json docs/data/attention-received.json

One sample of a Qwen2.5-VL-7B layer's shape (28 query heads, 4 key heads of 128), float32. For each choice of query
rows: time relative to the layer's own scaled-dot-product attention, in turns in one process, and peak extra memory;
the whole attention matrix, as ``output_attentions`` makes it, for comparison.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from framefusion.bench.memory import extra_bytes
from framefusion.reduction.relevance import attention_received

HEADS, KEY_HEADS, WIDTH, TEXT = 28, 4, 128, 32


def contenders(tokens: int) -> dict[str, Callable[[], Tensor]]:
    """What is compared: name → one run."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, HEADS, tokens, WIDTH, generator=generator)
    key, value = (torch.randn(1, KEY_HEADS, tokens, WIDTH, generator=generator) for _ in range(2))
    valid = torch.ones(1, tokens, dtype=torch.bool)

    def received(first: int, *, per_viewer: bool = False) -> Callable[[], Tensor]:
        rows = torch.arange(first, tokens)[None]
        return lambda: attention_received(query, key, rows, valid, WIDTH**-0.5, per_viewer=per_viewer)

    def layer() -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)

    def whole_matrix() -> Tensor:
        keys = key.repeat_interleave(HEADS // KEY_HEADS, dim=1)
        scores = query @ keys.transpose(2, 3) * WIDTH**-0.5
        hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        return scores.masked_fill_(hidden, float("-inf")).softmax(-1).mean((1, 2))

    return {
        "the layer's attention": layer,
        "last": received(tokens - 1),
        f"text ({TEXT} rows)": received(tokens - TEXT),
        "all": received(0),
        "all-viewers": received(0, per_viewer=True),
        "whole matrix": whole_matrix,
    }


def main() -> None:
    """Measure and print; write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1536, 3072])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", default=None, metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    # Without a fixed threshold glibc keeps large freed blocks, and the next run would not show them.
    ctypes.CDLL(None).mallopt(-3, 131072)
    rows = []
    for tokens in args.tokens:
        runs = contenders(tokens)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        peaks = {name: extra_bytes(run) for name, run in runs.items()}
        for _ in range(args.rounds):
            for name, run in runs.items():
                started = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - started)
        layer = statistics.median(seconds["the layer's attention"])
        for name in runs:
            median = statistics.median(seconds[name])
            rows.append(
                {
                    "tokens": tokens,
                    "rows": name,
                    "seconds": median,
                    "of_layer": median / layer,
                    "peak_extra_bytes": peaks[name],
                }
            )
            mib = peaks[name] / 2**20
            print(f"{tokens:6} tokens  {name:22} {median:8.3f} s  {median / layer:6.2f}×  {mib:8.0f} MiB", flush=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as stream:
            json.dump({"command": "python benchmarks/attention_received.py --json " + args.json, "rows": rows}, stream)


if __name__ == "__main__":
    main()
