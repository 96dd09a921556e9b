"""Questions about a generated video, their answers, and the words they are made of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from scenes import VideoSpec

from framefusion.needle.objects import COLOR_NAMES, DIGITS, KINDS

QUESTION_KINDS = ("color", "object", "scene", "after", "before")

_NOUNS = {"thing", "object", "item"}
_ORDINALS = ("first", "second", "third", "fourth")
_COLOR = ("color", "colour")

_TEMPLATES: dict[str, tuple[str, ...]] = {
    "color": (
        "what {color} is the {kind}?",
        "what {color} is the {kind}?",
        "which {color} is the {kind}?",
        "what is the {color} of the {kind}?",
        "what {color} was the {kind}?",
        "which {color} does the {kind} have?",
    ),
    "object": (
        "which {noun} is {x}?",
        "what {noun} is {x}?",
        "what is {x}?",
        "what is the {x} {noun}?",
        "which {noun} was {x}?",
    ),
    "scene": (
        "what is in the {n} scene?",
        "what is in the {n} scene?",
        "what {shown} in the {n} scene?",
        "which {noun} is in the {n} scene?",
        "which {noun} {shown} in the {n} scene?",
        "what is the {n} {noun}?",
        "what {shown} {n}?",
        "which {noun} {shown} {n}?",
        "what {noun} {came} {n}?",
    ),
    "after": (
        "what {came} after the {x}?",
        "what {came} after the {x}?",
        "what {came} {right} after the {x}?",
        "which {noun} {came} after the {x}?",
        "what {noun} {came} after the {x}?",
        "what is after the {x}?",
        "what {shown} after the {x}?",
        "what follows the {x}?",
        "what followed the {x}?",
        "which {noun} follows the {x}?",
        "which {noun} followed the {x}?",
        "what is in the scene after the {x}?",
        "after the {x}, what {came} next?",
    ),
    "before": (
        "what {came} before the {x}?",
        "what {came} before the {x}?",
        "what {came} {right} before the {x}?",
        "which {noun} {came} before the {x}?",
        "what {noun} {came} before the {x}?",
        "what is before the {x}?",
        "what {shown} before the {x}?",
        "what preceded the {x}?",
        "which {noun} preceded the {x}?",
        "what precedes the {x}?",
        "what is in the scene before the {x}?",
    ),
}
_CAME = ("came", "came", "comes", "appeared", "appears", "was shown", "is shown", "is seen", "happened", "was")
_SHOWN = ("is shown", "appears", "appeared", "is seen", "was shown", "is", "was", "can be seen", "do you see")
_RIGHT = ("right", "directly", "immediately", "just")
_TAILS = ("", "", "", "", " in the video", " in this video", " in the clip")
_HEADS = ("", "", "", "", "", "please tell me ", "tell me ", "in the video, ", "look at the video: ")

# Words that carry no information here. They are mixed into training questions now and then, so that a
# wording outside the templates does not meet an untrained embedding.
_FILLER = (
    "a an and are at by can could did does for from has have he her here how i if it its like many "
    "me moving name no not now of on one or our over see shape shapes so some that their there these "
    "they this those to video we were when where while who why will with would yes you your figure "
    "symbol digit number colored coloured frame frames picture image clip movie scenes objects "
    "things describe say give show visible present then next last final beginning end start middle "
    "background big small during between right left top bottom exactly nothing answer question word"
)
FILLER_WORDS = tuple(_FILLER.split())
PUNCTUATION = tuple("?.,!:;'\"-()")


@dataclass(frozen=True)
class Question:
    """One question, its answer in lower-case words, and its kind (one of ``QUESTION_KINDS``).

    ``scene`` is where a decoder finds the answer, as a token knows its own scene and the one before: the
    later one of the asked and the answering scene (−1 where nobody needs to know).
    """

    text: str
    answer: str
    kind: str
    scene: int = -1


_PARSE_ORDINALS = (*_ORDINALS, "last", "final")
PARSE_SIZES = (len(KINDS) + 1, len(COLOR_NAMES) + 1, len(_PARSE_ORDINALS) + 1, len(QUESTION_KINDS))


def parse(question: Question) -> tuple[int, int, int, int]:
    """What a question asks: its kind word, colour, ordinal (each one class more for "none"), and its kind."""
    words = [word.strip("?.,:") for word in question.text.split()]

    def last(names: tuple[str, ...]) -> int:
        return next((names.index(word) for word in reversed(words) if word in names), len(names))

    return last(KINDS), last(COLOR_NAMES), last(_PARSE_ORDINALS), QUESTION_KINDS.index(question.kind)


def vocabulary() -> list[str]:
    """Every word a question or an answer can contain, sorted, without duplicates."""
    sources = [*COLOR_NAMES, *KINDS, *_ORDINALS, "last", *_NOUNS, "shape", "digit", *_COLOR, *FILLER_WORDS]
    sources += [*_CAME, *_SHOWN, *_RIGHT, *_TAILS, *_HEADS]
    sources += [template for templates in _TEMPLATES.values() for template in templates]
    sources += ["user", "assistant", "system"]
    words: set[str] = set()
    for source in sources:
        for piece in source.split():
            if not piece.startswith("{"):
                words.add(piece.strip("?,:{}"))
    return sorted(words - {""})


def _choose(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _noun(rng: np.random.Generator, kind: str) -> str:
    special = "digit" if kind in DIGITS else "shape"
    return _choose(rng, ("object", "thing", "item", special))


def possible_questions(spec: VideoSpec) -> dict[str, list[tuple[int, ...]]]:
    """For each question kind, the (asked scene, answering scene) pairs that have one right answer."""
    objects = [scene.obj for scene in spec.scenes]
    kinds = Counter(obj.kind for obj in objects)
    colors = Counter(obj.color for obj in objects)
    count = len(objects)
    return {
        "color": [(i, i) for i in range(count) if kinds[objects[i].kind] == 1],
        "object": [(i, i) for i in range(count) if colors[objects[i].color] == 1],
        "scene": [(i, i) for i in range(count)],
        "after": [(i, i + 1) for i in range(count - 1)],
        "before": [(i, i - 1) for i in range(1, count)],
    }


def ask(rng: np.random.Generator, spec: VideoSpec, kind: str) -> Question | None:
    """Draw one question of this kind about the video, or ``None`` if it allows none."""
    if kind not in QUESTION_KINDS:
        raise ValueError(f"kind must be one of {QUESTION_KINDS}, got {kind!r}")
    options = possible_questions(spec)[kind]
    if not options:
        return None
    about, target = options[int(rng.integers(len(options)))]
    objects = [scene.obj for scene in spec.scenes]
    asked, wanted = objects[about], objects[target]
    ordinal = _ORDINALS[about]
    if about == len(objects) - 1 and rng.random() < 0.4:
        ordinal = _choose(rng, ("last", "last", "final"))
    subject = asked.name
    if kind == "object":
        subject = asked.color
    elif [obj.kind for obj in objects].count(asked.kind) == 1 and rng.random() < 0.15:
        subject = asked.kind
    text = _choose(rng, _TEMPLATES[kind]).format(
        color=_choose(rng, _COLOR),
        kind=asked.kind,
        x=subject,
        n=ordinal,
        noun=_noun(rng, wanted.kind if kind != "object" else asked.kind),
        came=_choose(rng, _CAME),
        shown=_choose(rng, _SHOWN),
        right=_choose(rng, _RIGHT),
    )
    if rng.random() < 0.3:
        body, mark = text[:-1], text[-1]
        text = _choose(rng, _HEADS) + body + _choose(rng, _TAILS) + _choose(rng, (mark, mark, "", "."))
    answer = {"color": asked.color, "object": asked.kind}.get(kind, wanted.name)
    return Question(text, answer, kind, max(about, target))


def sample_questions(
    rng: np.random.Generator, spec: VideoSpec, count: int, weights: dict[str, float] | None = None
) -> list[Question]:
    """Draw ``count`` questions; ``weights`` gives the share per kind (default: equal)."""
    shares = np.asarray([1.0 if weights is None else weights[kind] for kind in QUESTION_KINDS])
    shares = shares / shares.sum()
    possible = possible_questions(spec)
    if not any(share > 0 and possible[kind] for kind, share in zip(QUESTION_KINDS, shares, strict=True)):
        raise ValueError("weights must allow a kind of question that this video has an answer to")
    found: list[Question] = []
    while len(found) < count:
        question = ask(rng, spec, QUESTION_KINDS[int(rng.choice(len(QUESTION_KINDS), p=shares))])
        if question is not None:
            found.append(question)
    return found


def add_filler(rng: np.random.Generator, text: str, share: float) -> str:
    """With probability ``share``, put one uninformative word somewhere into the question."""
    if rng.random() >= share:
        return text
    words = text.split()
    words.insert(int(rng.integers(len(words) + 1)), _choose(rng, FILLER_WORDS))
    return " ".join(words)
