from __future__ import annotations

import copy
import dataclasses
import pickle
import re
from typing import Any

import pytest

import framefusion
from framefusion import (
    DPP,
    Absorb,
    DynamicProgramming,
    DySeg,
    FrameFusion,
    FrameSimilarity,
    Merging,
    Novelty,
    Relevance,
    Windows,
)
from framefusion.reduction.amounts import parse_stages, stages_text
from framefusion.reduction.flat import FLAT, SWITCHES
from framefusion.reduction.schedule import STAGES, tokens_per_layer
from framefusion.reduction.selectors.dpp import DPPOnce
from framefusion.reduction.selectors.hieravid import HieraVid


def test_defaults() -> None:
    settings = FrameFusion()
    assert (settings.cost, settings.keep, settings.merging, settings.novelty) == (0.3, None, None, None)
    assert settings.segmentation == DynamicProgramming(threshold=0.8, sudden=4.0)
    assert (settings.budget_rule, settings.selector) == ("joint", DPP(gamma=1.0, later_frames=0.95))
    assert settings.dropped == Absorb(lower_bound=0.9)
    assert settings.relevance == Relevance("late-text", sign=1, exponent=1.0)
    assert FrameFusion(selector="divprune").budget_rule == "uniform"


def test_a_name_stands_for_the_defaults_of_its_rule() -> None:
    rules = {
        "segmentation": [
            ("dyseg", DySeg(0.9, 8)),
            ("frame-similarity", FrameSimilarity(0.4, 0.6)),
            ("single", "single"),
        ],
        "selector": [("dpp-once", DPPOnce(1.0, 0.95)), ("hieravid", HieraVid(1.0, 0.95)), ("uniform", "uniform")],
        "relevance": [("text", Relevance("text", 1, 1.0))],
        "dropped": [("drop", "drop"), ("absorb", Absorb(0.9)), ("merge", Absorb(0.9))],
        "merging": [(True, Merging(0.6, 0.1)), (False, None), (None, None)],
        "novelty": [(0.1, Novelty(0.1, 0.0)), (None, None)],
    }
    for field, pairs in rules.items():
        for name, rule in pairs:
            budget = {"budget_rule": "uniform"} if field == "selector" else {}
            settings = FrameFusion(**{field: name, **budget})
            assert getattr(settings, field) == rule
            assert settings == FrameFusion(**{field: rule, **budget})
            assert dataclasses.replace(settings, keep=0.5, cost=None) == FrameFusion(
                **{field: rule, **budget}, keep=0.5
            )


FLAT_NAMES = [
    ({"merge": True}, {"merging": Merging()}),
    ({"merge": False}, {}),
    ({"merge": True, "similarity_lower_bound": 0.7, "ratio_lower_bound": 0.2}, {"merging": Merging(0.7, 0.2)}),
    (
        {"merge": True, "segmentation": "frame-similarity", "similarity_lower_bound": 0.7},
        {"merging": Merging(0.7), "segmentation": FrameSimilarity(0.4, 0.7)},
    ),
    ({"segment_threshold": 0.7}, {"segmentation": DynamicProgramming(0.7)}),
    ({"segment_sudden": 2}, {"segmentation": DynamicProgramming(0.8, 2)}),
    ({"segment_sudden": None}, {"segmentation": DynamicProgramming(0.8, None)}),
    ({"segmentation": "dyseg", "segment_threshold": 0.7, "segment_minimum": 4}, {"segmentation": DySeg(0.7, 4)}),
    ({"segmentation": "windows", "segment_window": 3, "segment_threshold": None}, {"segmentation": Windows(3)}),
    ({"relevance": "last", "relevance_sign": -1, "relevance_exponent": 2}, {"relevance": Relevance("last", -1, 2)}),
    ({"gamma": None, "later_frames": 1}, {"selector": DPP(None, 1)}),
    ({"dropped": "merge", "dropped_lower_bound": 0.5}, {"dropped": Absorb(0.5)}),
    ({"novelty_lower_bound": 0.2, "keep_lower_bound": 0.1}, {"novelty": Novelty(0.2, 0.1)}),
    ({"novelty_lower_bound": None, "keep_lower_bound": 0}, {}),
]


@pytest.mark.parametrize(("flat", "rules"), FLAT_NAMES)
def test_flat_names_fill_the_rules(flat: dict[str, Any], rules: dict[str, Any]) -> None:
    assert FrameFusion(**flat) == FrameFusion(**rules)
    assert {*FLAT, *SWITCHES} == {name for names, _ in FLAT_NAMES for name in names if name in {*FLAT, *SWITCHES}}


def test_a_flat_name_changes_one_parameter() -> None:
    settings = FrameFusion(segmentation=DySeg(0.7, 4), merging=Merging(0.5, 0.3), novelty=Novelty(0.1, 0.2))
    changed = dataclasses.replace(settings, **{"segment_minimum": 2, "merge": True, "novelty_lower_bound": 0.3})
    assert (changed.segmentation, changed.merging) == (DySeg(0.7, 2), Merging(0.5, 0.3))
    assert changed.novelty == Novelty(0.3, 0.2)
    assert dataclasses.replace(changed, **{"segment_threshold": None}).segmentation == DySeg(0.9, 2)
    gone = dataclasses.replace(changed, **{"merge": False, "novelty_lower_bound": None})
    assert (gone.merging, gone.novelty) == (None, None)


def test_settings_are_copied_and_pickled() -> None:
    settings = FrameFusion(keep=0.2, segmentation="dyseg", merging=True)
    assert pickle.loads(pickle.dumps(settings)) == copy.deepcopy(settings) == settings


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (FrameFusion(), "FrameFusion()"),
        (FrameFusion(cost=0.3, budget_rule="joint", stages=((0, 1), (2 / 3, 0.25))), "FrameFusion()"),
        (FrameFusion(keep={2: 0.2, 1: 0.5}), "FrameFusion(keep={1: 0.5, 2: 0.2})"),
        (FrameFusion(cost=[0.2, 0.4], images=False), "FrameFusion(cost=(0.2, 0.4), images=False)"),
        (FrameFusion(selector="uniform", seed=3), "FrameFusion(selector='uniform', seed=3)"),
        (FrameFusion(selector="uniform", budget_rule="marginal-value"), None),
        (FrameFusion(budget_rule="uniform"), "FrameFusion(budget_rule='uniform')"),
        (FrameFusion(segmentation="dyseg"), "FrameFusion(segmentation=DySeg(threshold=0.9, minimum=8))"),
        (FrameFusion(keep=0.2, merging=True, relevance="last", dropped="drop", tower="changed"), None),
        (FrameFusion(cost=0.2, stages="auto", novelty=0.1), None),
    ],
)
def test_the_repr_makes_the_same_settings(settings: FrameFusion, text: str | None) -> None:
    assert eval(repr(settings), {name: getattr(framefusion, name) for name in dir(framefusion)}) == settings
    assert text is None or repr(settings) == text


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FrameFusion().cost = 0.5  # type: ignore[misc]


def test_keep_becomes_stages() -> None:
    assert FrameFusion(keep=0.2).shares(28) == {2: 0.2}
    assert FrameFusion(keep={3: 0.1, 1: 0.5}).shares(4) == {1: 0.5, 3: 0.1}
    assert FrameFusion(merge=True).shares(28) == {}
    assert FrameFusion(cost=0.9).shares(12) == {0: 1.0, 8: pytest.approx(0.7)}


def test_a_cost_is_spent_in_its_stages() -> None:
    shape = ((0, 1), (0.5, 0.2))
    settings = FrameFusion(cost=0.3, stages=shape)
    assert settings.stages == settings.steps == shape
    assert settings.shares(12) == {0: pytest.approx(0.5), 6: pytest.approx(0.1)}
    assert tokens_per_layer(settings.plan(100, 12), 100, 12) == [50] * 6 + [10] * 6
    assert FrameFusion(stages=[[0, 1]]).shares(12) == {0: pytest.approx(0.3)}
    assert FrameFusion(cost=0.6, stages=[(0.5, 1)]).shares(12) == {6: pytest.approx(0.2)}
    assert tokens_per_layer(FrameFusion(cost=0.6, stages=[(0.5, 1)]).plan(100, 12), 100, 12) == [100] * 6 + [20] * 6
    for row, cost in zip(FrameFusion(cost=[0.3, 0.6], stages=shape).of_samples(2), (0.3, 0.6), strict=True):
        assert row == FrameFusion(cost=cost, stages=shape)


def test_the_default_stages_are_those_of_none() -> None:
    assert FrameFusion(stages=STAGES) == FrameFusion(stages=[list(pair) for pair in STAGES]) == FrameFusion()
    assert FrameFusion().stages is None
    assert FrameFusion().steps == FrameFusion(stages="auto").steps == STAGES
    assert FrameFusion(stages="auto").shares(12) == FrameFusion().shares(12)


@pytest.mark.parametrize(
    ("text", "stages"),
    [("auto", "auto"), ("0:1,0.67:0.25", ((0, 1), (0.67, 0.25))), ("0.5:1+0.75:0.1", ((0.5, 1), (0.75, 0.1)))],
)
def test_stages_from_a_text(text: str, stages: Any) -> None:
    assert parse_stages(text) == stages
    if text != "auto":
        assert parse_stages(stages_text(stages)) == stages


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.3", "stages must be auto or DEPTH:SHARE pairs such as 0:1,0.67:0.25 (or 0:1+0.67:0.25), got '0.3'"),
        ("0:1:1", "stages must be auto or DEPTH:SHARE pairs"),
        ("", "stages must be auto or DEPTH:SHARE pairs"),
        ("0:0.5", "the share of stages[0] must be 1, got 0.5"),
    ],
)
def test_texts_that_are_no_stages(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_stages(text)


def test_keeps_all() -> None:
    assert FrameFusion(keep=1.0).keeps_all
    assert FrameFusion(cost=1.0).keeps_all
    assert FrameFusion(keep={1: 1.0}).keeps_all
    assert not FrameFusion(keep={1: 1.0, 2: 0.9}).keeps_all


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cost": 0.3, "keep": 0.2}, "cost=0.3 and keep=0.2 exclude each other"),
        ({"cost": 0.0}, "cost must be in (0, 1], got 0.0"),
        ({"cost": 1.5}, "cost must be in (0, 1], got 1.5"),
        ({"cost": float("nan")}, "cost must be in (0, 1], got nan"),
        ({"cost": "0.3"}, "cost must be a number, got '0.3'"),
        ({"keep": 0}, "keep must be in (0, 1], got 0"),
        ({"keep": True}, "keep must be a number, got True"),
        ({"keep": {}}, "keep is an empty mapping"),
        ({"keep": {-1: 0.5}}, "keep: layer -1 must be a whole number, 0 or more"),
        ({"keep": {"1": 0.5}}, "keep: layer '1' must be a whole number"),
        ({"keep": {1: 1.2}}, "keep[1] must be in (0, 1], got 1.2"),
        ({"keep": {1: 0.2, 3: 0.4}}, "keep[3]=0.4 is more than keep[1]=0.2"),
        (
            {"stages": "early"},
            "stages must be 'auto' or (depth, share) pairs such as ((0, 1), (2 / 3, 0.25)), got 'early'",
        ),
        ({"stages": ()}, "stages must be 'auto' or (depth, share) pairs"),
        ({"stages": {0: 1}}, "stages must be 'auto' or (depth, share) pairs"),
        ({"stages": [(0, 1), 0.5]}, "stages[1] must be a pair of depth and share, got 0.5"),
        ({"stages": ["01"]}, "stages[0] must be a pair of depth and share, got '01'"),
        ({"stages": [(0, 1, 1)]}, "stages[0] must be a pair of depth and share, got (0, 1, 1)"),
        ({"stages": [("0", 1)]}, "the depth of stages[0] must be a number, got '0'"),
        ({"stages": [(-0.1, 1)]}, "the depth of stages[0] must be in [0, 1], got -0.1"),
        ({"stages": [(0, 1), (1, 0.5)]}, "the depth of stages[1] must be below 1, which is behind the last layer"),
        ({"stages": [(0, 1), (0.5, 0)]}, "the share of stages[1] must be in (0, 1], got 0"),
        ({"stages": [(0, 1), (0.5, float("nan"))]}, "the share of stages[1] must be in (0, 1], got nan"),
        ({"stages": [(0, 0.5)]}, "the share of stages[0] must be 1, got 0.5: shares are of what the first stage keeps"),
        ({"stages": [(0, 1), (0, 0.5)]}, "depths of stages must ascend, but that of stages[1], 0, follows 0"),
        (
            {"stages": [(0, 1), (0.3, 0.2), (0.5, 0.4)]},
            "shares of stages cannot grow, but that of stages[2], 0.4, follows 0.2",
        ),
        ({"stages": "auto", "keep": 0.2}, "stages say where a cost is spent, but keep=0.2 is given"),
        ({"stages": [(0, 1)], "merge": True}, "stages and merging exclude each other"),
        ({"merge": 1}, "merge must be True or False, got 1"),
        ({"merging": 1}, "merging must be True, False or a Merging, got 1"),
        (
            {"merge": True, "similarity_lower_bound": 1.1},
            "similarity_lower_bound: Merging.similarity_lower_bound must be in [-1, 1], got 1.1",
        ),
        (
            {"similarity_lower_bound": 0.7},
            "similarity_lower_bound=0.7 is merging.similarity_lower_bound or segmentation.similarity_lower_bound, "
            "which the rules in use do not have; leave it out, or use one that has it.",
        ),
        (
            {"merge": True, "ratio_lower_bound": -0.1},
            "ratio_lower_bound: Merging.ratio_lower_bound must be in [0, 1], got -0.1",
        ),
        ({"segment_threshold": 2}, "segment_threshold: DynamicProgramming.threshold must be in [0, 1], got 2"),
        (
            {"segmentation": "windows", "segment_window": 0},
            "segment_window: Windows.frames must be a whole number of frames, at least 1, got 0",
        ),
        ({"segment_window": 3}, "segment_window=3 is segmentation.frames, which the rules in use do not have"),
        (
            {"segmentation": "scenes"},
            "segmentation must be one of 'frame-similarity', 'dyseg', 'dp', 'windows', 'frames',",
        ),
        ({"budget_rule": "best"}, "budget_rule must be one of 'uniform', 'marginal-value', 'joint', got 'best'"),
        (
            {"relevance": "some"},
            "relevance must be one of 'late-text', 'last', 'text', 'all-viewers', 'similarity', "
            "'dissimilarity', 'encoder', 'encoder-last', 'none', got",
        ),
        ({"relevance_sign": 0}, "relevance_sign: Relevance.sign must be +1 (most relevant first) or -1"),
        ({"selector": "magic"}, "selector must be one of 'dpp', 'dpp-once', 'topk', 'uniform'"),
        ({"selector": "topk", "relevance": "none"}, "selector='topk' ranks by attention"),
        ({"selector": "topk"}, "it needs another relevance than 'late-text', such as 'last' or 'text'"),
        ({"selector": "topk", "relevance": "last", "keep": {0: 0.5}}, "no attention exists before layer 0"),
        (
            {"selector": "topk", "relevance": "last", "keep": [{1: 0.5}, {0: 0.5}]},
            "no attention exists before layer 0",
        ),
        ({"relevance_exponent": -1}, "relevance_exponent: Relevance.exponent must be in [0, 100], got -1"),
        ({"relevance_exponent": float("nan")}, "relevance_exponent: Relevance.exponent must be in [0, 100], got nan"),
        (
            {"segmentation": "dyseg", "segment_minimum": 0},
            "segment_minimum: DySeg.minimum must be a whole number of segments, at least 1, got 0",
        ),
        ({"seed": 0.5}, "seed must be a whole number, got 0.5"),
        ({"dropped_lower_bound": 1.5}, "dropped_lower_bound: Absorb.lower_bound must be in [-1, 1], got 1.5"),
        ({"dropped": "keep"}, "dropped must be one of 'drop', 'absorb', got 'keep'"),
        (
            {"budget_rule": "joint", "selector": "uniform"},
            "budget_rule='joint' goes by the gains of selector='dpp'; selector='uniform' has none. Use budget_rule=",
        ),
        ({"novelty": "much"}, "novelty must be a lower bound, a Novelty or None, got 'much'"),
        ({"novelty_lower_bound": 0}, "novelty_lower_bound: Novelty.lower_bound must be in (0, 1], got 0"),
        ({"novelty_lower_bound": True}, "novelty_lower_bound: Novelty.lower_bound must be a number, got True"),
        (
            {"novelty_lower_bound": 0.1, "selector": "topk"},
            "novelty goes by the gains of selector='dpp'; selector='topk' has none. Leave it out",
        ),
        (
            {"keep_lower_bound": 0.1},
            "keep_lower_bound=0.1 is novelty.keep_lower_bound, which the rules in use do not have",
        ),
        (
            {"keep_lower_bound": 2, "novelty_lower_bound": 0.1},
            "keep_lower_bound: Novelty.keep_lower_bound must be in [0, 1], got 2",
        ),
        (
            {"keep": [0.5, {1: 0.5, 2: 0.2}], "keep_lower_bound": 0.3, "novelty_lower_bound": 0.1},
            "Novelty.keep_lower_bound=0.3 is more than keep=0.2, which is the most that may stay",
        ),
    ],
)
def test_bad_settings_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        FrameFusion(**arguments)


def test_adaptive_settings_may_always_reduce() -> None:
    assert not FrameFusion().adaptive
    for arguments in ({"keep": 1.0}, {"cost": 1.0}, {"keep": {0: 1.0}}):
        assert FrameFusion(**arguments).keeps_all  # type: ignore[arg-type]
        settings = FrameFusion(novelty_lower_bound=0.1, **arguments)  # type: ignore[arg-type]
        assert settings.adaptive
        assert not settings.keeps_all
    assert FrameFusion(keep={0: 1.0}, novelty_lower_bound=0.1).reduces_before_first(4)
    assert not FrameFusion(keep={0: 1.0}).reduces_before_first(4)
    assert not FrameFusion(keep={1: 0.5}, novelty_lower_bound=0.1).reduces_before_first(4)
    with pytest.raises(ValueError, match="keep has a stage before layer 1, but softmax attention"):
        FrameFusion(keep={1: 1.0, 4: 0.5}, relevance="last", novelty_lower_bound=0.1).check(32, 4)


def test_similarity_needs_no_attention() -> None:
    settings = FrameFusion(keep={0: 0.5, 2: 0.2}, selector="topk", relevance="similarity")
    settings.check(32, 4)
    assert FrameFusion(keep=0.2).shares(28, 4) == {2: 0.2}
    FrameFusion(cost=0.04, merge=True).check(32, 4)
    FrameFusion(cost=0.001).check(32, 40)


def test_settings_are_checked_against_the_model() -> None:
    with pytest.raises(ValueError, match="keep has a stage before layer 28, but the model has 28 decoder layers"):
        FrameFusion(keep={28: 0.5}).check(28)
    with pytest.raises(ValueError, match=r"cost=0\.2 cannot be reached on 4 decoder layers"):
        FrameFusion(cost=0.2, merge=True).check(4)
    with pytest.raises(ValueError, match="no attention exists before layer 0"):
        FrameFusion(keep=0.5, selector="topk", relevance="last").check(1)
    with pytest.raises(ValueError, match=r"no attention exists before layer 0: .* \(cost: with merging=True\)"):
        FrameFusion(cost=0.3, selector="topk", relevance="last").check(12)
    FrameFusion(cost=0.8, selector="topk", relevance="last").check(12)
    FrameFusion(cost=0.3).check(4)
    message = (
        r"cost=0\.5 cannot be reached: stages begin behind 6 of 12 decoder layers, .* Ask for more than 0\.5, or begin"
    )
    with pytest.raises(ValueError, match=message):
        FrameFusion(cost=0.5, stages=[(0.5, 1)]).check(12)
    FrameFusion(cost=[0.51, 1.0], stages=[(0.5, 1)]).check(12)
    FrameFusion(cost=0.6, stages=[(0.5, 1)], selector="topk", relevance="last").check(12)
    with pytest.raises(ValueError, match="stages begin behind 4 of 4 decoder layers"):
        FrameFusion(cost=0.9, stages=[(0.9, 1)]).check(4)


def test_settings_are_checked_against_the_first_attention() -> None:
    message = re.escape(
        "keep has a stage before layer 2, but softmax attention, which it goes by, comes first in layer 3 of this "
        "decoder; start at layer 4 or use relevance='none' (diversity alone)."
    )
    with pytest.raises(ValueError, match=message):
        FrameFusion(keep={0: 0.9, 2: 0.5}, relevance="last").check(32, 4)
    with pytest.raises(ValueError, match="comes first in layer 3 of this decoder; use relevance='none'"):
        FrameFusion(keep={1: 0.5}, relevance="last").check(4, 4)
    with pytest.raises(ValueError, match=r"cost=0\.12 cannot be reached on 32 decoder layers: the first 4 layers"):
        FrameFusion(cost=0.12, merge=True, relevance="last").check(32, 4)
    with pytest.raises(ValueError, match="no attention exists before layer 0"):
        FrameFusion(keep=0.5, selector="topk", relevance="last").check(4, 4)
    for settings in (
        FrameFusion(keep={0: 0.9, 4: 0.5}, relevance="last"),
        FrameFusion(keep={1: 1.0, 4: 0.5}, relevance="last"),
        FrameFusion(keep={2: 0.5}, relevance="none"),
        FrameFusion(cost=0.125, merge=True, relevance="last"),
        FrameFusion(cost=0.04, merge=True, relevance="none"),
        FrameFusion(cost=0.04, relevance="last"),
    ):
        settings.check(32, 4)


def test_the_default_layer_has_attention() -> None:
    assert FrameFusion(keep=0.2, relevance="last").shares(28, 4) == {4: 0.2}
    assert FrameFusion(keep=0.2, relevance="last").shares(64, 4) == {5: 0.2}
    assert FrameFusion(keep=0.2, relevance="none").shares(28, 4) == {2: 0.2}
    assert FrameFusion(keep={1: 0.2}).shares(28, 4) == {1: 0.2}
