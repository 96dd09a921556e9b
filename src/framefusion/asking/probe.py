"""Which stages fit a model, measured on the model itself and without labels.

A few prompts are read with all visual tokens and with the tokens that each candidate leaves. What counts is how far the
distribution of the next token, the first of an answer, moves.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framefusion.checks import is_number
from framefusion.errors import ArgumentError
from framefusion.hf import attach
from framefusion.hf.decoder import Decoder
from framefusion.hf.families import unwrapped
from framefusion.hf.fingerprint import fingerprint
from framefusion.hf.fitted import Fitted, remember
from framefusion.reduction.amounts import Stages
from framefusion.reduction.schedule import STAGES
from framefusion.reduction.settings import FrameFusion

DEPTHS = (1 / 3, 1 / 2, 2 / 3, 5 / 6)
"""Parts of the layers behind which tokens leave in a candidate."""
LATE_SHARES = (0.05, 0.1, 0.25, 0.5)
"""What stays there of the tokens that the stage before layer 0 keeps."""

CANDIDATES: tuple[Stages, ...] = (
    STAGES,
    ((0.0, 1.0),),
    *(((0.0, 1.0), (depth, share)) for depth in DEPTHS for share in LATE_SHARES if (depth, share) != STAGES[1]),
    *(((depth, 1.0),) for depth in DEPTHS),
)
"""The stages that are tried, the default first: one stage before layer 0, two stages, or all tokens down to a depth,
where the cost allows it."""


@dataclass(frozen=True)
class Tried:
    """How one candidate did.

    Attributes:
        stages: the candidate, see :class:`framefusion.FrameFusion`.
        share: mean share of the visual tokens over prompts and layers that it kept.
        divergence: mean over the prompts of ``KL(all tokens || reduced)`` of the next token, in nats.
        agreement: share of the prompts whose most probable next token stays the same.
        gain: by how much the default stages diverge more, mean over the prompts, in nats.
        error: standard error of the gain, paired by prompt.
    """

    stages: Stages
    share: float
    divergence: float
    agreement: float
    gain: float
    error: float


@dataclass(frozen=True)
class Probed:
    """The answer of :func:`probe`.

    Attributes:
        cost: that every candidate spends.
        stages: those that fit the model.
        prompts: how many were asked.
        fingerprint: of the weights.
        tried: all candidates, the default stages first.
    """

    cost: float
    stages: Stages
    prompts: int
    fingerprint: str
    tried: tuple[Tried, ...]

    @property
    def best(self) -> Tried:
        """The candidate that was chosen."""
        return next(entry for entry in self.tried if entry.stages == self.stages)

    def save(self, folder: Path | None = None) -> Path:
        """Keep the stages for ``FrameFusion(stages="auto")`` on a model with these weights.

        Args:
            folder: where; default :func:`framefusion.hf.fitted.default_folder`, the only one that ``"auto"`` looks in.

        Raises:
            StagesFileError: the file cannot be written.
        """
        found = Fitted(self.cost, self.stages, self.prompts, self.best.divergence, self.tried[0].divergence)
        return remember(self.fingerprint, found, folder)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, texts and lists, for JSON."""
        return asdict(self)


def probe(
    model: Any,
    prompts: Sequence[Mapping[str, Any]],
    cost: float = 0.3,
    *,
    settings: FrameFusion | None = None,
    candidates: Sequence[Stages] = CANDIDATES,
    progress: Callable[[str], None] | None = None,
) -> Probed:
    """Find the stages of a cost that move the next token of a model least.

    Every prompt is one prefill with all tokens and one for each candidate. The stages with the smallest mean divergence
    are chosen, or the default ones if these are worse by no more than one standard error of the paired difference.

    Args:
        model: a supported model with a language-model head; it is unchanged afterwards.
        prompts: at least 2, each with what ``model.generate()`` takes for one sample: what a processor makes of a video
            and a question.
        cost: mean share of the visual tokens over the layers, in (0, 1). Default 0.3.
        settings: everything else of the reduction; default ``FrameFusion()``. Its ``cost`` and ``stages`` do not count.
        candidates: stages to try beside the default ones. Those that the cost cannot reach, and those that mean the
            same on this model, are left out.
        progress: called with a few words before each prompt.

    Raises:
        ValueError: an argument is out of range, or a prompt is more than one sample.
        UnsupportedModelError: the model is of no supported family.
    """
    _check(model, prompts, cost)
    base = FrameFusion(cost=cost) if settings is None else replace(settings, cost=cost, keep=None, stages=None)
    tried = _distinct(model, base, candidates)
    divergence = torch.zeros(len(tried), len(prompts), dtype=torch.float64)
    same, shares = torch.zeros_like(divergence), torch.zeros_like(divergence)
    for number, prompt in enumerate(prompts):
        if progress is not None:
            progress(f"Probing {len(tried)} candidates, prompt {number + 1} of {len(prompts)}")
        full = next_token(model, prompt)
        for place, candidate in enumerate(tried):
            with attach(model, candidate) as run:
                reduced = next_token(model, prompt)
                shares[place, number] = run.summary().mean_share
            divergence[place, number] = kl(full, reduced)
            same[place, number] = float(full.argmax() == reduced.argmax())
    gains = divergence[0] - divergence
    errors = gains.std(dim=1) / math.sqrt(len(prompts))
    chosen = choose(divergence)
    return Probed(
        cost=cost,
        stages=tried[chosen].steps,
        prompts=len(prompts),
        fingerprint=fingerprint(unwrapped(model)),
        tried=tuple(
            Tried(
                stages=candidate.steps,
                share=float(shares[place].mean()),
                divergence=float(divergence[place].mean()),
                agreement=float(same[place].mean()),
                gain=float(gains[place].mean()),
                error=float(errors[place]),
            )
            for place, candidate in enumerate(tried)
        ),
    )


def choose(divergence: Tensor) -> int:
    """The candidate with the smallest mean, or the first one unless it is worse by more than a standard error.

    Args:
        divergence: ``(candidates, prompts)`` float64, at least 2 prompts; the default comes first.
    """
    best = int(divergence.mean(dim=1).argmin())
    gain = divergence[0] - divergence[best]
    return best if gain.mean() > gain.std() / math.sqrt(gain.numel()) else 0


def kl(full: Tensor, reduced: Tensor) -> float:
    """``KL(full || reduced)`` of the distributions of two ``(V,)`` logits, in nats, computed in float32."""
    log_full, log_reduced = full.float().log_softmax(-1), reduced.float().log_softmax(-1)
    # A token that one of them excludes altogether (a logit of -inf) counts where the other expects it alone.
    terms = torch.where(log_full == -math.inf, 0.0, log_full.exp() * (log_full - log_reduced))
    return max(0.0, float(terms.sum()))


def next_token(model: Any, prompt: Mapping[str, Any]) -> Tensor:
    """``(V,)`` logits of the first token that would follow a prompt of one sample."""
    # Models may write into what they are given.
    inputs = copy.deepcopy(dict(prompt))
    with torch.inference_mode():
        output = model.generate(
            **inputs,
            max_new_tokens=1,
            do_sample=False,
            num_beams=1,
            output_logits=True,
            return_dict_in_generate=True,
        )
    logits: Tensor = output.logits[0]
    if len(logits) != 1:
        raise ArgumentError(f"prompts must be one sample each, got one of {len(logits)}; give them one by one.")
    return logits[0].cpu()


def _distinct(model: Any, base: FrameFusion, candidates: Sequence[Stages]) -> list[FrameFusion]:
    """The default stages, then the candidates that the cost can reach and that differ on this model."""
    decoder = Decoder(model)
    count, first = len(decoder.layers), decoder.first
    found: dict[tuple[tuple[int, float], ...], FrameFusion] = {}
    for stages in (STAGES, *candidates):
        settings = replace(base, stages=stages)
        try:
            settings.check(count, first)
        except ArgumentError:
            if stages == STAGES:
                raise
            continue
        found.setdefault(tuple(settings.shares(count, first).items()), settings)
    return list(found.values())


def _check(model: Any, prompts: Sequence[Mapping[str, Any]], cost: float) -> None:
    if not callable(getattr(model, "generate", None)) or model.get_output_embeddings() is None:
        raise ArgumentError(
            f"model must have a language-model head, whose next token is measured; {type(model).__name__} has none."
        )
    if len(prompts) < 2:
        raise ArgumentError(f"prompts must be at least 2, so that their spread is known, got {len(prompts)}.")
    if not is_number(cost) or not 0 < cost < 1:
        raise ArgumentError(f"cost must be a number above 0 and below 1, got {cost!r}.")
