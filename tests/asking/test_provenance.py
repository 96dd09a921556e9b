"""What results say about how they came about."""

import platform

import torch

from framefusion.asking.provenance import describe, versions
from framefusion.hf.fingerprint import fingerprint


def test_the_fingerprint_is_that_of_the_weights(models):
    model = models["llava-onevision"].model
    before = fingerprint(model)
    assert before == fingerprint(model)
    weight = model.lm_head.weight.data
    kept = weight[0, 0].item()
    weight[0, 0] += 1
    assert fingerprint(model) != before
    weight[0, 0] = kept
    assert fingerprint(model) == before


def test_a_model_is_described_by_what_tells_it_from_others(models):
    loaded = models["llava-onevision"]
    assert describe(loaded) == (
        f"{loaded.name} (LlavaOnevisionForConditionalGeneration, float32, weights {fingerprint(loaded.model)})"
    )


def test_versions_are_those_that_run():
    assert versions().items() >= {"torch": torch.__version__, "Python": platform.python_version()}.items()
