"""What a run tells of its prefill: stages, what merged into what, counts, attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import framefusion
from framefusion import FrameFusion
from framefusion.hf.decoder import attention_of, borrows, window_of
from framefusion.reduction.budgets import total_kept
from tests.hf import models, oracle
from tests.hf.case import Case
from tests.hf.prompts import PROMPTS
from tests.hf.ways import PLANS, logits

KEEP = PLANS["two stages"]


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


@pytest.mark.covering(1)
@pytest.mark.parametrize("which", ["last", "text"])
@pytest.mark.parametrize("name", models.apart())
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
