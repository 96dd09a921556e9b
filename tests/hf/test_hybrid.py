"""Hybrid decoders in the order of the released models: linear attention first, every fourth layer softmax attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
)
from transformers.cache_utils import LinearAttentionLayer

import framefusion
from framefusion import FrameFusion
from framefusion.hf.cache_layers import ShortenedLayer
from framefusion.hf.prefill import Prefill
from framefusion.reduction.budgets import total_kept
from tests.hf import oracle
from tests.hf.case import FIRST_WORD, Case
from tests.hf.families import qwen3_5, qwen3_5_moe
from tests.hf.prompts import PROMPTS
from tests.hf.ways import ATTENTION, COMPILED, EXCLUDED, TOLERANCE, WAYS, generate

ORDER = [*[qwen3_5.LINEAR] * 3, qwen3_5.FULL] * 2
FIRST = 4
"""The first layer before which attention exists."""

PLANS = {
    "two stages, merging": FrameFusion(dropped="merge", dropped_lower_bound=0.2),
    "two stages by attention": FrameFusion(relevance="last"),
    "merge, then prune": FrameFusion(cost=0.6, merge=True, similarity_lower_bound=0.8, **ATTENTION),
    # The second stage goes by the attention that the first one went by, of the tokens that are left.
    "two stages": FrameFusion(keep={4: 0.5, 6: 0.15}, **ATTENTION),
    "before layer 0": FrameFusion(keep={0: 0.4, 5: 0.2}, **{**ATTENTION, "relevance": "text"}),
    "merge, then keep": FrameFusion(keep=0.3, merge=True, similarity_lower_bound=0.8, relevance_sign=-1, **ATTENTION),
    "diversity-alone": FrameFusion(keep={1: 0.6, 2: 0.3}, relevance="none", dropped="drop"),
}


def build(attention: str = "sdpa", *, moe: bool = False) -> Case:
    torch.manual_seed(1)
    text = {"num_hidden_layers": len(ORDER), "layer_types": ORDER}
    if moe:
        text |= qwen3_5_moe.EXPERTS
        case = qwen3_5.case_of("qwen3_5_moe", Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration, text)
    else:
        case = qwen3_5.case_of("qwen3_5", Qwen3_5Config, Qwen3_5ForConditionalGeneration, text)
    case.model.eval().set_attn_implementation(attention)
    return case


@pytest.fixture
def case() -> Case:
    return build()


@pytest.mark.covering(2)
@pytest.mark.parametrize("rows", list(PROMPTS))
@pytest.mark.parametrize("plan", list(PLANS))
@pytest.mark.parametrize(("attention", "moe"), [("sdpa", False), ("eager", False), ("sdpa", True)])
def test_generate_equals_the_masked_oracle(attention: str, moe: bool, plan: str, rows: str) -> None:
    case = build(attention, moe=moe)
    assert WAYS["greedy"].check(case, rows, PLANS[plan]) <= TOLERANCE


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every way with every plan; the one that compiles, for seconds, with a single plan but in ``make test-all``."""
    if {"way", "plan"} <= set(metafunc.fixturenames):
        ways = [way for way in WAYS if way != "greedy" and ("qwen3_5", way) not in EXCLUDED]
        whole = metafunc.config.getoption("--matrix")
        plans = {way: list(PLANS) if whole or way != COMPILED else ["two stages, merging"] for way in ways}
        metafunc.parametrize(("way", "plan"), [(way, plan) for way in ways for plan in plans[way]])


@pytest.mark.covering(1)
def test_every_way_equals_the_masked_oracle(case: Case, way: str, plan: str) -> None:
    assert WAYS[way].check(case, WAYS[way].prompts[0], PLANS[plan]) <= TOLERANCE


def take_padding_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the states of shorter rows take in what fills the batch up."""
    original = Prefill._recurrent_layer

    def unmasked(*args: Any) -> Any:
        hidden, kwargs = original(*args)
        return hidden, {**kwargs, "attention_mask": None}

    monkeypatch.setattr(Prefill, "_recurrent_layer", unmasked)


def test_padding_in_the_state_fails_the_oracle(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    take_padding_in(monkeypatch)
    assert WAYS["greedy"].check(case, "ragged", PLANS["before layer 0"]) > 100 * TOLERANCE


def test_a_single_share_moves_behind_the_first_attention(case: Case) -> None:
    with framefusion.attach(case.model, FrameFusion(keep=0.3, relevance="last")) as run:
        case.model(**case.inputs(PROMPTS["single"](case)))
    assert [stage.layer for stage in run.stages] == [FIRST]
    with framefusion.attach(case.model, FrameFusion(keep=0.3, relevance="none")) as run:
        case.model(**case.inputs(PROMPTS["single"](case)))
    assert [stage.layer for stage in run.stages] == [1]


@pytest.mark.parametrize("moe", [False, True])
@pytest.mark.parametrize("shares", [{FIRST: 0.5, 6: 0.2}, {7: 0.2}])
def test_stages_go_by_the_latest_attention(shares: dict[int, float], moe: bool) -> None:
    """All of them take the most attended tokens of layer 3, also of those that an earlier one has left."""
    case = build("eager", moe=moe)
    inputs = case.inputs(PROMPTS["ragged"](case))
    with torch.no_grad():
        received = case.model(**inputs, output_attentions=True).attentions[0].mean(1)[:, -1]
    settings = FrameFusion(keep=shares, selector="topk", segmentation="single", **ATTENTION)
    with framefusion.attach(case.model, settings) as run:
        case.model(**inputs)
    assert [stage.layer for stage in run.stages] == list(shares)
    for stage, share in zip(run.stages, shares.values(), strict=True):
        for b, layout in enumerate(run.layout):
            for item, (t, h, w) in enumerate(layout.grids):
                mine = layout.columns[layout.item == item]
                best = mine[received[b, mine].topk(total_kept(share, t * h * w)).indices]
                assert set(best.tolist()) == set(stage.kept[b].tolist()) & set(mine.tolist())


def test_caches(case: Case) -> None:
    """States stay what they are, and the cache goes on telling the length of the conversation."""
    inputs = case.inputs(PROMPTS["single"](case))
    with framefusion.attach(case.model, PLANS["before layer 0"]) as run, torch.no_grad():
        cache = case.model(**inputs, use_cache=True).past_key_values
    kinds = [LinearAttentionLayer if kind == qwen3_5.LINEAR else ShortenedLayer for kind in ORDER]
    assert [type(layer) for layer in cache.layers] == kinds
    assert cache.get_seq_length() == inputs["input_ids"].shape[1]
    held = [cache.layers[index].keys.shape[2] for index in case.attending]
    assert held == [len(run.stages[0].kept[0]), len(run.stages[1].kept[0])]


@pytest.mark.parametrize("plan", list(PLANS))
def test_a_text_turn_of_a_padded_batch(case: Case, plan: str) -> None:
    inputs = case.inputs(PROMPTS["ragged"](case))
    with framefusion.attach(case.model, PLANS[plan]) as run:
        first = generate(case, inputs)
        more = torch.cat([first.sequences, torch.randint(FIRST_WORD, 64, (len(first.sequences), 7))], dim=1)
        mask = inputs["attention_mask"]
        mask = torch.cat([mask, mask.new_ones(len(mask), more.shape[1] - mask.shape[1])], dim=1)
        longer = {"input_ids": more, "attention_mask": mask, **case.types(more)}
        out = generate(case, longer, past_key_values=first.past_key_values)
    expected = oracle.logits(case.model, inputs, run.stages, out.sequences)[:, -len(out.logits) :]
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=TOLERANCE, rtol=0)


class TestLaterTurnsOfABatch:
    """What fills up shorter rows lies between the turns, where a state would take it in."""

    def turn(self, case: Case, model: Any, rows: slice, cache: Any, first: int) -> Any:
        inputs = case.inputs([[3, (6, 3, 3), 5]] * 4)
        patches = {key: value.chunk(4) for key, value in inputs.items() if key.startswith(("pixel", "video"))}
        chosen = range(4)[2 * first : 2 * first + 2][rows]
        call = {key: torch.cat([parts[b] for b in chosen]) for key, parts in patches.items()}
        call |= {key: inputs[key][list(chosen)] for key in ("input_ids", "mm_token_type_ids")}
        with torch.no_grad():
            return model(**call, past_key_values=cache, use_cache=True)

    def test_rows_of_equal_lengths(self, case: Case) -> None:
        with framefusion.attach(case.model, PLANS["before layer 0"]):
            results = []
            for rows in (slice(0, 2), slice(0, 1), slice(1, 2)):
                cache = self.turn(case, case.model, rows, None, 0).past_key_values
                results.append(self.turn(case, case.model, rows, cache, 1).logits)
        torch.testing.assert_close(results[0], torch.cat(results[1:]), atol=TOLERANCE, rtol=0)

    def test_rows_of_different_lengths(self, case: Case) -> None:
        with framefusion.attach(case.model, FrameFusion(keep=[{0: 0.4}, {0: 0.3}])):
            cache = self.turn(case, case.model, slice(0, 2), None, 0).past_key_values
            with pytest.raises(
                ValueError, match="several samples, which keep different numbers of tokens; the padding"
            ):
                self.turn(case, case.model, slice(0, 2), cache, 1)


class TestRefusals:
    def test_a_stage_before_the_first_attention(self, case: Case) -> None:
        message = "before layer 2, but softmax attention, which it goes by, comes first in layer 3 .*; start at layer 4"
        with pytest.raises(ValueError, match=message):
            framefusion.attach(case.model, FrameFusion(keep={0: 0.9, 2: 0.5}, relevance="last"))

    def test_an_unreachable_cost(self, case: Case) -> None:
        with pytest.raises(ValueError, match=r"the first 4 layers, .*, so the smallest cost for any video is 0\.5000"):
            framefusion.attach(case.model, FrameFusion(cost=0.4, merge=True, relevance="last"))
        inputs = case.inputs(PROMPTS["single"](case))
        with (
            framefusion.attach(case.model, FrameFusion(cost=0.505, merge=True, relevance="last")),
            pytest.raises(ValueError, match=r"a video of 54 visual tokens is 0\.5093"),
        ):
            case.model(**inputs)
        settings = FrameFusion(cost=0.5093, merge=True, similarity_lower_bound=1.0, relevance="last")
        with framefusion.attach(case.model, settings) as run:
            case.model(**inputs)
        assert run.tokens_per_layer == [54] * 4 + [1] * 4

    def test_drafts(self, case: Case) -> None:
        """Of transformers itself, attached or not: a state cannot be taken back."""
        inputs = case.inputs(PROMPTS["single"](case))
        with pytest.raises(ValueError, match="not supported with stateful models"):
            generate(case, inputs, prompt_lookup_num_tokens=2)
        with framefusion.attach(case.model, PLANS["two stages"]), torch.no_grad():
            cache = case.model(**inputs, use_cache=True).past_key_values
            with pytest.raises(RuntimeError, match="the current layer does not track past states"):
                cache.crop(-1)


def test_the_oracle_runs_states_on_what_is_present(case: Case) -> None:
    """Without stages it is the plain model, of which padding leaves the states alone as well."""
    inputs = case.inputs(PROMPTS["ragged"](case))
    out = generate(case, inputs)
    expected = oracle.logits(case.model, inputs, [], out.sequences)
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=TOLERANCE, rtol=0)
    assert not any(
        "forward" in vars(module) for module in case.model.modules() if type(module).__name__.endswith("DeltaNet")
    )
