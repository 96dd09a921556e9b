"""A probe measures what it says, on tiny random models, and chooses by it."""

from __future__ import annotations

import json
import math

import pytest
import torch

import framefusion
from framefusion import FrameFusion
from framefusion.asking.probe import CANDIDATES, choose, kl, probe
from framefusion.hf.fingerprint import fingerprint
from framefusion.hf.fitted import recall
from framefusion.reduction.schedule import STAGES
from tests.hf import models
from tests.hf.case import Case

LATE = ((0.0, 1.0), (0.5, 0.1))
FAMILIES = ["llava_onevision", "qwen2_5_vl", "qwen3_5", "gemma3"]


def prompts_of(case: Case, count: int = 3) -> list[dict[str, torch.Tensor]]:
    videos = [(4 + number, *case.frame) for number in range(count)]
    return [case.inputs([[3 + number, video, 5]]) for number, video in enumerate(videos)]


def by_hand(case: Case, inputs: dict[str, torch.Tensor], settings: FrameFusion | None) -> torch.Tensor:
    """``(V,)`` float64 probabilities of the next token, from a plain forward pass."""
    with torch.no_grad():
        if settings is None:
            logits = case.model(**inputs).logits
        else:
            with framefusion.attach(case.model, settings):
                logits = case.model(**inputs).logits
    odds = (logits[0, -1].double() - logits[0, -1].max().double()).exp()
    return odds / odds.sum()


@pytest.mark.parametrize("family", FAMILIES)
def test_it_measures_the_divergence_of_the_next_token(family: str) -> None:
    case = models.build(family)
    prompts = prompts_of(case)
    found = probe(case.model, prompts, 0.3, candidates=[LATE])
    assert [entry.stages for entry in found.tried] == [STAGES, LATE]
    assert (found.cost, found.prompts) == (0.3, 3)
    rows = []
    for entry in found.tried:
        expected, same = [], []
        for inputs in prompts:
            p, q = by_hand(case, inputs, None), by_hand(case, inputs, FrameFusion(cost=0.3, stages=entry.stages))
            expected.append(sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True)))
            same.append(float(p.argmax() == q.argmax()))
        rows.append(expected)
        assert entry.divergence == pytest.approx(sum(expected) / 3, abs=1e-4)
        assert entry.divergence > 1e-3
        assert entry.agreement == pytest.approx(sum(same) / 3)
        assert entry.share == pytest.approx(0.3, abs=0.03)
    gains = [default - late for default, late in zip(*rows, strict=True)]
    mean = sum(gains) / 3
    error = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / 2 / 3)
    assert found.tried[1].gain == pytest.approx(mean, abs=1e-4)
    assert found.tried[1].error == pytest.approx(error, abs=1e-4)
    assert found.stages == (LATE if mean > error else STAGES)
    assert json.loads(json.dumps(found.as_dict()))["tried"][1]["stages"] == [[0, 1], [0.5, 0.1]]


def test_divergence_of_two_coins() -> None:
    fair, bent = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    assert kl(fair, bent) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert kl(fair + 3, fair) == pytest.approx(0, abs=1e-6)
    certain = torch.tensor([0.0, -math.inf])
    assert kl(certain, fair) == pytest.approx(math.log(2))
    assert kl(fair, certain) == math.inf
    assert kl(fair.bfloat16(), bent.bfloat16()) == pytest.approx(kl(fair, bent), abs=0.01)


def test_the_default_stays_unless_it_is_worse_by_more_than_an_error() -> None:
    # The mean gain over the default is 0.5, with errors of 0.29, 0.40 and 0.76.
    assert choose(torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.5, 2.0]]).double()) == 1
    assert choose(torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.7, 2.8]]).double()) == 1
    assert choose(torch.tensor([[1.0, 2.0, 3.0], [2.0, 0.5, 2.0]]).double()) == 0
    assert choose(torch.tensor([[1.0, 1.0], [2.0, 2.0]]).double()) == 0
    assert choose(torch.tensor([[1.0, 1.0], [0.8, 0.8], [0.5, 0.5]]).double()) == 2


def test_candidates_that_mean_the_same_or_cannot_be_reached_are_left_out() -> None:
    case = models.build("llava_onevision")
    found = probe(case.model, prompts_of(case, 2), 0.6)
    shapes = {tuple(FrameFusion(cost=0.6, stages=entry.stages).shares(4).items()) for entry in found.tried}
    assert len(shapes) == len(found.tried) < len(CANDIDATES)
    starts = {entry.stages[0][0] for entry in found.tried}
    assert starts == {0, 1 / 3, 1 / 2}
    assert found.tried[0].stages == STAGES


def test_other_settings_go_along_and_the_model_is_unchanged() -> None:
    case = models.build("llava_onevision")
    prompts = prompts_of(case, 2)
    before = {name: value.clone() for prompt in prompts for name, value in prompt.items()}
    state = fingerprint(case.model)
    plain = probe(case.model, prompts, 0.4, candidates=[])
    other = probe(case.model, prompts, 0.4, settings=FrameFusion(keep=0.2, selector="uniform"), candidates=[])
    assert plain.tried[0].divergence != other.tried[0].divergence
    assert plain.tried[0].share == pytest.approx(0.4, abs=0.03)
    assert all(torch.equal(before[name], value) for prompt in prompts[-1:] for name, value in prompt.items())
    assert fingerprint(case.model) == state == plain.fingerprint
    framefusion.attach(case.model).detach()


def test_what_was_found_is_kept_and_followed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("framefusion.hf.fitted.default_folder", lambda: tmp_path)
    case = models.build("llava_onevision")
    prompts = prompts_of(case, 2)
    found = probe(case.model, prompts, 0.3, candidates=[LATE])
    path = found.save()
    (entry,) = recall(found.fingerprint)
    assert path == tmp_path / f"{found.fingerprint}.json"
    assert (entry.cost, entry.stages, entry.prompts) == (0.3, found.stages, 2)
    assert (entry.divergence, entry.default) == (found.best.divergence, found.tried[0].divergence)
    with framefusion.attach(case.model, FrameFusion(cost=0.3, stages="auto")) as run:
        case.model(**prompts[0])
    assert run.stages_from == run.summary().stages_from == "probed"
    assert run.settings.steps == run.summary().stages == found.stages


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": 1}, "prompts must be at least 2, so that their spread is known, got 1"),
        ({"cost": 1.0}, r"cost must be a number above 0 and below 1, got 1\.0"),
        ({"cost": "0.3"}, "cost must be a number above 0 and below 1, got '0.3'"),
        ({"settings": FrameFusion(merge=True)}, "stages and merging exclude each other"),
        ({"candidates": [((0, 2),)]}, r"the share of stages\[0\] must be in"),
    ],
)
def test_what_cannot_be_probed_is_named(changes, message) -> None:
    case = models.build("llava_onevision")
    given = {"prompts": 2, **changes}
    with pytest.raises(ValueError, match=message):
        probe(case.model, prompts_of(case, given.pop("prompts")), **given)


def test_a_prompt_is_one_sample_and_the_model_has_a_head() -> None:
    case = models.build("llava_onevision")
    pair = case.inputs([[3, (4, *case.frame), 5]] * 2)
    with pytest.raises(ValueError, match="prompts must be one sample each, got one of 2; give them one by one"):
        probe(case.model, [pair, pair])
    with pytest.raises(ValueError, match=r"model must have a language-model head, .* LlavaOnevisionModel has none"):
        probe(case.model.model, prompts_of(case, 2))
