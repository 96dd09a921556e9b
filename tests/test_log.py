"""Files of results survive being killed at any byte."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefusion import log
from framefusion.log import LogError

ROWS = [{"cell": "a", "text": "grün\nstar"}, {"cell": "b", "n": 1.5}, {"cell": "c", "none": None}]


def test_rows_come_back(tmp_path):
    path = tmp_path / "a.jsonl"
    assert log.read(path) == []
    log.append(path, ROWS[:2])
    log.append(path, [])
    log.append(path, ROWS[2:])
    assert log.read(path) == ROWS
    log.replace(path, ROWS[1:])
    assert log.read(path) == ROWS[1:]
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


@given(st.data())
def test_a_torn_last_line_is_dropped_and_cut_off(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("log") / "a.jsonl"
    log.append(path, ROWS)
    whole = path.read_bytes()
    size = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:size])
    left = whole[:size].count(b"\n")
    assert log.read(path) == ROWS[:left]
    log.append(path, ROWS[:1])
    assert log.read(path) == ROWS[:left] + ROWS[:1]


def test_other_damage_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    for line in ("{", "[1]", "\xff"):
        path.write_bytes(json.dumps(ROWS[0]).encode() + b"\n" + line.encode("latin-1") + b"\n{}\n")
        with pytest.raises(LogError, match=r"a\.jsonl line 2 is damaged; delete the line"):
            log.read(path)


def test_no_number_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        log.append(tmp_path / "a.jsonl", [{"n": float("nan")}])
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "ours"),
    [(b"", True), (b'{"a":1}\n', True), (b'{"a":1}\n{"b', True), (b'{"a":1}\n\0\0', True), (b"precious", False)],
)
def test_only_what_may_be_a_torn_line_is_cut_off(tmp_path, content, ours):
    path = tmp_path / "a.jsonl"
    log.check_end(path)
    path.write_bytes(content)
    if ours:
        log.check_end(path)
    else:
        with pytest.raises(LogError, match="ends in the middle of a line that is no JSON object"):
            log.check_end(path)
