"""Reduction inside the decoder equals the full-length model with the dropped tokens masked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import framefusion
from framefusion import FrameFusion
from framefusion.hf import run as run_module
from tests.hf import models, oracle
from tests.hf.case import Video
from tests.hf.prompts import PROMPTS

STEPS = 6
TOLERANCE = 2e-4

SETTINGS = {
    "merge-and-prune": FrameFusion(cost=0.4, similarity_lower_bound=0.8),
    "staged-prune": FrameFusion(keep={1: 0.5, 3: 0.15}),
    "before-layer-0": FrameFusion(keep={0: 0.4, 2: 0.2}, relevance="text"),
    "merge-then-keep": FrameFusion(keep={2: 0.3}, merge=True, similarity_lower_bound=0.8, relevance_sign=-1),
}


def generate(case: models.Case, inputs: dict[str, Tensor], **kwargs: Any) -> Any:
    # A random model would say placeholders, which the oracle's full forward would take for video.
    options = {"do_sample": False, "max_new_tokens": STEPS, "suppress_tokens": list(range(10)), **kwargs}
    return case.model.generate(**inputs, output_logits=True, return_dict_in_generate=True, **options)


@pytest.mark.parametrize("rows", list(PROMPTS))
@pytest.mark.parametrize("settings", list(SETTINGS))
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", list(models.BUILDERS))
def test_generate_equals_the_masked_oracle(name: str, attention: str, settings: str, rows: str) -> None:
    case = models.build(name, attention)
    inputs = case.inputs(PROMPTS[rows](case))
    with framefusion.attach(case.model, SETTINGS[settings]) as run:
        out = generate(case, inputs)
    expected = oracle.logits(case.model, inputs, run.stages, out.sequences)
    assert run.stages
    assert run.tokens_per_layer[-1] < run.summary().visual_tokens_before
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=TOLERANCE, rtol=0)


def test_merge_and_prune_does_both() -> None:
    case = models.build("qwen2_5_vl")
    with framefusion.attach(case.model, SETTINGS["merge-and-prune"]) as run:
        case.model(**case.inputs(PROMPTS["single"](case)))
    stages = run.stages
    assert [stage.layer for stage in stages] == [0, 1]
    assert stages[0].merged_into is not None
    assert -1 not in stages[0].merged_into[0]
    assert (stages[1].merged_into[0] == -1).any()


@pytest.mark.parametrize("settings", list(SETTINGS))
@pytest.mark.parametrize("name", list(models.BUILDERS))
def test_manual_decoding_equals_the_masked_oracle(name: str, settings: str) -> None:
    case = models.build(name)
    inputs = case.inputs(PROMPTS["single"](case))
    sequence, logits, cache = inputs["input_ids"], [], None
    step: dict[str, Any] = dict(inputs)
    with framefusion.attach(case.model, SETTINGS[settings]) as run, torch.no_grad():
        for _ in range(STEPS):
            out = case.model(**step, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            logits.append(out.logits[:, -1])
            token = logits[-1][:, 10:].argmax(-1, keepdim=True) + 10
            sequence = torch.cat([sequence, token], dim=1)
            step = {"input_ids": token}
            assert cache.get_seq_length() == sequence.shape[1] - 1
    expected = oracle.logits(case.model, inputs, run.stages, sequence)
    torch.testing.assert_close(torch.stack(logits, 1), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", list(models.BUILDERS))
def test_renumbered_positions_fail_the_oracle(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a plausible mistake is far outside the tolerance."""

    def renumber(embeddings: tuple[Tensor, ...], columns: Tensor) -> tuple[Tensor, ...]:
        return tuple(table[..., : columns.shape[1], :] for table in embeddings)

    case = models.build(name)
    inputs = case.inputs(PROMPTS["single"](case))
    monkeypatch.setattr(run_module, "_gather_positions", renumber)
    with framefusion.attach(case.model, SETTINGS["staged-prune"]) as run:
        out = generate(case, inputs)
    expected = oracle.logits(case.model, inputs, run.stages, out.sequences)
    assert (torch.stack(out.logits, 1) - expected).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("name", list(models.BUILDERS))
def test_a_row_of_a_batch_equals_the_row_alone(name: str) -> None:
    case = models.build(name)
    batch = case.inputs(PROMPTS["ragged"](case))
    prompt = {k: v[:1] for k, v in batch.items() if v.shape == batch["input_ids"].shape}
    alone = {**prompt, **case.encode([Video(6, *case.frame)], [])}
    with framefusion.attach(case.model, SETTINGS["merge-and-prune"]) as run:
        expected = torch.stack(generate(case, alone).logits, 1)
        single = {stage.layer: stage for stage in run.stages}
        got = torch.stack(generate(case, batch).logits, 1)
        together = {stage.layer: stage for stage in run.stages}
    torch.testing.assert_close(got[:1], expected, atol=TOLERANCE, rtol=0)
    assert single
    for layer, stage in single.items():
        assert torch.equal(stage.kept[0], together[layer].kept[0])
        assert torch.equal(stage.merged_into[0], together[layer].merged_into[0])
