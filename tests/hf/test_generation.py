"""What generate() runs beside the prompt (negative prompts, drafts, packed batches), and what a run tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import ContinuousBatchingConfig, ContinuousMixin, GenerationConfig

import framefusion
from framefusion import FrameFusion, FrameFusionError
from tests.hf import models, oracle
from tests.hf.case import Case
from tests.hf.prompts import PROMPTS
from tests.hf.ways import ATTENTION, PLANS, TOLERANCE, generate

TWO = PLANS["two stages"]


@pytest.fixture
def case() -> Case:
    return models.build("llava_onevision")


@pytest.mark.parametrize("use_cache", [True, False])
def test_guidance_with_a_negative_prompt(case: Case, use_cache: bool) -> None:
    """The video's branch equals the oracle, the other the plain model; what is told is of the video's."""
    inputs, scale, steps = case.inputs(PROMPTS["single"](case)), 1.5, 3
    negative = torch.randint(10, 64, (1, 7))
    with framefusion.attach(case.model, TWO) as run:
        out = generate(
            case,
            inputs,
            guidance_scale=scale,
            negative_prompt_ids=negative,
            use_cache=use_cache,
            max_new_tokens=steps,
            output_scores=True,
            suppress_tokens=None,
        )
        assert run.tokens_per_layer == [54, 27, 27, 8]
        assert len(run.layout[0]) == 54
        # Later text is the caller's again.
        generate(case, {"input_ids": negative}, max_new_tokens=1)
        assert run.tokens_per_layer == [0, 0, 0, 0]
        # Without a cache every step reduces anew.
        generate(case, inputs, use_cache=False, max_new_tokens=1)
        stages = run.stages
    if not use_cache:
        return
    prompt = inputs["input_ids"].shape[1]
    with_video = oracle.logits(case.model, inputs, stages, out.sequences).log_softmax(-1)
    with torch.no_grad():
        text = torch.cat([negative, out.sequences[:, prompt:]], 1)
        without = case.model(input_ids=text).logits[:, negative.shape[1] - 1 : -1].log_softmax(-1)
    expected = scale * (with_video - without) + without
    torch.testing.assert_close(torch.stack(out.scores, 1), expected, atol=10 * TOLERANCE, rtol=0)


def test_drafts_of_an_assistant_that_is_attached_too(case: Case) -> None:
    """Which of the two models carries drafts is not mixed up: the model keeps what it keeps alone."""
    inputs = case.inputs([[3, (6, *case.frame), 9]])
    assistant = models.build("llava_onevision").model
    settings = FrameFusion(keep={1: 0.2}, **{**ATTENTION, "relevance_exponent": 4.0})
    with framefusion.attach(case.model, settings) as run, framefusion.attach(assistant, settings):
        alone = generate(case, inputs)
        kept = run.stages[0].kept[0]
        together = generate(case, inputs, assistant_model=assistant)
        own = run.stages[0].kept[0]
        assert torch.equal(own[own < inputs["input_ids"].shape[1]], kept)
    assert torch.equal(alone.sequences, together.sequences)


BATCHING: dict[str, Callable[[Any], Any]] = {
    "generate_batch": lambda model: model.generate_batch([[20, 21, 22]]),
    "init_continuous_batching": lambda model: model.init_continuous_batching(),
    "context manager": lambda model: model.continuous_batching_context_manager(),
}


@pytest.mark.parametrize("way", list(BATCHING))
def test_continuous_batching_is_refused_ahead(case: Case, way: str) -> None:
    with framefusion.attach(case.model, TWO), pytest.raises(FrameFusionError, match=r"continuous batching .* detach"):
        BATCHING[way](case.model)
    assert not {"generate", "generate_batch"} & set(vars(case.model))


def test_a_manager_made_elsewhere_is_told(case: Case) -> None:
    config = GenerationConfig(max_new_tokens=2, do_sample=False, eos_token_id=63)
    # Left to itself it takes most of the machine's free memory.
    small = ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=64)

    def answer() -> Any:
        manager = ContinuousMixin.init_continuous_batching(case.model, config, small)
        manager.start()
        try:
            manager.add_request([20, 21, 22])
            return manager.get_result(timeout=60)
        finally:
            manager.stop(block=True)

    plain = answer()
    with framefusion.attach(case.model, FrameFusion(keep=1.0)):
        assert answer().generated_tokens == plain.generated_tokens
    with framefusion.attach(case.model, TWO):
        assert "use generate() with a padded batch" in answer().error


def test_a_run_says_what_it_is(case: Case) -> None:
    run = framefusion.attach(case.model, FrameFusion(keep={1: 0.5}))
    name = "LlavaOnevisionForConditionalGeneration"
    assert repr(run) == f"<Run of FrameFusion(keep={{1: 0.5}}), attached to {name}, no prefill to tell of>"
    with run, torch.no_grad():
        case.model(**case.inputs(PROMPTS["single"](case)))
    assert repr(run).endswith(f", detached from {name}, latest prefill kept 27 of 54 visual tokens>")


def test_a_wrapper_around_the_decoder_outlives_detaching(case: Case) -> None:
    """Whoever wraps a method that we had replaced keeps a working one."""
    inputs, decoder = case.inputs(PROMPTS["single"](case)), case.decoder
    with torch.no_grad():
        before = case.model(**inputs).logits
        run = framefusion.attach(case.model, TWO)
        ours = decoder.forward
        decoder.forward = lambda *args, **kwargs: ours(*args, **kwargs)
        run.detach()
        assert torch.equal(case.model(**inputs).logits, before)
        del decoder.forward
        with framefusion.attach(case.model, TWO):
            assert "forward" in vars(decoder)
        assert "forward" not in vars(decoder)
