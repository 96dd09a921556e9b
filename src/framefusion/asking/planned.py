"""What a plan tells: one row for each number of frames and each reduction."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class PlanRow:
    """One number of frames with one reduction. Everything is of one request.

    Attributes:
        frames: of the video.
        plan: ``"all tokens"``, or the reduction as ``"keep=0.2"``.
        visual_tokens: of the prompt, before any reduction.
        text_tokens: all other tokens of the prompt: question, chat template, timestamps.
        visual_tokens_per_layer: in each decoder layer.
        flops_per_layer: of the decoder's prefill, by :meth:`~framefusion.hf.summary.DecoderSize.prefill_flops`.
        kv_bytes_per_layer: keys and values behind the prefill.
        encoder_flops: of vision tower and projector, which no reduction inside the decoder changes; with ``tower`` as
            much of the tower's as it is left. None where they cannot be counted.
        projector_flops: of the projector's part; None also where nobody has told which it is.
        head_flops: of the language-model head, for one token.
        token_flops: of every further token of the answer, head included: of the first one behind the prompt.
        all_tokens_flops: of the decoder's prefill without reduction, for the factors.
        request_bytes: keys and values with the answer, and the states of linear attention.
        requests: how many of these fit in the memory; None without ``memory``.
        all_tokens_encoder_flops: of vision tower and projector without ``tower``.
        tower: the rule of the vision tower, as ``"tome"``; None where it encodes everything.
        tower_share: share of the tower's work that the rule leaves; None without one. What changed (``"changed"``)
            depends on the video: 1.0 there, the most that it can be.
        exact: whether every video of this size has these numbers. With ``merging``, what merges depends on the video:
            the layers are those of a video in which nothing does; with ``cost`` the mean over them is the same.
            Adaptive settings (``novelty``) give upper bounds.
    """

    frames: int
    plan: str
    visual_tokens: int
    text_tokens: int
    visual_tokens_per_layer: list[int]
    flops_per_layer: list[float]
    kv_bytes_per_layer: list[int]
    encoder_flops: float | None
    projector_flops: int | None
    head_flops: int | None
    token_flops: float
    all_tokens_flops: float
    request_bytes: int
    requests: int | None
    exact: bool
    all_tokens_encoder_flops: int | None = None
    tower: str | None = None
    tower_share: float | None = None

    @property
    def encoder_at_most(self) -> bool:
        """Whether the vision tower may do less than is counted: how much depends on the video."""
        return self.tower is not None and self.tower.startswith("changed")

    @property
    def mean_share(self) -> float:
        """Mean share of the visual tokens over the decoder layers."""
        return sum(self.visual_tokens_per_layer) / (len(self.visual_tokens_per_layer) * self.visual_tokens)

    @property
    def flops(self) -> float:
        """Of the decoder's prefill, all layers."""
        return sum(self.flops_per_layer)

    @property
    def first_token_flops(self) -> float | None:
        """Up to the first new token: encoder, decoder and head; None where the encoder cannot be counted."""
        return None if self.encoder_flops is None else self.encoder_flops + self.flops + (self.head_flops or 0)

    @property
    def decoder_factor(self) -> float:
        """How many times fewer operations the decoder's prefill has than with all tokens."""
        return self.all_tokens_flops / self.flops

    @property
    def end_to_end_factor(self) -> float | None:
        """The same up to the first new token; None where the encoder cannot be counted."""
        total = self.first_token_flops
        if total is None or self.all_tokens_encoder_flops is None:
            return None
        return (self.all_tokens_encoder_flops + self.all_tokens_flops + (self.head_flops or 0)) / total

    @property
    def largest(self) -> tuple[str, float] | None:
        """The part with most of the operations up to the first new token, and its share."""
        total = self.first_token_flops
        if total is None or self.encoder_flops is None:
            return None
        parts = {"decoder": self.flops, "head": self.head_flops or 0}
        if self.projector_flops is None:
            parts["encoder"] = self.encoder_flops
        else:
            parts |= {"tower": self.encoder_flops - self.projector_flops, "projector": self.projector_flops}
        name, most = max(parts.items(), key=lambda part: part[1])
        return name, most / total

    @property
    def kv_bytes(self) -> int:
        """Behind the prefill, all layers."""
        return sum(self.kv_bytes_per_layer)


@dataclass(frozen=True)
class Sizing:
    """The answer of :func:`plan`.

    Attributes:
        model: what was planned for: the directory, the hub id, or the name of a bundled checkpoint.
        dtype: of weights and cache, such as ``"bfloat16"``.
        size: width and height of the video, in pixels.
        layers: decoder layers.
        parameters: of the whole model.
        weight_bytes: of the whole model; None where the configuration does not tell.
        state_bytes: that the linear-attention layers keep of each request; 0 without such.
        memory: bytes for weights and caches, as given.
        new_tokens: longest answer, as given.
        rows: for each number of frames all tokens, then each reduction.
    """

    model: str
    dtype: str
    size: tuple[int, int]
    layers: int
    parameters: int
    weight_bytes: int | None
    state_bytes: int
    memory: int | None
    new_tokens: int
    rows: list[PlanRow] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, texts and lists, for JSON."""
        derived = (
            "mean_share",
            "flops",
            "first_token_flops",
            "decoder_factor",
            "end_to_end_factor",
            "largest",
            "kv_bytes",
            "encoder_at_most",
        )
        rows = [{**asdict(row), **{name: getattr(row, name) for name in derived}} for row in self.rows]
        return {**asdict(self), "size": list(self.size), "rows": rows}
