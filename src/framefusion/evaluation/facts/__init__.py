"""Facts: videos whose visual tokens are words, for decoders that are real while no vision tower is.

Every frame of a scene shows the sentence of a fact, as the word embeddings of the model that answers. Questions ask
who, what, where and in which order; the answer is the best of some candidates by the logits of the first token. So a
question is one prefill, and what a reduction costs a pretrained language model shows without a vision tower for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from framefusion.asking.encodings import Prompt
from framefusion.asking.loading import LoadedModel
from framefusion.asking.media import Media
from framefusion.evaluation.data import DataError, Question
from framefusion.evaluation.facts.scenes import CONTROLS, MOST, FactVideo, fact_video
from framefusion.evaluation.facts.spelling import spelled
from framefusion.evaluation.facts.wordings import WORDINGS

__all__ = ["CONTROLS", "Facts"]


@dataclass(frozen=True)
class Facts:
    """The generated set; takes a model of ``framefusion.evaluation.decoders``.

    Attributes:
        videos: how many; kinds of questions, controls of redundancy and numbers of scenes take turns.
        seed: of the generation.
        kinds: of questions, some of ``known_kinds``; None asks all.
    """

    usual_videos: ClassVar[int] = 108
    known_kinds: ClassVar[tuple[str, ...]] = tuple(WORDINGS)
    usual_model: ClassVar[str | None] = "qwen2.5-0.5b"
    least: ClassVar[float] = 0.6

    videos: int
    seed: int = 0
    kinds: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        kinds = "" if self.kinds is None else f", {', '.join(self.kinds)}"
        return f"facts (seed {self.seed}{kinds})"

    def questions(self, frames: int) -> list[Question]:
        return [
            Question(
                f"{video.id}/{number}",
                video.id,
                text,
                answer,
                video.wording.kind,
                (video.control,),
                tuple(f" {choice}" for choice in video.wording.answers),
            )
            for video in _made(self, frames).values()
            for number, (text, _, answer) in enumerate(video.questions)
        ]

    def video(self, video: str, frames: int, shown: int) -> Media:
        raise DataError(f"{video} is made of words and has no pictures; prompts() hands it to a model")

    def scenes(self, video: str, frames: int) -> list[tuple[int, int]]:
        return _made(self, frames)[video].scenes

    def prompts(
        self, loaded: LoadedModel, video: str, frames: int, shown: Sequence[int], blank: bool, texts: Sequence[str]
    ) -> list[Prompt]:
        made = _made(self, frames)[video]
        leads = {text: lead for text, lead, _ in made.questions}
        return spelled(loaded, made, shown, blank, [(text, leads[text]) for text in texts])


@lru_cache(maxsize=1)
def _made(data: Facts, frames: int) -> dict[str, FactVideo]:
    if frames < 2 * MOST:
        raise DataError(f"facts need at least {2 * MOST} frames a video, got {frames}; take more with --frames")
    asked = data.kinds or data.known_kinds
    videos = [fact_video(number, data.seed, frames) for number in range(data.videos)]
    made = {video.id: video for video in videos if video.wording.kind in asked}
    if not made:
        raise DataError(f"{data.videos} videos ask nothing of the kinds {', '.join(asked)}; take more with --videos")
    return made
