"""Videos of facts: scenes, their frames and the questions, from a seed alone; no model, no tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from framefusion.evaluation.facts.wordings import FILLERS, TAILS, WORDINGS, Wording

CONTROLS = ("copies", "noise", "background")
"""What makes the tokens of a scene redundant: its frames are copies; copies with noise on a share of them; copies, a
part of which is that of all other scenes too."""
FEWEST, MOST = 3, 5
"""Scenes of a video."""


@dataclass(frozen=True)
class FactVideo:
    """One video.

    Attributes:
        id: unique within a data set.
        wording: its sentences.
        control: one of :data:`CONTROLS`.
        texts: of each scene, what its frames show: ``(sentence, what fills the frame)``.
        starts: first frame of each scene.
        frames: frames in all.
        questions: ``(question, lead, answer)``.
        seed: of its noise.
    """

    id: str
    wording: Wording
    control: str
    texts: tuple[tuple[str, str], ...]
    starts: tuple[int, ...]
    frames: int
    questions: tuple[tuple[str, str, str], ...]
    seed: int

    @property
    def scenes(self) -> list[tuple[int, int]]:
        """First frame of each scene and the one behind its last."""
        return list(zip(self.starts, (*self.starts[1:], self.frames), strict=True))

    def scene_of(self, frame: int) -> int:
        """The scene that a frame belongs to."""
        return int(np.searchsorted(self.starts, frame, side="right")) - 1


def fact_video(number: int, seed: int, frames: int) -> FactVideo:
    """A video of a set; wordings, controls and numbers of scenes take turns.

    Args:
        number: of the video in its set.
        seed: of the set.
        frames: at least ``2 * MOST``.
    """
    rng = np.random.default_rng((seed, number, 18))
    wording = list(WORDINGS.values())[number % len(WORDINGS)]
    turn = number // len(WORDINGS)
    control = CONTROLS[turn % len(CONTROLS)]
    count = FEWEST + (turn // len(CONTROLS)) % (MOST - FEWEST + 1)
    answers = _drawn(rng, wording.answers, count)
    keys = _drawn(rng, wording.keys, count) if wording.keys else answers
    filler = _drawn(rng, FILLERS, 1)[0]
    tails = [filler] * count if control == "background" else _drawn(rng, TAILS, count)
    texts = tuple(
        (wording.sentence.format(answer=answer, key=key, detail=_drawn(rng, wording.details, 1)[0]), tail)
        for answer, key, tail in zip(answers, keys, tails, strict=True)
    )
    questions = tuple(
        (asked.text.format(key=keys[scene]), asked.lead.format(key=keys[scene]), answers[scene + asked.offset])
        for scene in range(count)
        for asked in wording.asked
        if 0 <= scene + asked.offset < count
    )
    # Cuts of a video in which every scene has a frame less, so that no scene has fewer than two.
    cuts = sorted(rng.choice(np.arange(1, frames - count), count - 1, replace=False).tolist())
    starts = (0, *(cut + scene for scene, cut in enumerate(cuts, start=1)))
    return FactVideo(
        f"{wording.kind}-{number}", wording, control, texts, starts, frames, questions, int(rng.integers(2**31))
    )


def _drawn(rng: np.random.Generator, words: tuple[str, ...], count: int) -> list[str]:
    return [words[i] for i in rng.choice(len(words), count, replace=False)]
