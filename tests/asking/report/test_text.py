"""The report as lines and as a JSON record."""

import dataclasses
import json

from framefusion.asking.report.text import lines, per_layer, record
from framefusion.hf.timing import Times
from tests.asking.report import samples


def test_lines_say_what_was_kept_and_saved():
    rows = dict(lines(samples.data()))
    assert rows["Visual tokens"] == "30 of 120 kept (25.0 %), mean over layers 40.0 %"
    assert rows["Per layer"] == "120, 40, 30 × 2"
    assert (
        rows["Prefill compute"]
        == "−60.0 % (2.5 → 1 TFLOP) in the decoder, −50.0 % (3 → 1.5 TFLOP) with vision tower, projector and head"
    )
    assert rows["KV cache"] == "−66.7 % (3 → 1 MiB)"
    assert rows["In generate()"] == "−50.0 % (300 ms → 150 ms to the first token)"
    assert rows["Segments"].startswith("2: kept ")


def test_lines_without_comparison_and_segments():
    rows = dict(lines(samples.data(compared=False, segmented=False)))
    assert rows["In generate()"] == "first token after 150 ms"
    assert "Segments" not in rows


def test_the_whole_time_is_told_with_what_dominates_it():
    rows = dict(lines(samples.data()))
    assert rows["End to end"] == (
        "1.71× (360 ms → 210 ms to the first token), 4.00× in the decoder; 43% of it vision tower; "
        "4 ms for each further token"
    )
    assert rows["Parts, reduced"] == (
        "decoding the file 20 ms, processor 30 ms, vision tower 90 ms, projector 10 ms, decoder 50 ms, the rest 10 ms"
    )
    alone = dict(lines(samples.data(compared=False)))
    assert alone["Parts"] == rows["Parts, reduced"]
    assert alone["End to end"].startswith("210 ms to the first token; 43% of it vision tower")


def test_what_was_not_measured_is_said_and_never_zero():
    times = Times(prefill=0.2).answered(0.25, None)
    data = dataclasses.replace(samples.data(), times=times, full_times=None, encoder_flops=None)
    rows = dict(lines(data))
    unknown = "decoding the file not measured, processor not measured, vision tower not measured"
    assert rows["Parts, reduced"].startswith(unknown)
    assert rows["Prefill compute"].endswith("in the decoder; the vision encoder cannot be counted")
    assert "each further" not in rows["End to end"]
    told = record(data)
    assert told["times"]["reduced"]["tower"] is None
    assert told["flops"]["first_token"] is None
    assert "End to end" not in dict(lines(dataclasses.replace(data, times=Times())))


def test_many_segments_are_summed_up():
    row = samples.data().segments[0]
    data = dataclasses.replace(samples.data(), segments=[dataclasses.replace(row, kept=k) for k in range(3, 12)])
    assert dict(lines(data))["Segments"] == "9: kept 3 to 11 tokens each"


def test_per_layer_groups_equal_layers():
    assert per_layer([5]) == "5"
    assert per_layer([1200, 1200, 30, 5, 5, 5]) == "1,200 × 2, 30, 5 × 3"


def test_record_is_json_with_plain_numbers():
    data = samples.data()
    back = json.loads(json.dumps(record(data), allow_nan=False))
    assert back == record(data)
    assert back["visual_tokens"] == {"before": 120, "after": 30, "per_layer": [120, 40, 30, 30], "mean_share": 0.4}
    assert back["stages"][0] == {"layer": 1, "kept": 40, "milliseconds": 1.5}
    assert back["segments"][1]["first_frame"] == 2
    assert record(samples.data(segmented=False))["segments"] is None
