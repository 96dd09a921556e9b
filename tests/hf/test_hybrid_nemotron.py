"""A decoder in the order of Nemotron-H: layers that keep a state, attend, or map each token for itself, each nothing
else, and no rotary positions."""

from __future__ import annotations

import pytest
import torch
from transformers.cache_utils import DummyLayer, LinearAttentionLayer

import framefusion
from framefusion.hf.cache_layers import ShortenedLayer
from framefusion.hf.summary import DecoderSize
from tests.hf import oracle
from tests.hf.case import Case
from tests.hf.families import nemotron_h_omni
from tests.hf.families.nemotron_h_omni import EXPERTS, FULL, MAMBA
from tests.hf.prompts import PROMPTS
from tests.hf.test_hybrid import PLANS, take_padding_in
from tests.hf.ways import ALONE, EXCLUDED, TOLERANCE, WAYS, generate

ORDER = [MAMBA, EXPERTS, MAMBA, FULL, "mlp", MAMBA, FULL, EXPERTS]
"""Attention exists before layer 4 first, as in the plans of the other hybrid decoders."""


def build(attention: str = "sdpa") -> Case:
    torch.manual_seed(1)
    case = nemotron_h_omni.build(layers_block_type=ORDER)
    case.model.eval().set_attn_implementation(attention)
    return case


@pytest.fixture
def case() -> Case:
    return build()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("rows", list(PROMPTS))
@pytest.mark.parametrize("plan", list(PLANS))
def test_generate_equals_the_masked_oracle(attention: str, plan: str, rows: str) -> None:
    assert WAYS["greedy"].check(build(attention), rows, PLANS[plan]) <= TOLERANCE


@pytest.mark.parametrize(
    "way", [way for way in WAYS if ("nemotron_h_omni", way) not in EXCLUDED and "compiled" not in way]
)
def test_every_way_equals_the_masked_oracle(case: Case, way: str) -> None:
    rows = "single" if ("nemotron_h_omni", way) in ALONE else WAYS[way].prompts[0]
    assert WAYS[way].check(case, rows, PLANS["two stages, merging"]) <= TOLERANCE


def test_padding_in_the_state_fails_the_oracle(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    take_padding_in(monkeypatch)
    assert WAYS["greedy"].check(case, "ragged", PLANS["before layer 0"]) > 100 * TOLERANCE


def test_caches(case: Case) -> None:
    """States stay what they are, layers without either hold nothing."""
    inputs = case.inputs(PROMPTS["single"](case))
    with framefusion.attach(case.model, PLANS["before layer 0"]) as run, torch.no_grad():
        cache = case.model(**inputs, use_cache=True).cache
    kinds = {MAMBA: LinearAttentionLayer, FULL: ShortenedLayer, EXPERTS: DummyLayer, "mlp": DummyLayer}
    assert [type(layer) for layer in cache.layers] == [kinds[kind] for kind in ORDER]
    assert cache.get_seq_length() == inputs["input_ids"].shape[1]
    assert [cache.layers[index].keys.shape[2] for index in case.attending] == [
        len(run.stages[0].kept[0]),
        len(run.stages[1].kept[0]),
    ]


def test_a_reduced_cache_is_refused_before_a_state_changes(case: Case) -> None:
    inputs = case.inputs(PROMPTS["single"](case))
    with framefusion.attach(case.model, PLANS["two stages"]), torch.no_grad():
        cache = case.model(**inputs, use_cache=True).cache
    before = cache.layers[0].recurrent_states[0].clone()
    with torch.no_grad(), pytest.raises(RuntimeError, match="only a model with a reduction attached can read"):
        case.model(input_ids=inputs["input_ids"][:, -1:], cache=cache)
    assert cache.layers[0].recurrent_states[0].equal(before)


def test_what_each_kind_of_layer_costs(case: Case) -> None:
    size = DecoderSize.of(case.decoder.layers, case.decoder.config, torch.float32)
    assert [window is None for window in size.windows] == [kind == FULL for kind in ORDER]
    by_kind = dict(zip(ORDER, size.weights, strict=True))
    # Up and down: three experts of four, the one that all tokens meet, and the router.
    assert by_kind[EXPERTS] == 2 * 64 * 32 * 3 + 2 * 64 * 32 + 64 * 4
    assert by_kind["mlp"] == 2 * 64 * 96
    assert by_kind[FULL] == 2 * 64 * 64 + 2 * 64 * 32
    assert [size.cache_bytes(index, 10) for index in (0, 1, 3)] == [0, 0, 10 * 2 * 32 * 4]


def test_the_oracle_runs_states_on_what_is_present(case: Case) -> None:
    """Without stages it is the plain model, of which padding leaves the states alone as well."""
    inputs = case.inputs(PROMPTS["ragged"](case))
    out = generate(case, inputs)
    expected = oracle.logits(case.model, inputs, [], out.sequences)
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=TOLERANCE, rtol=0)
