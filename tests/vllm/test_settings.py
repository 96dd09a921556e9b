from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from framefusion import DPP, DySeg
from framefusion.reduction.settings import FrameFusion
from framefusion.reduction.settings_file import save_settings
from framefusion.vllm.models import QWEN_3, Family
from framefusion.vllm.rate import Rate
from framefusion.vllm.settings import ServingSettings


def test_the_defaults_are_the_library_s() -> None:
    made, ours = ServingSettings.parse({})[0].reduction(0.25), FrameFusion(keep={0: 0.25}, relevance="none")
    # An engine merges nothing.
    assert made == replace(ours, dropped="drop")
    assert ServingSettings.parse(True)[0] == ServingSettings.parse({})[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], r"must be an object of settings or true, got \[\]; \{\} selects with the defaults"),
        (False, "must be an object of settings or true, got False"),
        ({"segmentations": "dp"}, "'segmentations' is no setting; there are segmentation, budget_rule"),
        ({"segmentation": "scenes"}, "segmentation must be one of"),
        (
            {"relevance": "last"},
            "relevance must be one of 'none', 'dissimilarity', got 'last': an engine selects before",
        ),
        ({"selector": "topk"}, "selector='topk' ranks by relevance; say relevance='dissimilarity' with it"),
        ({"minimum_per_frame": -1}, "minimum_per_frame must be at least 0 tokens, got -1"),
        ({"minimum_per_frame": 1.5}, "minimum_per_frame must be a whole number of tokens, got 1.5"),
        ({"keep_first_frame": 1}, "keep_first_frame must be true or false, got 1"),
        (
            {"keep_first_frame": True, "relevance": "dissimilarity"},
            "keep_first_frame and relevance='dissimilarity' excl",
        ),
        ({"rate": 1}, r"rate must be a number in \[0, 1\), the share of the tokens to drop, got 1"),
        ({"rate": "0.8"}, r"rate must be a number in \[0, 1\), the share of the tokens to drop, got '0.8'"),
        (
            {"segmentation": "windows", "segment_window": 0},
            "segment_window: Windows.frames must be a whole number of frames, at least 1",
        ),
        ({"segment_window": 2}, "segment_window=2 is segmentation.frames, which the rules in use do not have"),
        ({"segmentation": {"rule": "shots"}}, "segmentation.rule must be one of"),
        ({"cost": 0.3}, "'cost' is no setting; there are segmentation, budget_rule, relevance, selector, seed"),
        ({"merge": True}, "'merge' is no setting"),
        ({"tower": "changed"}, "'tower' cannot be followed: the engine runs vision towers of its own"),
    ],
)
def test_wrong_settings_are_named(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServingSettings.parse(given)


def test_a_rate_is_a_number_with_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    hooked: list[Family] = []
    monkeypatch.setattr("framefusion.vllm.hooks.install", hooked.append)
    rate = Rate(0.8, ServingSettings(segmentation="dp"), "Qwen3_5ForConditionalGeneration")
    again = pickle.loads(pickle.dumps(rate))
    assert again == 0.8
    assert again.settings == rate.settings
    assert again.architecture == rate.architecture
    assert isinstance(again, Rate)
    assert hooked == [QWEN_3]


def test_a_settings_file_says_the_rule_and_the_share(tmp_path: Path) -> None:
    path = str(tmp_path / "settings.json")
    save_settings(path, FrameFusion(keep={0: 0.25}, segmentation="dp", dropped="drop"))
    everything = FrameFusion(
        keep={0: 0.25},
        dropped="drop",
        segment_threshold=0.3,
        budget_rule="marginal-value",
        relevance="dissimilarity",
        relevance_sign=-1,
        relevance_exponent=0.5,
        seed=3,
    )
    save_settings(tmp_path / "all.json", everything)
    assert ServingSettings.parse({"settings_file": str(tmp_path / "all.json")})[0].reduction(0.25) == everything
    save_settings(tmp_path / "one-stage.json", FrameFusion(cost=0.25, stages=((0, 1),), dropped="drop"))
    assert ServingSettings.parse({"settings_file": str(tmp_path / "one-stage.json")}) == (
        ServingSettings(segmentation="dp"),
        0.75,
    )
    parsed, rate = ServingSettings.parse({"settings_file": path, "minimum_per_frame": 2})
    assert parsed == ServingSettings(segmentation="dp", minimum_per_frame=2)
    assert rate == 0.75
    with pytest.raises(ValueError, match="rate is given beside settings_file"):
        ServingSettings.parse({"settings_file": path, "rate": 0.8})
    with pytest.raises(ValueError, match="segmentation is given beside settings_file"):
        ServingSettings.parse({"settings_file": path, "segmentation": "frames"})
    with pytest.raises(ValueError, match="segment_threshold is given beside settings_file"):
        ServingSettings.parse({"settings_file": path, "segment_threshold": 0.5})


def test_rules_are_objects_or_flat_names() -> None:
    meant = ServingSettings(segmentation=DySeg(0.7, 3), selector=DPP(gamma=None))
    nested = {
        "segmentation": {"rule": "dyseg", "threshold": 0.7, "minimum": 3},
        "selector": {"rule": "dpp", "gamma": None},
    }
    assert ServingSettings.parse(nested)[0] == meant
    flat = {"segmentation": "dyseg", "segment_threshold": 0.7, "segment_minimum": 3, "gamma": None}
    assert ServingSettings.parse(flat)[0] == meant


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (FrameFusion(cost=0.3, stages="auto"), "prunes once, before the decoder.*these have stages=auto"),
        (FrameFusion(cost=0.3, stages=((0, 1), (0.5, 0.1))), r"these have stages=\(\(0\.0, 1\.0\), \(0\.5, 0\.1\)\)"),
        (FrameFusion(cost=0.3), "prunes once, before the decoder.*Calibrate with --method segment-dpp-input"),
        (FrameFusion(keep={0: 0.5, 2: 0.2}, dropped="drop"), "prunes once, before the decoder"),
        (FrameFusion(keep={0: 0.5}, dropped="drop", tower="changed"), "vision towers of its own, .* without tower"),
        (FrameFusion(keep={0: 0.5}), "cannot merge them; dropped must be 'drop'"),
        (FrameFusion(keep={0: 0.5}, dropped="drop", relevance="similarity"), "relevance must be one of 'none'"),
    ],
)
def test_a_settings_file_that_an_engine_cannot_follow_is_refused(
    tmp_path: Path, settings: FrameFusion, message: str
) -> None:
    path = str(tmp_path / "settings.json")
    save_settings(path, settings)
    with pytest.raises(ValueError, match=message):
        ServingSettings.parse({"settings_file": path})
    with pytest.raises(ValueError, match=r"settings_file must be the name of a file, got 3"):
        ServingSettings.parse({"settings_file": 3})
    with pytest.raises(ValueError, match=r"missing\.json"):
        ServingSettings.parse({"settings_file": str(tmp_path / "missing.json")})
