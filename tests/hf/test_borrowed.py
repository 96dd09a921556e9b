"""Layers that attend to the keys and values of earlier ones, and inputs of each layer's own (Gemma 4 E2B and E4B, Gemma
3n); that they equal the masked oracle is in the matrix."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import framefusion
from framefusion import FrameFusion
from framefusion.hf import masks, prefix_file, refusals
from framefusion.hf.decoder import Decoder, lenders
from framefusion.hf.families.llama4 import Llama4
from framefusion.reduction.reducer import Reduction
from tests.hf import models, oracle, parts
from tests.hf.prompts import PROMPTS
from tests.hf.ways import ATTENTION, PLANS, TOLERANCE, generate

BEHIND = FrameFusion(keep={1: 0.6, 3: 0.2}, **ATTENTION)
"""The second stage lies between a lender and a layer that borrows from it, and goes by the attention of another one."""


def layer(kind: str, shared: bool) -> Any:
    return SimpleNamespace(self_attn=SimpleNamespace(layer_type=kind, is_kv_shared_layer=shared))


def test_a_layer_borrows_from_the_last_one_of_its_kind() -> None:
    own = [layer(kind, shared=False) for kind in "ssfsf"]
    assert lenders([*own, *(layer(kind, shared=True) for kind in "ssf")]) == [0, 1, 2, 3, 4, 3, 3, 4]


@pytest.mark.parametrize("name", ["gemma4_e", "gemma3n"])
def test_attention_of_a_borrowing_layer_counts_for_what_is_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys are those of the lender, of which the first stage has dropped some."""
    case, seen = models.build(name, "eager"), []
    inputs = case.inputs(PROMPTS["single"](case))
    original = Reduction.attention

    def attention(self: Reduction, received: Tensor) -> None:
        seen.append((received[0], self.columns[0]))
        original(self, received)

    monkeypatch.setattr(Reduction, "attention", attention)
    with framefusion.attach(case.model, BEHIND) as run, torch.no_grad():
        weights = case.model(**inputs, output_attentions=True).attentions
    (_, (received, columns)), behind = seen, weights[2][0].mean(0)[-1]
    # Nothing is dropped before the lender, so its slots are the columns.
    assert len(behind) == inputs["input_ids"].shape[1]
    assert torch.equal(columns, run.stages[0].kept[0])
    torch.testing.assert_close(received, behind[columns], atol=1e-6, rtol=0)
    dropped = torch.ones(len(behind), dtype=torch.bool)
    dropped[columns] = False
    assert float(behind[dropped].abs().max()) == 0


@pytest.mark.parametrize("plan", ["two stages", "before layer 0"])
def test_layers_run_on_the_last_token_alone_once_no_stage_comes(plan: str) -> None:
    case, lengths = models.build("gemma4_e"), []
    for index, own in enumerate(case.decoder.layers):
        own.mlp.register_forward_pre_hook(lambda module, args, index=index: lengths.append((index, args[0].shape[1])))
    with framefusion.attach(case.model, PLANS[plan]) as run:
        generate(case, case.inputs(PROMPTS["single"](case)), max_new_tokens=1)
    last = run.stages[-1].layer
    assert last >= 2
    assert [count == 1 for _, count in lengths] == [index >= last for index, _ in lengths]


@pytest.mark.parametrize("name", ["gemma4", "gemma4_e"])
def test_the_head_sees_no_more_than_it_is_asked_for(name: str) -> None:
    """It counts on a decoder that leaves out what nobody asked for; a whole prompt would be multiplied by the words."""
    case = models.build(name)
    inputs = case.inputs(PROMPTS["single"](case))
    for settings in (FrameFusion(keep=1.0), BEHIND):
        with framefusion.attach(case.model, settings), torch.no_grad():
            assert case.model(**inputs, logits_to_keep=2).logits.shape[1] == 2
            whole = case.model(**inputs, output_hidden_states=True, logits_to_keep=1)
            assert whole.logits.shape[1] == 1
            assert whole.hidden_states[1].shape[1] == inputs["input_ids"].shape[1]


def test_a_merged_token_has_the_inputs_of_the_one_it_merged_into() -> None:
    case = models.build("gemma4_e")
    inputs, given = case.inputs(PROMPTS["single"](case)), []
    decoder = case.decoder
    hooks = [
        own.per_layer_input_gate.register_forward_hook(lambda module, args, output: given.append(output.shape[1]))
        for own in decoder.layers
    ]
    with framefusion.attach(case.model, PLANS["merge, then prune"]) as run:
        out = generate(case, inputs)
    assert given[0] < inputs["input_ids"].shape[1]
    for hook in hooks:
        hook.remove()
    expected = oracle.logits(case.model, inputs, run.stages, out.sequences)
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["gemma4_e", "gemma3n"])
@pytest.mark.parametrize("settings", [BEHIND, FrameFusion(keep={1: 0.5, 3: 0.2}, relevance="none")])
def test_a_prefix_is_the_same_from_a_file(name: str, settings: FrameFusion) -> None:
    """With what layers see of what they borrow, and with the inputs of layers behind the fork."""
    case = models.build(name)
    inputs, said = parts.whole(case), []
    with framefusion.attach(case.model, settings) as run:
        held = run.extend(inputs)
        words = inputs["input_ids"][:, held.length :]
        for own in (held, run.put_together(*prefix_file.taken_apart(held))):
            out = generate(case, parts.behind(case, words, held.length), past_key_values=own.to_continue())
            said.append(torch.stack(out.logits, 1))
    assert said[0].equal(said[1])


def test_llama4_ends_where_attention_goes_by_what_is_held() -> None:
    config = SimpleNamespace(
        layer_types=["chunked_attention", "full_attention"],
        attention_chunk_size=64,
        attn_temperature_tuning=True,
        no_rope_layers=[1, 0],
        floor_scale=32,
    )
    assert Llama4().longest(config) == 31
    config.attn_temperature_tuning = False
    assert Llama4().longest(config) == 64
    config.layer_types = ["full_attention"]
    assert Llama4().longest(config) is None
    case = models.build("llama4")
    for own in case.decoder.layers:
        own.self_attn.floor_scale = 100
    case.model.config.text_config.floor_scale = 100
    with framefusion.attach(case.model, BEHIND):
        inputs = case.inputs(PROMPTS["single"](case))
        with pytest.raises(ValueError, match=r"has \d+ tokens, but from 100 on the attention of Llama4"):
            generate(case, inputs)
    refusals.too_long(Decoder(models.build("gemma4").model), 10**6)


def test_a_mask_between_columns_is_that_of_the_definition() -> None:
    config = SimpleNamespace(_attn_implementation="sdpa")
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(-1, 12, (2, 9), generator=generator)
    queries = torch.randint(-1, 12, (2, 5), generator=generator)
    groups = [torch.randint(0, 3, own.shape, generator=generator) for own in (queries, keys)]
    for window in (None, 4):
        for within in (False, True):
            got = masks.between(config, torch.zeros(2, 5, 1), queries, keys, window, *groups, within=within)
            for b, q, k in torch.cartesian_prod(torch.arange(2), torch.arange(5), torch.arange(9)).tolist():
                query, key = int(queries[b, q]), int(keys[b, k])
                near = window is None or query - key < window
                same = bool(groups[0][b, q] == groups[1][b, k])
                seen = (key <= query or same) and near if within else (key <= query and near) or same
                assert bool(got[b, 0, q, k]) == (seen and key >= 0)
