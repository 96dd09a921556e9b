"""The published system's names: equal to its formulas where it was right, and right where it was not."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from framefusion.bench.baselines import original_global_matrix
from framefusion.main import (
    FrameFusion,
    _dpp_sampling_fast,
    benchmark_dpp_pruning,
    global_cdpruner_segment_prune,
)
from tests.selection.oracle import noise


def video(segments: int = 4, tokens: int = 30, dim: int = 64, seed: int = 0) -> dict[str, Any]:
    """Arguments with text before, between and after the segments."""
    n = segments * tokens
    mask = torch.full((n + 2 * segments + 3,), -1)
    for s in range(segments):
        start = 3 + s * (tokens + 2)
        mask[start : start + tokens] = s
    return {
        "segment_keep_info": [(s, s * tokens, tokens, 10 + s) for s in range(segments)],
        "segment_mask": mask,
        "image_features": noise(1, n, dim, seed=seed),
        "last_layer_attention_avg_image": torch.rand(1, n, generator=torch.Generator().manual_seed(seed)),
        "topk_image_token_num": 46,
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_original(seed: int, dtype: torch.dtype) -> None:
    arguments = video(seed=seed)
    features = arguments["image_features"] = arguments["image_features"].to(dtype)
    rows = [torch.arange(s * 30, (s + 1) * 30) for s in range(4)]
    attention = arguments["last_layer_attention_avg_image"]
    expected = torch.cat([original_global_matrix(features, attention, [r], 10 + s)[0] for s, r in enumerate(rows)])
    assert torch.equal(global_cdpruner_segment_prune(**arguments), expected)


def test_sign() -> None:
    arguments = video(segments=1, tokens=8, dim=8)
    arguments["image_features"] = torch.eye(8)[None]
    arguments["segment_keep_info"] = [(0, 0, 8, 3)]
    order = arguments["last_layer_attention_avg_image"][0].argsort().tolist()
    assert global_cdpruner_segment_prune(**arguments).tolist() == order[:3]
    assert global_cdpruner_segment_prune(**arguments, relevance_sign=1).tolist() == order[::-1][:3]


def test_order_of_segments_and_counts_are_the_callers() -> None:
    arguments = video()
    arguments["segment_keep_info"] = [(2, 0, 0, 99), (7, 0, 0, 5), (0, 0, 0, 1)]
    kept = global_cdpruner_segment_prune(**arguments)
    assert sorted(kept[:30].tolist()) == list(range(60, 90))
    assert len(kept) == 31
    assert 0 <= int(kept[30]) < 30


def test_equal_attention() -> None:
    arguments = video()
    arguments["last_layer_attention_avg_image"].fill_(0.25)
    kept = global_cdpruner_segment_prune(**arguments)
    assert len(kept.unique()) == 46


def test_debug_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="framefusion.main"):
        global_cdpruner_segment_prune(**video(segments=2))
    assert [r.getMessage() for r in caplog.records] == [
        "Segment 0: 30 tokens → 10 retained (30×30 matrix)",
        "Segment 1: 30 tokens → 11 retained (30×30 matrix)",
    ]


NAN_ATTENTION = torch.full((1, 120), 0.5)
NAN_ATTENTION[0, 7] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_features": noise(2, 120, 64)}, "got a batch of 2; framefusion.select_tokens takes batches"),
        ({"image_features": noise(120, 64)}, r"image_features must be a tensor of shape \(1, N, D\)"),
        (
            {"image_features": noise(1, 119, 64), "last_layer_attention_avg_image": torch.rand(1, 119)},
            "segment_mask marks 120 visual tokens .*, image_features has 119",
        ),
        ({"last_layer_attention_avg_image": torch.rand(120)}, r"must be a tensor of shape \(1, 120\), got \(120,\)"),
        ({"last_layer_attention_avg_image": NAN_ATTENTION}, r"must be finite, got nan at position \(0, 7\)"),
        ({"segment_mask": torch.zeros(2, 60)}, r"segment_mask must be a tensor of shape \(L,\)"),
        ({"segment_mask": torch.full((120,), -3)}, "segment_mask must be >= -1, got -3"),
        ({"segment_keep_info": [(0, 0, 30, 1), (0, 0, 30, 1)]}, "names segment 0 a second time"),
        ({"segment_keep_info": [(0, 0, 30)]}, r"segment_keep_info\[0\] must be \(segment id, start index"),
        ({"segment_keep_info": [(0, 0, 30, 1.5)]}, r"segment_keep_info\[0\] must be"),
        ({"segment_keep_info": [(0, 0, 30, -1)]}, r"segment_keep_info\[0\] must have .* a count >= 0"),
        ({"relevance_sign": 2}, r"relevance_sign must be \+1 or -1, got 2"),
    ],
)
def test_message(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        global_cdpruner_segment_prune(**{**video(), **change})


def test_dpp_sampling_fast() -> None:
    x = torch.nn.functional.normalize(noise(40, 12), dim=1)
    kernel = x @ x.T * 2
    full = _dpp_sampling_fast(kernel, 50)
    assert sorted(full.tolist()) == list(range(40))
    assert len(_dpp_sampling_fast(kernel, 50, exhausted="stop")) == 12
    # k > n returned index 0 again and again in the original
    assert len(_dpp_sampling_fast(torch.eye(3), 5)) == 3
    with pytest.raises(ValueError, match=r"kernel must be a square matrix"):
        _dpp_sampling_fast(kernel[None], 5)


def test_benchmark(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    result, milliseconds = benchmark_dpp_pruning(
        num_tokens=40, hidden_dim=16, num_segments=3, tokens_per_segment=12, topk_per_segment=5, num_iterations=1
    )
    assert len(result) == 15
    assert milliseconds > 0
    table = capsys.readouterr().out
    for label in ("original (global matrix)", "per-segment loop", "select_tokens", "28 layers", "equal indices"):
        assert label in table
    if not torch.cuda.is_available():
        assert "CUDA is not available" in caplog.text


def test_benchmark_of_a_batch(capsys: pytest.CaptureFixture[str]) -> None:
    result, _ = benchmark_dpp_pruning(2, 24, 16, 2, 12, 5, device="cpu", num_iterations=1)
    assert [len(sample) for sample in result] == [10, 10]
    assert capsys.readouterr().out.count("100.00 %") == 4


def test_benchmark_refuses_too_many_tokens() -> None:
    with pytest.raises(ValueError, match=r"num_tokens must be at least .* = 1024, got 1000"):
        benchmark_dpp_pruning(num_tokens=1000, device="cpu")


def test_same_class() -> None:
    import framefusion

    assert FrameFusion is framefusion.FrameFusion
