"""A video LLM as the hooks see it: where its decoder is, and what kinds of layers it has."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from framefusion.hf.families import UnsupportedModelError, find, unwrapped


def attention_of(layer: Any) -> Any:
    """The module by which a layer attends by softmax; None in one that does not. In some decoders a layer is one of
    several kinds of modules under one name."""
    mixes = getattr(layer, "block_type", None) == "full_attention"
    return getattr(layer, "self_attn", getattr(layer, "mixer", None) if mixes else None)


def attends(layer: Any) -> bool:
    """Whether a layer attends by softmax; in hybrid decoders others keep a recurrent state, or mix no tokens at all."""
    return attention_of(layer) is not None


def window_of(layer: Any) -> int | None:
    """The window of a sliding-window layer, in tokens."""
    attention = attention_of(layer)
    # Some modules of full attention know the window of the others.
    return getattr(attention, "sliding_window", None) if getattr(attention, "is_sliding", True) else None


def borrows(layer: Any) -> bool:
    """Whether a layer attends to the keys and values of an earlier one and has none of its own."""
    return bool(getattr(attention_of(layer), "is_kv_shared_layer", False))


def first_borrowing(layers: Sequence[Any]) -> int:
    """The first layer that :func:`borrows`, as do all behind it; as many as there are layers if none does."""
    return next((index for index, layer in enumerate(layers) if borrows(layer)), len(layers))


def lenders(layers: Sequence[Any]) -> list[int]:
    """Of each layer the one whose keys and values it attends to: itself, or the last one of its kind that has any."""
    found, latest = [], {}
    for index, layer in enumerate(layers):
        kind = getattr(attention_of(layer), "layer_type", None)
        if not borrows(layer):
            latest[kind] = index
        found.append(latest[kind])
    return found


def first_after_attention(layers: Sequence[Any]) -> int:
    """The first layer before which attention exists; as many as there are layers if none attends by softmax."""
    return next((index + 1 for index, layer in enumerate(layers) if attends(layer)), len(layers))


def decoder_of(multimodal: Any) -> Any:
    """The decoder of a model; some say that it is the language model with its head."""
    module = multimodal.get_decoder()
    inner = getattr(module, "model", None)
    return inner if not hasattr(module, "layers") and hasattr(inner, "layers") else module


def _takes_positions(attention: Any) -> bool:
    known = inspect.signature(type(attention).forward).parameters.get("position_ids")
    return known is not None and known.default is inspect.Parameter.empty


class Decoder:
    """The decoder of a model and what is around it. No dataclass, which dynamo would take apart field by field.

    Args:
        model: a loaded model, bare or inside what PEFT or ``torch.compile`` put around it.

    Attributes:
        model: the bare model.
        name: of its class.
        family: the object of the registry that finds its visual tokens.
        multimodal: the model without its language-model head.
        module: the decoder itself.
        layers: of the decoder, in order.
        attending: indices of the layers that attend by softmax.
        first: the first layer before which attention exists.
        deepstack: whether the decoder adds visual features after its first layers.
        lenders: of each layer the one whose keys and values it attends to, itself but for layers that borrow them.
        borrowing: the first layer that borrows; as many as there are layers if none does.
        longest: columns of a conversation up to which it can be reduced; None for all.
        takes_positions: whether attention goes by the positions of its queries, beyond their rotary embeddings.
        cuts: whether the decoder itself goes on with the last tokens alone where no layer needs the others.

    Raises:
        UnsupportedModelError: the family is not supported; lists those that are.
    """

    def __init__(self, model: Any) -> None:
        self.model: Any = unwrapped(model)
        self.name = type(self.model).__name__
        self.family = find(self.model)
        self.multimodal: Any = self.model.base_model
        self.module: Any = decoder_of(self.multimodal)
        if not hasattr(self.module, "layers"):
            raise UnsupportedModelError(
                f"{self.name} keeps its decoder elsewhere in this release of transformers; use a later one."
            )
        self.layers: list[Any] = list(self.module.layers)
        self.attending = [index for index, layer in enumerate(self.layers) if attends(layer)]
        self.first = first_after_attention(self.layers)
        known = inspect.signature(type(self.module).forward).parameters
        self.deepstack, self.cuts = "deepstack_visual_embeds" in known, "logits_to_keep" in known
        self.lenders, self.borrowing = lenders(self.layers), first_borrowing(self.layers)
        self.longest = self.family.longest(self.module.config)
        self.takes_positions = any(_takes_positions(attention_of(self.layers[index])) for index in self.attending[:1])
        self._names = list(inspect.signature(type(self.layers[0]).forward).parameters)[2:]
        self._signature = inspect.signature(type(self.multimodal).forward)

    @property
    def has_head(self) -> bool:
        """Whether the model has a language-model head, and so ``generate()``."""
        return hasattr(self.model, "generate")

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """What the multimodal model is called with, by name."""
        bound = self._signature.bind_partial(self.multimodal, *args, **kwargs).arguments
        more = bound.pop("kwargs", {})
        return {**bound, **more}

    def named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """What a layer is called with beside its hidden states, by name."""
        return {**dict(zip(self._names, args[1:], strict=False)), **kwargs} if len(args) > 1 else kwargs

    def served(self, index: int) -> range:
        """The layers before which the latest attention is that of layer ``index``."""
        later = [layer for layer in self.attending if layer > index]
        return range(index + 1, later[0] + 1 if later else len(self.layers))
