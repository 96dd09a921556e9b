"""What a reduction cannot follow, refused in one sentence before it goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import StaticLayer

from framefusion.errors import ArgumentError, StateError
from framefusion.hf import cache as caches
from framefusion.hf import cache_layers, masks
from framefusion.hf.calls import cache_of
from framefusion.hf.decoder import Decoder, window_of
from framefusion.hf.families import Call
from framefusion.reduction.layout import VisualLayout
from framefusion.reduction.settings import FrameFusion

NO_BATCHING = (
    "continuous batching (generate_batch, init_continuous_batching) takes no videos and packs its prompts into pages, "
    "which reduction cannot follow; use generate() with a padded batch, or detach first."
)
_USE = "Leave past_key_values and cache_implementation out, or pass DynamicCache(config=model.config)."


def prefill(
    settings: FrameFusion,
    decoder: Decoder,
    layouts: Sequence[VisualLayout],
    valid: Tensor,
    call: Call,
) -> None:
    """Refuse a prefill that is to be reduced and cannot be.

    Args:
        settings: of the reduction.
        decoder: of the model.
        layouts: the visual tokens of each sample that may be reduced.
        valid: ``(B, N)`` bool, False for padding.
        call: what the model was called with.

    Raises:
        RuntimeError: the model is in training mode.
        ValueError: anything else.
    """
    if decoder.module.training:
        raise StateError(
            "the model is in training mode; reduction is for inference. Call model.eval() or detach first."
        )
    implementation = decoder.module.config._attn_implementation
    if implementation not in masks.DENSE and any(map(window_of, decoder.layers)):
        raise ArgumentError(
            f"attn_implementation={implementation!r} cuts the windows of sliding-window layers by what is held, "
            "not by what was seen, so reduction would widen them; load the model with attn_implementation='sdpa'."
        )
    if implementation not in masks.DENSE and decoder.takes_positions:
        raise ArgumentError(
            f"attn_implementation={implementation!r} takes gaps in positions for packed sequences, and this decoder's "
            "attention goes by positions; load the model with attn_implementation='sdpa'."
        )
    if implementation not in masks.DENSE and decoder.family.looks_ahead:
        raise ArgumentError(
            f"attn_implementation={implementation!r} takes no dense mask, but the visual tokens of "
            f"{decoder.family.name} attend to later ones; load the model with attn_implementation='sdpa'."
        )
    _shares(settings.values, len(layouts), call.input_ids)
    for b, layout in enumerate(layouts):
        last = valid[b].nonzero().flatten()[-1:]
        if len(layout) and last.equal(layout.columns[-1:]):
            raise ArgumentError(
                f"sample {b} ends in a visual token, which reduction may drop and with it the place of the answer; "
                "let at least one text token follow the last video or image, as chat templates do."
            )
        hidden = int((~valid[b, layout.columns]).sum())
        if hidden:
            raise ArgumentError(
                f"attention_mask hides {hidden} of the {len(layout)} visual tokens of sample {b}; only padding may "
                "be masked while a reduction is attached."
            )


def _shares(values: int, samples: int, ids: Tensor | None) -> None:
    if values == 1 or ids is None or samples <= values or samples % values:
        return
    groups = ids.unflatten(0, (values, -1))
    if not bool((groups == groups[:, :1]).all()):
        raise ArgumentError(
            f"keep or cost has {values} values for a batch of {samples} different samples; give one value for each "
            "sample, or a single one for all. (Only the equal rows of an expanded batch share one.)"
        )


def too_long(decoder: Decoder, columns: int) -> None:
    """Refuse a conversation of so many columns that attention goes by what is held of them."""
    if decoder.longest is not None and columns > decoder.longest:
        raise ArgumentError(
            f"the conversation has {columns} tokens, but from {decoder.longest + 1} on the attention of {decoder.name} "
            "goes by how many are held, which reduction changes; show fewer or smaller frames, ask for a shorter "
            "answer, or detach first."
        )


def direct_call(decoder: Decoder) -> StateError:
    """What to raise when the decoder runs without the model around it."""
    return StateError(
        f"the language model of {type(decoder.multimodal).__name__} was called directly while a reduction is "
        "attached, which hides where the visual tokens are. Call the whole model, or detach first."
    )


def missing_ids() -> ArgumentError:
    """What to raise when embeddings come in the place of ``input_ids``."""
    return ArgumentError(
        "input_ids is missing: framefusion finds the visual tokens by their placeholders. Pass input_ids "
        "and the video instead of inputs_embeds, or detach first."
    )


def unrecorded_attention(layer: int) -> StateError:
    """What to raise when the attention of ``layer``, which a stage goes by, was not recorded."""
    return StateError(
        f"the attention of layer {layer} could not be recorded: its module does not take its attention "
        "function from the config. Use relevance='none', or an unpatched attention module."
    )


def padded_states() -> ArgumentError:
    """What to raise when padding between two turns would enter a recurrent state."""
    return ArgumentError(
        "a video or image came in a later turn of several samples, which keep different numbers of tokens; the "
        "padding would enter the states of the linear-attention layers. Continue each sample on a cache of its "
        "own, or use keep and videos of one size."
    )


def cache(given: Any, *, filled: bool, before_first: bool) -> None:
    """Refuse caches whose layers cannot have lengths of their own.

    Args:
        given: as passed to the decoder.
        filled: whether it holds earlier turns.
        before_first: whether layer 0 may be shortened.

    Raises:
        ValueError: with the kind of cache and what to use instead.
    """
    if getattr(given, "offloading", False):
        raise ArgumentError(f"past_key_values is an offloaded cache, which was never verified with reduction. {_USE}")
    kinds = {type(layer) for layer in given.layers} or {given.layer_class_to_replicate}
    for kind in kinds:
        if not cache_layers.has_own_length(kind):
            raise ArgumentError(
                f"past_key_values is a cache of {kind.__name__} layers, which reduction cannot follow. {_USE}"
            )
        if filled and issubclass(kind, StaticLayer):
            raise ArgumentError(
                "a video or image came in a later turn of a conversation held in a static cache; reduction cannot "
                f"follow that there. {_USE}"
            )
        if before_first and cache_layers.is_quantized(kind):
            raise ArgumentError(
                "past_key_values is a quantized cache, which reduction before layer 0 would miscount; start keep at "
                "layer 1 with merge=False, or use a DynamicCache()."
            )


def rows(given: Any, count: int) -> None:
    """Refuse a call for another number of rows than a cache with shortened layers holds, before any layer runs.

    Args:
        given: a cache.
        count: rows of the call.

    Raises:
        ValueError: with both numbers.
    """
    filled = caches.rows_of(given)
    if filled not in (None, count):
        raise ArgumentError(
            f"past_key_values was filled for a batch of {filled}, but the call has {count} rows; repeat it with its "
            "batch_repeat_interleave(), or start again with an empty cache."
        )


def behind_prefix(call: Call) -> None:
    """Refuse videos and images behind a prefix, which would run without a place in it."""
    if call.has_visual:
        raise ArgumentError(
            "a video or image came behind a prefix; add it with extend(), and go on from what that returns."
        )


def short_tail() -> ArgumentError:
    """What to raise when a single token follows a prefix, which is no prefill."""
    return ArgumentError(
        "one token follows the prefix, but the layers behind its fork have not run yet; pass at least two, as chat "
        "templates do."
    )


def static_cache(decoder: Decoder) -> None:
    """Refuse attention functions that a static cache cannot be reduced with."""
    implementation = decoder.module.config._attn_implementation
    if implementation not in masks.DENSE:
        raise ArgumentError(
            f"attn_implementation={implementation!r} takes no dense mask, which reduction with a static cache "
            "needs; use 'sdpa' or 'eager', or a DynamicCache()."
        )


def head(arguments: dict[str, Any]) -> None:
    """Refuse arguments of the model with its head that count on logits of full length."""
    if isinstance(arguments.get("logits_to_keep"), Tensor):
        if caches.is_paged(cache_of(arguments)):
            batching()
        raise ArgumentError(
            "logits_to_keep is a tensor of columns, which a reduced sequence no longer has; pass the number of last "
            "columns, or leave it out."
        )
    if arguments.get("labels") is not None:
        raise ArgumentError(
            "labels cannot be used while a reduction is attached: the logits are shorter than the labels. Detach "
            "to compute a loss."
        )


def chunks(input_ids: Any, generation_config: Any, *args: Any, **kwargs: Any) -> None:
    """Before the prefill of ``generate()``: the hooks could not tell a chunk from a later turn."""
    if getattr(generation_config, "prefill_chunk_size", None) is not None:
        raise ArgumentError(
            "prefill_chunk_size splits a video between forward passes, and only whole videos can be reduced; leave it "
            "out (reduction already shortens the prefill), or detach first."
        )


def batching(*args: Any, **kwargs: Any) -> None:
    """Before any of the entry points of continuous batching."""
    raise ArgumentError(NO_BATCHING)
