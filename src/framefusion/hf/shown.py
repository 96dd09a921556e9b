"""What a notebook shows of a run."""

from __future__ import annotations

from framefusion.hf.summary import Summary
from framefusion.showing import units
from framefusion.showing.notebook import Card


def run_card(model: str, found: Summary) -> Card:
    """The latest prefill of a run: tokens, what was saved, and the times that were measured.

    Args:
        model: its class.
        found: of the prefill.
    """
    share = units.share_of(found.visual_tokens_after, found.visual_tokens_before, 1.0)
    whole = found.first_token_flops
    rows = [
        ("Visual tokens", f"mean over layers {units.percent(found.mean_share)}, in the last {units.percent(share)}"),
        ("Decoder’s prefill", units.change(found.flops_before, found.flops_after, units.flops)),
        *([] if whole is None else [("To the first token", units.change(*whole, units.flops))]),
        ("KV cache", units.change(found.kv_bytes_before, found.kv_bytes_after, units.size)),
        ("Reduction", units.seconds(found.reduction_milliseconds / 1000)),
    ]
    if found.times is not None:
        rows += [(units.PARTS[name], units.seconds(taken)) for name, taken in found.times.parts.items()]
    return Card(f"Latest prefill of {model}", None, rows, found.tokens_per_layer, found.visual_tokens_before)
