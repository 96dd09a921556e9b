"""When an answer counts as right."""

from __future__ import annotations

import re
import unicodedata

_IN_NUMBER = re.compile(r"(?<=\d)[.,:/](?=\d)|(?<!\w)-(?=\d)")


def normalise(text: str) -> str:
    """The form in which answers are compared: NFKC, lower case, punctuation gone, single spaces.

    Punctuation that makes a number what it is stays: ``3.5``, ``1:30``, ``1/2``, ``-4``.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    kept = {match.start() for match in _IN_NUMBER.finditer(text)}
    characters = [
        " " if unicodedata.category(character).startswith("P") and position not in kept else character
        for position, character in enumerate(text)
    ]
    return " ".join("".join(characters).split())


def exact_match(prediction: str, answer: str) -> bool:
    """Whether two answers are the same after :func:`normalise`."""
    return normalise(prediction) == normalise(answer)
