"""The sentences of facts and the questions about them; each wording has a vocabulary of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Asked:
    """A question about a scene.

    Attributes:
        text: the question, with ``{key}``.
        lead: how the answer begins; what follows is the answer.
        offset: the answer is that of the scene so many scenes later.
    """

    text: str
    lead: str
    offset: int = 0


@dataclass(frozen=True)
class Wording:
    """A kind of question, with the only sentences that it is asked about.

    Attributes:
        kind: of question.
        sentence: of a scene, with ``{answer}``, and ``{key}`` where scenes are told apart by something else.
        asked: the questions; each is asked about every scene that it has an answer for.
        answers: words that answer; one for each scene of a video, all of them candidates.
        keys: words that questions name a scene by; empty where they name it by its answer.
        details: words of ``{detail}`` in the sentence, which nothing asks for.
    """

    kind: str
    sentence: str
    asked: tuple[Asked, ...]
    answers: tuple[str, ...]
    keys: tuple[str, ...] = ()
    details: tuple[str, ...] = ("",)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WHO = Wording(
    kind="who",
    sentence="Near the {key} the {answer} looks {detail}.",
    asked=(Asked("Which animal is near the {key}?", "Near the {key} the"),),
    answers=_words(
        "wolf bear horse goat duck fox snake pig cow rabbit cat dog monkey lion tiger elephant deer frog owl sheep"
    ),
    keys=_words("bridge tower church fountain gate tree well fence rock statue lake tent wall river road shed"),
    details=("small", "large", "young", "quiet", "hungry", "tired", "wet", "calm"),
)
WHAT = Wording(
    kind="what",
    sentence="{key} carries the {answer} through the {detail} street.",
    asked=(Asked("What does {key} carry?", "{key} carries the"),),
    answers=_words(
        "guitar lamp umbrella chair book clock bag mirror bottle ladder box camera bicycle hat carpet knife cup radio "
        "candle rope"
    ),
    keys=_words("Anna Peter Maria Tom Lisa David Sarah Paul Emma Jack Laura Kevin Julia Mark Helen Simon"),
    details=("narrow", "busy", "empty", "long", "old", "dark", "sunny", "noisy"),
)
WHERE = Wording(
    kind="where",
    sentence="The {key} is now {detail} in the {answer}.",
    asked=(Asked("Where is the {key}?", "The {key} is in the"),),
    answers=_words(
        "kitchen garden library hotel school museum office factory hospital airport park theater station restaurant "
        "forest prison castle market bank cellar"
    ),
    keys=_words(
        "doctor teacher pilot farmer lawyer painter soldier nurse baker judge singer sailor writer dancer thief king"
    ),
    details=("waiting", "resting", "working", "talking", "reading", "sitting", "smoking", "eating"),
)
ORDER = Wording(
    kind="order",
    sentence="Then the {answer} comes down the {detail} track.",
    # Forwards alone: decoders of this size do not find what came before.
    asked=(Asked("What follows the {key}?", "The {key} is followed by the", 1),),
    answers=_words(
        "train truck taxi tram tractor ambulance boat plane van motorcycle bus ship wagon helicopter rocket car tank "
        "balloon scooter sled"
    ),
    details=("same",),
)

WORDINGS = {wording.kind: wording for wording in (WHO, WHAT, WHERE, ORDER)}
"""The wordings by the kind of question."""

TAILS = (
    " The sky above is grey and cold.",
    " Soft music plays from a window.",
    " A warm wind blows all day.",
    " It has been raining for hours.",
    " Two children laugh in the back.",
    " Snow lies on every roof nearby.",
    " The light is bright and golden.",
    " Someone far away rings a bell.",
)
"""What fills the tokens of a frame behind the sentence of its scene, another one in every scene."""

FILLERS = (
    " and the camera does not move at all and the picture is clear",
    " and nothing else can be seen in this place at any time",
    " as in all of these pictures that follow each other without sound",
)
"""What fills them in all frames of a video alike, where the background does not change."""
