"""Questions about a video, each with exactly one right answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from framefusion.errors import ArgumentError
from framefusion.evaluation.needle.objects import COLOR_NAMES, KINDS, Thing
from framefusion.evaluation.needle.scenes import Video

QUESTION_KINDS = ("large", "small", "needle", "order", "direction", "count", "scene")
ORDINALS = ("first", "second", "third", "fourth")
COUNTS = ("one", "two", "three", "four")
WAYS = ("left", "right", "up", "down")

TEMPLATES: dict[str, tuple[str, ...]] = {
    "color": (
        "what {color} is the {kind}?",
        "which {color} is the {kind}?",
        "what is the {color} of the {kind}?",
        "what {color} was the {kind}?",
    ),
    "main": (
        "what is the large {noun} in the {n} scene?",
        "what large {noun} is in the {n} scene?",
        "which large {noun} is shown in the {n} scene?",
    ),
    "after": (
        "what large {noun} came after the {x}?",
        "which large {noun} came after the {x}?",
        "what large {noun} follows the {x}?",
    ),
    "before": (
        "what large {noun} came before the {x}?",
        "which large {noun} came before the {x}?",
        "what large {noun} precedes the {x}?",
    ),
    "direction": (
        "which way does the {x} move?",
        "where does the {x} move?",
        "in which direction does the {x} move?",
    ),
    "count": (
        "how many {c} objects are there?",
        "how many {c} things are in the video?",
        "how many {c} objects are shown?",
    ),
    "scene": (
        "in which scene is the {kind}?",
        "which scene shows the {kind}?",
        "in which scene does the {kind} appear?",
    ),
}
SORTS = tuple(TEMPLATES)
NOUNS = ("object", "thing", "item")
_COLOR = ("color", "colour")
PUNCTUATION = tuple("?.,!:;'\"-()")


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        text, answer: lower-case words.
        kind: one of :data:`QUESTION_KINDS`, by which scores are split.
        sort: which template asked it, one of :data:`SORTS`.
        about: what the question names: a thing of the video, or None.
        color, ordinal: the colour or the scene it names, where it names one.
        evidence: ``(scene, thing)`` numbers of everything that must be seen to know the answer.
    """

    text: str
    answer: str
    kind: str
    sort: str
    evidence: tuple[tuple[int, int], ...]
    about: Thing | None = None
    color: str | None = None
    ordinal: str | None = None


def vocabulary() -> list[str]:
    """Every word of questions and answers, sorted."""
    return sorted({*KINDS, *COLOR_NAMES, *NOUNS, *_COLOR, *ORDINALS, *COUNTS, *WAYS, *words_of(TEMPLATES)})


def words_of(templates: Mapping[str, Sequence[str]]) -> set[str]:
    """The words of templates without what is filled in."""
    words = {word for texts in templates.values() for text in texts for word in text.replace("?", "").split()}
    return {word for word in words if not word.startswith("{")}


class Option(NamedTuple):
    """Something that can be asked about a video with one right answer."""

    sort: str
    scene: int = 0
    thing: int = 0
    other: int = 0
    """The scene that holds the answer, for questions about order."""
    color: str = ""
    seen: tuple[tuple[int, int], ...] = ()
    """What is counted, for questions about numbers."""


def possible(video: Video) -> dict[str, list[Option]]:
    """For each question kind, what can be asked with one right answer."""
    kinds, names = video.unique("kind"), video.unique("name")
    options: dict[str, list[Option]] = {kind: [] for kind in QUESTION_KINDS}
    for s, scene in enumerate(video.scenes):
        options["large"].append(Option("main", s))
        for t, thing in enumerate(scene.things):
            if thing.kind in kinds:
                options["scene"].append(Option("scene", s, t))
                if thing.role != "clutter":
                    options[thing.role].append(Option("color", s, t))
        if scene.large.direction and scene.large.name in names:
            options["direction"].append(Option("direction", s))
        if s and video.scenes[s - 1].large.name in names:
            options["order"].append(Option("after", s - 1, other=s))
        if s and scene.large.name in names:
            options["order"].append(Option("before", s, other=s - 1))
    for color in COLOR_NAMES:
        seen = tuple(
            (s, t) for s, scene in enumerate(video.scenes) for t, x in enumerate(scene.things) if x.color == color
        )
        distinct = all(video.scenes[s].things[t].name in names for s, t in seen)
        if distinct and 1 <= len(seen) <= len(COUNTS):
            options["count"].append(Option("count", color=color, seen=seen))
    return options


T = TypeVar("T")


def one_of(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of them, each as likely."""
    return options[int(rng.integers(len(options)))]


def ask(rng: np.random.Generator, video: Video, kind: str, options: Mapping[str, Sequence[Option]]) -> Question | None:
    """Draw one question of this kind, or None if the video allows none.

    Args:
        rng: source of all randomness.
        video: what is asked about.
        kind: one of :data:`QUESTION_KINDS`.
        options: of :func:`possible`.
    """
    pool = options[kind]
    if not pool:
        return None
    if kind == "count":
        # Every number equally often, so that guessing the most frequent one does not pay.
        wanted = one_of(rng, sorted({len(option.seen) for option in pool}))
        pool = [option for option in pool if len(option.seen) == wanted]
    sort, s, t, other, color, seen = one_of(rng, pool)
    words = {"noun": one_of(rng, NOUNS), "color": one_of(rng, _COLOR)}
    template = one_of(rng, TEMPLATES[sort])
    if sort == "count":
        return Question(template.format(c=color, **words), COUNTS[len(seen) - 1], kind, sort, seen, color=color)
    thing, ordinal = video.scenes[s].things[t], ORDINALS[s]
    text = template.format(kind=thing.kind, x=thing.name, n=ordinal, **words)
    if sort in ("after", "before"):
        return Question(text, video.scenes[other].large.name, kind, sort, ((s, 0), (other, 0)), about=thing)
    answer = {"color": thing.color, "main": thing.name, "direction": thing.direction, "scene": ordinal}[sort]
    about, named = (None, ordinal) if sort == "main" else (thing, None)
    return Question(text, str(answer), kind, sort, ((s, t),), about=about, ordinal=named)


def sample_questions(
    rng: np.random.Generator, video: Video, count: int, kinds: Sequence[str] = QUESTION_KINDS
) -> list[Question]:
    """Draw ``count`` questions, kinds in turn as far as the video allows; texts may repeat."""
    options = possible(video)
    allowed = [kind for kind in kinds if options[kind]]
    if not allowed:
        raise ArgumentError(f"kinds must hold a kind of question that this video has an answer to, got {tuple(kinds)}.")
    return in_turn(rng, count, allowed, lambda kind: ask(rng, video, kind, options))


def in_turn(
    rng: np.random.Generator, count: int, kinds: Sequence[str], draw: Callable[[str], Question | None]
) -> list[Question]:
    """Draw ``count`` questions, the kinds in turn, in a random order; each of them has some."""
    order, found = rng.permutation(len(kinds)), []
    for index in range(count):
        question = draw(kinds[order[index % len(order)]])
        assert question is not None
        found.append(question)
    return found
