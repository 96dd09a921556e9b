"""What people put around a model and its generation: wrappers, compilers, quantization, threads, other outputs."""

from __future__ import annotations

import copy
import pickle
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import DynamicCache, QuantizedCache, StaticCache

import framefusion
from framefusion import FrameFusion
from framefusion.hf import masks
from tests.hf import models, oracle
from tests.hf.case import FIRST_WORD, Case, Image
from tests.hf.prompts import PROMPTS
from tests.hf.ways import PLANS, TOLERANCE, Said, difference, generate

TWO = PLANS["two stages"]
SAMPLED = ["llava_onevision", "qwen2_5_vl", "qwen3_vl"]
"""Families for what does not depend on the family's layout."""


def said(case: Case, inputs: dict[str, Tensor], run: framefusion.Run, **kwargs: Any) -> Said:
    out = generate(case, inputs, **kwargs)
    return Said(torch.stack(out.logits, 1), out.sequences, run.stages)


@pytest.mark.parametrize("name", SAMPLED)
def test_a_peft_model(name: str) -> None:
    case = models.build(name)
    config = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, r=2)
    wrapped: Any = get_peft_model(case.model, config).eval()
    inputs = case.inputs(PROMPTS["ragged"](case))
    before = wrapped.state_dict().keys()
    peft = Case(**{**vars(case), "model": wrapped})
    with framefusion.attach(wrapped, TWO) as run:
        result = said(peft, inputs, run)
    assert wrapped.state_dict().keys() == before
    assert difference(case, inputs, result) <= TOLERANCE


class Int8Linear(nn.Module):
    """A linear layer with packed weights, as weight-only quantization puts in the place of ``nn.Linear``."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scale = nn.Parameter(linear.weight.abs().amax(1, keepdim=True) / 127, requires_grad=False)
        self.register_buffer("packed", (linear.weight / self.scale).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        return nn.functional.linear(states, self.packed * self.scale, self.bias)


@pytest.mark.parametrize("name", SAMPLED)
def test_quantized_weights(name: str) -> None:
    case = models.build(name)
    for layer in case.decoder.layers:
        for parent in list(layer.modules()):
            for child, module in list(parent.named_children()):
                if isinstance(module, nn.Linear):
                    setattr(parent, child, Int8Linear(module))
    inputs = case.inputs(PROMPTS["ragged"](case))
    with framefusion.attach(case.model, TWO) as run:
        result = said(case, inputs, run)
        summary = run.summary()
    assert difference(case, inputs, result) <= TOLERANCE
    plain = models.build(name)
    with framefusion.attach(plain.model, TWO) as run:
        said(plain, inputs, run)
        assert run.summary().flops_before == summary.flops_before


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "smolvlm"])
def test_hooks_of_accelerate(name: str) -> None:
    """Weights that come for each module's forward pass (LLaVA-OneVision's newline is out of their reach)."""
    case = models.build(name)
    inputs = case.inputs(PROMPTS["ragged"](case))
    cpu_offload(case.model, execution_device=torch.device("cpu"))
    with framefusion.attach(case.model, TWO) as run:
        result = said(case, inputs, run)
    assert difference(case, inputs, result) <= TOLERANCE


def test_a_compiled_model() -> None:
    """The prefill breaks the graph at every stage; what matters here is that nothing is lost."""
    torch.compiler.reset()
    case = models.build("llava_onevision")
    inputs = case.inputs(PROMPTS["single"](case))
    compiled: Any = torch.compile(case.model, backend="eager")
    with torch.no_grad(), framefusion.attach(compiled, TWO) as run:
        logits = compiled(**inputs).logits[:, -1:]
    following = logits[..., FIRST_WORD:].argmax(-1) + FIRST_WORD
    sequences = torch.cat([inputs["input_ids"], following], dim=1)
    wanted = oracle.logits(case.model, inputs, run.stages, sequences)
    torch.testing.assert_close(logits, wanted, atol=TOLERANCE, rtol=0)


def test_a_layer_compiled_before_attaching() -> None:
    """Its graph does not look for hooks that came after it, but sees that the attention's config changed."""
    torch.compiler.reset()
    case = models.build("qwen2_5_vl")
    inputs = case.inputs(PROMPTS["single"](case))
    case.decoder.layers[1].compile(backend="eager")
    with torch.no_grad():
        plain = case.model(**inputs).logits
        with framefusion.attach(case.model, FrameFusion(keep={1: 0.5})) as run:
            reduced = case.model(**inputs).logits
        assert run.tokens_per_layer == [54, 27, 27, 27]
        assert reduced.shape[1] == plain.shape[1] - 27
        assert torch.equal(case.model(**inputs).logits, plain)


@pytest.mark.parametrize("name", SAMPLED)
def test_generation_in_several_threads(name: str) -> None:
    """Prefills that overlap layer by layer: each thread gets its own answer and its own record."""
    case = models.build(name)
    video = (6, *case.frame)
    prompts = [case.inputs([[3, video, 5]]), case.inputs([[8, video, 2]]), case.inputs([[1, video, 11]])]
    results: list[Any] = [None] * len(prompts)
    failures: list[BaseException] = []
    barrier = threading.Barrier(len(prompts), timeout=60)
    mine = threading.local()

    def meet(module: Any, args: Any, kwargs: Any) -> None:
        """All threads pass the layers of the first three forward passes together."""
        if getattr(mine, "left", 0) > 0:
            mine.left -= 1
            barrier.wait()

    with framefusion.attach(case.model, TWO) as run:
        handles = [layer.register_forward_pre_hook(meet, with_kwargs=True) for layer in case.decoder.layers]

        def work(index: int) -> None:
            try:
                mine.left = 12
                result = said(case, prompts[index], run)
                results[index] = (result, run.layout[0].columns, run.summary())
            except BaseException as error:
                failures.append(error)
                barrier.abort()

        threads = [threading.Thread(target=work, args=(index,)) for index in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for handle in handles:
            handle.remove()
        # A thread that ran none is told of the latest.
        assert run.summary() in [summary for _, _, summary in results]
    assert not failures
    for inputs, (result, columns, summary) in zip(prompts, results, strict=True):
        assert difference(case, inputs, result) <= TOLERANCE
        assert result.stages[0].kept[0].numel() < inputs["input_ids"].shape[1]
        assert set(columns.tolist()) >= set(result.stages[-1].kept[0].tolist()) & set(columns.tolist())
        assert summary.tokens_per_layer[0] == len(columns)
    with framefusion.attach(case.model, TWO) as run:
        for inputs, (result, columns, _) in zip(prompts, results, strict=True):
            alone = said(case, inputs, run)
            assert torch.equal(alone.sequences, result.sequences)
            assert torch.equal(run.layout[0].columns, columns)


@pytest.mark.parametrize("name", SAMPLED)
def test_hidden_states_and_attentions_are_ragged(name: str) -> None:
    """One entry per layer, each as long as the sequence was there; of a batch, as long as its longest row."""
    case = models.build(name, "eager")
    inputs = case.inputs(PROMPTS["ragged"](case))
    with framefusion.attach(case.model, TWO) as run, torch.no_grad():
        out = case.model(**inputs, output_hidden_states=True, output_attentions=True)
    lengths = [inputs["input_ids"].shape[1]]
    for layer in range(1, 4):
        stage = next((stage for stage in run.stages if stage.layer == layer), None)
        lengths.append(lengths[-1] if stage is None else max(map(len, stage.kept)))
    assert [weights.shape[-1] for weights in out.attentions] == lengths
    assert [weights.shape[-2] for weights in out.attentions] == lengths
    # The last entry is the output of the last layer, the one before each layer what the layer before gave.
    assert [states.shape[1] for states in out.hidden_states] == [lengths[0], *lengths[:-1]][:1] + lengths
    assert out.logits.shape[1] == lengths[-1]


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize("field", ["keep", "cost"])
def test_each_sample_has_its_own_share(name: str, field: str) -> None:
    case = models.build(name)
    video = (6, *case.frame)
    inputs = case.inputs([[3, video, 5], [9, video, 2]])
    shares: Any = (0.5, {1: 0.2, 2: 0.1}) if field == "keep" else (0.5, 0.35)
    with framefusion.attach(case.model, FrameFusion(**{field: shares})) as run:
        result = said(case, inputs, run)
        together = run.stages
        beams = generate(case, inputs, num_beams=2)
        tokens = len(run.layout[0])
    assert beams.sequences.shape == result.sequences.shape
    assert difference(case, inputs, result) <= TOLERANCE
    for row, share in enumerate(shares):
        with framefusion.attach(case.model, FrameFusion(**{field: share})) as run:
            alone = said(case, inputs, run)
            if field == "cost":
                mean = sum(layer[row] for layer in run._latest().tokens_per_layer)
                text = 4 * (int(inputs["attention_mask"][row].sum()) - tokens)
                assert mean - text == pytest.approx(share * 4 * tokens, abs=2)
        torch.testing.assert_close(alone.logits[row], result.logits[row], atol=TOLERANCE, rtol=0)
        assert torch.equal(run.stages[-1].kept[row], together[-1].kept[row])


def test_shares_for_another_number_of_samples() -> None:
    case = models.build("qwen2_5_vl")
    inputs = case.inputs(PROMPTS["ragged"](case))
    with (
        framefusion.attach(case.model, FrameFusion(keep=(0.5, 0.2))),
        pytest.raises(ValueError, match="keep has 2 values for a batch of 3 samples"),
    ):
        case.model(**inputs)


@pytest.mark.parametrize("name", SAMPLED)
def test_a_quantized_cache(name: str) -> None:
    """Float8 keys and values: the prefill is exact, decoding as rough as the cache is for the same kept tokens."""
    case = models.build(name)
    inputs = case.inputs(PROMPTS["ragged"](case))
    with framefusion.attach(case.model, TWO) as run:
        cache = QuantizedCache(backend="fp8", config=case.model.config.get_text_config())
        result = said(case, inputs, run, past_key_values=cache)
    expected = oracle.logits(case.model, inputs, result.stages, result.sequences)
    torch.testing.assert_close(result.logits[:, 0], expected[:, 0], atol=TOLERANCE, rtol=0)
    assert (result.logits - expected).abs().mean() <= 0.15 * expected.abs().mean()


@pytest.mark.parametrize("plan", list(PLANS))
@pytest.mark.parametrize("name", SAMPLED)
def test_a_static_cache_of_rows_without_padding(name: str, plan: str) -> None:
    """Rows of one length that keep different numbers of tokens."""
    case = models.build(name)
    inputs = case.inputs([[3, (6, *case.frame), 5]] * 2)
    settings = replace(PLANS[plan], keep=(0.5, 0.2), cost=None) if plan == "two stages" else PLANS[plan]
    with framefusion.attach(case.model, settings) as run:
        result = said(case, inputs, run, cache_implementation="static", disable_compile=True)
    assert difference(case, inputs, result) <= TOLERANCE


@pytest.mark.parametrize("name", SAMPLED)
def test_drafts_do_not_ask(name: str) -> None:
    """Prompt lookup keeps and says what greedy decoding does, though its prefill carries drafts."""
    case = models.build(name)
    inputs = case.inputs([[3, (6, *case.frame), 9]])
    inputs["input_ids"][0, -6:] = torch.tensor([20, 21, 22, 20, 21, 22])
    for relevance in ("last", "text", "all-viewers"):
        with framefusion.attach(case.model, FrameFusion(keep={1: 0.2}, relevance=relevance)) as run:
            plain = said(case, inputs, run)
            drafted = said(case, inputs, run, prompt_lookup_num_tokens=3)
        kept = drafted.stages[0].kept[0]
        assert torch.equal(plain.stages[0].kept[0], kept[kept < inputs["input_ids"].shape[1]])
        assert torch.equal(plain.sequences, drafted.sequences)
    assert "_get_candidate_generator" not in vars(case.model)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("name", SAMPLED)
def test_a_cache_is_whole_again_after_a_reset(name: str, kind: str) -> None:
    case = models.build(name)
    inputs = case.inputs(PROMPTS["single"](case))
    config = case.model.config.get_text_config()
    cache = DynamicCache(config=config) if kind == "dynamic" else StaticCache(config=config, max_cache_len=128)
    with framefusion.attach(case.model, PLANS["before layer 0"]), torch.no_grad():
        case.model(**inputs, past_key_values=cache)
    cache.reset()
    expected = torch.stack(generate(case, inputs).logits)
    got = torch.stack(generate(case, inputs, past_key_values=cache, disable_compile=True).logits)
    torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=0)


def test_cropping_stops_at_the_reduced_part() -> None:
    case = models.build("llava_onevision")
    inputs = case.inputs([[3, (6, *case.frame), 9]])
    ids = inputs["input_ids"]
    with framefusion.attach(case.model, PLANS["before layer 0"]) as run, torch.no_grad():
        cache = case.model(**inputs).past_key_values
        cache.crop(-4)
        cropped = case.model(input_ids=ids[:, -4:], past_key_values=cache).logits[:, -1:]
        expected = oracle.logits
        with pytest.raises(RuntimeError, match="crop reaches into a reduced prompt"):
            cache.crop(-12)
        stages = run.stages
    sequences = torch.cat([ids, cropped.argmax(-1)], dim=1)
    torch.testing.assert_close(cropped, expected(case.model, inputs, stages, sequences), atol=TOLERANCE, rtol=0)


def test_images_left_alone_are_no_text() -> None:
    case = models.build("qwen2_5_vl")
    inputs = case.inputs([[3, (6, *case.frame), 4, Image(*case.frame), 5]])
    settings = FrameFusion(keep={1: 0.2}, relevance="text", images=False)
    with framefusion.attach(case.model, settings) as run, torch.no_grad():
        case.model(**inputs)
        # The image's end token and the five behind it.
        assert run._latest().query_rows().shape[1] == 6


class TestRefusals:
    """Each names what was wrong and what to do."""

    @pytest.fixture
    def case(self) -> Case:
        return models.build("qwen2_5_vl")

    @pytest.fixture
    def inputs(self, case: Case) -> dict[str, Tensor]:
        return case.inputs(PROMPTS["single"](case))

    def test_a_quantized_cache_before_layer_0(self, case: Case, inputs: dict[str, Tensor]) -> None:
        cache = QuantizedCache(backend="fp8", config=case.model.config.get_text_config())
        with (
            framefusion.attach(case.model, PLANS["before layer 0"]),
            pytest.raises(ValueError, match="quantized cache, which reduction before layer 0 would miscount"),
        ):
            case.model(**inputs, past_key_values=cache)

    def test_an_offloaded_cache(self, case: Case, inputs: dict[str, Tensor]) -> None:
        cache = QuantizedCache(backend="fp8", config=case.model.config.get_text_config())
        cache.offloading = True
        with framefusion.attach(case.model), pytest.raises(ValueError, match="an offloaded cache, which was never"):
            case.model(**inputs, past_key_values=cache)

    def test_gradient_checkpointing(self, case: Case, inputs: dict[str, Tensor]) -> None:
        case.model.gradient_checkpointing_enable()
        case.model.train()
        with framefusion.attach(case.model), pytest.raises(RuntimeError, match="the model is in training mode"):
            case.model(**inputs)
        case.model.eval()
        with framefusion.attach(case.model, TWO) as run:
            result = said(case, inputs, run)
        assert difference(case, inputs, result) <= TOLERANCE

    @pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps])
    def test_copies(self, case: Case, copied: Any) -> None:
        with framefusion.attach(case.model), pytest.raises(RuntimeError, match="cannot be copied or pickled"):
            copied(case.model)

    def test_a_prompt_that_ends_in_a_visual_token(self) -> None:
        case = models.build("llava_next_video")
        inputs = case.inputs([[3, (6, *case.frame)]])
        with framefusion.attach(case.model), pytest.raises(ValueError, match="sample 0 ends in a visual token"):
            case.model(**inputs)
        with framefusion.attach(case.model, FrameFusion(keep=1.0)):
            case.model(**inputs)

    def test_columns_of_logits(self, case: Case, inputs: dict[str, Tensor]) -> None:
        with framefusion.attach(case.model), pytest.raises(ValueError, match="logits_to_keep is a tensor of columns"):
            case.model(**inputs, logits_to_keep=torch.tensor([5]))

    def test_shares_for_half_of_the_samples(self, case: Case) -> None:
        video = (6, *case.frame)
        inputs = case.inputs([[3, video, 5], [9, video, 2], [1, video, 4], [2, video, 2]])
        with (
            framefusion.attach(case.model, FrameFusion(keep=(0.5, 0.1))),
            pytest.raises(ValueError, match="has 2 values for a batch of 4 different samples"),
        ):
            case.model(**inputs)

    def test_a_static_cache_without_dense_masks(
        self, case: Case, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache = StaticCache(config=case.model.config.get_text_config(), max_cache_len=128)
        with framefusion.attach(case.model), torch.no_grad():
            case.model(**inputs, past_key_values=cache)
            monkeypatch.setattr(masks, "DENSE", ("eager",))
            with pytest.raises(ValueError, match="'sdpa' takes no dense mask, which reduction with a static cache"):
                case.model(input_ids=torch.tensor([[11]]), past_key_values=cache)
            cache.reset()
            with pytest.raises(ValueError, match="'sdpa' takes no dense mask"):
                case.model(**inputs, past_key_values=cache)

    def test_a_later_image_on_a_static_cache(self, case: Case) -> None:
        inputs = case.inputs([[3, (6, *case.frame), 5]])
        later = case.inputs([[2, Image(*case.frame), 5]])
        del later["attention_mask"]
        cache = StaticCache(config=case.model.config.get_text_config(), max_cache_len=256)
        with framefusion.attach(case.model, FrameFusion(keep=0.3, images=False)), torch.no_grad():
            case.model(**inputs, past_key_values=cache)
            with pytest.raises(ValueError, match="later turn of a conversation held in a static cache"):
                case.model(**later, past_key_values=cache)

    def test_a_refused_prefill_leaves_no_record(self, case: Case, inputs: dict[str, Tensor]) -> None:
        with framefusion.attach(case.model) as run:
            case.model(**inputs)
            with pytest.raises(ValueError, match="input_ids is missing"):
                case.model(inputs_embeds=torch.randn(1, 5, 64))
            with pytest.raises(RuntimeError, match="no prefill has run yet"):
                run.summary()

    def test_attaching_that_fails_leaves_nothing(self, case: Case) -> None:
        attention = case.decoder.layers[2].self_attn
        config = attention.config
        del attention.config
        with pytest.raises(AttributeError):
            framefusion.attach(case.model)
        attention.config = config
        framefusion.attach(case.model).detach()

    def test_chunked_prefill(self, case: Case, inputs: dict[str, Tensor]) -> None:
        with framefusion.attach(case.model), pytest.raises(ValueError, match="prefill_chunk_size splits a video"):
            generate(case, inputs, prefill_chunk_size=20)
        assert "_prefill" not in vars(case.model)
