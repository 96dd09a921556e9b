"""What attaching promises: nothing changed in the model, honest records, clear refusals."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    Cache,
    DynamicCache,
    Qwen2Config,
    Qwen2ForCausalLM,
    StaticCache,
)
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import flash_attention_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling

import framefusion
from framefusion import FrameFusion, UnsupportedModelError
from framefusion.hf import recording, state
from framefusion.hf.decoder import attention_of, borrows, window_of
from framefusion.hf.families import find
from framefusion.interface import apply_framefusion
from framefusion.reduction.budgets import total_kept
from tests.hf import models, oracle
from tests.hf.case import FIRST_WORD, Case
from tests.hf.prompts import PROMPTS
from tests.hf.ways import ATTENTION, EXCLUDED, PLANS, TOLERANCE, generate

KEEP = PLANS["two stages"]


def logits(case: Case, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return case.model(**inputs, **oracle.positions(case.model, inputs["attention_mask"])).logits


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


@pytest.mark.parametrize("detach", [True, False])
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


def test_stages_tell_what_happened(case: Case) -> None:
    inputs = case.inputs(PROMPTS["ragged"](case))
    with framefusion.attach(case.model, KEEP) as run:
        logits(case, inputs)
    tokens = len(run.layout[0])
    visual = [tokens, 2 * tokens, 0]
    valid = inputs["attention_mask"].bool()
    assert [stage.layer for stage in run.stages] == [1, 3]
    for stage, share in zip(run.stages, (0.5, 0.15), strict=True):
        assert stage.merged_into is None
        assert stage.milliseconds > 0
        for b, kept in enumerate(stage.kept):
            columns = run.layout[b].columns
            assert torch.equal(kept, kept.unique())
            assert valid[b, kept].all()
            text = set(valid[b].nonzero().squeeze(-1).tolist()) - set(columns.tolist())
            assert text <= set(kept.tolist())
            for video, (t, h, w) in enumerate(run.layout[b].grids):
                mine = set(columns[run.layout[b].item == video].tolist())
                assert len(mine) == t * h * w
                assert len(mine & set(kept.tolist())) == total_kept(share, t * h * w)
    assert [len(layout) for layout in run.layout] == visual
    assert [len(ids) for ids in run.segments] == visual
    assert run.segments[1].unique().tolist() == list(range(int(run.segments[1].max()) + 1))
    present = [3 * tokens, *[3 * tokens // 2] * 2, 3 * int(0.15 * tokens + 0.5)]
    assert run.tokens_per_layer == present
    assert run.summary().mean_share == pytest.approx(sum(present) / (4 * 3 * tokens))


def test_merged_into_is_cumulative(case: Case) -> None:
    inputs = case.inputs(PROMPTS["ragged"](case))
    with framefusion.attach(case.model, PLANS["merge, then prune"]) as run:
        logits(case, inputs)
    for stage in run.stages:
        assert stage.merged_into is not None
        for b, (into, kept) in enumerate(zip(stage.merged_into, stage.kept, strict=True)):
            alive = set(kept.tolist())
            assert into.shape == inputs["input_ids"][b].shape
            assert set(into.tolist()) - {-1} == alive
            assert all(into[column] == column for column in alive)
            assert (into[~inputs["attention_mask"][b].bool()] == -1).all()


def widths(attention: Any, config: Any) -> tuple[int, int]:
    """Entries of one token's queries, or their mean with those of its values, and of what the cache holds of it."""
    heads = config.num_attention_heads
    if hasattr(attention, "kv_lora_rank"):
        # Queries and values of different width; the cache holds latents.
        return heads * (attention.qk_head_dim + attention.v_head_dim) // 2, (
            attention.kv_lora_rank + attention.qk_rope_head_dim
        )
    return heads * attention.head_dim, 2 * heads // attention.num_key_value_groups * attention.head_dim


def test_the_summary_counts_what_the_docstring_says(case: Case) -> None:
    with framefusion.attach(case.model, KEEP) as run:
        logits(case, case.inputs(PROMPTS["single"](case)))
    summary = run.summary()
    decoder = case.decoder
    known = (getattr(decoder.config, name, None) for name in ("num_experts_per_tok", "top_k_experts", "moe_topk"))
    experts = next(filter(None, known), 0)
    matrices = [[p for p in layer.parameters() if p.ndim > 1] for layer in decoder.layers]
    # Of three dimensions are stacked experts, and convolutions along the sequence, one filter a channel.
    weights = [
        sum(p[0].numel() * experts if p.ndim == 3 and p.shape[1] > 1 else p.numel() for p in own) for own in matrices
    ]
    text = run.stages[0].kept[0].numel() - summary.tokens_per_layer[1]
    flops = before = after = 0
    for index, (layer, visual) in enumerate(zip(decoder.layers, summary.tokens_per_layer, strict=True)):
        n = text + visual
        # Layers that borrow keys and values run on the last token alone once no stage comes.
        queries = 1 if borrows(layer) and index >= run.stages[-1].layer else n
        flops += 2 * weights[index] * queries
        if index in case.attending:
            window = window_of(layer) or 10**6
            (width, kept), s = widths(attention_of(layer), decoder.config), min(n, window)
            flops += 4 * width * s if queries == 1 else 2 * width * s * (2 * n - s + 1)
            kept = 0 if borrows(layer) else 4 * kept
            after += kept * min(n, window - 1)
            before += kept * min(text + summary.visual_tokens_before, window - 1)
    assert summary.flops_after == flops
    assert summary.kv_bytes_after == after
    assert summary.kv_bytes_before == before
    assert summary.as_dict()["visual_tokens_after"] == summary.tokens_per_layer[-1]


def test_the_cache_holds_what_the_summary_says(case: Case) -> None:
    with framefusion.attach(case.model, KEEP) as run, torch.no_grad():
        cache = case.model(**case.inputs(PROMPTS["single"](case)), use_cache=True).past_key_values
    layers = [cache.layers[index] for index in case.attending if not borrows(case.decoder.layers[index])]
    held = sum(layer.keys.numel() * 4 + layer.values.numel() * 4 for layer in layers)
    assert held == run.summary().kv_bytes_after


@pytest.mark.parametrize("which", ["last", "text"])
def test_attention_received_equals_eager_attentions(case: Case, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = framefusion.reduction.reducer.Reduction.before_layer

    def spy(self: Any, layer: int, hidden: Tensor, received: Tensor | None = None) -> Tensor:
        if received is not None:
            seen.append((layer, received, self.query_rows()))
        return original(self, layer, hidden, received)

    monkeypatch.setattr(framefusion.reduction.reducer.Reduction, "before_layer", spy)
    inputs = case.inputs(PROMPTS["ragged"](case))
    with framefusion.attach(case.model, FrameFusion(keep={2: 0.3}, relevance=which)):  # type: ignore[arg-type]
        logits(case, inputs)
    [(layer, received, rows)] = seen
    case.model.set_attn_implementation("eager")
    with torch.no_grad():
        # Only layers of softmax attention tell theirs.
        latest = sum(index < layer for index in case.attending) - 1
        given = {**inputs, **oracle.positions(case.model, inputs["attention_mask"])}
        attentions = case.model(**given, output_attentions=True).attentions[latest].mean(1)
    for b, row in enumerate(rows):
        expected = attentions[b, row[row >= 0]].mean(0)
        valid = inputs["attention_mask"][b].bool()
        torch.testing.assert_close(received[b][valid], expected[valid], atol=1e-5, rtol=0)


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


def test_sampling_equals_the_oracle(case: Case) -> None:
    inputs = case.inputs(PROMPTS["ragged"](case))
    with framefusion.attach(case.model, KEEP) as run:
        out = generate(case, inputs, do_sample=True, temperature=1.5)
    expected = oracle.logits(case.model, inputs, run.stages, out.sequences)
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=TOLERANCE, rtol=0)


def test_prompt_lookup_decoding_equals_the_oracle(case: Case) -> None:
    """Candidates are tried and cropped off the cache again."""
    inputs = case.inputs(PROMPTS["single"](case))
    inputs["input_ids"][0, -4:] = torch.tensor([20, 21, 20, 21])
    if (case.name, "prompt lookup") in EXCLUDED:
        with pytest.raises(ValueError, match="not supported with stateful models"):
            generate(case, inputs, prompt_lookup_num_tokens=3)
        return
    with framefusion.attach(case.model, PLANS["before layer 0"]) as run:
        out = generate(case, inputs, prompt_lookup_num_tokens=3, eos_token_id=9)
    expected = oracle.logits(case.model, inputs, run.stages, out.sequences)
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=TOLERANCE, rtol=0)


def test_a_cropped_batch_goes_on() -> None:
    """Cropping into the prompt and feeding the same token again gives the same logits."""
    case = models.build("llava_onevision")
    inputs = case.inputs(PROMPTS["ragged"](case))
    again = inputs["input_ids"].shape[1] - 2
    with framefusion.attach(case.model, PLANS["before layer 0"]), torch.no_grad():
        first = case.model(**inputs)
        cache = first.past_key_values
        cache.crop(-2)
        out = case.model(
            input_ids=inputs["input_ids"][:, again : again + 1],
            position_ids=torch.full((3, 1), again),
            past_key_values=cache,
        )
    torch.testing.assert_close(out.logits[:, -1], first.logits[:, -2], atol=TOLERANCE, rtol=0)


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


def test_a_text_turn_after_a_video_turn(case: Case) -> None:
    inputs = case.inputs(PROMPTS["single"](case))
    with framefusion.attach(case.model, PLANS["before layer 0"]) as run:
        first = generate(case, inputs)
        more = torch.cat([first.sequences, torch.tensor([[20, 21, 22, 23]])], dim=1)
        tail = more.shape[1] - inputs["input_ids"].shape[1]
        longer = {"input_ids": more, "attention_mask": torch.ones_like(more)}
        if "mm_token_type_ids" in inputs:
            types = inputs["mm_token_type_ids"]
            longer["mm_token_type_ids"] = torch.cat([types, types.new_zeros(1, tail)], dim=1)
        out = generate(case, longer, past_key_values=first.past_key_values)
    expected = oracle.logits(case.model, inputs, run.stages, out.sequences)[:, -len(out.logits) :]
    torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=TOLERANCE, rtol=0)


def test_a_cache_can_be_filled_again(case: Case) -> None:
    inputs = case.inputs(PROMPTS["single"](case))
    with framefusion.attach(case.model, PLANS["before layer 0"]), torch.no_grad():
        # States of linear attention must be there from the start, and can only be emptied as a whole.
        hybrid = len(case.attending) < len(case.decoder.layers)
        cache = DynamicCache(config=case.model.config) if hybrid else DynamicCache()
        first = case.model(**inputs, past_key_values=cache).logits
        cache.reset() if hybrid else cache.crop(-cache.get_seq_length())
        assert torch.equal(case.model(**inputs, past_key_values=cache).logits, first)
    with torch.no_grad():
        cache.reset() if hybrid else cache.crop(-cache.get_seq_length())
        plain = DynamicCache(config=case.model.config) if hybrid else DynamicCache()
        text = torch.randint(10, 64, (1, 7))
        with framefusion.attach(case.model, KEEP):
            got = case.model(input_ids=text, past_key_values=cache).logits
        assert torch.equal(got, case.model(input_ids=text, past_key_values=plain).logits)
        assert cache.get_seq_length() == 7


def test_text_only(case: Case) -> None:
    ids = torch.randint(10, 64, (2, 9))
    with torch.no_grad():
        before = case.model(input_ids=ids).logits
        with framefusion.attach(case.model, KEEP) as run:
            assert torch.equal(case.model(input_ids=ids).logits, before)
    assert run.tokens_per_layer == [0, 0, 0, 0]
    assert run.summary().mean_share == 1.0


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


class TestRefusals:
    """Each names what was wrong and what to do."""

    @pytest.fixture
    def case(self) -> Case:
        return models.build("qwen2_5_vl")

    @pytest.fixture
    def inputs(self, case: Case) -> dict[str, Tensor]:
        return case.inputs(PROMPTS["single"](case))

    def test_attaching_twice(self, case: Case) -> None:
        with framefusion.attach(case.model):
            with pytest.raises(RuntimeError, match="has a reduction attached already; call detach"):
                framefusion.attach(case.model)
            with pytest.raises(RuntimeError, match="attached already"):
                framefusion.attach(case.model.model)
        framefusion.attach(case.model).detach()

    def test_an_unsupported_model(self) -> None:
        config = Qwen2Config(
            vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
        )
        with pytest.raises(
            UnsupportedModelError, match=r"not supported\. Supported: LLaVA-One.* framefusion\.register_family\(\)"
        ):
            framefusion.attach(Qwen2ForCausalLM(config))

    def test_wrong_kinds(self, case: Case) -> None:
        with pytest.raises(TypeError, match="model must be a loaded Hugging Face model, got str"):
            framefusion.attach("model")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="settings must be a FrameFusion, got float"):
            framefusion.attach(case.model, 0.2)  # type: ignore[arg-type]

    def test_an_unreachable_cost(self, case: Case, inputs: dict[str, Tensor]) -> None:
        with pytest.raises(ValueError, match=r"cost=0\.2 cannot be reached on 4 decoder layers"):
            framefusion.attach(case.model, FrameFusion(cost=0.2, merge=True))
        with (
            framefusion.attach(case.model, FrameFusion(cost=0.26, merge=True)),
            pytest.raises(ValueError, match=r"a video of 54 visual tokens is 0\.2639"),
        ):
            logits(case, inputs)
        with framefusion.attach(case.model, FrameFusion(cost=0.2639, merge=True)):
            logits(case, inputs)

    def test_embeddings_without_ids(self, case: Case) -> None:
        with framefusion.attach(case.model), pytest.raises(ValueError, match="input_ids is missing"):
            case.model(inputs_embeds=torch.randn(1, 5, 64))

    def test_labels(self, case: Case, inputs: dict[str, Tensor]) -> None:
        with framefusion.attach(case.model), pytest.raises(ValueError, match="labels cannot be used while"):
            case.model(**inputs, labels=inputs["input_ids"])

    def test_training_mode(self, case: Case, inputs: dict[str, Tensor]) -> None:
        case.model.train()
        with framefusion.attach(case.model), pytest.raises(RuntimeError, match="the model is in training mode"):
            case.model(**inputs)

    def test_caches_of_unknown_layers(self, case: Case, inputs: dict[str, Tensor]) -> None:
        class Odd(DynamicLayer):
            pass

        cache = Cache(layer_class_to_replicate=Odd)
        with framefusion.attach(case.model), pytest.raises(ValueError, match="a cache of Odd layers, which reduction"):
            case.model(**inputs, past_key_values=cache)

    def test_a_video_in_a_later_turn_of_a_static_cache(self, case: Case, inputs: dict[str, Tensor]) -> None:
        cache = StaticCache(config=case.model.config.text_config, max_cache_len=256)
        with framefusion.attach(case.model), torch.no_grad():
            case.model(**inputs, past_key_values=cache)
            del inputs["attention_mask"]
            with pytest.raises(ValueError, match="later turn of a conversation held in a static cache"):
                case.model(**inputs, past_key_values=cache)

    def test_masks_of_another_kind(self, case: Case, inputs: dict[str, Tensor]) -> None:
        inputs["attention_mask"] = inputs["attention_mask"][None]
        inputs["position_ids"] = torch.arange(inputs["input_ids"].shape[1]).expand(3, 1, -1)
        with framefusion.attach(case.model), pytest.raises(ValueError, match=r"attention_mask has 3 dimensions; .* 2D"):
            case.model(**inputs)

    def test_the_language_model_alone(self, case: Case) -> None:
        with framefusion.attach(case.model), pytest.raises(RuntimeError, match="was called directly"):
            case.decoder(inputs_embeds=torch.randn(1, 5, 64))

    def test_records_before_a_prefill(self, case: Case) -> None:
        with framefusion.attach(case.model) as run, pytest.raises(RuntimeError, match="no prefill has run yet"):
            run.summary()

    def test_broken_placeholders(self, case: Case, inputs: dict[str, Tensor]) -> None:
        inputs["video_grid_thw"] = torch.tensor([[6, 6, 4]])
        del inputs["mm_token_type_ids"]
        encoded = {"video": BaseModelOutputWithPooling(pooler_output=(torch.zeros(54, 64),))}
        with (
            framefusion.attach(case.model),
            pytest.raises(ValueError, match="18 of them belong to no video whose size is known"),
        ):
            case.model(
                input_ids=inputs["input_ids"], video_grid_thw=inputs["video_grid_thw"], mm_encoder_outputs=encoded
            )

    def test_hidden_video_tokens(self, case: Case, inputs: dict[str, Tensor]) -> None:
        inputs["attention_mask"][0, 10:13] = 0
        inputs["mm_token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        with (
            framefusion.attach(case.model),
            pytest.raises(ValueError, match="hides 3 of the 54 visual tokens of sample 0"),
        ):
            case.model(**inputs, position_ids=torch.arange(inputs["input_ids"].shape[1]).expand(3, 1, -1))

    def test_chunked_prefill(self, case: Case, inputs: dict[str, Tensor]) -> None:
        with framefusion.attach(case.model), pytest.raises(ValueError, match="prefill_chunk_size"):
            generate(case, inputs, prefill_chunk_size=20)

    def test_copies_of_an_attached_model(self, case: Case) -> None:
        with framefusion.attach(case.model), pytest.raises(RuntimeError, match="cannot be copied or pickled"):
            copy.deepcopy(case.model)
        copy.deepcopy(case.model)

    def test_attention_that_cannot_be_recorded(self, case: Case, inputs: dict[str, Tensor]) -> None:
        attention = attention_of(case.decoder.layers[1])
        attention.forward = lambda hidden_states, **_: (hidden_states, None)
        with (
            framefusion.attach(case.model, FrameFusion(keep={2: 0.5}, relevance="last")),
            pytest.raises(RuntimeError, match="the attention of layer 1 could not be recorded"),
        ):
            case.model(**inputs, use_cache=False)

    def test_records_of_a_failed_prefill(self, case: Case, inputs: dict[str, Tensor]) -> None:
        def fail(*_: Any) -> None:
            raise KeyError("from the model")

        case.decoder.layers[2].register_forward_pre_hook(fail)
        with framefusion.attach(case.model) as run:
            with pytest.raises(KeyError):
                case.model(**inputs)
            with pytest.raises(RuntimeError, match="the latest prefill did not reach its end"):
                run.summary()
