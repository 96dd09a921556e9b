"""What a video costs a model, from its configuration alone: visual tokens, KV cache, prefill FLOPs, requests in memory.

No weights are read. The prompt is made by the model's own processor from a video that has a size but no pixels.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from framefusion.asking.ask import INSPECT_PROMPT, MAX_NEW_TOKENS
from framefusion.asking.loading import LoadedModel, load_skeleton
from framefusion.asking.planned import PlanRow, Sizing
from framefusion.asking.prompts import AskError, ProcessorError, prompt_inputs
from framefusion.asking.video import MAX_BYTES, Video
from framefusion.checks import is_whole
from framefusion.errors import FrameFusionError
from framefusion.hf.decoder import decoder_of, first_after_attention
from framefusion.hf.families import Call, Family, find
from framefusion.hf.shapes import UNCOUNTABLE, EncoderFlops, Shapes, encoder_flops, state_bytes
from framefusion.hf.summary import DecoderSize, head_flops, left_of_encoder
from framefusion.hf.tower import planned_share
from framefusion.reduction.amounts import AUTO
from framefusion.reduction.schedule import tokens_per_layer
from framefusion.reduction.settings import FrameFusion
from framefusion.reduction.towers import tower_text

logger = logging.getLogger(__name__)

DEFAULT_SIZE = (1280, 720)
"""Width and height of the video unless said otherwise, in pixels."""

ALL_TOKENS = "all tokens"
"""The plan without reduction, which comes first for every number of frames."""


class PlanError(FrameFusionError, ValueError):
    """A plan that cannot be made. The text is one sentence."""


def plan(
    model: str | os.PathLike[str] | None = None,
    *,
    frames: int | Sequence[int],
    settings: FrameFusion | Sequence[FrameFusion] | None = None,
    size: tuple[int, int] = DEFAULT_SIZE,
    fps: float = 1.0,
    prompt: str = INSPECT_PROMPT,
    new_tokens: int = MAX_NEW_TOKENS,
    memory: int | None = None,
    weights: int | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Sizing:
    """What a video costs with all tokens and with reductions, from the model's configuration and processor alone.

    Args:
        model: a directory or a hub id; default the bundled checkpoint. Weights are neither read nor fetched.
        frames: frames shown to the model, one number or several.
        settings: reductions to compare with all tokens, one or several, each with one ``cost`` or ``keep``. Default
            ``FrameFusion()``, a cost of 0.3.
        size: width and height of the video in pixels. Default 1280 × 720.
        fps: frames shown per second of video; only timestamps in the prompt depend on it. Default 1.
        prompt: the question.
        new_tokens: longest answer in tokens, for ``requests``. Default 64.
        memory: bytes for weights and caches; activations need more. Default None: requests are not counted.
        weights: bytes of the weights. Default: parameters times the size of the dtype.
        dtype: of weights and cache, as of :func:`framefusion.asking.loading.load`. Default as the configuration says.
        trust_remote_code: run code that comes with the checkpoint. Off unless you trust its author.
        progress: called with a few words when a slow step begins.

    Raises:
        PlanError: an argument is out of range, the processor takes no video of this size, the reduction cannot be
            followed by this model, or ``memory`` is given for quantized weights without ``weights``.
        ModelError: the model cannot be built from its configuration.
        UnsupportedModelError: it is of no supported family.
    """
    counts = _frames(frames)
    chosen = _settings(settings)
    _check(size, fps, prompt, new_tokens, memory, weights)
    progress = progress or (lambda step: None)
    progress("Reading the configuration")
    loaded = load_skeleton(model, dtype=dtype, trust_remote_code=trust_remote_code)
    network = loaded.model
    if weights is None and getattr(network.config, "quantization_config", None) is None:
        weights = sum(parameter.nbytes for parameter in network.parameters())
    if memory is not None and weights is None:
        raise PlanError(f"the weights of {loaded.name!r} are quantized, and their size is not known; give weights too")
    decoder = decoder_of(network.base_model)
    layers = list(decoder.layers)
    machine = _Machine(
        DecoderSize.of(layers, decoder.config, decoder.dtype),
        head_flops(network),
        first_after_attention(layers),
        state_bytes(decoder),
        new_tokens,
        None if memory is None or weights is None else memory - weights,
    )
    rows = []
    for count in counts:
        progress(f"Planning {count} frames")
        rows += _rows(loaded, machine, count, chosen, size, fps, prompt)
    return Sizing(
        model=loaded.name,
        dtype=loaded.dtype,
        size=(int(size[0]), int(size[1])),
        layers=len(layers),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        weight_bytes=weights,
        state_bytes=machine.state_bytes,
        memory=memory,
        new_tokens=new_tokens,
        rows=rows,
    )


@dataclass(frozen=True)
class _Machine:
    """The decoder, and the memory that its caches may take."""

    decoder: DecoderSize
    head: int | None
    first: int
    state_bytes: int
    new_tokens: int
    free: int | None

    def request_bytes(self, tokens: Sequence[int]) -> int:
        """Of one request with so many tokens in each layer behind its prefill."""
        # The last new token is never put on the cache.
        grown = [count + self.new_tokens - 1 for count in tokens]
        return self.state_bytes + sum(self.decoder.cache_bytes(layer, count) for layer, count in enumerate(grown))


@dataclass(frozen=True)
class _Blank(Video):
    """A video of a given size; its frames ``(T, 3, H, W)`` may be on the meta device."""

    @property
    def height(self) -> int:
        return int(self.frames.shape[2])

    @property
    def width(self) -> int:
        return int(self.frames.shape[3])


def _rows(
    loaded: LoadedModel,
    machine: _Machine,
    frames: int,
    settings: Sequence[FrameFusion],
    size: tuple[int, int],
    fps: float,
    prompt: str,
) -> list[PlanRow]:
    multimodal, family = loaded.model.base_model, find(loaded.model)
    inputs = _inputs(loaded, family.all_tokens, frames, size, fps, prompt, family)
    ids = inputs["input_ids"]
    (layout,) = family.layouts(multimodal, Call(ids, None, inputs))
    if not len(layout):
        raise PlanError(f"the processor of {loaded.name!r} made no visual tokens of the video")
    count = machine.decoder
    text, layers = ids.shape[1] - len(layout), len(count.windows)
    encoder = _encoder_flops(multimodal, inputs)
    rows: list[PlanRow] = []
    for reduction in (None, *settings):
        visual, share = [len(layout)] * layers, None
        if reduction is not None:
            try:
                if reduction.tower is not None:
                    with Shapes():
                        share = planned_share(multimodal, family, reduction.tower, inputs, [layout])
                reduction.check(layers, machine.first)
                plans = [tokens_per_layer(reduction.plan(n, layers, machine.first), n, layers) for n in layout.counts]
            except ValueError as error:
                raise PlanError(f"{_name(reduction)} with {frames} frames: {error}") from error
            visual = [sum(present) for present in zip(*plans, strict=True)]
        tokens = [text + n for n in visual]
        request = machine.request_bytes(tokens)
        step = sum(count.step_flops(layer, n) for layer, n in enumerate(tokens))
        flops = count.prefill_flops(tokens)
        rows.append(
            PlanRow(
                frames=frames,
                plan=ALL_TOKENS if reduction is None else _name(reduction),
                visual_tokens=len(layout),
                text_tokens=text,
                visual_tokens_per_layer=visual,
                flops_per_layer=flops,
                kv_bytes_per_layer=[count.cache_bytes(layer, n) for layer, n in enumerate(tokens)],
                encoder_flops=None if encoder is None else left_of_encoder(encoder.total, encoder.projector, share),
                projector_flops=None if encoder is None else encoder.projector,
                head_flops=machine.head,
                token_flops=step + (machine.head or 0),
                all_tokens_flops=rows[0].flops if rows else sum(flops),
                request_bytes=request,
                requests=None if machine.free is None else max(0, machine.free // request),
                all_tokens_encoder_flops=None if encoder is None else encoder.total,
                tower=None if reduction is None else _tower(reduction),
                tower_share=share,
                exact=reduction is None or reduction.keeps_all or not (reduction.merging or reduction.adaptive),
            )
        )
    return rows


def _inputs(
    loaded: LoadedModel,
    options: Mapping[str, Any],
    frames: int,
    size: tuple[int, int],
    fps: float,
    prompt: str,
    family: Family | None = None,
) -> dict[str, Any]:
    """What the processor makes of a prompt with one video: ids with values, pixels as shapes where it lets them be."""
    content = [{"type": "video"}, {"type": "text", "text": prompt}]
    width, height = size
    as_images = getattr(loaded.processor, "video_processor", None) is None
    if as_images and (family is None or not family.frames_as_images):
        raise PlanError(f"the processor of {loaded.name!r} takes images only, no videos")

    def made(pixels: Any, kind: type[Video] = _Blank) -> dict[str, Any]:
        indices = np.arange(frames)
        video = kind(pixels, indices / fps, indices, frames / fps, fps, frames, Path("blank"))
        return dict(prompt_inputs(content, [video], [], loaded.processor, options, family))

    shape = (frames, 3, height, width)
    try:
        if not as_images:
            with Shapes():
                return made(torch.empty(shape, dtype=torch.uint8, device=torch.device("meta")))
    except ProcessorError as error:
        logger.debug("the processor needs pixels: %s", error)
    except AskError as error:
        raise PlanError(str(error)) from error
    if math.prod(shape) > MAX_BYTES:
        raise PlanError(
            f"the processor of {loaded.name!r} needs real pixels, and {frames} frames of {width}×{height} would take "
            f"{math.prod(shape) / 2**30:.0f} GiB; ask for fewer frames or a smaller size"
        )
    try:
        if as_images:
            return made(np.zeros((frames, height, width, 3), np.uint8), Video)
        return made(torch.zeros(shape, dtype=torch.uint8))
    except AskError as error:
        raise PlanError(
            f"the processor of {loaded.name!r} refuses {frames} frames of {width}×{height}: {error}"
        ) from error


def _encoder_flops(multimodal: Any, inputs: dict[str, Any]) -> EncoderFlops | None:
    try:
        return encoder_flops(multimodal, inputs)
    except UNCOUNTABLE as error:
        logger.warning("the vision encoder of %s cannot be counted: %s", type(multimodal).__name__, error)
        return None


def _name(settings: FrameFusion) -> str:
    tower = _tower(settings)
    return _amount(settings) + ("" if tower is None else f" tower={tower}")


def _tower(settings: FrameFusion) -> str | None:
    return None if settings.tower is None else tower_text(settings.tower)


def _amount(settings: FrameFusion) -> str:
    if settings.keep is None:
        return f"cost={settings.cost:g}" + (f" stages={_stages(settings)}" if settings.stages is not None else "")
    if isinstance(settings.keep, float | int):
        return f"keep={settings.keep:g}"
    assert isinstance(settings.keep, dict)
    return "keep=" + "+".join(f"{layer}:{share:g}" for layer, share in settings.keep.items())


def _stages(settings: FrameFusion) -> str:
    return "+".join(f"{depth:.3g}:{share:.3g}" for depth, share in settings.steps)


def _frames(frames: int | Sequence[int]) -> list[int]:
    counts = list(frames) if isinstance(frames, Sequence) else [frames]
    if not counts:
        raise PlanError("frames is empty; give one number of frames, or several")
    for count in counts:
        _whole("frames", count, 1)
    return list(dict.fromkeys(counts))


def _settings(settings: FrameFusion | Sequence[FrameFusion] | None) -> list[FrameFusion]:
    given = FrameFusion() if settings is None else settings
    chosen = [given] if isinstance(given, FrameFusion) else list(given)
    for one in chosen:
        if not isinstance(one, FrameFusion):
            raise PlanError(f"settings must be a FrameFusion or several, got {type(one).__name__}")
        if one.values > 1:
            raise PlanError(f"settings have {one.values} values of cost or keep; a plan is for one request, give one")
        if one.stages == AUTO:
            raise PlanError(
                "stages='auto' are those that fit the weights, and a plan reads none; name them, such as 0:1,0.67:0.25"
            )
    return chosen


def _check(
    size: tuple[int, int], fps: float, prompt: str, new_tokens: int, memory: int | None, weights: int | None
) -> None:
    if len(size) != 2:
        raise PlanError(f"size must be width and height in pixels, got {size!r}")
    for side in size:
        _whole("size", side, 1)
    if not (fps > 0 and math.isfinite(fps)):
        raise PlanError(f"fps must be a number above 0, got {fps}")
    if not isinstance(prompt, str) or not prompt.strip():
        raise PlanError("prompt must be a text that is not empty")
    _whole("new_tokens", new_tokens, 1)
    for name, value in (("memory", memory), ("weights", weights)):
        if value is not None:
            _whole(name, value, 1)


def _whole(name: str, value: Any, least: int) -> None:
    if not is_whole(value) or value < least:
        raise PlanError(f"{name} must be a whole number, at least {least}, got {value!r}")
