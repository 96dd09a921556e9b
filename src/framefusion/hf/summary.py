"""What a reduction saved, counted from sequence lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from framefusion.hf.decoder import attends, attention_of, borrows, window_of
from framefusion.hf.shapes import EncoderFlops
from framefusion.hf.timing import Times
from framefusion.reduction.amounts import Stages
from framefusion.showing import units


@dataclass(frozen=True)
class DecoderSize:
    """The numbers of a decoder that the estimates need.

    Attributes:
        windows: per decoder layer, the tokens that a query of a sliding-window layer sees; None without a window, 0
            in a layer of linear attention.
        weights: per decoder layer, entries of the weight matrices that one token meets: of experts, those chosen.
        widths: per decoder layer, entries of one token's queries over all heads; where its values are narrower, the
            mean of both.
        kv_widths: per decoder layer, entries of one token's keys and values over all heads, or of the latents that are
            held instead; 0 in a layer that attends to those of an earlier one.
        kv_bytes: bytes of one entry.
    """

    windows: tuple[int | None, ...]
    weights: tuple[int, ...]
    widths: tuple[int, ...]
    kv_widths: tuple[int, ...]
    kv_bytes: int

    @classmethod
    def of(cls, layers: Sequence[nn.Module], config: Any, dtype: torch.dtype) -> DecoderSize:
        """Read them off the decoder's layers, config and dtype of computation; weights may be packed."""
        known = (getattr(config, name, None) for name in ("num_experts_per_tok", "top_k_experts", "moe_topk"))
        experts = next(filter(None, known), 1)
        widths = [_widths(layer, config) for layer in layers]
        return cls(
            windows=tuple(window_of(layer) if attends(layer) else 0 for layer in layers),
            weights=tuple(_weights(layer, experts) for layer in layers),
            widths=tuple(width for width, _ in widths),
            kv_widths=tuple(kv_width for _, kv_width in widths),
            kv_bytes=dtype.itemsize,
        )

    def prefill_flops(self, tokens: Sequence[int]) -> list[float]:
        """Operations of each layer's prefill over one sample, as ``generate()`` runs it: layers without keys and values
        of their own see the last token alone, from the last stage on.

        Args:
            tokens: in each layer.
        """
        last = max((layer for layer in range(1, len(tokens)) if tokens[layer] != tokens[layer - 1]), default=0)
        return [
            self.flops(layer, count, 1 if layer >= last and not self.kv_widths[layer] else None)
            for layer, count in enumerate(tokens)
        ]

    def flops(self, layer: int, tokens: int, queries: int | None = None) -> float:
        """Operations of one layer's prefill over one sample of ``tokens`` tokens:
        ``2 * weights * n + 2 * width * n * (n + 1)`` (matrix products; causal attention, scores and values).
        With a window ``w < n`` the last factors are ``w * (2 * n - w + 1)``. Of linear attention the first term alone
        is counted, not the steps of its state. Over the last ``queries`` tokens ``q`` alone:
        ``2 * weights * q + 4 * width * q * n``, with a window at most ``w`` in the place of ``n``."""
        window, width = self.windows[layer], self.widths[layer]
        seen = tokens if window is None else min(tokens, window)
        if queries is not None:
            return 2.0 * self.weights[layer] * queries + 4.0 * width * queries * seen
        return 2.0 * self.weights[layer] * tokens + 2.0 * width * seen * (2 * tokens - seen + 1)

    def step_flops(self, layer: int, tokens: int) -> float:
        """Operations of one layer for one more token behind ``tokens``: what a prefill of one more takes more."""
        return self.flops(layer, tokens + 1) - self.flops(layer, tokens)

    def cache_bytes(self, layer: int, tokens: int) -> int:
        """Bytes of one layer's keys and values: ``kv_width * kv_bytes * n``, with a window ``w`` of at most ``w - 1``
        tokens, as the cache that ``generate()`` makes holds them. Linear attention has none."""
        window = self.windows[layer]
        return self.kv_widths[layer] * self.kv_bytes * (tokens if window is None else min(tokens, max(window - 1, 0)))


def _widths(layer: Any, config: Any) -> tuple[int, int]:
    """``width`` and ``kv_width`` of one layer."""
    attention, heads = attention_of(layer), config.num_attention_heads
    if getattr(config, "kv_lora_rank", None) is not None:
        # Multi-head latent attention. Older releases of transformers hold what the latents expand to.
        query, value = config.qk_nope_head_dim + config.qk_rope_head_dim, config.v_head_dim
        latents = hasattr(attention, "expand_kv")
        held = config.kv_lora_rank + config.qk_rope_head_dim if latents else heads * (query + value)
        return heads * (query + value) // 2, held
    dim = getattr(attention, "head_dim", None) or getattr(config, "head_dim", None) or config.hidden_size // heads
    groups = getattr(attention, "num_key_value_groups", None)
    own = heads // groups if groups else config.num_key_value_heads
    return heads * dim, 0 if borrows(layer) else 2 * own * dim


def _weights(layer: nn.Module, experts: int) -> int:
    """Entries of a layer's weight matrices that one token meets, of which ``experts`` experts are chosen."""
    total = 0
    for module in layer.modules():
        linear: Any = module
        if hasattr(module, "in_features"):
            total += linear.in_features * linear.out_features
            continue
        for weight in module.parameters(recurse=False):
            if weight.ndim == 3 and not isinstance(module, nn.Conv1d):
                # One matrix per expert.
                total += weight[0].numel() * experts
            elif weight.ndim in (2, 3):
                # A router's matrix, or a convolution over the sequence.
                total += weight.numel()
    return total


@dataclass(frozen=True)
class Summary:
    """What a prefill kept and saved, over the whole batch; padding is not counted. ``str()`` is a few lines to read.

    ``flops_…`` and ``kv_bytes_…`` are of the decoder's prefill alone, without vision tower and language-model head,
    estimated from sequence lengths by :meth:`DecoderSize.prefill_flops` and :meth:`DecoderSize.cache_bytes`.

    Attributes:
        visual_tokens_before: visual tokens of the prompts that may be reduced (``images=False`` leaves out images).
        visual_tokens_after: visual tokens in the last layer.
        tokens_per_layer: visual tokens present in each decoder layer.
        mean_share: mean over the layers, relative to ``visual_tokens_before``; 1.0 without visual tokens.
        flops_before: without reduction.
        flops_after: with reduction.
        flops_saved_share: ``1 - flops_after / flops_before``.
        kv_bytes_before: without reduction.
        kv_bytes_after: with reduction.
        reduction_milliseconds: time of the stages together.
        stages: in which a cost was spent, see :class:`framefusion.FrameFusion`; None without stages of a cost.
        stages_from: ``"default"``, ``"given"`` in the settings, or ``"probed"``, for ``stages="auto"``.
        tower_share: share of its work on its videos that the vision tower did, the latest time: units in a block,
            averaged over the blocks; None without ``tower``, or without a video.
        encoder_flops: of vision tower and projector over all that was shown for this prefill, counted from shapes; None
            if it was not timed (``attach(…, timed=True)``), was encoded before, or cannot be counted.
        projector_flops: of the projector's part; None also for a family whose projector nobody has told.
        head_flops: of the language-model head, for the first new token of each sample; None without a head.
        times: seconds of tower, projector and prefill; None if it was not timed.
    """

    visual_tokens_before: int
    visual_tokens_after: int
    tokens_per_layer: list[int]
    mean_share: float
    flops_before: float
    flops_after: float
    flops_saved_share: float
    kv_bytes_before: int
    kv_bytes_after: int
    reduction_milliseconds: float
    stages: Stages | None = None
    stages_from: str | None = None
    tower_share: float | None = None
    encoder_flops: int | None = None
    projector_flops: int | None = None
    head_flops: int | None = None
    times: Times | None = None

    def __str__(self) -> str:
        rows = {"Visual tokens": units.kept(self.visual_tokens_after, self.visual_tokens_before, self.mean_share)}
        if self.tower_share is not None:
            rows["Vision tower"] = units.encoded(self.tower_share)
        rows["Prefill compute"] = units.compute((self.flops_before, self.flops_after), self.first_token_flops)
        rows["KV cache"] = units.change(self.kv_bytes_before, self.kv_bytes_after, units.size)
        if self.times is not None and self.times.parts:
            rows["Parts"] = units.parts(self.times.parts)
        return "\n".join(f"{name:17}{value}" for name, value in rows.items())

    @property
    def decoder_factor(self) -> float:
        """How many times fewer operations the decoder's prefill has."""
        return self.flops_before / self.flops_after

    @property
    def first_token_flops(self) -> tuple[float, float] | None:
        """Operations up to the first new token without and with reduction: encoder, decoder and head. With ``tower`` as
        many of the tower's as units were encoded, and those of the projector in full. None where those of the encoder
        are not known; decoding a file and the processor have none."""
        return first_token_flops(self)

    @property
    def end_to_end_factor(self) -> float | None:
        """How many times fewer operations there are up to the first new token."""
        found = self.first_token_flops
        return None if found is None else found[0] / found[1]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON."""
        factors = {"decoder_factor": self.decoder_factor, "end_to_end_factor": self.end_to_end_factor}
        return {**asdict(self), **factors}


def summarize(
    size: DecoderSize,
    lengths: Sequence[int],
    visual: int,
    visual_per_layer: Sequence[int],
    lengths_per_layer: Sequence[Sequence[int]],
    milliseconds: float,
    stages: Stages | None = None,
    stages_from: str | None = None,
    tower_share: float | None = None,
    encoder: EncoderFlops | None = None,
    head: int | None = None,
    times: Times | None = None,
) -> Summary:
    """The summary of one prefill.

    Args:
        size: of the decoder.
        lengths: tokens of each sample before any reduction.
        visual: visual tokens of the batch before any reduction.
        visual_per_layer: visual tokens of the batch in each layer.
        lengths_per_layer: tokens of each sample in each layer.
        milliseconds: time of the stages together.
        stages, stages_from, tower_share, times: as of :class:`Summary`.
        encoder: operations of vision tower and projector.
        head: operations of the language-model head for one token.
    """
    layers = range(len(size.windows))
    before = sum(sum(size.prefill_flops([n] * len(layers))) for n in lengths)
    after = sum(sum(size.prefill_flops(sample)) for sample in zip(*lengths_per_layer, strict=True))
    return Summary(
        visual_tokens_before=visual,
        visual_tokens_after=visual_per_layer[-1],
        tokens_per_layer=list(visual_per_layer),
        mean_share=sum(visual_per_layer) / (len(visual_per_layer) * visual) if visual else 1.0,
        flops_before=before,
        flops_after=after,
        flops_saved_share=1 - after / before,
        kv_bytes_before=sum(size.cache_bytes(layer, n) for layer in layers for n in lengths),
        kv_bytes_after=sum(size.cache_bytes(layer, n) for layer in layers for n in lengths_per_layer[layer]),
        reduction_milliseconds=milliseconds,
        stages=stages,
        stages_from=stages_from,
        tower_share=tower_share,
        encoder_flops=None if encoder is None else encoder.total,
        projector_flops=None if encoder is None else encoder.projector,
        head_flops=None if head is None else len(lengths) * head,
        times=times,
    )


def head_flops(model: Any) -> int | None:
    """Operations of a model's language-model head for one token; None without one that tells its size."""
    head = model.get_output_embeddings()
    if head is None:
        # Some have a language model with its head inside.
        head = model.get_decoder().get_output_embeddings()
    width, words = getattr(head, "in_features", None), getattr(head, "out_features", None)
    return None if width is None or words is None else 2 * int(width) * int(words)


def first_token_flops(found: Any) -> tuple[float, float] | None:
    """Operations up to the first token, without and with reduction, of what has the fields of a :class:`Summary`."""
    if found.encoder_flops is None:
        return None
    head = found.head_flops or 0
    encoder = left_of_encoder(found.encoder_flops, found.projector_flops, found.tower_share)
    return found.encoder_flops + found.flops_before + head, encoder + found.flops_after + head


def left_of_encoder(encoder: int, projector: int | None, share: float | None) -> float:
    """Operations of vision tower and projector where the tower does a share of its work, None for all of it; the
    projector is in the share where nobody tells it apart."""
    return encoder if share is None else share * (encoder - (projector or 0)) + (projector or 0)
