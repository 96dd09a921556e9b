"""What attaching promises: nothing changed in the model, and nothing left behind."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from transformers import StaticCache

import framefusion
from framefusion import FrameFusion
from framefusion.hf import recording, state
from framefusion.hf.decoder import attention_of
from framefusion.interface import apply_framefusion
from tests.hf import models
from tests.hf.case import FIRST_WORD, Case
from tests.hf.prompts import PROMPTS
from tests.hf.ways import ATTENTION, PLANS, TOLERANCE, logits

KEEP = PLANS["two stages"]


def hooks(case: Case) -> int:
    """Hooks in the model; transformers has some of its own."""
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in case.model.modules())


def test_nothing_changes_in_the_model(case: Case) -> None:
    inputs = case.inputs(PROMPTS["ragged"](case))
    before = logits(case, inputs)
    state = {key: value.clone() for key, value in case.model.state_dict().items()}
    config = copy.deepcopy(case.model.config.to_dict())
    layers = case.decoder.layers
    attention = [attention_of(layers[index]).config for index in case.attending]
    hooked = hooks(case)
    with framefusion.attach(case.model, KEEP) as run:
        assert run.attached
        reduced = logits(case, inputs)
        assert list(case.model.state_dict()) == list(state)
        assert case.model.config.to_dict() == config
    assert not run.attached
    assert reduced.shape[1] < before.shape[1]
    assert torch.equal(logits(case, inputs), before)
    assert all(torch.equal(case.model.state_dict()[key], value) for key, value in state.items())
    assert all(
        attention_of(layers[index]).config is kept for index, kept in zip(case.attending, attention, strict=True)
    )
    assert hooks(case) == hooked


@pytest.mark.covering(1)
@pytest.mark.parametrize("settings", [FrameFusion(keep=1.0), FrameFusion(cost=1.0), FrameFusion(keep={1: 1.0})])
def test_keeping_everything_is_bit_identical(case: Case, settings: FrameFusion) -> None:
    inputs = case.inputs(PROMPTS["ragged"](case))
    before = logits(case, inputs)
    with framefusion.attach(case.model, settings) as run:
        assert torch.equal(logits(case, inputs), before)
    assert run.stages == []
    assert run.summary().mean_share == 1.0
    assert run.summary().flops_saved_share == 0.0


def test_keeping_everything_refuses_nothing(case: Case) -> None:
    inputs = case.inputs(PROMPTS["single"](case))
    cache = StaticCache(config=case.model.config.text_config, max_cache_len=256)
    with framefusion.attach(case.model, FrameFusion(keep=1.0)), torch.no_grad():
        assert case.model(**inputs, labels=inputs["input_ids"]).loss > 0
        case.model(**inputs, past_key_values=cache)
        words = torch.full((1, 5), FIRST_WORD)
        case.model(inputs_embeds=case.model.get_input_embeddings()(words))


def test_text_only(case: Case) -> None:
    ids = torch.randint(10, 64, (2, 9))
    with torch.no_grad():
        before = case.model(input_ids=ids).logits
        with framefusion.attach(case.model, KEEP) as run:
            assert torch.equal(case.model(input_ids=ids).logits, before)
    assert run.tokens_per_layer == [0, 0, 0, 0]
    assert run.summary().mean_share == 1.0


def test_padding_on_either_side(case: Case) -> None:
    with framefusion.attach(case.model, PLANS["merge, then prune"]) as run:
        left = logits(case, case.inputs(PROMPTS["ragged"](case)))[:, -1]
        kept = [stage.kept for stage in run.stages]
        inputs = case.inputs(PROMPTS["ragged"](case), side="right")
        right = logits(case, inputs)[:, -1]
    torch.testing.assert_close(right, left, atol=TOLERANCE, rtol=0)
    shift = inputs["attention_mask"].shape[1] - inputs["attention_mask"].sum(1)
    for stage, expected in zip(run.stages, kept, strict=True):
        for b, columns in enumerate(stage.kept):
            assert torch.equal(columns + shift[b], expected[b])


def test_an_exception_detaches_and_leaves_nothing_behind(case: Case) -> None:
    inputs = case.inputs(PROMPTS["single"](case))
    before = logits(case, inputs)

    def fail(*_: Any) -> None:
        raise KeyError("from the model")

    inside = next(case.decoder.layers[2].children())
    broken = inside.register_forward_pre_hook(fail)
    with pytest.raises(KeyError), framefusion.attach(case.model, KEEP):
        logits(case, inputs)
    broken.remove()
    assert torch.equal(logits(case, inputs), before)
    with framefusion.attach(case.model, KEEP):
        assert logits(case, inputs).shape[1] < before.shape[1]


def test_an_interrupt_leaves_nothing_behind(case: Case) -> None:
    """Ctrl-C passes by torch's hooks."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    inputs = case.inputs(PROMPTS["single"](case))
    layer = max(index for index in case.attending if index <= 2)
    broken = attention_of(case.decoder.layers[layer]).register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt), framefusion.attach(case.model, FrameFusion(cost=0.5)):
        logits(case, inputs)
    broken.remove()
    assert state.current().forward is None
    assert recording.active.get() is None
    with framefusion.attach(case.model, KEEP):
        logits(case, case.inputs([[7]]))


@pytest.mark.covering(1)
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("name", models.apart())
def test_the_model_can_be_freed(name: str, detach: bool) -> None:
    case = models.build(name)
    run = framefusion.attach(case.model, KEEP)
    logits(case, case.inputs(PROMPTS["single"](case)))
    model = weakref.ref(case.model)
    if detach:
        run.detach()
        summary = run.summary()
        assert summary.visual_tokens_after == int(0.15 * summary.visual_tokens_before + 0.5)
    else:
        del run
    del case
    gc.collect()
    assert model() is None


def test_apply_framefusion(case: Case) -> None:
    run = apply_framefusion(case.model, cost=0.5, similarity_lower_bound=0.7, ratio_lower_bound=0.2)
    try:
        cascade = FrameFusion(cost=0.5, merge=True, similarity_lower_bound=0.7, ratio_lower_bound=0.2, **ATTENTION)
        assert run.settings == cascade
        logits(case, case.inputs(PROMPTS["single"](case)))
        assert run.summary().mean_share == pytest.approx(0.5, abs=1 / 54)
    finally:
        run.detach()
    run.detach()


def test_an_interrupt_while_detaching_comes_out_when_that_is_done() -> None:
    """Else the hooks that are left would keep the model from any other reduction."""
    model = models.build("llava_onevision").model
    run = framefusion.attach(model)
    original, calls = run._undo[3], []

    def interrupted() -> None:
        calls.append(True)
        if len(calls) == 1:
            raise KeyboardInterrupt
        original()

    run._undo[3] = interrupted
    with pytest.raises(KeyboardInterrupt):
        run.detach()
    assert not run.attached
    assert len(calls) == 2
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    framefusion.attach(model).detach()
