"""VideoNeedle with photographs: pictures, scenes, questions; on made-up pictures, without network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from framefusion.errors import ArgumentError
from framefusion.evaluation.needle.footage import Clip
from framefusion.evaluation.needle.objects import Role
from framefusion.evaluation.needle.photo_questions import PHOTO_KINDS, ask, possible, sample_questions, vocabulary
from framefusion.evaluation.needle.photo_scenes import PHOTO_GRID, PHOTO_SIZE, render_scene, sample_scene, sample_video
from framefusion.evaluation.needle.photo_set import load_photos
from framefusion.evaluation.needle.photos import NAMES, PICTURES, Cutout, load_picture, paste, pictures
from framefusion.evaluation.needle.questions import ORDINALS, WAYS, Question
from framefusion.evaluation.needle.scenes import Video
from tests.evaluation.needle.made_stamps import make_stamps

GREY = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_stamps(tmp_path_factory.mktemp("stamps"))


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [Clip("grey", np.full((8, 60, 80, 3), GREY, dtype=np.uint8), 8.0)]


def cutout(**changes: object) -> Cutout:
    given = {"role": "large", "color": "", "kind": "apple", "rgb": (0.0, 0.0, 0.0), "size": 0.5, "rotation": 0.0}
    given |= {"start": (0.5, 0.5), "end": (0.5, 0.5), "picture": "food/fruit/apple_red"}
    return Cutout(**(given | changes))  # type: ignore[arg-type]


def videos(count: int, split: str = "test") -> Sequence[Video]:
    return [
        sample_video(np.random.default_rng(seed), frames=16, footage="fast" if seed % 2 else "static", split=split)  # type: ignore[arg-type]
        for seed in range(count)
    ]


def test_no_picture_of_the_test_split_is_trained_on() -> None:
    trained = {picture for name in NAMES for picture in pictures(name, "train")}
    own = {picture for _, test in PICTURES.values() for picture in test}
    assert own
    assert not own & trained
    assert all(len(train) + len(test) == len({*train, *test}) for train, test in PICTURES.values())
    assert all(set(pictures(name, "test")) == set(test or train) for name, (train, test) in PICTURES.items())
    assert len(NAMES) >= 20


def test_a_picture_is_cut_to_what_is_visible(folder: Path) -> None:
    assert load_picture(folder, "food/fruit/apple_red").size == (50, 30)


def test_a_folder_without_the_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"no food/fruit/apple_red\.png"):
        load_picture(tmp_path, "food/fruit/apple_red")


@pytest.mark.parametrize("rotation", [0.0, 0.7])
@pytest.mark.parametrize("at", [(0.5, 0.5), (0.02, 0.9), (0.98, 0.1)])
def test_coverage_says_which_pixels_change(folder: Path, at: tuple[float, float], rotation: float) -> None:
    frame = np.full((PHOTO_SIZE, PHOTO_SIZE, 3), GREY, dtype=np.float32)
    alpha = paste(frame, cutout(start=at, end=at, rotation=rotation), 0.0, folder)
    changed = np.abs(frame - GREY).max(axis=-1) > 1e-3
    assert np.array_equal(changed, alpha > 0)
    assert alpha.min() >= 0
    assert alpha.max() <= 1


def test_a_cutout_is_as_large_and_where_it_should_be(folder: Path) -> None:
    frame = np.zeros((PHOTO_SIZE, PHOTO_SIZE, 3), dtype=np.float32)
    alpha = paste(frame, cutout(start=(0.25, 0.5), end=(0.75, 0.5), size=0.4), 1.0, folder)
    rows, columns = np.nonzero(alpha > 0.5)
    assert np.ptp(columns) + 1 == pytest.approx(0.4 * PHOTO_SIZE, abs=2)
    assert (columns.mean() + 0.5) / PHOTO_SIZE == pytest.approx(0.75, abs=0.01)
    assert (rows.mean() + 0.5) / PHOTO_SIZE == pytest.approx(0.5, abs=0.01)


def test_a_mirrored_cutout_is_the_other_way_round(folder: Path, tmp_path: Path) -> None:
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 255))
    image.paste((0, 255, 0, 255), (0, 0, 10, 20))
    path = tmp_path / "food/fruit/apple_red.png"
    path.parent.mkdir(parents=True)
    image.save(path)
    sides = []
    for mirrored in (False, True):
        frame = np.zeros((PHOTO_SIZE, PHOTO_SIZE, 3), dtype=np.float32)
        paste(frame, cutout(mirrored=mirrored), 0.0, tmp_path)
        sides.append((frame[84, 60].argmax(), frame[84, 108].argmax()))
    assert sides == [(1, 0), (0, 1)]


def test_coverage_of_a_scene_is_the_share_of_each_cell(folder: Path, clips: list[Clip]) -> None:
    roles: list[Role] = ["large", "small", "needle"]
    for seed in range(5):
        scene = sample_scene(np.random.default_rng(seed), roles, ["apple", "cow", "owl"], "static", "train")
        rendered = render_scene(scene, 4, clips, folder)
        assert rendered.frames.shape == (4, PHOTO_SIZE, PHOTO_SIZE, 3)
        assert rendered.frames.dtype == np.uint8
        cell = PHOTO_SIZE // PHOTO_GRID
        for number, thing in enumerate(scene.things):
            for frame in range(4):
                alpha = np.zeros((PHOTO_SIZE, PHOTO_SIZE), dtype=np.float32)
                if thing.moment < 0 or frame == min(int(thing.moment * 4), 3):
                    alpha = paste(np.zeros((PHOTO_SIZE, PHOTO_SIZE, 3), np.float32), thing, frame / 3, folder)  # type: ignore[arg-type]
                for row in range(PHOTO_GRID):
                    for column in range(PHOTO_GRID):
                        part = alpha[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
                        assert rendered.coverage[number, frame, row, column] == pytest.approx(part.mean(), abs=1e-5)


def test_a_name_is_shown_once_in_a_video() -> None:
    for video in videos(40):
        names = [thing.kind for _, thing in video.things]
        assert len(names) == len(set(names))
        assert set(names) <= set(NAMES)
        assert all(sum(thing.role == "small" for thing in scene.things) <= 1 for scene in video.scenes)


def truth(video: Video, question: Question) -> str:
    """The answer, read off the words of the question and the description of the video alone."""
    words = re.findall(r"[a-z]+", question.text)
    where = {thing.kind: (index, thing) for index, thing in video.things}
    (named,) = [word for word in words if word in NAMES] or [None]
    ordinals = [word for word in words if word in ORDINALS]
    if named is None:
        things = video.scenes[ORDINALS.index(ordinals[0])].things
        (found,) = (thing.kind for thing in things if thing.role == ("small" if "small" in words else "large"))
        return found
    index, thing = where[named]
    if "scene" in words:
        return ORDINALS[index]
    if "move" in words:
        return str(thing.direction)
    return video.scenes[index + (1 if {"after", "follows"} & set(words) else -1)].large.kind


def test_answers_follow_from_the_words_alone() -> None:
    rng, seen = np.random.default_rng(1), set()
    for video in videos(60):
        for question in sample_questions(rng, video, 18):
            assert question.answer == truth(video, question), question.text
            assert question.answer in {*NAMES, *ORDINALS, *WAYS}
            assert set(re.findall(r"[a-z]+", question.text)) | {question.answer} <= set(vocabulary())
            for s, t in question.evidence:
                assert video.scenes[s].things[t]
            seen.add(question.kind)
    assert seen == set(PHOTO_KINDS)


def test_a_needle_question_is_about_what_one_frame_shows() -> None:
    rng = np.random.default_rng(2)
    for video in videos(30):
        options = possible(video)
        for kind in ("needle", "scene"):
            question = ask(rng, video, kind, options)
            if question is not None:
                (place,) = question.evidence
                thing = video.scenes[place[0]].things[place[1]]
                assert (thing.moment >= 0) == (kind == "needle")


def test_a_name_that_two_things_have_is_not_asked_about() -> None:
    video = videos(1)[0]
    twice = Video((video.scenes[0], video.scenes[0], *video.scenes[2:]), video.lengths)
    shown = {thing.kind for thing in video.scenes[0].things}
    rng = np.random.default_rng(3)
    for question in sample_questions(rng, twice, 60):
        assert question.about is None or question.about.kind not in shown


def test_guessing_the_most_frequent_answer_does_not_pay(folder: Path, clips: list[Clip]) -> None:
    rng = np.random.default_rng(4)
    answers: dict[str, list[str]] = {kind: [] for kind in PHOTO_KINDS}
    for video in videos(150):
        for question in sample_questions(rng, video, 12):
            answers[question.kind].append(question.answer)
    for kind, given in answers.items():
        assert max(given.count(answer) for answer in set(given)) < 0.42 * len(given), kind


def test_the_same_seed_gives_the_same_set(folder: Path, clips: list[Clip]) -> None:
    first, again = (load_photos(folder, 8, 2, seed=5, clips=clips) for _ in range(2))
    other = load_photos(folder, 8, 2, seed=6, clips=clips)
    for one, two, three in zip(first, again, other, strict=True):
        assert one.questions == two.questions
        assert np.array_equal(one.frames, two.frames)
        assert one.questions != three.questions
    assert [video.footage for video in first] == ["static", "fast"]


@pytest.mark.parametrize(
    "wrong", [{"frames": 7}, {"videos": 0}, {"questions": 0}, {"kinds": ()}, {"kinds": ("count",)}]
)
def test_bad_numbers_and_kinds_are_named(folder: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        load_photos(folder, **wrong)  # type: ignore[arg-type]
