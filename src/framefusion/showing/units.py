"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

NOT_MEASURED = "not measured"

PARTS = {
    "decode": "decoding the file",
    "processor": "processor",
    "tower": "vision tower",
    "projector": "projector",
    "prefill": "decoder",
    "other": "the rest",
}
"""What the parts of :class:`framefusion.hf.timing.Times` are called, in order."""


def percent(share: float) -> str:
    """``0.1992`` as ``19.9 %``."""
    return f"{100 * share:.1f} %"


def share_of(part: float, whole: float, of_nothing: float = 0.0) -> float:
    """``part / whole``; ``of_nothing`` when there is nothing."""
    return part / whole if whole else of_nothing


def saved(share: float) -> str:
    """A share saved with a sign: ``0.62`` as ``−62.0 %``, a loss as ``+…``."""
    return f"{'−' if share >= 0 else '+'}{abs(100 * share):.1f} %"


def saved_share(before: float, after: float) -> float:
    """``1 − after / before``; 0 when there was nothing."""
    return 1 - after / before if before else 0.0


def factor(value: float) -> str:
    """``2.914`` as ``2.91×``, ``12.34`` as ``12.3×``."""
    return f"{value:.2f}×" if value < 9.995 else f"{value:.3g}×"


def seconds(value: float) -> str:
    """``0.1234`` as ``123 ms``, ``12.34`` as ``12.3 s``."""
    if value < 0.9995:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"


def seconds_of(value: float | None) -> str:
    """As :func:`seconds`; ``not measured`` for None."""
    return NOT_MEASURED if value is None else seconds(value)


def clock(value: float) -> str:
    """A position in a video: ``7.04`` as ``7.0 s``, ``83.5`` as ``1:23.5``."""
    tenths = round(10 * value)
    minutes, rest = divmod(tenths, 600)
    return f"{minutes}:{rest // 10:02d}.{rest % 10}" if minutes else f"{rest / 10:.1f} s"


def flops(value: float, *more: float) -> str:
    """Floating-point operations with a decimal prefix: ``12.3 GFLOP``; several share one: ``12.3 → 4.6 GFLOP``."""
    return _scaled((value, *more), 1000.0, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"))


def size(value: float, *more: float) -> str:
    """Bytes with a binary prefix: ``1.5 MiB``; several share one: ``1.5 → 0.4 MiB``."""
    return _scaled((value, *more), 1024.0, ("B", "KiB", "MiB", "GiB", "TiB"))


def change(before: float, after: float, unit: Callable[..., str]) -> str:
    """What was saved, and of what: ``−62.0 % (32.4 → 12.3 GFLOP)``; ``unit`` is :func:`flops` or :func:`size`."""
    return f"{saved(saved_share(before, after))} ({unit(before, after)})"


def kept(after: int, before: int, mean: float) -> str:
    """Visual tokens in the last layer, of those before, and their mean share over the layers: ``20 of 100 kept …``."""
    return f"{after:,} of {before:,} kept ({percent(share_of(after, before, 1.0))}), mean over layers {percent(mean)}"


def compute(decoder: tuple[float, float], whole: tuple[float, float] | None) -> str:
    """What was saved of the decoder's operations, and of all up to the first token where those are known."""
    said = f"{change(*decoder, flops)} in the decoder"
    return said if whole is None else f"{said}, {change(*whole, flops)} with vision tower, projector and head"


def encoded(share: float) -> str:
    """What the vision tower did of its work, averaged over its blocks."""
    return f"did {percent(share)} of its work on the video"


def parts(taken: Mapping[str, float]) -> str:
    """Seconds of some of :data:`PARTS`: ``decoding the file 12 ms, processor 20 ms, …``."""
    return ", ".join(f"{PARTS[name]} {seconds(value)}" for name, value in taken.items())


def count(number: int, noun: str) -> str:
    """``1 frame``, ``8 frames``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _scaled(values: tuple[float, ...], base: float, units: Sequence[str]) -> str:
    power = 0
    while power < len(units) - 1 and values[0] >= 0.9995 * base ** (power + 1):
        power += 1
    return " → ".join(_digits(value / base**power) for value in values) + f" {units[power]}"


def _digits(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"
