"""Caches that outlive their prefill: who may read them, other rows, copies, cropping."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Cache, DynamicCache, StaticCache

import framefusion
from framefusion import FrameFusion, FrameFusionError
from tests.hf import models
from tests.hf.case import Case
from tests.hf.prompts import PROMPTS
from tests.hf.ways import PLANS, TOLERANCE, generate

FAMILIES = ["llava_onevision", "qwen2_5_vl", "gemma3", "qwen3_5"]
"""Plain and multimodal positions, sliding windows, linear attention."""
TWO, FIRST = PLANS["two stages"], PLANS["before layer 0"]
UNREADABLE = "filled while a reduction was attached, and its layers hold different tokens"


def prefilled(case: Case, inputs: dict[str, Tensor], kind: str = "dynamic") -> Any:
    config = case.model.config.get_text_config()
    cache = DynamicCache(config=config) if kind == "dynamic" else StaticCache(config=config, max_cache_len=128)
    with torch.no_grad():
        case.model(**inputs, past_key_values=cache)
    return cache


def kv_lengths(cache: Any) -> list[Any]:
    """Tokens that each layer holds."""
    return [None if getattr(layer, "keys", None) is None else layer.keys.shape[-2] for layer in cache.layers]


def asked(case: Case, inputs: dict[str, Tensor], tails: Tensor) -> dict[str, Tensor]:
    """A prompt's rows, repeated in turn, with a question behind each: ``(B * k, N)`` and ``(B * k, n)``."""
    repeats = len(tails) // len(inputs["input_ids"])
    ids = torch.cat([inputs["input_ids"].repeat_interleave(repeats, 0), tails], 1)
    mask = torch.cat([inputs["attention_mask"].repeat_interleave(repeats, 0), torch.ones_like(tails)], 1)
    result = {"input_ids": ids, "attention_mask": mask}
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in inputs:
            result[name] = torch.cat([inputs[name].repeat_interleave(repeats, 0), torch.zeros_like(tails)], 1)
    return result


def detached(case: Case, cache: Any) -> None:
    case.model(input_ids=torch.tensor([[11]]), past_key_values=cache)


def several(case: Case, cache: Any) -> None:
    case.model(input_ids=torch.tensor([[11, 12, 13]]), past_key_values=cache)


def generated(case: Case, cache: Any) -> None:
    ids = torch.full((1, int(cache.get_seq_length()) + 3), 11)
    case.model.generate(input_ids=ids, past_key_values=cache, max_new_tokens=2)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("plan", [TWO, FIRST])
@pytest.mark.parametrize("name", FAMILIES)
def test_without_a_reduction_nobody_reads_a_reduced_cache(name: str, plan: FrameFusion, kind: str) -> None:
    """Refused before anything changes: attached again, it goes on as if nothing had happened."""
    case = models.build(name)
    inputs, step = case.inputs(PROMPTS["single"](case)), torch.tensor([[11]])
    with framefusion.attach(case.model, plan):
        cache, same = prefilled(case, inputs, kind), prefilled(case, inputs, kind)
        expected = case.model(input_ids=step, past_key_values=same).logits
    before = kv_lengths(cache)
    for use in (detached, several, generated):
        for reader in (case, models.build(name)):
            with torch.no_grad(), pytest.raises(FrameFusionError, match=UNREADABLE):
                use(reader, cache)
            assert kv_lengths(cache) == before
    with framefusion.attach(case.model, TWO), torch.no_grad():
        got = case.model(input_ids=step, past_key_values=cache).logits
    torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=0)


def test_a_cache_that_nothing_was_dropped_from_is_anyones() -> None:
    case = models.build("llava_onevision")
    with framefusion.attach(case.model, FrameFusion(keep=1.0)):
        whole = prefilled(case, case.inputs(PROMPTS["single"](case)))
    with framefusion.attach(case.model, TWO):
        text = prefilled(case, {"input_ids": torch.tensor([[11, 12, 13]])})
    for cache in (whole, text):
        detached(case, cache)


@pytest.mark.parametrize("later", [FrameFusion(keep=1.0), FIRST, FrameFusion(cost=0.5)])
def test_other_settings_and_models_go_on(later: FrameFusion) -> None:
    """What the cache holds is on the cache; the settings are about prefills to come."""
    case, other = models.build("llava_onevision"), models.build("llava_onevision")
    inputs = case.inputs(PROMPTS["single"](case))
    question = asked(case, inputs, torch.tensor([[20, 21, 22]]))
    with framefusion.attach(case.model, TWO):
        cache = prefilled(case, inputs)
        expected = torch.stack(generate(case, question, past_key_values=copy.deepcopy(cache)).logits)
    with framefusion.attach(other.model, later):
        got = torch.stack(generate(other, question, past_key_values=cache).logits)
    torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=0)


def repeated(cache: Cache) -> None:
    cache.batch_repeat_interleave(3)


def chosen(cache: Cache) -> None:
    rows = len(cache.layers[0].keys)
    cache.batch_repeat_interleave(4)
    cache.batch_select_indices(torch.tensor([0, 2, 3, 4, 5, 7][: 3 * rows]))


def reordered(cache: Cache) -> None:
    rows = 3 * len(cache.layers[0].keys)
    cache.batch_repeat_interleave(3)
    cache.reorder_cache(torch.arange(rows).flip(0))
    cache.reorder_cache(torch.arange(rows).flip(0))


@pytest.mark.parametrize("change", [repeated, chosen, reordered])
@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl", "gemma3"])
def test_questions_on_one_repeated_cache(name: str, change: Callable[[Cache], None]) -> None:
    """Padded rows with budgets of their own, each asked three things at once: as each asked alone."""
    case = models.build(name)
    video = (6, *case.frame)
    # A model with M-RoPE remembers the positions of its rows itself, and goes on with more of them from one row only.
    one = name == "qwen2_5_vl"
    inputs = case.inputs([[9, video, 2]] if one else [[3, video, 5], [9, video, 2]])
    keep: Any = {0: 0.3} if one else ({1: 0.5, 3: 0.1}, {0: 0.3})
    questions = torch.randint(10, 64, (3 * len(inputs["input_ids"]), 3))
    with framefusion.attach(case.model, FrameFusion(keep=keep, relevance="last")):
        cache = prefilled(case, inputs)
        alone = []
        for turn in range(3):
            own = asked(case, inputs, questions[turn::3])
            alone.append(torch.stack(generate(case, own, past_key_values=copy.deepcopy(cache)).logits, 1))
        change(cache)
        together = generate(case, asked(case, inputs, questions), past_key_values=cache)
    expected = torch.stack(alone, 1).flatten(0, 1)
    torch.testing.assert_close(torch.stack(together.logits, 1), expected, atol=TOLERANCE, rtol=0)


def test_rows_that_change_places_take_what_they_hold_along() -> None:
    case = models.build("llava_onevision")
    inputs = case.inputs([[3, (6, *case.frame), 5], [9, (6, *case.frame), 2]])
    step = torch.tensor([[11], [12]])
    with torch.no_grad(), framefusion.attach(case.model, FrameFusion(keep=(0.5, 0.1))):
        cache = prefilled(case, inputs)
        mask = torch.cat([inputs["attention_mask"], torch.ones(2, 1, dtype=torch.long)], 1)
        swapped = copy.deepcopy(cache)
        expected = case.model(input_ids=step, attention_mask=mask, past_key_values=cache).logits
        swapped.reorder_cache(torch.tensor([1, 0]))
        got = case.model(input_ids=step.flip(0), attention_mask=mask.flip(0), past_key_values=swapped).logits
    torch.testing.assert_close(got.flip(0), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])
@pytest.mark.parametrize("name", FAMILIES)
def test_copies_go_on_and_are_as_careful(name: str, copied: Callable[[Any], Any]) -> None:
    case = models.build(name)
    with torch.no_grad(), framefusion.attach(case.model, FIRST):
        cache = prefilled(case, case.inputs(PROMPTS["single"](case)))
        # A first step, so that there are masks that the copy must not take over.
        detached(case, cache)
        twin = copied(cache)
        step = torch.tensor([[12, 13]])
        expected = case.model(input_ids=step, past_key_values=cache).logits
        assert torch.equal(case.model(input_ids=step, past_key_values=twin).logits, expected)
    assert isinstance(twin, DynamicCache)
    with torch.no_grad(), pytest.raises(FrameFusionError, match=UNREADABLE):
        detached(case, twin)


@pytest.mark.parametrize("made", [DynamicCache, lambda cache: DynamicCache(list(cache))])
def test_a_cache_of_the_keys_and_values_alone_is_refused(made: Callable[[Any], Any]) -> None:
    """What each layer holds would be lost, and the answer be another one."""
    case = models.build("llava_onevision")
    inputs = case.inputs(PROMPTS["single"](case))
    with torch.no_grad(), framefusion.attach(case.model, TWO):
        cache = prefilled(case, inputs)
        with pytest.raises(FrameFusionError, match=r"keys and values alone do not tell .* copy\.deepcopy"):
            made(cache)
    cache.reset()
    assert len(list(cache)) == 4


@pytest.mark.parametrize("empty", [lambda cache: cache.reset(), lambda cache: cache.crop(-cache.get_seq_length())])
def test_an_emptied_cache_is_anyones(empty: Callable[[Any], None]) -> None:
    case = models.build("llava_onevision")
    inputs = case.inputs(PROMPTS["single"](case))
    with torch.no_grad(), framefusion.attach(case.model, FIRST):
        cache = prefilled(case, inputs)
    empty(cache)
    assert type(cache) is DynamicCache
    with torch.no_grad():
        got = case.model(**inputs, past_key_values=cache).logits
        torch.testing.assert_close(got, case.model(**inputs).logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_refused_crop_leaves_every_layer_alone(kind: str) -> None:
    case = models.build("llava_onevision")
    with torch.no_grad(), framefusion.attach(case.model, TWO):
        cache = prefilled(case, case.inputs(PROMPTS["single"](case)), kind)
        before = [int(layer.get_seq_length()) for layer in cache.layers]
        with pytest.raises(FrameFusionError, match="crop reaches into a reduced prompt"):
            cache.crop(-12)
        assert [int(layer.get_seq_length()) for layer in cache.layers] == before
        cache.crop(-2)
        assert [int(layer.get_seq_length()) for layer in cache.layers] == [length - 2 for length in before]


def test_a_batch_of_another_size() -> None:
    case = models.build("llava_onevision")
    with torch.no_grad(), framefusion.attach(case.model, TWO):
        cache = prefilled(case, case.inputs(PROMPTS["single"](case)))
        with pytest.raises(ValueError, match="filled for a batch of 1, but the call has 2 rows; repeat it with its"):
            case.model(input_ids=torch.tensor([[11], [12]]), past_key_values=cache)
