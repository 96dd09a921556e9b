"""Data sets: a user's JSON lines with errors that name the line, and VideoNeedle's adapter."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from framefusion.assets import DEMO_VIDEO, REAL_VIDEO
from framefusion.evaluation import DataError, JsonLines, VideoNeedle, needle, videoneedle
from framefusion.evaluation.data import Question, WithFiles


@pytest.fixture
def file(tmp_path):
    shutil.copy(DEMO_VIDEO, tmp_path / "a.mp4")
    shutil.copy(REAL_VIDEO, tmp_path / "b.mp4")

    def write(*entries, name="q.jsonl"):
        lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path / name

    return write


GOOD = {"video": "a.mp4", "question": "what?", "answer": "green star"}


def test_questions_of_a_file(file):
    path = file(GOOD, "", {"video": "b.mp4", "question": "who?"}, {**GOOD, "kind": "order", "tags": ["fast", "x"]})
    first, third, second = JsonLines(path).questions(8)
    assert first == Question("line 1", "a.mp4", "what?", "green star", "question", ())
    assert third == Question("line 4", "a.mp4", "what?", "green star", "order", ("fast", "x"))  # one video, together
    assert second == Question("line 3", "b.mp4", "who?", None, "question", ())
    assert JsonLines(path).name == "q.jsonl"
    assert len({q.fingerprint for q in (first, second, third)}) == 3
    assert [q.id for q in JsonLines(path, videos=1).questions(8)] == ["line 1", "line 4"]


def test_two_spellings_of_a_path_are_one_video(file):
    path = file(GOOD, {**GOOD, "video": "./a.mp4"})
    assert [q.video for q in JsonLines(path).questions(8)] == ["a.mp4", "a.mp4"]


def test_frames_of_a_file(file):
    data = JsonLines(file(GOOD))
    video = data.video("a.mp4", 8, 3)
    assert video.frames.shape[0] == 3
    assert np.array_equal(video.frames, data.video("a.mp4", 8, 3).frames)


def test_frames_of_a_file_at_another_size(file):
    data = JsonLines(file(GOOD))
    assert isinstance(data, WithFiles)
    assert not isinstance(VideoNeedle(videos=1), WithFiles)
    asked = []

    def fit(*given):
        asked.append(given)
        return lambda frame: frame[::2, ::2]

    whole, fitted = data.video("a.mp4", 8, 3), data.fitted("a.mp4", 3, fit)
    assert np.array_equal(fitted.frames, whole.frames[:, ::2, ::2])
    assert asked == [(3, whole.height, whole.width)]


def test_a_byte_order_mark_and_windows_line_ends_are_no_error(file, tmp_path):
    path = file(GOOD)
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n")
    assert len(JsonLines(path).questions(8)) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2 is no JSON: .* at column"),
        ("[1]", r'line 2 must be an object such as \{"video"'),
        ({"question": "what?"}, "line 2 has no video"),
        ({"video": "a.mp4"}, "line 2 has no question"),
        ({**GOOD, "question": " "}, "line 2: question must be a text that is not empty, got ' '"),
        ({**GOOD, "answer": 3}, "line 2: answer must be a text that is not empty, got 3"),
        ({**GOOD, "answer": "?!"}, "line 2: answer '\\?!' is nothing but punctuation"),
        ({**GOOD, "anwser": "x"}, "line 2 has an unknown key 'anwser'; known are video, question, answer"),
        ({**GOOD, "tags": "fast"}, "line 2: tags must be a list of texts, got 'fast'"),
        ({**GOOD, "video": "gone.mp4"}, r"line 2: no such file: .*gone\.mp4"),
        ({**GOOD, "video": "a.mp4/b.mp4"}, "line 2: .* cannot be opened"),
        ({**GOOD, "video": ["a.mp4", "b.mp4"]}, "line 2 has 2 videos or photographs; an evaluation asks about one at"),
    ],
)
def test_errors_name_the_line(file, line, message):
    with pytest.raises(DataError, match=message):
        JsonLines(file(GOOD, line)).questions(8)


def test_errors_of_the_file(file, tmp_path):
    with pytest.raises(DataError, match=r"no such file: .*gone\.jsonl"):
        JsonLines(tmp_path / "gone.jsonl").questions(8)
    with pytest.raises(DataError, match="is no file with lines"):
        JsonLines(tmp_path).questions(8)
    with pytest.raises(DataError, match="holds no questions"):
        JsonLines(file("", "  ")).questions(8)
    (tmp_path / "latin.jsonl").write_bytes(b'{"video": "\xe4"}\n')
    with pytest.raises(DataError, match="cannot be read as UTF-8 text"):
        JsonLines(tmp_path / "latin.jsonl").questions(8)
    path = file({**GOOD, "video": "q.jsonl"})
    with pytest.raises(DataError, match=r"q\.jsonl: .*not a video|is a text file"):
        JsonLines(path).video("q.jsonl", 8, 8)


class Generated:
    """As :mod:`framefusion.evaluation.needle` makes them."""

    def __init__(self, number, frames, seed):
        self.id = f"test-{number}"
        self.footage = ("static", "fast")[number % 2]
        self.frames = np.random.default_rng([seed, number]).integers(0, 255, (frames, 8, 8, 3), dtype=np.uint8)
        self.questions = [SimpleNamespace(text=f"{kind}?", answer="red", kind=kind) for kind in ("large", "count")]


@pytest.fixture
def generated(monkeypatch):
    def load(frames, videos, seed=0, kinds=(), split="train"):
        assert split == "test"
        assert kinds == needle.ASKED_KINDS or kinds == ("count",)
        if frames == 3:
            raise ImportError("digits need scikit-learn: pip install 'framefusion[eval]'")
        if frames < 4:
            raise ValueError("frames must be at least 4, got 2.")
        return [Generated(number, frames, seed) for number in range(videos)]

    monkeypatch.setattr("framefusion.evaluation.needle.load", load, raising=False)
    videoneedle._load.cache_clear()
    yield
    videoneedle._load.cache_clear()


def test_needle_shows_fewer_frames_evenly(generated):
    data = VideoNeedle(videos=2, seed=1)
    questions = data.questions(8)
    assert len({question.video for question in questions}) == 2
    assert len({question.id for question in questions}) == len(questions)
    assert {tag for question in questions for tag in question.tags} <= {"static", "fast"}
    assert all(question.answer for question in questions)
    video = questions[0].video
    whole, fewer, one = (data.video(video, 8, shown) for shown in (8, 4, 1))
    assert whole.indices.tolist() == list(range(8))
    assert fewer.indices.tolist() == [1, 3, 5, 7]
    assert one.indices.tolist() == [4]
    assert np.array_equal(fewer.frames, whole.frames[[1, 3, 5, 7]])
    assert "videos" not in data.name
    assert [question.kind for question in questions] == ["large", "count"] * 2
    with pytest.raises(DataError, match="frames must be at least 4"):
        data.questions(2)
    with pytest.raises(DataError, match="digits need scikit-learn"):
        data.questions(3)
    counting = VideoNeedle(videos=2, seed=1, kinds=("count",))
    assert counting.questions(8)
    assert counting.name == "VideoNeedle (test split, seed 1, count)"
    assert VideoNeedle(videos=9, seed=1).name == data.name != VideoNeedle(videos=2, seed=2).name
