"""Questions about photographed things in a video, each with exactly one right answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from framefusion.evaluation.needle.objects import Thing
from framefusion.evaluation.needle.photos import NAMES
from framefusion.evaluation.needle.questions import (
    NOUNS,
    ORDINALS,
    TEMPLATES,
    WAYS,
    Option,
    Question,
    in_turn,
    one_of,
    words_of,
)
from framefusion.evaluation.needle.scenes import Video

PHOTO_KINDS = ("large", "small", "needle", "order", "direction", "scene")
_TEMPLATES: dict[str, tuple[str, ...]] = {
    "main": TEMPLATES["main"],
    "small": (
        "what is the small {noun} in the {n} scene?",
        "what small {noun} is in the {n} scene?",
        "which small {noun} is shown in the {n} scene?",
    ),
    **{sort: TEMPLATES[sort] for sort in ("after", "before", "direction")},
    "scene": (
        "in which scene is the {x}?",
        "which scene shows the {x}?",
        "in which scene does the {x} appear?",
    ),
}
PHOTO_SORTS = tuple(_TEMPLATES)


def vocabulary() -> list[str]:
    """Every word of questions and answers, sorted."""
    return sorted({*NAMES, *NOUNS, *ORDINALS, *WAYS, *words_of(_TEMPLATES)})


def possible(video: Video) -> dict[str, list[Option]]:
    """Everything that can be asked with one right answer, by kind; ``evidence`` of an option are its ``seen``.

    Things whose name another thing of the video has are not asked about.
    """
    options: dict[str, list[Option]] = {kind: [] for kind in PHOTO_KINDS}
    names = video.unique("kind")
    scenes = video.scenes
    for s, scene in enumerate(scenes):
        options["large"].append(Option("main", s, 0))
        for t, thing in enumerate(scene.things):
            if thing.role == "small":
                options["small"].append(Option("small", s, t))
            if thing.kind in names:
                options["needle" if thing.role == "needle" else "scene"].append(Option("scene", s, t))
        if scene.large.kind in names:
            if scene.large.direction is not None:
                options["direction"].append(Option("direction", s, 0))
            if s + 1 < len(scenes):
                options["order"].append(Option("after", s, 0, s + 1))
            if s > 0:
                options["order"].append(Option("before", s, 0, s - 1))
    return options


def ask(rng: np.random.Generator, video: Video, kind: str, options: Mapping[str, Sequence[Option]]) -> Question | None:
    """Draw one question of this kind, or None if the video allows none.

    Args:
        rng: source of all randomness.
        video: what is asked about.
        kind: one of :data:`PHOTO_KINDS`.
        options: of :func:`possible`.
    """
    pool = options[kind]
    if not pool:
        return None
    option = one_of(rng, pool)
    scene, ordinal = video.scenes[option.scene], ORDINALS[option.scene]
    thing: Thing = scene.things[option.thing]
    text = one_of(rng, _TEMPLATES[option.sort]).format(noun=one_of(rng, NOUNS), n=ordinal, x=thing.name)
    seen = ((option.scene, option.thing),)
    if option.sort in ("after", "before"):
        answer = video.scenes[option.other].large.name
        return Question(text, answer, kind, option.sort, (*seen, (option.other, 0)), about=thing)
    if option.sort in ("main", "small"):
        return Question(text, thing.name, kind, option.sort, seen, ordinal=ordinal)
    answer = ordinal if option.sort == "scene" else str(thing.direction)
    return Question(text, answer, kind, option.sort, seen, about=thing)


def sample_questions(
    rng: np.random.Generator, video: Video, count: int, kinds: Sequence[str] = PHOTO_KINDS
) -> list[Question]:
    """Draw ``count`` questions, kinds in turn as far as the video allows; texts may repeat."""
    options = possible(video)
    allowed = [kind for kind in kinds if options[kind]]
    return in_turn(rng, count if allowed else 0, allowed, lambda kind: ask(rng, video, kind, options))
