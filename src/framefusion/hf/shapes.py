"""Count what a model would compute from shapes alone: its weights are on the meta device, nothing is multiplied."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from framefusion.hf.calls import cache_argument
from framefusion.hf.decoder import attends
from framefusion.hf.families import find
from framefusion.hf.timing import PROJECTOR, Encoding, Meter, metered, projectors
from framefusion.reduction.layout import Kind

logger = logging.getLogger(__name__)

UNCOUNTABLE = (NotImplementedError, RuntimeError, TypeError, ValueError, AttributeError)
"""What code that needs values raises where there are only shapes."""

_CPU, _META = torch.device("cpu"), torch.device("meta")


class Shapes(TorchDispatchMode):
    """Lets tensors with values and tensors on the meta device meet: the result is on the meta device.

    Sizes, grids and masks keep their values, which the code of many encoders and processors asks for: such tensors are
    not moved to the meta device when a model moves them to that of its weights. A mask whose values are not known picks
    everything: the pixels are all alike.
    """

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        if any(tensor.is_meta for tensor in tensors):
            chosen = args[1] if func is torch.ops.aten.index.Tensor else None
            args, kwargs = tree_map(_to_meta, (args, kwargs))
            if chosen is not None:
                args = (args[0], [_picked(index) for index in chosen])
            elif func is torch.ops.aten._to_copy.default and kwargs.get("device") == _CPU:
                # There are no values to move to the pixels.
                kwargs = {**kwargs, "device": _META}
            elif func is torch.ops.aten._grouped_mm.default:
                # Rows by experts; as a kernel of shapes alone it refuses float32.
                return args[0].new_empty(args[0].shape[0], args[1].shape[-1])
        elif kwargs.get("device") == _META and not any(tensor.is_floating_point() for tensor in tensors):
            kwargs = {**kwargs, "device": _CPU}
        return func(*args, **kwargs)


def _picked(index: Tensor | None) -> Tensor | None:
    """What a tensor is indexed by: of a mask the values say how much it picks."""
    if index is None or index.dtype != torch.bool:
        return None if index is None else _to_meta(index)
    return torch.ones_like(index, device=_CPU) if index.is_meta else index


def _to_meta(value: Any) -> Any:
    return value.to(_META) if isinstance(value, Tensor) else value


@dataclass(frozen=True)
class EncoderFlops:
    """Floating-point operations before the decoder; two for each multiplication of matrix products and convolutions.

    Attributes:
        total: of vision tower and projector.
        projector: of the projector alone; None for a family that nobody has told where it is.
    """

    total: int
    projector: int | None

    @property
    def tower(self) -> int | None:
        """Of the vision tower alone."""
        return None if self.projector is None else self.total - self.projector


def encoder_flops(multimodal: Any, inputs: Mapping[str, Any]) -> EncoderFlops:
    """Floating-point operations of the vision encoder and projector over a prompt with one video.

    Args:
        multimodal: the model without its head, on the meta device, with ``"eager"`` attention.
        inputs: as the processor makes them; pixels may be on the meta device.

    Returns:
        what :class:`torch.utils.flop_counter.FlopCounterMode` counts. An encoder that is given the grid of a video sees
        each temporal patch by itself: one of them is counted, times their number.
    """
    kind: Kind = "video" if inputs.get("pixel_values_videos") is not None else "image"
    return _flops_of(multimodal, kind, inputs)


class EncoderCounter:
    """Counts what a model's vision encoder computed, also when the model is gone.

    Args:
        multimodal: the model without its head. A second one without weights is built from its configuration.
    """

    def __init__(self, multimodal: Any) -> None:
        self._class, self._config, self._dtype = type(multimodal), multimodal.config, multimodal.dtype
        self._latest: tuple[Sequence[Encoding], EncoderFlops | None] = (), None

    def flops(self, encodings: Sequence[Encoding]) -> EncoderFlops | None:
        """Of what was encoded for a prefill, as :class:`~framefusion.hf.timing.Clock` noted it; None without any, or
        where it cannot be counted."""
        if encodings is not self._latest[0]:
            self._latest = encodings, self._counted(encodings)
        return self._latest[1]

    def _counted(self, encodings: Sequence[Encoding]) -> EncoderFlops | None:
        if not encodings:
            return None
        try:
            twin = self._twin()
            found = [_flops_of(twin, encoding.kind, encoding.arguments) for encoding in encodings]
        except UNCOUNTABLE as error:
            logger.warning("the vision encoder of %s cannot be counted: %s", self._class.__name__, error)
            return None
        parts = [one.projector for one in found]
        return EncoderFlops(sum(one.total for one in found), None if None in parts else sum(filter(None, parts)))

    def _twin(self) -> Any:
        config = copy.deepcopy(self._config)
        # The encoder is all that is asked for.
        config.get_text_config().num_hidden_layers = 0
        with torch.device("meta"):
            return self._class._from_config(config, attn_implementation="eager", dtype=self._dtype).eval()


def _flops_of(multimodal: Any, kind: Kind, inputs: Mapping[str, Any]) -> EncoderFlops:
    encode = getattr(multimodal, f"get_{kind}_features", None)
    if encode is None:
        # Some encode a video as images.
        encode, inputs = multimodal.get_image_features, {**inputs, "pixel_values": inputs["pixel_values_videos"]}
    known = inspect.signature(encode).parameters
    given = {name: value for name, value in inputs.items() if name in known}
    grid, times = given.get(f"{kind}_grid_thw"), 1
    together = find(multimodal).temporal_merge(multimodal.config, kind)
    if grid is not None and len(grid) == 1 and int(grid[0, 0]) % together == 0:
        times = int(grid[0, 0]) // together
        given[f"{kind}_grid_thw"] = torch.cat([torch.full_like(grid[:, :1], together), grid[:, 1:]], dim=1)
    for name, value in given.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            rows = value.shape[0] // times
            # Ones that take no memory: some encoders look for frames of zeros, which are padding.
            given[name] = torch.ones((), dtype=value.dtype).expand(rows, *value.shape[1:])
    modules, undo = projectors(multimodal), []
    with torch.no_grad(), FlopCounterMode(display=False) as counter, Shapes():
        meter = Meter(counter.get_total_flops)
        for module in modules:
            undo += list(metered(module, PROJECTOR, lambda: meter))
        try:
            find(multimodal).projected(multimodal, encode(**given))
        finally:
            for remove in undo:
                remove()
    inside = int(meter.totals.get(PROJECTOR, 0))
    return EncoderFlops(times * int(counter.get_total_flops()), times * inside if modules else None)


def state_bytes(decoder: Any) -> int:
    """Bytes of what the linear-attention layers of a decoder keep of one sample, whatever its length; 0 without such.

    Args:
        decoder: on the meta device, with ``"eager"`` attention.
    """
    layers = list(decoder.layers)
    if all(map(attends, layers)):
        return 0
    cache = DynamicCache(config=decoder.config)
    hidden = torch.zeros(1, 2, decoder.config.hidden_size, dtype=decoder.dtype, device=_META)
    with torch.no_grad(), Shapes():
        decoder(inputs_embeds=hidden, use_cache=True, **cache_argument(decoder.forward, cache))
    kept = [cache.layers[index] for index, layer in enumerate(layers) if not attends(layer)]
    return sum(
        value.nbytes for layer in kept for value in tree_leaves(list(vars(layer).values())) if isinstance(value, Tensor)
    )
