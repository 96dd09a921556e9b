"""Sliding-window layers: their windows are over the conversation, not over what was kept of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import DynamicSlidingWindowLayer

import framefusion
from framefusion import FrameFusion
from framefusion.hf import masks
from tests.hf import models, oracle
from tests.hf.case import FIRST_WORD, LAYERS, Case, Image
from tests.hf.prompts import PROMPTS
from tests.hf.ways import ATTENTION, PLANS, TOLERANCE, generate

WINDOW = 16
STEPS = WINDOW + 6
"""So many that the windows leave the prompt behind."""
NAMES = ("gemma3", "qwen2_vl", "qwen2_5_vl")


def build(name: str, attention: str = "sdpa", window: int = WINDOW, first: int = 0) -> Case:
    """A tiny model of which every other layer, from ``first`` on, has a window shorter than any prompt."""
    case = models.build(name, attention)
    config = copy.deepcopy(case.model.config)
    config.text_config.use_sliding_window = True
    config.text_config.sliding_window = window
    kinds = ["sliding_attention", "full_attention"]
    config.text_config.layer_types = [kinds[(index + first) % 2] for index in range(LAYERS)]
    model = type(case.model)(config).eval()
    model.load_state_dict(case.model.state_dict())
    model.set_attn_implementation(attention)
    case.model = model
    return case


@pytest.mark.covering(2)
@pytest.mark.parametrize(("attention", "rows"), [("sdpa", "single"), ("sdpa", "ragged"), ("eager", "ragged")])
@pytest.mark.parametrize("settings", list(PLANS))
@pytest.mark.parametrize("name", NAMES)
def test_generate_equals_the_masked_oracle(name: str, attention: str, settings: str, rows: str) -> None:
    case = build(name, attention)
    inputs = case.inputs(PROMPTS[rows](case))
    with framefusion.attach(case.model, PLANS[settings]) as run:
        out = generate(case, inputs, max_new_tokens=STEPS)
    assert run.stages
    expected = oracle.logits(case.model, inputs, run.stages, out.sequences)
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("settings", list(PLANS))
@pytest.mark.parametrize("name", NAMES)
def test_manual_decoding_equals_the_masked_oracle(name: str, settings: str) -> None:
    case = build(name, first=1)
    inputs = case.inputs(PROMPTS["single"](case))
    sequence, logits, cache = inputs["input_ids"], [], None
    step: dict[str, Any] = dict(inputs)
    with framefusion.attach(case.model, PLANS[settings]) as run, torch.no_grad():
        for _ in range(STEPS):
            out = case.model(**step, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            logits.append(out.logits[:, -1])
            token = logits[-1][:, FIRST_WORD:].argmax(-1, keepdim=True) + FIRST_WORD
            sequence = torch.cat([sequence, token], dim=1)
            step = {"input_ids": token}
            assert cache.get_seq_length() == sequence.shape[1] - 1
    expected = oracle.logits(case.model, inputs, run.stages, sequence)
    torch.testing.assert_close(torch.stack(logits, 1), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.covering(2)
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("settings", list(PLANS))
@pytest.mark.parametrize("name", NAMES)
def test_a_text_turn_after_a_long_answer(name: str, settings: str, static: bool) -> None:
    """Several queries at once, whose windows differ, behind more answer than a window holds."""
    case = build(name)
    inputs = case.inputs(PROMPTS["ragged"](case))
    config = case.model.config.get_text_config()
    cache = StaticCache(config=config, max_cache_len=256) if static else DynamicCache(config=config)
    with framefusion.attach(case.model, PLANS[settings]) as run:
        first = generate(case, inputs, max_new_tokens=STEPS, past_key_values=cache, disable_compile=True)
        turn = torch.randint(FIRST_WORD, 64, (len(first.sequences), 7))
        more = torch.cat([first.sequences, turn], dim=1)
        tail = more.shape[1] - inputs["input_ids"].shape[1]
        mask = inputs["attention_mask"]
        mask = torch.cat([mask, mask.new_ones(len(mask), tail)], dim=1)
        types = {key: torch.cat([inputs[key], inputs[key].new_zeros(len(mask), tail)], 1) for key in case.types(more)}
        longer = {"input_ids": more, "attention_mask": mask, **types}
        out = generate(case, longer, past_key_values=first.past_key_values, disable_compile=True)
    expected = oracle.logits(case.model, inputs, run.stages, out.sequences)[:, -len(out.logits) :]
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_window_over_what_was_kept_fails_the_oracle(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: columns renumbered behind the reduction."""
    case = build(name)
    inputs = case.inputs(PROMPTS["single"](case))
    original = masks.decoding

    def renumbered(config: Any, hidden: Any, columns: Any, valid: Any, window: Any, longest: int) -> Any:
        packed = torch.arange(longest - columns.shape[1], longest).expand_as(columns)
        return original(config, hidden, packed, valid, window, longest)

    monkeypatch.setattr(masks, "decoding", renumbered)
    with framefusion.attach(case.model, PLANS["before layer 0"]) as run:
        out = generate(case, inputs)
    expected = oracle.logits(case.model, inputs, run.stages, out.sequences)
    assert (torch.stack(out.logits, 1) - expected).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_a_cache_without_windows(name: str) -> None:
    case = build(name)
    inputs = case.inputs(PROMPTS["ragged"](case))
    with framefusion.attach(case.model, PLANS["two stages"]) as run:
        out = generate(case, inputs, past_key_values=DynamicCache(), max_new_tokens=STEPS)
    expected = oracle.logits(case.model, inputs, run.stages, out.sequences)
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_window_layer_holds_no_more_than_its_window(name: str) -> None:
    case = build(name)
    with framefusion.attach(case.model, FrameFusion(keep={0: 0.9})) as run, torch.no_grad():
        cache = case.model(**case.inputs(PROMPTS["single"](case)), use_cache=True).past_key_values
        length = cache.get_seq_length()
        assert [layer.keys.shape[2] for layer in cache.layers][::2] == [WINDOW - 1] * 2
        assert {layer.get_seq_length() for layer in cache.layers} == {length}
        bytes_held = sum(4 * (layer.keys.numel() + layer.values.numel()) for layer in cache.layers)
        assert bytes_held == run.summary().kv_bytes_after
        with pytest.raises(RuntimeError, match="crop reaches into a reduced prompt"):
            cache.crop(-1)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_within_the_window(name: str, static: bool) -> None:
    """Nothing is cut at first, then the answer goes beyond."""
    plain = models.build(name)
    inputs = plain.inputs(PROMPTS["single"](plain))
    case = build(name, window=inputs["input_ids"].shape[1] + 3)
    kind = {"cache_implementation": "static", "disable_compile": True} if static else {}
    with framefusion.attach(case.model, PLANS["merge, then prune"]) as run:
        out = generate(case, inputs, max_new_tokens=8, **kind)
    assert all("Shortened" in type(layer).__name__ for layer in out.past_key_values.layers)
    expected = oracle.logits(case.model, inputs, run.stages, out.sequences)
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.skipif(
    not hasattr(DynamicSlidingWindowLayer, "activate_past_recording"),
    reason="this release of transformers cannot crop sliding-window layers",
)
@pytest.mark.parametrize("name", NAMES)
def test_prompt_lookup_decoding(name: str) -> None:
    """Candidates are tried and cropped off again, in the first forward pass as well."""
    case = build(name)
    inputs = case.inputs(PROMPTS["single"](case))
    inputs["input_ids"][0, -4:] = torch.tensor([20, 21, 20, 21])
    with framefusion.attach(case.model, PLANS["before layer 0"]) as run:
        out = generate(case, inputs, prompt_lookup_num_tokens=3, eos_token_id=9, max_new_tokens=STEPS)
    expected = oracle.logits(case.model, inputs, run.stages, out.sequences)
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("first", [0, 1])
def test_windows_under_one_mask_of_the_caller(first: int) -> None:
    """The model hands a dense mask of the caller's to all layers, and all hold the same columns of the first turn, of
    which those with a window see fewer: as with a 2D mask, of which the model makes one for each kind of layer."""
    case = build("qwen2_5_vl", window=24, first=first)
    text, turn = torch.randint(FIRST_WORD, 64, (1, 30)), case.inputs([[2, Image(3, 3), 5]])
    length, end = turn["input_ids"].shape[1], 30 + turn["input_ids"].shape[1]
    assert length < 24 < 30
    causal = torch.ones(end, end, dtype=torch.bool).tril()[None, None, 30:]
    logits = []
    with framefusion.attach(case.model, FrameFusion(keep={0: 0.4})) as run, torch.no_grad():
        for mask in (torch.ones(1, end, dtype=torch.long), causal):
            cache = case.model(input_ids=text, past_key_values=DynamicCache()).past_key_values
            later = {**turn, "attention_mask": mask, "position_ids": torch.arange(30, end).expand(3, 1, -1)}
            logits.append(case.model(**later, past_key_values=cache).logits)
            assert [stage.layer for stage in run.stages] == [0]
    torch.testing.assert_close(logits[1], logits[0], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("first", [0, 1])
def test_static_buffers_under_one_mask_of_the_caller(first: int) -> None:
    """The layers with a window have smaller buffers."""
    plain = models.build("qwen2_5_vl")
    inputs = plain.inputs(PROMPTS["single"](plain))
    length = inputs["input_ids"].shape[1]
    case = build("qwen2_5_vl", window=length + 3, first=first)
    causal = torch.ones(length, 256, dtype=torch.bool).tril()[None, None]
    logits = []
    with framefusion.attach(case.model, FrameFusion(keep={0: 0.4})), torch.no_grad():
        for mask in (inputs["attention_mask"], causal):
            cache = StaticCache(config=case.model.config.get_text_config(), max_cache_len=256)
            call = {**inputs, "attention_mask": mask, "position_ids": torch.arange(length).expand(3, 1, -1)}
            logits.append(case.model(**call, past_key_values=cache).logits)
    torch.testing.assert_close(logits[1], logits[0], atol=TOLERANCE, rtol=0)


def test_padding_before_a_later_turn() -> None:
    """A layer that holds everything of the first turn is reduced in the second one: padding stays hidden."""
    case = build("gemma3")
    turns = [
        case.inputs([[3, Image(3, 3), 5], [12]]),
        case.inputs([[2, (6, 3, 3), 4], [2, (6, 3, 3), 7]]),
    ]
    whole = {key: torch.cat([turn[key] for turn in turns], int(key != "pixel_values")) for key in turns[0]}
    first = turns[0]["input_ids"].shape[1]
    cache, stages = None, []
    rule = FrameFusion(cost=0.4, merge=True, similarity_lower_bound=0.8, **ATTENTION)
    with framefusion.attach(case.model, rule) as run, torch.no_grad():
        for turn, end in zip(turns, (first, None), strict=True):
            known = {key: whole[key][:, :end] for key in ("attention_mask", "token_type_ids")}
            out = case.model(**{**turn, **known}, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            stages.append(run.stages)
    assert stages[0][0].layer > 0
    assert stages[1][0].layer == 0
    sequence = torch.cat([whole["input_ids"], torch.full((2, 1), FIRST_WORD)], dim=1)
    halves = [(0, first, stages[0]), (first, whole["input_ids"].shape[1], stages[1])]
    expected = oracle.logits(case.model, whole, [], sequence, parts=halves)
    torch.testing.assert_close(out.logits[:, -1:], expected, atol=TOLERANCE, rtol=0)


@pytest.mark.covering(2)
@pytest.mark.parametrize("settings", list(PLANS))
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", NAMES)
def test_a_static_cache(name: str, attention: str, settings: str) -> None:
    case = build(name, attention)
    inputs = case.inputs(PROMPTS["ragged"](case))
    static = {"cache_implementation": "static", "disable_compile": True}
    with framefusion.attach(case.model, PLANS[settings]) as run:
        out = generate(case, inputs, max_new_tokens=STEPS, **static)
    expected = oracle.logits(case.model, inputs, run.stages, out.sequences)
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_static_cache_can_be_filled_again(name: str) -> None:
    case = build(name)
    inputs = case.inputs(PROMPTS["ragged"](case))
    cache = StaticCache(config=case.model.config.get_text_config(), max_cache_len=256)
    kinds = [type(layer) for layer in cache.layers]
    with framefusion.attach(case.model, PLANS["before layer 0"]), torch.no_grad():
        first = case.model(**inputs, past_key_values=cache).logits
        cache.reset()
        assert torch.equal(case.model(**inputs, past_key_values=cache).logits, first)
        cache.reset()
        text = torch.randint(FIRST_WORD, 64, (3, 20))
        got = case.model(input_ids=text, past_key_values=cache).logits
    assert [type(layer) for layer in cache.layers] == kinds
    with torch.no_grad():
        torch.testing.assert_close(got, case.model(input_ids=text, use_cache=False).logits, atol=TOLERANCE, rtol=0)
