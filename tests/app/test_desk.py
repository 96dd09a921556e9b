"""The desk: what is shown, asked and asked on, for one visitor and for two at once."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest
from PIL import Image

from framefusion.app import desk as desks
from framefusion.app.limits import VisitError
from framefusion.asking import ask as asking
from framefusion.asking.decoding.errors import VideoError
from framefusion.asking.prompts import AskError
from framefusion.asking.video import read_video
from framefusion.assets import DEMO_VIDEO, REAL_VIDEO
from framefusion.reduction.settings import FrameFusion
from tests.app.conftest import FRAMES, LIMITS

AFTER = "which large thing came after the red circle?"
STAR = "what colour is the star?"


def test_an_answer_is_that_of_ask_with_the_frames_the_times_and_the_command(desk, bundled):
    outcome = desk.ask("a", AFTER, 0.2, FRAMES, example=DEMO_VIDEO.name)
    video = read_video(DEMO_VIDEO, frames=FRAMES)
    expected = asking.ask(
        video,
        AFTER,
        model=bundled.model,
        processor=bundled.processor,
        settings=FrameFusion(cost=0.2),
        max_new_tokens=8,
        compare=True,
    )
    data = outcome.data
    assert (data.answer, data.full_answer) == (expected.text, expected.full.text)
    assert data.tokens_per_layer == list(expected.summary.tokens_per_layer)
    assert data.command == f"scenes.mp4 {AFTER} 0.2 8"
    assert len(data.frames) == FRAMES
    assert None not in (data.times.decode, data.times.processor, data.times.tower, data.times.prefill)
    assert outcome.weight_bytes == sum(weight.nbytes for weight in bundled.model.parameters())


def test_without_comparison_there_is_one_answer(desk):
    outcome = desk.ask("a", STAR, 0.3, FRAMES, compare=False, example=DEMO_VIDEO.name)
    assert outcome.data.full_answer is None
    (turn,) = desk.follow("a", AFTER)
    assert turn.full_text is None


def test_what_follows_has_the_answers_of_asking_afresh_and_a_new_question_ends_it(desk):
    desk.ask("a", STAR, 0.3, FRAMES, example=DEMO_VIDEO.name)
    afresh = desk.ask("b", AFTER, 0.3, FRAMES, example=DEMO_VIDEO.name).data
    desk.follow("a", STAR)
    turns = desk.follow("a", AFTER)
    assert [turn.question for turn in turns] == [STAR, AFTER]
    assert (turns[1].text, turns[1].full_text) == (afresh.answer, afresh.full_answer)
    assert turns[1].held < afresh.tokens_before
    with desk.visits.at("a") as visit:
        assert visit.talks[True].summary().held == afresh.tokens_before
    desk.ask("a", STAR, 0.2, FRAMES)
    assert [turn.question for turn in desk.follow("a", AFTER)] == [AFTER]


def test_history_begins_with_the_first_question(desk, monkeypatch):
    desk.ask("a", STAR, 0.3, FRAMES, example=DEMO_VIDEO.name)
    desk.follow("a", AFTER, history=True)
    with desk.visits.at("a") as visit:
        for talk in visit.talks.values():
            assert [asked for asked, _ in talk.turns] == [STAR, AFTER]
        plain = visit.turns[0].prefilled
    desk.ask("b", STAR, 0.3, FRAMES, example=DEMO_VIDEO.name)
    assert desk.follow("b", AFTER)[0].prefilled < plain


def test_an_upload_is_the_visits_own_and_goes_with_the_next_one(desk, upload):
    path = upload("street %03d.mp4")
    shown, medium = desk.show_upload("a", path, FRAMES)
    assert (shown.name, shown.bundled, len(medium)) == ("street %03d.mp4", False, FRAMES)
    assert shown.seconds == pytest.approx(8, abs=0.1)
    with desk.visits.at("a") as visit:
        (own,) = visit.folder.iterdir()
        assert own == shown.path
        assert "%" not in own.name
    assert desk.ask("a", STAR, 0.3, FRAMES).data.video_name == "street %03d.mp4"
    other = upload("other.mp4", REAL_VIDEO)
    second, _ = desk.show_upload("a", other, FRAMES)
    assert list(visit.folder.iterdir()) == [second.path]
    assert not Path(path).exists()
    with pytest.raises(VisitError, match="nothing was asked yet"):
        desk.follow("a", STAR)
    desk.show_example("a", DEMO_VIDEO.name, FRAMES)
    assert list(visit.folder.iterdir()) == []
    assert not Path(other).exists()
    desk.show_upload("a", path := upload("last.mp4"), FRAMES)
    desk.visits.leave("a")
    assert not Path(path).exists()
    assert DEMO_VIDEO.exists()


def test_two_may_upload_the_same_file(desk, upload):
    """The server puts it at the same place."""
    first = upload("same.mp4")
    own = [desk.show_upload(name, first, FRAMES)[0] for name in ("a", "b")]
    assert own[0].path != own[1].path
    Path(first).unlink()
    again = upload("same.mp4")  # by somebody whose turn has not come
    desk.visits.leave("a")
    assert Path(again).exists()
    assert desk.ask("b", STAR, 0.3, FRAMES, compare=False).data.video_name == "same.mp4"
    desk.show_upload("c", again, FRAMES)
    desk.visits.leave("c")
    assert not Path(again).exists()
    assert own[1].path.exists()


def test_what_fails_leaves_a_visit_as_it_was(make, upload, tmp_path, monkeypatch):
    desk = make(dataclasses.replace(LIMITS, seconds=15))
    desk.show_upload("a", upload("good.mp4"), FRAMES)
    desk.ask("a", STAR, 0.3, FRAMES)
    desk.follow("a", AFTER)
    with desk.visits.at("a") as visit:
        before = dataclasses.replace(visit, turns=list(visit.turns), talks=dict(visit.talks))
        files = list(visit.folder.iterdir())
    wrong = [
        lambda: desk.show_upload("a", upload("cut.mp4", DEMO_VIDEO.read_bytes()[:3000]), FRAMES),
        lambda: desk.show_upload("a", upload("long.mp4", REAL_VIDEO), FRAMES),
        lambda: desk.show_upload("a", upload("good.mp4"), 99),
        lambda: desk.show_example("a", "nothing.mp4", FRAMES),
        lambda: desk.ask("a", " ", 0.3, FRAMES),
        lambda: desk.ask("a", "x" * 1001, 0.3, FRAMES),
        lambda: desk.ask("a", STAR, 2.0, FRAMES),
        lambda: desk.ask("a", STAR, 0.3, 0),
        lambda: desk.follow("a", ""),
    ]
    for one in wrong:
        with pytest.raises((VisitError, VideoError, AskError, ValueError)):
            one()
    real = desks.Session.ask

    def fails_with_all_tokens(self, *args, **more):
        if self.settings.keep == desks.ALL_TOKENS.keep:
            raise AskError("there is not enough memory")
        return real(self, *args, **more)

    monkeypatch.setattr(desks.Session, "ask", fails_with_all_tokens)
    with pytest.raises(AskError, match="memory"):
        desk.follow("a", STAR)
    with desk.visits.at("a") as visit:
        for name in ("shown", "asked", "turns", "questions"):
            assert getattr(visit, name) == getattr(before, name), name
        assert [talk.turns for talk in visit.talks.values()] == [talk.turns for talk in before.talks.values()]
        assert all(len(talk.turns) == 2 for talk in visit.talks.values())
        assert list(visit.folder.iterdir()) == files
    assert [path.name for path in (tmp_path / "uploads").iterdir()] == []


def test_a_broken_file_has_the_librarys_sentence_without_a_path(desk, upload):
    with pytest.raises(VideoError, match=r"^cut\.mp4 contains no frame that can be decoded") as caught:
        desk.show_upload("a", upload("cut.mp4", DEMO_VIDEO.read_bytes()[:3000]), FRAMES)
    assert "/" not in str(caught.value)


def test_questions_and_visits_have_limits(make):
    desk = make(dataclasses.replace(LIMITS, questions=2, visits=1))
    desk.ask("a", STAR, 0.3, FRAMES, compare=False, example=DEMO_VIDEO.name)
    desk.follow("a", STAR)
    for ask in (lambda: desk.ask("a", STAR, 0.3, FRAMES), lambda: desk.follow("a", STAR)):
        with pytest.raises(VisitError, match="2 questions were asked on this page, which is its limit; reload"):
            ask()
    with pytest.raises(VisitError, match="1 others use this page"):
        desk.ask("b", STAR, 0.3, FRAMES, example=DEMO_VIDEO.name)


def test_a_visit_that_was_idle_has_to_choose_again(desk, upload, clock):
    shown, _ = desk.show_upload("a", upload("mine.mp4"), FRAMES)
    clock.now = LIMITS.idle + 1
    with pytest.raises(VisitError, match="deleted after a while without questions"):
        desk.ask("a", STAR, 0.3, FRAMES)
    assert not shown.path.exists()


def test_a_page_that_was_closed_meanwhile_gets_no_answer(desk, upload):
    desk.show_upload("a", upload("mine.mp4"), FRAMES)

    def leave(step):
        desk.visits.leave("a")

    with pytest.raises(VisitError, match="closed meanwhile"):
        desk.ask("a", STAR, 0.3, FRAMES, compare=False, progress=lambda s: leave(s) if s == "Answering" else None)
    assert len(desk.visits) == 0


def test_two_visitors_at_once_take_turns_and_see_their_own(desk, upload, monkeypatch):
    inside, most, real = [], [], asking.ask

    def watched(*args, **more):
        inside.append(1)
        most.append(len(inside))
        try:
            return real(*args, **more)
        finally:
            inside.pop()

    monkeypatch.setattr(desks.asking, "ask", watched)
    files = {"a": ("red.mp4", DEMO_VIDEO, AFTER), "b": ("hall.mp4", REAL_VIDEO, STAR)}
    outcomes, wrong, start = {}, [], threading.Barrier(2)

    def visit(name):
        file, source, question = files[name]
        try:
            start.wait(30)
            for _ in range(3):
                desk.show_upload(name, upload(f"{name}-{file}", source), FRAMES)
                outcomes[name] = desk.ask(name, question, 0.3, FRAMES, compare=False)
                desk.follow(name, question)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=visit, args=(name,)) for name in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert max(most) == 1
    for name, (file, _, question) in files.items():
        data = outcomes[name].data
        assert (data.video_name, data.question) == (f"{name}-{file}", question)
        with desk.visits.at(name) as own:
            assert [turn.question for turn in own.turns] == [question]
            assert [path.parent for path in own.folder.iterdir()] == [own.folder]
            assert own.shown.path.parent == own.folder
    assert outcomes["a"].data.answer == "red diamond"


def test_a_photograph_is_shown_whole(desk, tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (60, 40), "red").save(path)
    shown, medium = desk.show_upload("a", str(path), FRAMES)
    assert (shown.seconds, medium.size) == (None, (60, 40))
    assert desk.ask("a", STAR, 0.3, FRAMES, compare=False).data.frames[0].seconds is None


def test_frames_a_second_are_those_of_the_page(make):
    desk = make(fps=1.0)
    _, medium = desk.show_example("a", DEMO_VIDEO.name, None)
    assert len(medium) == 8
    desk = make(fps=4.0)
    with pytest.raises(VisitError, match="32 frames, more than the 16 allowed here"):
        desk.show_example("a", DEMO_VIDEO.name, None)
