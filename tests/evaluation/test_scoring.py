"""When answers count as the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefusion.evaluation.scoring import exact_match, normalise


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("Green star.", "green star"),
        ("  green\n star ", "green star"),
        ("“green”, star!", "green star"),
        ("GREEN-STAR", "green star"),
        ("Straße", "STRASSE"),
        ("ｇｒｅｅｎ", "green"),
        ("(B)", "b"),
        ("3.50.", "3.50"),
    ],
)
def test_same(prediction, answer):
    assert exact_match(prediction, answer)


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("green", "green star"),
        ("", "green"),
        ("-4", "4"),
        ("3.5", "35"),
        ("3.5", "3 5"),
        ("1:30", "130"),
        ("a<b", "a>b"),
        ("star green", "green star"),
    ],
)
def test_not_the_same(prediction, answer):
    assert not exact_match(prediction, answer)


@given(st.text())
def test_normalising_is_done_once(text):
    once = normalise(text)
    assert normalise(once) == once
    assert once == once.strip()
    assert "  " not in once
