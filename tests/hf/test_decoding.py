"""Decoding behind a reduced prefill beside what the matrix does: hotter samples, cropped and emptied caches, turns."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

import framefusion
from tests.hf import models, oracle
from tests.hf.case import Case
from tests.hf.prompts import PROMPTS
from tests.hf.ways import EXCLUDED, PLANS, TOLERANCE, generate

KEEP = PLANS["two stages"]


@pytest.mark.parametrize("name", models.apart())
def test_sampling_equals_the_oracle(case: Case) -> None:
    inputs = case.inputs(PROMPTS["ragged"](case))
    with framefusion.attach(case.model, KEEP) as run:
        out = generate(case, inputs, do_sample=True, temperature=1.5)
    expected = oracle.logits(case.model, inputs, run.stages, out.sequences)
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", models.apart())
def test_prompt_lookup_decoding_equals_the_oracle(case: Case) -> None:
    """Candidates are tried and cropped off the cache again."""
    inputs = case.inputs(PROMPTS["single"](case))
    inputs["input_ids"][0, -4:] = torch.tensor([20, 21, 20, 21])
    if (case.name, "prompt lookup") in EXCLUDED:
        with pytest.raises(ValueError, match="not supported with stateful models"):
            generate(case, inputs, prompt_lookup_num_tokens=3)
        return
    with framefusion.attach(case.model, PLANS["before layer 0"]) as run:
        out = generate(case, inputs, prompt_lookup_num_tokens=3, eos_token_id=9)
    expected = oracle.logits(case.model, inputs, run.stages, out.sequences)
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=TOLERANCE, rtol=0)


def test_a_cropped_batch_goes_on() -> None:
    """Cropping into the prompt and feeding the same token again gives the same logits."""
    case = models.build("llava_onevision")
    inputs = case.inputs(PROMPTS["ragged"](case))
    again = inputs["input_ids"].shape[1] - 2
    with framefusion.attach(case.model, PLANS["before layer 0"]), torch.no_grad():
        first = case.model(**inputs)
        cache = first.past_key_values
        cache.crop(-2)
        out = case.model(
            input_ids=inputs["input_ids"][:, again : again + 1],
            position_ids=torch.full((3, 1), again),
            past_key_values=cache,
        )
    torch.testing.assert_close(out.logits[:, -1], first.logits[:, -2], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", models.apart())
def test_a_text_turn_after_a_video_turn(case: Case) -> None:
    inputs = case.inputs(PROMPTS["single"](case))
    with framefusion.attach(case.model, PLANS["before layer 0"]) as run:
        first = generate(case, inputs)
        more = torch.cat([first.sequences, torch.tensor([[20, 21, 22, 23]])], dim=1)
        tail = more.shape[1] - inputs["input_ids"].shape[1]
        longer = {"input_ids": more, "attention_mask": torch.ones_like(more)}
        if "mm_token_type_ids" in inputs:
            types = inputs["mm_token_type_ids"]
            longer["mm_token_type_ids"] = torch.cat([types, types.new_zeros(1, tail)], dim=1)
        out = generate(case, longer, past_key_values=first.past_key_values)
    expected = oracle.logits(case.model, inputs, run.stages, out.sequences)[:, -len(out.logits) :]
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", models.apart())
def test_a_cache_can_be_filled_again(case: Case) -> None:
    inputs = case.inputs(PROMPTS["single"](case))
    with framefusion.attach(case.model, PLANS["before layer 0"]), torch.no_grad():
        # States of linear attention must be there from the start, and can only be emptied as a whole.
        hybrid = len(case.attending) < len(case.decoder.layers)
        cache = DynamicCache(config=case.model.config) if hybrid else DynamicCache()
        first = case.model(**inputs, past_key_values=cache).logits
        cache.reset() if hybrid else cache.crop(-cache.get_seq_length())
        assert torch.equal(case.model(**inputs, past_key_values=cache).logits, first)
    with torch.no_grad():
        cache.reset() if hybrid else cache.crop(-cache.get_seq_length())
        plain = DynamicCache(config=case.model.config) if hybrid else DynamicCache()
        text = torch.randint(10, 64, (1, 7))
        with framefusion.attach(case.model, KEEP):
            got = case.model(input_ids=text, past_key_values=cache).logits
        assert torch.equal(got, case.model(input_ids=text, past_key_values=plain).logits)
        assert cache.get_seq_length() == 7
