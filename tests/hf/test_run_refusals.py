"""What a run refuses: each error names what was wrong and what to do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Cache, Qwen2Config, Qwen2ForCausalLM, StaticCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling

import framefusion
from framefusion import FrameFusion, UnsupportedModelError
from framefusion.hf.decoder import attention_of
from tests.hf import models
from tests.hf.case import Case
from tests.hf.prompts import PROMPTS
from tests.hf.ways import generate, logits


@pytest.fixture
def case() -> Case:
    return models.build("qwen2_5_vl")


@pytest.fixture
def inputs(case: Case) -> dict[str, Tensor]:
    return case.inputs(PROMPTS["single"](case))


def test_attaching_twice(case: Case) -> None:
    with framefusion.attach(case.model):
        with pytest.raises(RuntimeError, match="has a reduction attached already; call detach"):
            framefusion.attach(case.model)
        with pytest.raises(RuntimeError, match="attached already"):
            framefusion.attach(case.model.model)
    framefusion.attach(case.model).detach()


def test_an_unsupported_model() -> None:
    config = Qwen2Config(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(
        UnsupportedModelError, match=r"not supported\. Supported: LLaVA-One.* framefusion\.register_family\(\)"
    ):
        framefusion.attach(Qwen2ForCausalLM(config))


def test_wrong_kinds(case: Case) -> None:
    with pytest.raises(TypeError, match="model must be a loaded Hugging Face model, got str"):
        framefusion.attach("model")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="settings must be a FrameFusion, got float"):
        framefusion.attach(case.model, 0.2)  # type: ignore[arg-type]


def test_an_unreachable_cost(case: Case, inputs: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"cost=0\.2 cannot be reached on 4 decoder layers"):
        framefusion.attach(case.model, FrameFusion(cost=0.2, merge=True))
    with (
        framefusion.attach(case.model, FrameFusion(cost=0.26, merge=True)),
        pytest.raises(ValueError, match=r"a video of 54 visual tokens is 0\.2639"),
    ):
        logits(case, inputs)
    with framefusion.attach(case.model, FrameFusion(cost=0.2639, merge=True)):
        logits(case, inputs)


def test_embeddings_without_ids(case: Case) -> None:
    with framefusion.attach(case.model), pytest.raises(ValueError, match="input_ids is missing"):
        case.model(inputs_embeds=torch.randn(1, 5, 64))


def test_labels(case: Case, inputs: dict[str, Tensor]) -> None:
    with framefusion.attach(case.model), pytest.raises(ValueError, match="labels cannot be used while"):
        case.model(**inputs, labels=inputs["input_ids"])


def test_training_mode(case: Case, inputs: dict[str, Tensor]) -> None:
    case.model.train()
    with framefusion.attach(case.model), pytest.raises(RuntimeError, match="the model is in training mode"):
        case.model(**inputs)


def test_caches_of_unknown_layers(case: Case, inputs: dict[str, Tensor]) -> None:
    class Odd(DynamicLayer):
        pass

    cache = Cache(layer_class_to_replicate=Odd)
    with framefusion.attach(case.model), pytest.raises(ValueError, match="a cache of Odd layers, which reduction"):
        case.model(**inputs, past_key_values=cache)


def test_a_video_in_a_later_turn_of_a_static_cache(case: Case, inputs: dict[str, Tensor]) -> None:
    cache = StaticCache(config=case.model.config.text_config, max_cache_len=256)
    with framefusion.attach(case.model), torch.no_grad():
        case.model(**inputs, past_key_values=cache)
        del inputs["attention_mask"]
        with pytest.raises(ValueError, match="later turn of a conversation held in a static cache"):
            case.model(**inputs, past_key_values=cache)


def test_masks_of_another_kind(case: Case, inputs: dict[str, Tensor]) -> None:
    inputs["attention_mask"] = inputs["attention_mask"][None]
    inputs["position_ids"] = torch.arange(inputs["input_ids"].shape[1]).expand(3, 1, -1)
    with framefusion.attach(case.model), pytest.raises(ValueError, match=r"attention_mask has 3 dimensions; .* 2D"):
        case.model(**inputs)


def test_the_language_model_alone(case: Case) -> None:
    with framefusion.attach(case.model), pytest.raises(RuntimeError, match="was called directly"):
        case.decoder(inputs_embeds=torch.randn(1, 5, 64))


def test_records_before_a_prefill(case: Case) -> None:
    with framefusion.attach(case.model) as run, pytest.raises(RuntimeError, match="no prefill has run yet"):
        run.summary()


def test_broken_placeholders(case: Case, inputs: dict[str, Tensor]) -> None:
    inputs["video_grid_thw"] = torch.tensor([[6, 6, 4]])
    del inputs["mm_token_type_ids"]
    encoded = {"video": BaseModelOutputWithPooling(pooler_output=(torch.zeros(54, 64),))}
    with (
        framefusion.attach(case.model),
        pytest.raises(ValueError, match="18 of them belong to no video whose size is known"),
    ):
        case.model(input_ids=inputs["input_ids"], video_grid_thw=inputs["video_grid_thw"], mm_encoder_outputs=encoded)


def test_hidden_video_tokens(case: Case, inputs: dict[str, Tensor]) -> None:
    inputs["attention_mask"][0, 10:13] = 0
    inputs["mm_token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    with (
        framefusion.attach(case.model),
        pytest.raises(ValueError, match="hides 3 of the 54 visual tokens of sample 0"),
    ):
        case.model(**inputs, position_ids=torch.arange(inputs["input_ids"].shape[1]).expand(3, 1, -1))


def test_chunked_prefill(case: Case, inputs: dict[str, Tensor]) -> None:
    with framefusion.attach(case.model), pytest.raises(ValueError, match="prefill_chunk_size"):
        generate(case, inputs, prefill_chunk_size=20)


def test_copies_of_an_attached_model(case: Case) -> None:
    with framefusion.attach(case.model), pytest.raises(RuntimeError, match="cannot be copied or pickled"):
        copy.deepcopy(case.model)
    copy.deepcopy(case.model)


def test_attention_that_cannot_be_recorded(case: Case, inputs: dict[str, Tensor]) -> None:
    attention = attention_of(case.decoder.layers[1])
    attention.forward = lambda hidden_states, **_: (hidden_states, None)
    with (
        framefusion.attach(case.model, FrameFusion(keep={2: 0.5}, relevance="last")),
        pytest.raises(RuntimeError, match="the attention of layer 1 could not be recorded"),
    ):
        case.model(**inputs, use_cache=False)


def test_records_of_a_failed_prefill(case: Case, inputs: dict[str, Tensor]) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("from the model")

    case.decoder.layers[2].register_forward_pre_hook(fail)
    with framefusion.attach(case.model) as run:
        with pytest.raises(KeyError):
            case.model(**inputs)
        with pytest.raises(RuntimeError, match="the latest prefill did not reach its end"):
            run.summary()
