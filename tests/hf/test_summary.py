"""What a summary looks like when it is printed."""

from __future__ import annotations

from dataclasses import replace

from framefusion.hf.summary import Summary
from framefusion.hf.timing import Times

SUMMARY = Summary(
    visual_tokens_before=1200,
    visual_tokens_after=120,
    tokens_per_layer=[480, 480, 120],
    mean_share=0.3,
    flops_before=4e9,
    flops_after=1e9,
    flops_saved_share=0.75,
    kv_bytes_before=2**21,
    kv_bytes_after=2**20,
    reduction_milliseconds=3.0,
)


def test_it_is_printed_as_the_lines_of_the_command() -> None:
    assert str(SUMMARY).splitlines() == [
        "Visual tokens    120 of 1,200 kept (10.0 %), mean over layers 30.0 %",
        "Prefill compute  −75.0 % (4 → 1 GFLOP) in the decoder",
        "KV cache         −50.0 % (2 → 1 MiB)",
    ]


def test_what_was_measured_is_told_too() -> None:
    times = Times(tower=0.09, prefill=0.05)
    found = replace(SUMMARY, tower_share=0.4, encoder_flops=2 * 10**9, head_flops=10**9, times=times)
    assert str(found).splitlines() == [
        "Visual tokens    120 of 1,200 kept (10.0 %), mean over layers 30.0 %",
        "Vision tower     did 40.0 % of its work on the video",
        "Prefill compute  −75.0 % (4 → 1 GFLOP) in the decoder, −60.0 % (7 → 2.8 GFLOP) with vision tower, projector "
        "and head",
        "KV cache         −50.0 % (2 → 1 MiB)",
        "Parts            vision tower 90 ms, decoder 50 ms",
    ]
    assert str(replace(found, times=Times())).splitlines() == str(found).splitlines()[:-1]
