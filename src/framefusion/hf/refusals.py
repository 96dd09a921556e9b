"""What a reduction cannot follow, refused in one sentence before it goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from framefusion.errors import ArgumentError, StateError
from framefusion.hf import cache as caches
from framefusion.hf import masks
from framefusion.hf.families import Call
from framefusion.hf.summary import window_of
from framefusion.reduction.layout import VisualLayout
from framefusion.reduction.settings import FrameFusion

NO_BATCHING = (
    "continuous batching (generate_batch, init_continuous_batching) takes no videos and packs its prompts into pages, "
    "which reduction cannot follow; use generate() with a padded batch, or detach first."
)


def prefill(
    settings: FrameFusion,
    decoder: Any,
    layers: Sequence[Any],
    layouts: Sequence[VisualLayout],
    valid: Tensor,
    call: Call,
) -> None:
    """Refuse a prefill that is to be reduced and cannot be.

    Args:
        settings: of the reduction.
        decoder: of the model.
        layers: its layers.
        layouts: the visual tokens of each sample that may be reduced.
        valid: ``(B, N)`` bool, False for padding.
        call: what the model was called with.

    Raises:
        RuntimeError: the model is in training mode.
        ValueError: anything else.
    """
    if decoder.training:
        raise StateError(
            "the model is in training mode; reduction is for inference. Call model.eval() or detach first."
        )
    implementation = decoder.config._attn_implementation
    if implementation not in masks.DENSE and any(map(window_of, layers)):
        raise ArgumentError(
            f"attn_implementation={implementation!r} cuts the windows of sliding-window layers by what is held, "
            "not by what was seen, so reduction would widen them; load the model with attn_implementation='sdpa'."
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


def static_cache(decoder: Any) -> None:
    """Refuse attention functions that a static cache cannot be reduced with."""
    implementation = decoder.config._attn_implementation
    if implementation not in masks.DENSE:
        raise ArgumentError(
            f"attn_implementation={implementation!r} takes no dense mask, which reduction with a static cache "
            "needs; use 'sdpa' or 'eager', or a DynamicCache()."
        )


def head(arguments: dict[str, Any]) -> None:
    """Refuse arguments of the model with its head that count on logits of full length."""
    if isinstance(arguments.get("logits_to_keep"), Tensor):
        if caches.is_paged(caches.of_call(arguments)):
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
