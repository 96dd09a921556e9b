"""What relevance goes by: sources by name, each a function of what is known of a sample in a stage. Pure tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

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
    """

    scores: Callable[[Evidence], Tensor | None]
    viewers: Literal["last", "text", "all"] | None = None
    per_viewer: bool = False
    late: bool = False
    encoder: bool = False


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
    "late-text": Source(_received, "text", late=True),
    "last": Source(_received, "last"),
    "text": Source(_received, "text"),
    "all": Source(_received, "all"),
    "all-viewers": Source(_received, "all", per_viewer=True),
    "similarity": Source(_similarity),
    "dissimilarity": Source(_dissimilarity),
    "encoder": Source(_encoder, encoder=True),
    "encoder-last": Source(_encoder_then_received, "last", encoder=True),
    "none": Source(lambda evidence: None),
}
"""The sources by name."""
