"""What relevance goes by: sources by name, each a function of what is known of a sample in a stage. Pure tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor

from framefusion.checks import check_number
from framefusion.errors import ArgumentError
from framefusion.reduction import relevance


class Evidence(NamedTuple):
    """What there is to go by about the ``n`` visual tokens of a sample that are present, in sequence order."""

    features: Tensor
    """``(n, D)``, any float dtype: their hidden states."""
    frames: Tensor
    """``(n,)`` int64 on the CPU: the frame of each."""
    places: Tensor
    """``(n,)`` int64 on the CPU: its place inside the frame, another range for each video and image."""
    question: Tensor
    """``(Q, D)``: hidden states of the text tokens after the last visual one."""
    received: Tensor | None
    """``(n,)``: the attention that the decoder's recorded queries paid; None before any was recorded."""
    encoder: Tensor | None
    """``(n,)``: the attention received in the vision encoder; None where it was not recorded."""


@dataclass(frozen=True)
class Source:
    """One source of relevance.

    Attributes:
        scores: ``(n,)`` of the tokens, any scale; None where there is nothing to go by.
        viewers: whose attention in the decoder counts, ``"last"``, ``"text"`` or ``"all"`` as in
            :func:`framefusion.reduction.relevance.query_rows`; None for a source that needs none.
        per_viewer: whether that is the mean over the queries that can see the token.
        late: whether it counts in the later half of the layers only.
        encoder: whether it needs the attention of the vision encoder.
        question: whether it goes by the text behind the last visual token, so that every question has scores of its
            own.
    """

    scores: Callable[[Evidence], Tensor | None]
    viewers: Literal["last", "text", "all"] | None = None
    per_viewer: bool = False
    late: bool = False
    encoder: bool = False
    question: bool = False


def _received(evidence: Evidence) -> Tensor | None:
    return evidence.received


def _encoder(evidence: Evidence) -> Tensor | None:
    return evidence.encoder


def _encoder_then_received(evidence: Evidence) -> Tensor | None:
    return evidence.encoder if evidence.received is None else evidence.received


def _similarity(evidence: Evidence) -> Tensor:
    return relevance.question_similarity(evidence.features, evidence.question)


def _dissimilarity(evidence: Evidence) -> Tensor:
    return relevance.dissimilarity(evidence.features, evidence.frames, evidence.places)


SOURCES: dict[str, Source] = {
    "late-text": Source(_received, "text", late=True, question=True),
    "last": Source(_received, "last", question=True),
    "text": Source(_received, "text", question=True),
    "all-viewers": Source(_received, "all", per_viewer=True, question=True),
    "similarity": Source(_similarity, question=True),
    "dissimilarity": Source(_dissimilarity),
    "encoder": Source(_encoder, encoder=True),
    "encoder-last": Source(_encoder_then_received, "last", encoder=True, question=True),
    "none": Source(lambda evidence: None),
}
"""The sources by name."""


@dataclass(frozen=True)
class Relevance:
    """What relevance goes by, and how much it weighs against diversity.

    Attributes:
        source: in :data:`SOURCES`.

            Those that need no attention of the decoder: ``"none"`` (diversity alone), ``"similarity"`` (the largest
            cosine between the hidden states of a token and of the text tokens after the last visual token),
            ``"dissimilarity"`` (1 less the cosine with the token before it at the same place; EVS, arXiv 2510.14624),
            ``"encoder"`` (the attention that its patches receive in the last layer of the vision encoder, where the
            family tells; FastVID, arXiv 2503.11187).

            Whose attention counts, in the layer before the stage (in a hybrid decoder the latest one before it with
            softmax attention): ``"last"`` (the last query token), ``"text"`` (the text tokens after the last visual
            token), ``"late-text"`` (default; ``"text"`` in the later half of the layers, where it tells what the
            question needs, and diversity alone before), ``"all-viewers"`` (the mean over the tokens that can see each
            one), ``"encoder-last"`` (``"encoder"`` before layer 0 and ``"last"`` behind it; HoliTom, arXiv 2505.21334).
        sign: +1 (default) prefers the most relevant tokens, -1 the least relevant, as the published segment-wise code
            does.
        exponent: in [0, 100], power of the relevance after it is scaled to (0, 1] in each sample. Default 1, as in
            CDPruner (arXiv 2506.10967); 0 makes all tokens equal.
    """

    source: str = "late-text"
    sign: int = 1
    exponent: float = 1.0

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ArgumentError(f"relevance must be one of {', '.join(map(repr, SOURCES))}, got {self.source!r}.")
        if self.sign not in (1, -1) or isinstance(self.sign, bool):
            raise ArgumentError(
                f"Relevance.sign must be +1 (most relevant first) or -1 (least relevant first), got {self.sign!r}."
            )
        check_number("Relevance.exponent", self.exponent, 0, 100)

    @property
    def of(self) -> Source:
        """The source itself."""
        return SOURCES[self.source]


def relevance_of(field: str, given: Any) -> Relevance:
    """What a field's value means: a source with the defaults, or all that is said."""
    return given if isinstance(given, Relevance) else Relevance(given)
