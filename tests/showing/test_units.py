"""Numbers as people read them."""

import pytest

from framefusion.showing import units


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.percent(0.19921875), "19.9 %"),
        (units.percent(1.0), "100.0 %"),
        (units.saved(0.6254), "−62.5 %"),
        (units.saved(-0.04), "+4.0 %"),
        (units.saved(units.saved_share(0.0, 0.0)), "−0.0 %"),
        (units.seconds(0.00123), "1.23 ms"),
        (units.seconds(0.1234), "123 ms"),
        (units.seconds(0.9999), "1 s"),
        (units.seconds(12.34), "12.3 s"),
        (units.seconds(123.4), "123 s"),
        (units.clock(7.04), "7.0 s"),
        (units.clock(59.96), "1:00.0"),
        (units.clock(83.5), "1:23.5"),
        (units.flops(1.234e10), "12.3 GFLOP"),
        (units.flops(1.2e10, 4.6e9), "12 → 4.6 GFLOP"),
        (units.flops(999.9), "1 kFLOP"),
        (units.flops(5e22), "50000 EFLOP"),
        (units.size(0), "0 B"),
        (units.size(1536), "1.5 KiB"),
        (units.size(3 * 2**20, 2**20), "3 → 1 MiB"),
        (units.count(1, "frame"), "1 frame"),
        (units.count(1200, "frame"), "1,200 frames"),
    ],
)
def test_units(text, expected):
    assert text == expected


def test_a_share_of_nothing_is_what_the_caller_says():
    assert units.share_of(1, 4) == 0.25
    assert units.share_of(0, 0) == 0
    assert units.share_of(0, 0, 1.0) == 1
