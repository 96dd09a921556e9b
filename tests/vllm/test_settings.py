from __future__ import annotations

import pickle

import pytest

from framefusion.settings import FrameFusion
from framefusion.vllm.rate import Rate
from framefusion.vllm.settings import ServingSettings


def test_the_defaults_are_the_library_s() -> None:
    made, ours = ServingSettings.parse({}).reduction(0.25), FrameFusion(keep={0: 0.25}, dropped="drop")
    assert made == ours
    assert ServingSettings.parse(True) == ServingSettings.parse({})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], r"must be an object of settings or true, got \[\]; \{\} selects with the defaults"),
        (False, "must be an object of settings or true, got False"),
        ({"segmentations": "dp"}, "'segmentations' is no setting; there are segmentation, segment_threshold"),
        ({"segmentation": "scenes"}, "segmentation must be one of"),
        (
            {"relevance": "last"},
            "relevance must be one of 'none', 'dissimilarity', got 'last': an engine selects before",
        ),
        ({"selector": "topk"}, "selector='topk' ranks by relevance; say relevance='dissimilarity' with it"),
        ({"minimum_per_frame": -1}, "minimum_per_frame must be at least 0 tokens, got -1"),
        ({"minimum_per_frame": 1.5}, "minimum_per_frame must be a whole number of tokens, got 1.5"),
        ({"keep_first_frame": 1}, "keep_first_frame must be true or false, got 1"),
        ({"segment_window": 0}, "segment_window must be at least 1"),
    ],
)
def test_wrong_settings_are_named(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServingSettings.parse(given)


def test_a_rate_is_a_number_with_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framefusion.vllm.hooks.install", lambda: None)
    rate = Rate(0.8, ServingSettings(segmentation="dp"))
    again = pickle.loads(pickle.dumps(rate))
    assert again == 0.8
    assert again.settings == rate.settings
    assert isinstance(again, Rate)
