"""Flash attention's masks, half precision and autocast."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

import framefusion
from framefusion import FrameFusion
from framefusion.hf.decoder import window_of
from framefusion.hf.families import find
from tests.hf import models, oracle
from tests.hf.case import Case
from tests.hf.prompts import PROMPTS
from tests.hf.ways import PLANS, TOLERANCE, generate, logits


def _stand_in(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
    """Flash attention's contract: masks are None or 2D over the keys; causal, aligned to the end."""
    assert mask is None or mask.ndim == 2
    assert module.config._attn_implementation == "fa_stand_in"
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * kwargs["scaling"]
    q, k = scores.shape[-2:]
    visible = torch.ones(q, k, dtype=torch.bool).tril(k - q)[None]
    if mask is not None:
        visible = visible & mask.bool()[:, None, -k:]
    scores = scores.masked_fill(~visible[:, None], torch.finfo(scores.dtype).min)
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


@pytest.mark.covering(1)
@pytest.mark.parametrize("rows", list(PROMPTS))
def test_flash_attention_masks(name: str, rows: str) -> None:
    AttentionInterface.register("fa_stand_in", _stand_in)
    AttentionMaskInterface.register("fa_stand_in", flash_attention_mask)
    case = models.build(name)
    inputs = case.inputs(PROMPTS[rows](case))
    settings = PLANS["before layer 0"]
    with framefusion.attach(case.model, settings) as run:
        case.decoder.set_attn_implementation("fa_stand_in")
        if any(map(window_of, case.decoder.layers)):
            # It would cut the window by slots.
            with pytest.raises(ValueError, match="'fa_stand_in' cuts the windows of sliding-window layers"):
                generate(case, inputs)
            return
        if find(case.model).looks_ahead:
            with pytest.raises(ValueError, match="'fa_stand_in' takes no dense mask, but the visual tokens of"):
                generate(case, inputs)
            return
        if oracle.positions(case.model, inputs["attention_mask"]):
            with pytest.raises(ValueError, match="'fa_stand_in' takes gaps in positions for packed sequences"):
                generate(case, inputs)
            return
        out = generate(case, inputs)
    case.decoder.set_attn_implementation("sdpa")
    expected = oracle.logits(case.model, inputs, run.stages, out.sequences)
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=TOLERANCE, rtol=0)


def test_a_step_of_another_length_gets_a_mask_of_its_own() -> None:
    """Behind as many slots, and where the model makes no mask of its own for either."""
    AttentionInterface.register("fa_stand_in", _stand_in)
    AttentionMaskInterface.register("fa_stand_in", flash_attention_mask)
    case = models.build("llava_onevision")
    video = (6, *case.frame)
    inputs = case.inputs([[3, video, 5], [2, video, 6]])
    del inputs["attention_mask"]
    with framefusion.attach(case.model, FrameFusion(keep=(0.5, 0.1))), torch.no_grad():
        case.decoder.set_attn_implementation("fa_stand_in")
        cache = case.model(**inputs).past_key_values
        twin = copy.deepcopy(cache)
        case.model(input_ids=torch.full((2, 3), 20), past_key_values=cache)
        cache.crop(-3)
        step = torch.full((2, 1), 21)
        got = case.model(input_ids=step, past_key_values=cache).logits
        expected = case.model(input_ids=step, past_key_values=twin).logits
    torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.covering(1)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("settings", list(PLANS))
def test_half_precision(name: str, dtype: torch.dtype, settings: str) -> None:
    case = models.build(name, dtype=dtype)
    inputs = case.inputs(PROMPTS["ragged"](case))
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    with framefusion.attach(case.model, PLANS[settings]) as run:
        out = generate(case, inputs)
    assert run.tokens_per_layer[-1] < 162
    expected = oracle.logits(case.model, inputs, run.stages, out.sequences).float()
    # Rounding of half precision; a mistake such as renumbered positions differs by several units.
    torch.testing.assert_close(torch.stack(out.logits, 1).float(), expected, atol=0.5, rtol=0)


@pytest.mark.covering(1)
@pytest.mark.parametrize("settings", list(PLANS))
def test_autocast(case: Case, settings: str) -> None:
    inputs = case.inputs(PROMPTS["ragged"](case))
    with framefusion.attach(case.model, PLANS[settings]) as run:
        logits(case, inputs)
        expected = run.summary()
        with torch.autocast("cpu", torch.bfloat16):
            logits(case, inputs)
    # Rounding decides about merges at the very threshold, and with a cost the pruning makes up for those.
    assert run.summary().mean_share == pytest.approx(expected.mean_share, abs=0.01)
    if PLANS[settings].cost is None:
        assert run.tokens_per_layer[-1] == expected.visual_tokens_after
