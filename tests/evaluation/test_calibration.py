"""Bounds that keep their promise, the fixed sequence, and a calibration from beginning to end."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import framefusion
from framefusion import FrameFusion
from framefusion.asking.loading import load
from framefusion.asking.probe import Probed, Tried
from framefusion.asking.provenance import describe
from framefusion.evaluation import Generating, MethodError
from framefusion.evaluation.calibration import DEFAULT_METHOD, CalibrationError, calibrate
from framefusion.evaluation.calibration import run as calibration_run
from framefusion.evaluation.calibration.bounds import STAKES, WEIGHTS, Sample, smallest_sample
from framefusion.evaluation.calibration.search import fixed_sequence, smallest
from framefusion.evaluation.methods import METHODS
from framefusion.hf.fitted import recall
from framefusion.reduction.schedule import STAGES
from tests import tiny_checkpoints
from tests.evaluation.fake import Noise

# -- bounds ------------------------------------------------------------------------------------------------------------

shares = st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 1)), min_size=1, max_size=40)


def binary(right, n):
    return Sample(np.array([1.0] * right + [0.0] * (n - right)), np.ones(n), binary=True)


def textbook_capital(kept, reference, floor):
    """The gambler of the docstring, one bet after the other."""
    total = 0.0
    for stake, weight in zip(STAKES, WEIGHTS, strict=True):
        capital = 1.0
        for r, f in zip(kept, reference, strict=True):
            capital *= 1 + stake * (r / floor - f)
        total += weight * capital
    return total


@settings(max_examples=60, deadline=None)
@given(shares, st.floats(0.05, 0.99))
def test_betting_is_the_textbook_game(pairs, floor):
    kept, reference = np.array(pairs).T
    capital = textbook_capital(kept, reference, floor)
    found = Sample(kept, reference, binary=False).p_value(floor)
    assert found == pytest.approx(1 if capital <= 1 else 1 / capital, rel=1e-6)
    mirrored = Sample(kept[::-1], reference[::-1], binary=False)
    assert mirrored.p_value(floor) == pytest.approx(found, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.data())
def test_binary_units_have_the_exact_tail(n, data):
    right, floor = data.draw(st.integers(0, n)), Fraction(data.draw(st.integers(1, 99)), 100)
    exact = sum(math.comb(n, k) * floor**k * (1 - floor) ** (n - k) for k in range(right, n + 1))
    assert binary(right, n).p_value(float(floor)) == pytest.approx(float(exact), rel=1e-9, abs=1e-300)


def test_the_mixture_is_a_fair_game():
    assert WEIGHTS.sum() == pytest.approx(1)
    assert (WEIGHTS > 0).all()
    assert STAKES[0] == 1
    assert ((STAKES > 0) & (STAKES <= 1)).all()


@settings(max_examples=60, deadline=None)
@given(shares, st.floats(0.5, 0.999))
def test_the_bound_is_where_the_test_turns(pairs, confidence):
    kept, reference = np.array(pairs).T
    for sample in (Sample(kept, reference, binary=False), binary(int(kept.round().sum()), len(kept))):
        lower = sample.lower(confidence)
        assert 0 <= lower <= max(sample.estimate, 0)
        if lower > 1e-9:
            assert sample.p_value(lower) <= 1 - confidence
        if sample.estimate > 0:
            assert sample.p_value(min(lower * (1 + 1e-6) + 1e-9, sample.estimate)) > 1 - confidence


@settings(max_examples=40, deadline=None)
@given(shares, st.floats(0.05, 0.9), st.floats(0.001, 0.09))
def test_a_higher_floor_is_never_easier(pairs, floor, more):
    kept, reference = np.array(pairs).T
    for sample in (Sample(kept, reference, binary=False), binary(int(kept.round().sum()), len(kept))):
        assert sample.p_value(floor + more) >= sample.p_value(floor) * (1 - 1e-9)


def test_nothing_right_proves_nothing():
    assert Sample(np.zeros(5), np.ones(5), binary=False).lower(0.95) == 0
    assert binary(0, 5).lower(0.95) == 0
    with pytest.raises(ValueError, match="reference is 0 everywhere"):
        _ = Sample(np.ones(5), np.zeros(5), binary=False).estimate


@pytest.mark.parametrize("floor", [0.5, 0.8, 0.9, 0.95, 0.98, 0.99])
@pytest.mark.parametrize("kind", [True, False])
def test_the_smallest_sample_is_the_smallest(floor, kind):
    n = smallest_sample(floor, 0.95, binary=kind)
    assert Sample.perfect(n, binary=kind).lower(0.95) >= floor
    assert Sample.perfect(n - 1, binary=kind).lower(0.95) < floor
    if kind:
        assert n == math.ceil(math.log(0.05) / math.log(floor))


def test_149_unchanged_videos_prove_98_percent():
    """The figures of the docs."""
    assert [smallest_sample(f, 0.95, binary=True) for f in (0.9, 0.95, 0.98, 0.99)] == [29, 59, 149, 299]
    assert [smallest_sample(f, 0.95, binary=False) for f in (0.9, 0.95, 0.98, 0.99)] == [35, 72, 181, 364]


def test_a_floor_next_to_one_is_counted_without_running_out_of_memory():
    assert smallest_sample(1 - 1e-9, 0.95, binary=True) == pytest.approx(math.log(20) * 1e9, rel=1e-6)
    assert smallest_sample(1 - 1e-9, 0.95, binary=False) > math.log(20) * 1e9


def test_needed_tells_how_many_more():
    sample = Sample.of([1] * 39 + [0.5], [1] * 40, range(40), labelled=True)
    needed = sample.needed(0.9, 0.95)
    assert needed is not None
    assert sample.lower(0.95) < 0.9
    assert 40 < needed < 80
    times = needed / 40
    assert sample.p_value(0.9, times) <= 0.05 < sample.p_value(0.9, times * 0.97)
    assert sample.needed(0.99, 0.95) is None, "below the floor no number helps"
    assert binary(986, 1000).needed(0.9859, 0.95) is None, "a million would not tell"
    assert 19 < binary(19, 20).needed(0.9, 0.95) < 200


def test_of_averages_over_units():
    sample = Sample.of([1, 0, 1, 1], [1, 1, 0, 1], ["a", "a", "b", "c"], labelled=True)
    assert sample.kept.tolist() == [0.5, 1, 1]
    assert sample.reference.tolist() == [1, 0, 1]
    assert sample.estimate == pytest.approx(2.5 / 2)
    assert not sample.binary
    assert Sample.of([1, 0], [1, 1], ["a", "b"], labelled=False).binary
    assert not Sample.of([1, 0], [1, 1], ["a", "a"], labelled=False).binary
    assert not Sample.of([1, 0], [1, 1], ["a", "b"], labelled=True).binary
    with pytest.raises(ValueError, match="one value for each question"):
        Sample.of([1], [1, 1], ["a", "b"], labelled=True)
    with pytest.raises(ValueError, match="at least one"):
        Sample.of([], [], [], labelled=True)


# -- does it keep its promise? -----------------------------------------------------------------------------------------


def draw(rng, videos, each, right, lost, gained, together):
    """Answers of one data set: with probability ``together`` all questions of a video share their fate."""
    fate = rng.random((videos, each))
    fate = np.where(rng.random((videos, 1)) < together, fate[:, :1], fate)
    reference = (fate < right).astype(float)
    kept = ((fate < right - lost) | ((fate >= right) & (fate < right + gained))).astype(float)
    return kept.mean(1), reference.mean(1)


NULLS = {
    # videos, questions of each, right with all tokens, lost, gained, dependence; the floor is met exactly
    "agreement, one question": (60, 1, 1.0, 0.1, 0.0, 0.0, 0.9),
    "agreement, four questions": (40, 4, 1.0, 0.1, 0.0, 0.7, 0.9),
    "labels, one question": (80, 1, 0.8, 0.12, 0.04, 0.0, 0.9),
    "labels, five questions": (60, 5, 0.6, 0.08, 0.02, 0.5, 0.9),
    "few and rare": (30, 1, 1.0, 0.05, 0.0, 0.0, 0.95),
    "strict": (200, 2, 0.9, 0.018, 0.0, 0.3, 0.98),
}
RUNS = 2000


@pytest.mark.parametrize("name", NULLS)
def test_a_floor_that_is_just_missed_is_proven_in_at_most_five_percent(name):
    *how, floor = NULLS[name]
    rng = np.random.default_rng(0)
    labelled = how[2] < 1
    samples = (draw(rng, *how) for _ in range(RUNS))
    wrong = sum(
        Sample(kept, full, binary=how[1] == 1 and not labelled).p_value(floor) <= 0.05
        for kept, full in samples
        if full.any()
    )
    # three standard deviations of the simulation
    assert wrong / RUNS <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)


def test_the_usual_bootstrap_would_not_keep_it():
    """Why there is no bootstrap here: with rare losses it proves the floor far too often."""
    *how, floor = NULLS["few and rare"]
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(300):
        kept, _ = draw(rng, *how)
        resampled = kept[rng.integers(0, len(kept), (200, len(kept)))].mean(1)
        wrong += bool(np.quantile(resampled, 0.05) >= floor)
    assert wrong / 300 > 0.1


@pytest.mark.parametrize(
    ("how", "floor"),
    [
        ((300, 1, 1.0, 0.0, 0.0, 0.0), 0.98),
        ((400, 4, 1.0, 0.004, 0.0, 0.0), 0.98),
        ((300, 5, 0.8, 0.02, 0.02, 0.3), 0.95),
        ((150, 4, 0.6, 0.02, 0.02, 0.3), 0.9),
    ],
)
def test_a_floor_that_is_kept_well_is_mostly_proven(how, floor):
    rng = np.random.default_rng(1)
    proven = 0
    for _ in range(300):
        kept, full = draw(rng, *how)
        proven += Sample(kept, full, binary=how[1] == 1 and how[2] == 1).p_value(floor) <= 0.05
    assert proven / 300 >= 0.8


def test_the_whole_search_errs_in_at_most_five_percent():
    """Agreement falls with the budget; a wrong promise is any budget whose true agreement is below the floor."""
    truth = {0.7: 0.99, 0.5: 0.96, 0.3: 0.9, 0.2: 0.895, 0.1: 0.8}
    rng = np.random.default_rng(2)
    chosen = []
    for _ in range(300):
        fate = rng.random(120)
        found = {b: (Sample((fate < p).astype(float), np.ones(120), binary=True), b) for b, p in truth.items()}
        chosen.append(smallest(fixed_sequence(found, 0.9, 0.95)))
    wrong = sum(truth.get(budget, 1.0) <= 0.9 for budget in chosen)
    assert wrong / 300 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    assert chosen.count(0.5) > 150


# -- the fixed sequence ------------------------------------------------------------------------------------------------


def test_the_search_stops_at_the_first_that_is_not_proven():
    found = {
        0.1: (binary(200, 200), 0.1),
        0.5: (binary(200, 200), 0.501),
        0.2: (binary(196, 200), 0.2),
        0.05: "too deep",
        0.7: (binary(199, 200), 0.7),
    }
    tested = fixed_sequence(found, 0.97, 0.95)
    assert [(t.budget, t.outcome) for t in tested] == [
        (1.0, "holds"),
        (0.7, "holds"),
        (0.5, "holds"),
        (0.2, "unclear"),
        (0.1, "untested"),
        (0.05, "unreachable"),
    ]
    assert smallest(tested) == 0.5
    _, _, half, fifth, tenth, lost = tested
    assert (half.share, half.estimate) == (0.501, 1)
    assert half.lower == pytest.approx(0.05 ** (1 / 200))
    assert fifth.needed > 200
    assert fifth.lower < 0.97 <= fifth.estimate
    assert (tenth.estimate, tenth.lower) == (1, None)
    assert lost.reason == "too deep"


def test_a_budget_below_the_floor_is_said_to_fall():
    tested = fixed_sequence({0.7: (binary(190, 200), 0.7)}, 0.98, 0.95)
    assert tested[1].outcome == "falls"
    assert tested[1].needed is None
    assert smallest(tested) == 1


def test_what_is_unreachable_does_not_stop_the_search():
    tested = fixed_sequence({0.5: "no", 0.2: (binary(50, 50), 0.2)}, 0.9, 0.95)
    assert [t.outcome for t in tested] == ["holds", "unreachable", "holds"]
    assert smallest(tested) == 0.2


# -- from beginning to end ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoints.save_llava_onevision(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture
def model(checkpoint):
    return {"model": str(checkpoint), "device": "cpu"}


QUICK = Generating(batch=4, new_tokens=2)


@dataclass(frozen=True)
class Right(Noise):
    """Noise whose labels are the answers that the model gives with all tokens."""

    labels: tuple[tuple[str, str], ...] = ()

    def questions(self, frames):
        labels = dict(self.labels)
        return [replace(question, answer=labels[question.id]) for question in super().questions(frames)]


def test_the_default_method_is_the_default_of_the_library():
    for layers in (12, 28):
        assert METHODS[DEFAULT_METHOD].settings(0.3, layers) == FrameFusion()
    assert framefusion.calibrate is calibrate


def test_agreement_with_all_tokens(model, tmp_path):
    found = calibrate(
        Noise(videos=4, answer=None),
        tmp_path,
        0.3,
        budgets=(1.0, 0.9, 0.6, 0.05),
        frames=4,
        method="segment-dpp-cascade",
        generating=QUICK,
        model=model,
    )
    record = found.calibration
    assert (record.measure, record.unit, record.units, record.questions) == ("agreement", "video", 4, 12)
    assert (record.floor, record.confidence, record.frames, record.new_tokens) == (0.3, 0.95, 4, 2)
    assert (record.method, record.data, record.full) == ("segment-dpp-cascade", "noise", 1)
    assert record.version == framefusion.__version__
    assert record.model == describe(load(**model))
    assert [t.budget for t in record.budgets] == [1.0, 0.9, 0.6, 0.05]
    assert record.budgets[-1].outcome == "unreachable"
    assert record.budgets[1].share == pytest.approx(0.9, abs=0.05)
    method = METHODS["full" if record.budget == 1 else record.method]
    assert found.settings == method.settings(record.budget, 4)


def test_what_was_answered_is_not_asked_again(model, tmp_path):
    common = {"budgets": (0.5,), "frames": 4, "generating": QUICK, "model": model}
    first = calibrate(Noise(videos=4, answer=None), tmp_path, 0.3, **common)
    written = (tmp_path / "questions.jsonl").read_bytes()
    again = calibrate(Noise(videos=4, answer=None), tmp_path, 0.2, **common)
    assert (tmp_path / "questions.jsonl").read_bytes() == written
    assert again.calibration.budgets[1].estimate == first.calibration.budgets[1].estimate


LATE = ((0.0, 1.0), (0.5, 0.1))


def test_all_budgets_are_spent_in_the_stages_that_are_given(model, tmp_path):
    common = {"budgets": (0.9, 0.6), "frames": 4, "generating": QUICK, "model": model}
    found = calibrate(Noise(videos=4, answer=None), tmp_path, 0.3, stages=LATE, **common)
    lines = [json.loads(line) for line in (tmp_path / "cells.jsonl").read_text().splitlines()]
    assert [line["settings"]["stages"] for line in lines if line["budget"] in (0.9, 0.6)] == [
        [list(pair) for pair in LATE]
    ] * 2
    assert found.calibration.method == DEFAULT_METHOD
    budget = found.calibration.budget
    assert found.settings == (FrameFusion(cost=budget, stages=LATE) if budget < 1 else FrameFusion(keep=1.0))
    # The default stages in the same directory are other answers.
    again = calibrate(Noise(videos=4, answer=None), tmp_path, 0.3, stages=STAGES, **common)
    assert again.settings.stages is None
    assert len((tmp_path / "cells.jsonl").read_text().splitlines()) == 5


def test_stages_that_fit_are_probed_on_videos_that_are_then_left_out(model, tmp_path, monkeypatch):
    monkeypatch.setattr("framefusion.hf.fitted.default_folder", lambda: tmp_path / "stages")
    monkeypatch.setattr(calibration_run, "PROMPTS", 2)
    probed = []

    def probe_data(loaded, data, frames, questions, cost, progress):
        probed.extend(question.video for question in questions)
        assert (frames, cost) == (4, 0.3)
        best = Tried(LATE, 0.3, 0.1, 1.0, 0.2, 0.1)
        return Probed(cost, LATE, 2, "01234567", (replace(best, stages=STAGES), best))

    monkeypatch.setattr(calibration_run, "probe_data", probe_data)
    common = {"budgets": (0.9,), "frames": 4, "generating": QUICK, "model": model}
    found = calibrate(Noise(videos=6, answer=None), tmp_path / "out", 0.3, stages="auto", **common)
    assert len(set(probed)) == 2
    rows = [json.loads(line) for line in (tmp_path / "out" / "questions.jsonl").read_text().splitlines()]
    assert {row["video"] for row in rows} == {str(n) for n in range(6)} - set(probed)
    assert (found.calibration.units, found.calibration.questions) == (4, 12)
    assert found.settings.stages == (LATE if found.calibration.budget < 1 else None)
    (entry,) = recall("01234567")
    assert (entry.stages, entry.divergence, entry.default) == (LATE, 0.1, 0.1)


def test_labels_that_all_tokens_get_right(model, tmp_path):
    """The accuracy of all tokens is 1, so that it is the agreement that both tell; the test is another one."""
    common = {"budgets": (0.9,), "frames": 4, "generating": QUICK, "model": model}
    free = calibrate(Noise(videos=4, answer=None), tmp_path / "free", 0.3, **common)
    rows = framefusion.log.read(tmp_path / "free" / "questions.jsonl")
    labels = tuple((row["question"], row["prediction"]) for row in rows if row["cell"].startswith("full"))
    told = calibrate(Right(videos=4, labels=labels), tmp_path / "told", 0.3, **common)
    assert told.calibration.measure == "accuracy"
    assert told.calibration.full == 1
    assert told.calibration.budgets[1].estimate == pytest.approx(free.calibration.budgets[1].estimate)


def test_a_model_that_is_never_right_has_no_floor(model, tmp_path):
    with pytest.raises(CalibrationError, match="not one answer is right with all tokens"):
        calibrate(Noise(videos=4, answer="xyz"), tmp_path, 0.3, budgets=(0.5,), frames=4, generating=QUICK, model=model)


def test_too_few_right_answers_are_said_to_be_too_few(model, tmp_path):
    rows = [(q.id, "xyz") for q in Noise(videos=4).questions(4)]
    common = {"budgets": (0.3,), "frames": 4, "generating": QUICK, "model": model}
    calibrate(Noise(videos=4, answer=None), tmp_path / "free", 0.3, **common)
    given = framefusion.log.read(tmp_path / "free" / "questions.jsonl")
    right = next((r["question"], r["prediction"]) for r in given if r["cell"].startswith("full"))
    labels = (*[row for row in rows if row[0] != right[0]], right)
    with pytest.raises(CalibrationError, match=r"takes about \d+ videos like these.* 8\.3 % of the answers are right"):
        calibrate(Right(videos=4, labels=labels), tmp_path / "told", 0.35, **common)


def test_too_few_videos_are_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration_run, "evaluate", lambda *args, **kwargs: pytest.fail("it ran"))
    with pytest.raises(CalibrationError) as raised:
        calibrate(Noise(videos=30, answer=None), tmp_path)
    assert str(raised.value) == (
        "a floor of 0.98 with 95 % confidence takes at least 181 videos, even if no answer changes, but there are 30; "
        "give more, or ask for a floor of at most 0.885; if only further questions about these very videos matter, "
        "take the unit question"
    )
    with pytest.raises(CalibrationError, match=r"at least 149 questions.* but there are 90; .* at most 0\.967$"):
        calibrate(Noise(videos=30, answer=None), tmp_path, unit="question")
    with pytest.raises(CalibrationError, match=r"but there is 1; give more; if only"):
        calibrate(Noise(videos=1, answer=None), tmp_path)


def test_a_question_asked_twice_is_one_sample(tmp_path, monkeypatch):
    @dataclass(frozen=True)
    class Twice(Noise):
        def questions(self, frames):
            asked = super().questions(frames)
            return [*asked, *(replace(question, id=question.id + "again") for question in asked)]

    monkeypatch.setattr(calibration_run, "evaluate", lambda *args, **kwargs: pytest.fail("it ran"))
    with pytest.raises(CalibrationError, match="but there are 3"):
        calibrate(Twice(videos=1, answer=None), tmp_path, unit="question")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"floor": 1.0}, "floor must be above 0 and below 1, got 1"),
        ({"floor": 0.0}, "floor must be above 0"),
        ({"floor": math.nan}, "floor must be above 0 and below 1, got nan"),
        ({"confidence": 1.0}, "confidence must be above 0 and below 1, got 1"),
        ({"unit": "frame"}, "unit must be one of 'video', 'question', got 'frame'"),
        ({"method": "magic"}, "method 'magic' does not exist; choose one of random, "),
        ({"method": "full"}, "method 'full' is more or less than settings with a budget; choose one of"),
        ({"method": "fewer-frames"}, "method 'fewer-frames' is more or less than settings"),
        ({"budgets": (0.5, 0.0)}, r"a budget must be in \(0, 1\], got 0"),
        ({"budgets": (1.0,)}, "there is no budget below 1 to try"),
        ({"budgets": ()}, "there is no budget below 1 to try"),
        ({"stages": "early"}, "stages must be 'auto' or"),
        ({"stages": LATE, "method": "uniform"}, "stages are those of the method 'segment-dpp-two-stage'; leave them"),
        ({"stages": "auto"}, "stages='auto' takes 3 videos to probe the model, which are then left out, but there"),
    ],
)
def test_bad_arguments(wrong, message, tmp_path):
    with pytest.raises(CalibrationError, match=message):
        calibrate(Noise(), tmp_path, **wrong)


def test_bad_frames_are_refused_as_in_an_evaluation(tmp_path):
    with pytest.raises(MethodError, match="frames must be at least 1, got 0"):
        calibrate(Noise(), tmp_path, frames=0)
