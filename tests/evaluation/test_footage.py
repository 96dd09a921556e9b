"""Real footage without a model, on synthetic film: rectangles that walk through a scene; the networks are a stub."""

from __future__ import annotations

import builtins
import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framefusion import evaluation, log
from framefusion.errors import ArgumentError, MissingDependencyError
from framefusion.evaluation import footage, footage_people, footage_run, footage_shots, footage_summary
from framefusion.evaluation.cells import MethodError, choose
from framefusion.evaluation.data import DataError
from framefusion.evaluation.footage import Clip, Film
from framefusion.evaluation.plan import Plan
from framefusion.reduction.segmentation import DySeg
from framefusion.reduction.settings import FrameFusion
from tests.asking.test_video import write_video

HEIGHT, WIDTH = 144, 192
PERSON = (24, 10)
"""Of a walking rectangle, pixels."""
METHODS = ["random", "uniform", "fewer-frames", "low-resolution", "divprune", "evs", "segment-dpp-input"]


def scene() -> np.ndarray:
    noise = np.random.default_rng(0).integers(90, 110, (HEIGHT, WIDTH, 1), dtype=np.uint8)
    return np.broadcast_to(noise, (HEIGHT, WIDTH, 3)).copy()


def walkers(index: int) -> list[tuple[int, int]]:
    """Top left corners: one walks to the right, one down."""
    return [(40, 10 + 4 * index), (4 + 2 * index, 176)]


def walking(index: int) -> np.ndarray:
    picture = scene()
    for top, left in walkers(index):
        picture[top : top + PERSON[0], left : left + PERSON[1]] = 10
    # Low and wide: nobody.
    picture[120:126, 20 + index : 80 + index] = 255
    return picture


def shot(index: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), 40 + 80 * (index // 10), dtype=np.uint8)


class Stub:
    """Features: the mean colour of each patch, and where it is. Cuts: where the picture changes at once."""

    def __init__(self) -> None:
        self.asked = 0

    def features(self, frames: np.ndarray) -> torch.Tensor:
        self.asked += 1
        t, side = len(frames), footage.SIDE
        patches = torch.from_numpy(frames).float().reshape(t, side, 14, side, 14, 3).mean((2, 4)) - 100
        rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        places = torch.stack((rows, columns), -1).float().expand(t, -1, -1, -1)
        waves = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
        return torch.cat((patches, places), -1) @ waves

    def starts(self, frames: np.ndarray) -> list[int]:
        steps = np.abs(np.diff(frames.astype(int), axis=0)).mean((1, 2, 3))
        return (np.flatnonzero(steps > 20) + 1).tolist()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "walking.mp4", [walking(i) for i in range(36)], gop=1)
    write_video(folder / "shots.mp4", [shot(i) for i in range(30)], gop=1)
    return folder


@pytest.fixture
def clips(monkeypatch: pytest.MonkeyPatch, files: Path) -> None:
    """The pedestrians walk; everything else is three shots."""
    for name in footage.CLIPS:
        file = "walking.mp4" if name == "pedestrians" else "shots.mp4"
        monkeypatch.setitem(footage.CLIPS, name, Clip(lambda cache: files, file))
    monkeypatch.setattr(footage, "SAMPLED", {"bikes": 15, "city": 6, "concert": 30, "bunny": 8})


def evaluate(out: Path, cache: Path, methods=METHODS, budgets=(0.2, 0.1), **others):
    stub = Stub()
    plan = Plan(frames=6, methods=methods, budgets=budgets, seeds=2)
    return footage_run.evaluate_footage(out, plan, videos=2, cache=cache, tools=stub, **others), stub


# People


def test_people_are_found_where_they_walk():
    frames = np.stack([walking(i) for i in range(36)])
    found = footage_people.people(frames, footage_people.empty_scene(frames))
    assert [sum(person.frame == i for person in found) for i in range(36)] == [2] * 36
    for person in found:
        # The smear of the blur and of the closing is a few pixels.
        assert any(np.abs(np.array(person.box[:2]) - corner).max() <= 4 for corner in walkers(person.frame))
        assert person.mask.shape == (person.box[2] - person.box[0], person.box[3] - person.box[1])


@pytest.mark.parametrize(
    ("shape", "filled", "person"),
    [
        ((80, 30), 1.0, True),
        ((80, 30), 0.3, False),
        ((30, 20), 1.0, False),
        ((160, 70), 1.0, False),
        ((100, 90), 1.0, False),
        ((50, 45), 1.0, False),
        ((80, 8), 1.0, False),
    ],
)
def test_what_is_like_a_person(shape, filled, person):
    mask = np.zeros(shape, dtype=bool)
    mask[: round(shape[0] * filled)] = True
    assert footage_people.like_a_person(mask, 576) == person


def test_patches_of_a_person_are_those_with_most_of_it():
    mask = np.ones((40, 10), dtype=bool)
    person = footage_people.Person(0, (0, 8, 40, 18), mask)
    # Patches of 16 by 16: eight columns of its pixels in the first, two in the second; half as many rows in the third.
    assert footage_people.patches_of(person, (256, 256), (16, 16)) == [0, 16, 32]


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_patches_are_those_that_the_definition_names(data):
    high, wide = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    top, left = data.draw(st.integers(0, 60 - high)), data.draw(st.integers(0, 70 - wide))
    mask = np.random.default_rng(data.draw(st.integers(0, 99))).random((high, wide)) < 0.6
    mask[0, 0] = True
    count = {}
    for y in range(high):
        for x in range(wide):
            if mask[y, x]:
                # The patch whose share of the height and of the width holds the pixel.
                row = next(r for r in range(4) if (top + y) * 4 < (r + 1) * 60)
                column = next(c for c in range(5) if (left + x) * 5 < (c + 1) * 70)
                count[row * 5 + column] = count.get(row * 5 + column, 0) + 1
    person = footage_people.Person(0, (top, left, top + high, left + wide), mask)
    wanted = sorted(patch for patch, pixels in count.items() if pixels >= max(count.values()) / 2)
    assert footage_people.patches_of(person, (60, 70), (4, 5)) == wanted


def test_nobody_has_no_patches():
    nobody = footage_people.Person(0, (0, 0, 2, 2), np.zeros((2, 2), dtype=bool))
    with pytest.raises(ArgumentError, match="is empty"):
        footage_people.patches_of(nobody, (8, 8), (2, 2))


def test_the_error_about_scipy_names_the_extra(monkeypatch):
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "scipy":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r"framefusion\[parts\]"):
        footage_people.people(scene()[None], scene().astype(np.float32))


# Cuts


def test_a_shot_begins_behind_each_run():
    assert footage_shots.first_frames(np.array([0, 0, 1, 0, 1, 1, 1, 0, 0, 1], dtype=bool)) == [3, 7]
    assert footage_shots.first_frames(np.zeros(4, dtype=bool)) == []


def test_boundaries_among_sampled_frames():
    indices = [2, 7, 12, 17]
    # Before the first sample, exactly at one, two between the same ones, behind the last.
    assert footage_shots.sampled([1], indices) == []
    assert footage_shots.sampled([2], indices) == []
    assert footage_shots.sampled([7, 8, 10, 17, 18], indices) == [1, 2, 3]


positions = st.lists(st.integers(0, 12), max_size=5, unique=True).map(sorted)


@given(positions, positions, st.integers(0, 2))
@settings(max_examples=200, deadline=None)
def test_as_many_boundaries_match_as_in_the_best_pairing(found, true, tolerance):
    def pairs(order):
        return sum(abs(f - t) <= tolerance for f, t in zip(found, order, strict=False) if t is not None)

    padded = [*true, *[None] * len(found)]
    best = max(map(pairs, permutations(padded, len(found)))) if len(padded) <= 8 else None
    if best is not None:
        assert footage_shots.matched(found, true, tolerance) == best


def test_the_detector_leaves_the_process_as_it_was(monkeypatch, tmp_path):
    package = tmp_path / "package"
    (package / footage_shots.MODULE).parent.mkdir(parents=True)
    (package / footage_shots.MODULE).write_text(
        "import random, numpy, torch\n"
        "class TransNetV2:\n"
        "    def __init__(self, device):\n"
        "        random.seed(1); numpy.random.seed(1); torch.manual_seed(1)\n"
        "        torch.use_deterministic_algorithms(True, warn_only=True)\n"
        "    def predict_frames(self, frames, quiet):\n"
        "        last = torch.zeros(len(frames)); last[3] = 0.9\n"
        "        return last, last\n"
    )
    monkeypatch.setattr(footage_shots.parts, "fetch_pip", lambda *of, cache: package)
    state = torch.random.get_rng_state()
    detector = footage_shots.load_detector()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()
    assert footage_shots.boundaries(detector, np.zeros((8, 27, 48, 3), dtype=np.uint8)) == [4]


# Films


def test_a_film_is_made_once(clips, tmp_path):
    stub = Stub()
    first, second = (footage.film("pedestrians", 12, tmp_path, stub) for _ in range(2))
    assert stub.asked == 1
    assert torch.equal(first.features, second.features)
    assert first.features.shape == (12, 16, 16, 8)
    assert first.people == second.people
    assert len(first.people) == 24


def test_the_people_lie_on_patches_that_look_unlike_the_scene(clips, tmp_path):
    film = footage.film("pedestrians", 12, tmp_path, Stub())
    typical = film.features.median(dim=0).values.flatten(0, 1)
    for frame, patches in film.people:
        distance = (film.features[frame].flatten(0, 1) - typical).norm(dim=1)
        assert distance[list(patches)].min() > 3 * distance.median()


def test_several_videos_of_one_clip(clips, tmp_path):
    whole = footage.film("pedestrians", 12, tmp_path, Stub())
    films = footage.pedestrians(3, 4, tmp_path, Stub())
    assert [len(film) for film in films] == [4, 4, 4]
    assert torch.equal(films[1].features[2], whole.features[7])
    assert [p for f, p in films[1].people if f == 2] == [p for f, p in whole.people if f == 7]
    with pytest.raises(DataError, match="ask for fewer"):
        footage.pedestrians(10, 10, tmp_path, Stub())


def test_cuts_are_known_among_the_sampled_frames(clips, tmp_path):
    films = {film.name: film for film in footage.cut_films(tmp_path, Stub())}
    assert films["bikes"].starts == (5, 10)
    assert films["concert"].starts == (10, 20)
    assert "bunny" not in films  # known to be one shot
    assert footage.JOINED in films


def test_joined_films_are_cut_at_their_joints_and_where_they_were():
    one = Film("one", torch.arange(8.0).reshape(8, 1, 1, 1), (3,))
    two = Film("two", torch.arange(10.0, 14.0).reshape(4, 1, 1, 1))
    film = footage.joined([one, two])
    assert film.features.flatten().tolist() == [0, 1, 10, 2, 3, 11, 4, 5, 12, 6, 7, 13]
    assert film.starts == (2, 3, 4, 5, 6, 8, 9, 11)
    with pytest.raises(ArgumentError, match="at least 4 frames"):
        footage.joined([one, two.part(slice(0, 3))])


def test_a_part_keeps_what_is_known():
    people = ((0, (1, 2)), (4, (3,)))
    film = Film("any", torch.zeros(6, 2, 2, 1), (2, 4), people)
    part = film.part(slice(2, 6))
    assert (part.starts, part.people) == ((2,), ((2, (3,)),))
    assert film.part(slice(0, None, 2)).people == ((0, (1, 2)), (2, (3,)))
    assert film.part(slice(0, None, 2)).starts == ()


def test_a_package_without_the_clip_is_said_so(tmp_path):
    with pytest.raises(DataError, match=r"has no gone\.mp4"):
        Clip(lambda cache: tmp_path, "gone.mp4").path()


# Rules


def test_rules_that_need_a_model_are_left_out():
    cells, missing = footage_run.plan(choose(["published", "ours"]), [0.2], 6, 1)
    run = {cell.method for cell in cells}
    assert {"divprune", "evs", "segment-dpp-input"} <= run
    reasons = {lost.method: lost.reason for lost in missing}
    assert "question" in reasons["cdpruner-input"]
    assert "vision encoder" in reasons["holitom"]
    assert {"fastv", "cdpruner", "framefusion", "segment-dpp"} <= reasons.keys()
    assert not run & reasons.keys()


def test_methods_that_do_the_same_run_once():
    cells, missing = footage_run.plan(choose(["segment-dpp-pyramid", "segment-dpp-pyramid:last"]), [0.2], 6, 1)
    assert [cell.method for cell in cells] == ["segment-dpp-pyramid"]
    assert missing[0].reason == "the same as segment-dpp-pyramid where there is no model"


@pytest.mark.parametrize("method", [*METHODS, "holitom:density", "fastvid:density", "vidcom2", "segment-dpp-pyramid"])
def test_what_a_rule_keeps(method):
    torch.manual_seed(0)
    film = Film("any", torch.randn(8, 4, 4, 12))
    ((cell,), _) = footage_run.plan([choose([method])[1]], [0.25], 8, 1)
    kept, traced = footage_run.reduced(film, cell)
    assert kept.sum() == 32
    assert (kept <= traced).all()
    if cell.settings.dropped == "drop" and method in METHODS and method != "low-resolution":
        assert torch.equal(kept, traced)


def test_fewer_frames_keep_all_of_the_middles():
    ((cell,), _) = footage_run.plan([choose(["fewer-frames"])[1]], [0.25], 8, 1)
    kept, _ = footage_run.reduced(Film("any", torch.zeros(8, 2, 2, 3)), cell)
    assert kept.reshape(8, 4).all(1).tolist() == [i in (2, 6) for i in range(8)]


def test_a_person_counts_by_the_tokens_that_stay():
    many = tuple(range(0, 256, 3))
    film = Film("any", torch.randn(2, 16, 16, 4), people=((0, (0, 1, 5)), (1, (255,)), (1, many)))
    ((cell,), _) = footage_run.plan([choose(["random"])[1]], [0.5], 2, 1)
    kept = footage_run.reduced(film, cell)[0].reshape(2, 256)
    counts = [[0, 3, int(kept[0, [0, 1, 5]].sum())], [1, 1, int(kept[1, 255])], [1, 86, int(kept[1, list(many)].sum())]]
    assert [person[:3] for person in footage_run.measured(film, cell)["people"]] == counts
    assert counts[2][2] != kept[0, list(many)].sum()  # the other frame


def test_cuts_of_a_film_whose_shots_have_nothing_in_common():
    torch.manual_seed(0)
    shots = torch.randn(3, 1, 4, 4, 32).expand(3, 5, 4, 4, 32).reshape(15, 4, 4, 32)
    film = Film("any", shots + 0.01 * torch.randn(15, 4, 4, 32), (5, 10))
    for one in footage_run.segmentations():
        if not isinstance(one.segmentation, DySeg):
            assert footage_run.cuts(film, one)["found"] == [5, 10]
    dyseg = footage_run.cuts(film, FrameFusion(keep={0: 0.5}, segmentation="dyseg"))
    assert len(dyseg["found"]) == 7  # at least eight segments, whatever the film
    assert dyseg["matched"] == 2


# The whole run


def test_an_evaluation_from_the_command_to_the_tables(clips, tmp_path):
    summary, _ = evaluate(tmp_path / "out", tmp_path / "cache", command="framefusion eval --data footage")
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["people"] == 24
    assert summary["moments"] == 6
    found = {(entry["method"], entry["budget"]): entry for entry in summary["methods"]}
    unreached = {("fewer-frames", 0.1)}  # less than one of six frames
    assert found.keys() == {(name, budget) for name in METHODS for budget in (0.2, 0.1)} - unreached
    assert {(lost["method"], lost["budget"]) for lost in summary["left_out"]} == unreached
    assert found["low-resolution", 0.1]["traced"]["value"] == 1.0
    assert found["random", 0.2]["vs_random"] is None
    page = (tmp_path / "out" / "footage.md").read_text()
    assert "framefusion eval --data footage" in page
    assert "DivPrune" in page
    rows = log.read(tmp_path / "out" / "rows.jsonl")
    people = [person for r in rows if (r["method"], r["budget"]) == ("random", 0.2) for person in r["people"]]
    assert len(people) == 2 * 24  # seeds
    share = sum(kept > 0 for _, _, kept, _ in people) / len(people)
    assert found["random", 0.2]["kept"]["value"] == pytest.approx(share)
    assert len(rows) == 2 * (2 * (len(METHODS) + 1) - 1)  # videos, budgets, a second seed of one method
    shots = {(row["segmentation"], row["film"]): row for row in summary["shots"]}
    assert shots["frame-similarity", "bikes"]["true"] == 2


def test_what_was_measured_is_not_measured_again(clips, tmp_path, monkeypatch):
    first, _ = evaluate(tmp_path / "out", tmp_path / "cache", ["uniform", "evs"])
    path = tmp_path / "out" / "rows.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]) + lines[-2][:-10])  # killed while it wrote
    measured = []
    real = footage_run.measured
    monkeypatch.setattr(footage_run, "measured", lambda *of: measured.append(of) or real(*of))
    monkeypatch.setattr(footage_run, "cuts", lambda *of: pytest.fail("cuts are known"))
    again, stub = evaluate(tmp_path / "out", tmp_path / "cache", ["uniform", "evs"])
    assert len(measured) == 2
    assert stub.asked == 0

    def shares(summary):
        return [(e["method"], e["budget"], e["kept"], e["person_tokens"]) for e in summary["methods"]]

    assert sorted(shares(again), key=str) == sorted(shares(first), key=str)


def test_another_number_of_videos_is_another_evaluation(clips, tmp_path):
    evaluate(tmp_path / "out", tmp_path / "cache", ["uniform"], [0.1])
    with pytest.raises(evaluation.LogError, match="another data"):
        footage_run.evaluate_footage(
            tmp_path / "out", Plan(frames=6, methods=["uniform"]), videos=3, cache=tmp_path / "cache", tools=Stub()
        )


def test_nothing_to_run_is_an_error(tmp_path):
    with pytest.raises(MethodError, match="runs without a model"):
        footage_run.evaluate_footage(tmp_path, Plan(frames=6, methods=["fastv"]), cache=tmp_path)


# Summing up


def row(method, seed, video, people, budget=0.1):
    about = {"cell": f"{method}/{seed}", "method": method, "title": method, "kind": "control", "budget": budget}
    return {**about, "seed": seed, "video": video, "tokens": 100, "kept": 10, "milliseconds": 1.0, "people": people}


def test_random_is_averaged_over_its_seeds_and_paired_by_person():
    rows = [
        row("random", 0, 0, [[0, 2, 1, 1], [1, 2, 0, 0]]),
        row("random", 1, 0, [[0, 2, 0, 0], [1, 2, 0, 0]]),
        row("rule", 0, 0, [[0, 2, 2, 2], [1, 2, 0, 1]]),
    ]
    summary = footage_summary.summarise(rows, [], [])
    random, rule = summary["methods"]
    assert random["kept"]["value"] == 0.25
    assert random["person_tokens"] == 0.125
    assert (rule["kept"]["value"], rule["traced"]["value"], rule["person_tokens"]) == (0.5, 1.0, 0.5)
    assert rule["vs_random"]["value"] == 0.25
    assert rule["kept"]["low"] == 0.0
    assert rule["kept"]["high"] == 1.0


def test_moments_of_all_videos_go_together():
    rows = [row("rule", 0, video, [[0, 1, 1, 1], [1, 1, 0, 0]]) for video in range(5)]
    wide = footage_summary.summarise(rows, [], [])["methods"][0]["kept"]
    assert (wide["low"], wide["high"]) == (0.0, 1.0)  # two moments, not ten people


def test_precision_and_recall():
    about = {"segmentation": "dp", "threshold": 0.8, "frames": 10}
    shots = [
        {**about, "film": "a", "found": [1, 5, 9], "true": [1, 5], "matched": 2},
        {**about, "film": "b", "found": [], "true": [4, 8], "matched": 0},
        {**about, "film": "c", "found": [], "true": [], "matched": 0},
    ]
    a, b, c = footage_summary.summarise([row("rule", 0, 0, [[0, 1, 1, 1]])], shots, [])["shots"]
    assert (a["precision"], a["recall"], a["f1"]) == (2 / 3, 1.0, 0.8)
    assert (b["precision"], b["recall"], b["f1"]) == (None, 0.0, 0.0)
    assert (c["precision"], c["recall"], c["f1"]) == (None, None, None)


def test_a_film_without_people_has_no_shares():
    summary = footage_summary.summarise([row("rule", 0, 0, [])], [], [])
    assert summary["people"] == 0
    assert "kept" not in summary["methods"][0]


# The committed results


def test_the_page_of_the_docs_is_up_to_date():
    """Else: ``framefusion eval --data footage`` as the page says, and copy ``summary.json`` and ``footage.md``."""
    docs = Path(__file__).resolve().parents[2] / "docs"
    summary = json.loads((docs / "data" / "footage.json").read_text(encoding="utf-8"))
    assert footage_summary.page(summary) == (docs / "results" / "footage.md").read_text(encoding="utf-8")
