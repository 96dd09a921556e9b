"""Reading questions: what is one, what is not, and that the rest goes on."""

from __future__ import annotations

import json

import pytest

from framefusion.batch.rows import MAX_LINE, BatchError, Row, by_media, fingerprints, read_rows
from framefusion.evaluation import JsonLines


def test_rows_are_what_they_say(tmp_path):
    path = tmp_path / "questions.jsonl"
    lines = [
        '\ufeff{"video": "clips/a.mp4", "question": "谁？", "id": "x"}',
        "",
        '  {"prompt": "who?", "video": "/b.mp4", "id": 7, "answer": "he", "kind": "person", "tags": ["fast"]}\r',
        '{"video": "c.mp4", "question": "what?", "id": null}',
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    rows = list(read_rows(path))
    assert [row.line for row in rows] == [1, 3, 4]
    assert [row.id for row in rows] == ["x", 7, None]
    assert [row.media for row in rows] == [(str(tmp_path / "clips/a.mp4"),), ("/b.mp4",), (str(tmp_path / "c.mp4"),)]
    assert [row.question for row in rows] == ["谁？", "who?", "what?"]
    assert [row.problem for row in rows] == [None] * 3


def test_what_eval_reads_is_read_here_too(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    entry = {"video": "a.mp4", "question": "who?", "answer": "he", "kind": "person", "tags": ["fast"]}
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(entry) + "\n")
    (asked,) = JsonLines(path).questions(8)
    (row,) = read_rows(path)
    assert (row.question, row.media) == (asked.text, (str(tmp_path / asked.video),))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "line 2 is no JSON: Expecting property name enclosed in double quotes at column 2"),
        (b"\0" * 8, "line 2 is no JSON: Expecting value at column 1"),
        (b"[" * 100_000, "line 2 is no JSON of a question: maximum recursion depth exceeded"),
        (b'{"id": ' + b"9" * 5000 + b"}", "line 2 is no JSON of a question: Exceeds the limit"),
        (b"[1]", 'line 2 must be an object such as {"video": …, "question": …}, got [1]'),
        (b'{"video": "a\xff"}', "line 2 is no UTF-8 text: invalid start byte"),
        (b'{"video": "a.mp4"}', "line 2 has no question"),
        (b'{"question": "who?"}', "line 2 has no video"),
        (b'{"video": "a.mp4", "question": " "}', "line 2: question must be a text that is not empty, got ' '"),
        (b'{"video": 3, "question": "who?"}', "line 2: video must be a text that is not empty, got 3"),
        (b'{"video": "a\\u0000", "question": "who?"}', "line 2: video must be the path of a file, got 'a\\x00'"),
        (b'{"video": "a.mp4", "question": "\\ud800"}', "line 2 has half of a surrogate pair, which is no character"),
        (
            b'{"video": "a.mp4", "question": "a", "prompt": "b"}',
            "line 2 has a question and a prompt, which mean the same; give one of them",
        ),
        (
            b'{"video": "a.mp4", "question": "a", "keep": 0.2}',
            "line 2 has an unknown key 'keep'; known are id, prompt, video, question, answer, kind, tags",
        ),
        (
            b'{"video": "a.mp4", "question": "a", "id": true}',
            "line 2: id must be a whole number or a text that is not empty, got True",
        ),
        (b'{"video": "' + b"a" * MAX_LINE + b'"}', f"line 2 is longer than {MAX_LINE} bytes"),
    ],
)
def test_what_is_no_question_has_a_problem_and_the_rest_goes_on(line, problem, tmp_path):
    good = b'{"video": "a.mp4", "question": "who?"}'
    path = tmp_path / "questions.jsonl"
    path.write_bytes(b"\n".join([good, line, good]))
    first, bad, last = read_rows(path)
    assert (first.problem, last.problem) == (None, None)
    assert (first.line, bad.line, last.line) == (1, 2, 3)
    assert first.fingerprint == last.fingerprint
    assert bad.problem is not None
    assert bad.problem.startswith(problem)
    assert bad.media == ()


def test_a_bad_row_keeps_its_id(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"id": "x", "video": "a.mp4"}\n{"id": [], "video": "a.mp4"}\n{"id": "\\ud800"}\n3\n')
    assert [row.id for row in read_rows(path)] == ["x", None, None, None]


def test_fingerprints_are_those_of_the_rows_and_change_with_them(tmp_path):
    path = tmp_path / "questions.jsonl"
    long = b"a" * (3 * MAX_LINE)
    path.write_bytes(b"\n".join([b'{"a": 1}', b"", b'{"a": 2}', long + b"b", long + b"c", b" x "]))
    found = list(fingerprints(path))
    assert found == [(row.line, row.fingerprint) for row in read_rows(path)]
    assert [line for line, _ in found] == [1, 3, 4, 5, 6]
    assert len({fingerprint for _, fingerprint in found}) == 5


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(BatchError, match="no such file"):
        next(fingerprints(tmp_path / "none"))
    with pytest.raises(BatchError, match="is no file of questions"):
        next(fingerprints(tmp_path))


def test_rows_about_one_video_come_together():
    rows = [Row(line, "", media=(name,), question="?") for line, name in enumerate("abacbcad", 1)]
    assert [row.line for row in by_media(rows)] == [1, 3, 7, 2, 5, 4, 6, 8]
    assert [row.line for row in by_media(rows, window=4)] == [1, 3, 2, 4, 5, 6, 7, 8]
    assert list(by_media([])) == []
