"""A decoded frame as the upright RGB picture that a player shows."""

from __future__ import annotations

import math
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type

WHITE = 255
"""What lies behind transparent pixels, as in a browser."""

REFERENCE_WHITE = 203.0
"""Candela per square metre of a white page in HDR video (ITU-R BT.2408), which becomes white."""

_SHAPES = (0.1, 10.0)
"""Pixels outside these ratios of width to height are taken for a mistake."""

SCALER = "bicubic"
"""Flags of FFmpeg's scaler."""

_Chain = tuple[tuple[str, str | None], ...]
"""Filters by name, each with its options."""

_TRANSPOSED = {
    (False, False): "cclock_flip",
    (False, True): "clock",
    (True, False): "cclock",
    (True, True): "clock_flip",
}
"""Transposition by whether lines, and the pixels in them, come in the other order afterwards."""

# Numbers of ITU-T H.273
_UNKNOWN = 2
_PQ, _HLG = 16, 18  # transfer characteristics
_BT709, _BT2020 = 1, 9  # colour primaries and matrices
_MATRICES = {1: "bt709", 4: "fcc", 5: "bt470", 6: "smpte170m", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG
_HD = 720  # from this height on, players take video that says nothing for BT.709


class Painter:
    """Draws the frames of one stream. FFmpeg's filters, and their memory, stay as long as frames are alike.

    Not for several threads at a time.

    Args:
        stream: that of the frames, which tells what they leave open.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self._kept: tuple[tuple[Any, ...], _Filters] | None = None

    def picture(self, frame: Any, size: tuple[int, int]) -> np.ndarray:
        """uint8 ``(height, width, 3)``: deinterlaced, with square pixels, upright, on white, in the range of a screen.

        It may be a view of FFmpeg's memory, which later frames take again once it is gone; copy what is to stay.

        Args:
            frame: a decoded ``av.VideoFrame``.
            size: width and height of the stream's first frame, see :func:`shown_size`; others are scaled to it.
        """
        matrix = display_matrix(frame)
        size = size[::-1] if _quarter_turned(matrix) else size
        transfer = _characteristic(frame, self.stream, "color_trc")
        if transfer in (_PQ, _HLG):
            primaries = _characteristic(frame, self.stream, "color_primaries")
            signal = self._converted(frame, size, "rgb48le").astype(np.float32) / 65535
            return _upright(_tone_mapped(signal, transfer, primaries), matrix)
        turns, lines = _turns(matrix)
        if _has_alpha(frame):
            return on_white(self._converted(frame, size, "rgba", turns))[::lines]
        return self._converted(frame, size, "rgb24", turns)[::lines]

    def _converted(self, frame: Any, size: tuple[int, int], layout: str, turns: _Chain = ()) -> np.ndarray:
        """RGB ``(height, width, channels)`` through FFmpeg's filters, which unlike older PyAV know every matrix."""
        chain = (("scale", f"{size[0]}:{size[1]}:flags={SCALER}{_matrix(frame)}"), ("format", layout), *turns)
        if frame.interlaced_frame:
            # Within the frame: filters that look at its neighbours leave a single one as it is.
            return _Filters(frame, (("estdif", "mode=frame:deint=interlaced"), *chain)).shown(frame)
        alike = (*_properties(frame), chain)
        kept, self._kept = self._kept, None  # what fails is not used again
        filters = kept[1] if kept is not None and kept[0] == alike else _Filters(frame, chain)
        pixels = filters.shown(frame, last=False)
        self._kept = alike, filters
        return pixels


def shown_size(frame: Any, stream: Any) -> tuple[int, int]:
    """Width and height of a frame with square pixels, upright; nothing is made smaller."""
    shape = float(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1)
    if not _SHAPES[0] <= shape <= _SHAPES[1]:
        shape = 1.0
    size = max(round(frame.width * max(shape, 1.0)), 1), max(round(frame.height * max(1 / shape, 1.0)), 1)
    return size[::-1] if _quarter_turned(display_matrix(frame)) else size


def on_white(pixels: np.ndarray) -> np.ndarray:
    """RGBA ``(height, width, 4)`` as RGB over white."""
    alpha = pixels[..., 3:].astype(np.uint16)
    mixed = pixels[..., :3] * alpha + WHITE * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def _has_alpha(frame: Any) -> bool:
    # a palette may hold transparent colours
    return frame.format.name == "pal8" or any(component.is_alpha for component in frame.format.components)


def _characteristic(frame: Any, stream: Any, name: str) -> int:
    """A colour characteristic of ITU-T H.273; unknown if neither the frame nor the stream tells."""
    for place in (frame, stream.codec_context):
        value = int(getattr(place, name, None) or _UNKNOWN)
        if value != _UNKNOWN:
            return value
    return _UNKNOWN


class _Filters:
    """A chain of FFmpeg's filters for frames like ``frame``."""

    def __init__(self, frame: Any, chain: _Chain) -> None:
        self.graph = graph = av.filter.Graph()  # what it gives does not keep it alive
        self.first = last = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        )
        for name, options in (*chain, ("buffersink", None)):
            added = graph.add(name, options)
            last.link_to(added)
            last = added
        graph.configure()
        self.sink: Any = last

    def shown(self, frame: Any, last: bool = True) -> np.ndarray:
        """What the filters make of a frame; ``last`` if they may wait for another one."""
        self.first.push(frame)
        if last:
            self.first.push(None)
        return self.sink.pull().to_ndarray()


def _properties(frame: Any) -> tuple[Any, ...]:
    """What filters may be configured by."""
    colours = (getattr(frame, name, None) for name in ("colorspace", "color_range", "color_primaries", "color_trc"))
    return frame.width, frame.height, frame.format.name, frame.time_base, *colours


def _matrix(frame: Any) -> str:
    """Options of FFmpeg's scaler for the colours of a frame."""
    matrix, wide = int(frame.colorspace), int(frame.color_range)
    if matrix == _UNKNOWN and frame.height >= _HD:
        matrix = _BT709
    known = "" if frame.format.is_rgb or matrix not in _MATRICES else f":in_color_matrix={_MATRICES[matrix]}"
    return known + (f":in_range={'pc' if wide == _FULL_RANGE else 'tv'}" if wide else "")


Matrix = tuple[float, float, float, float]
"""``(a, b, c, d)``: (x, y) is shown at (a·x + c·y, b·x + d·y), y downwards."""


def display_matrix(frame: Any) -> Matrix | None:
    """How a frame is to be turned and mirrored; it may change in the middle of a stream. None: not at all."""
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return None
    # 16.16 fixed point
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).astype(float).tolist()
    return a, b, c, d


def _quarter_turned(matrix: Matrix | None) -> bool:
    """Whether width and height change places."""
    if matrix is None:
        return False
    a, b, c, d = matrix
    return abs(a) + abs(d) < abs(b) + abs(c)


def _turns(matrix: Matrix | None) -> tuple[_Chain, int]:
    """Filters after which only the order of the lines may be wrong, and the step through them: 1, or -1 from below.

    FFmpeg turns by blocks and is quicker than NumPy, but for that order.
    """
    if matrix is None:
        return (), 1
    a, b, c, d = matrix
    if _quarter_turned(matrix):
        return (("transpose", _TRANSPOSED[b < 0, c < 0]),), 1
    return (("hflip", None),) if a < 0 else (), -1 if d < 0 else 1


def _upright(pixels: np.ndarray, matrix: Matrix | None) -> np.ndarray:
    """Turned and mirrored as a display matrix says."""
    if matrix is None:
        return pixels
    a, b, c, d = matrix
    if not _quarter_turned(matrix):
        return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return pixels.swapaxes(0, 1)[:: -1 if b < 0 else 1, :: -1 if c < 0 else 1]


def _tone_mapped(signal: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """HDR RGB in [0, 1] as uint8 for a screen: linear light, BT.709's primaries, a soft shoulder, gamma.

    The transfer functions are those of ITU-R BT.2100; the shoulder is the one of Mobius transforms that leaves what is
    darker than 30 % of white as it is.
    """
    light = _pq_light(signal) if transfer == _PQ else _hlg_light(signal)
    if primaries == _BT2020:
        light = light @ _BT2020_TO_BT709.T
    peak = np.maximum(light.max(axis=-1, keepdims=True), 1e-6)
    light = np.clip(light * (_shoulder(peak) / peak), 0, 1)
    # the encoding of sRGB
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(255 * encoded).astype(np.uint8)


_BT2020_TO_BT709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]], np.float32
)


def _pq_light(signal: np.ndarray) -> np.ndarray:
    """Display light relative to :data:`REFERENCE_WHITE` from PQ (SMPTE ST 2084)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    powered = signal ** (1 / m2)
    return (np.maximum(powered - c1, 0) / (c2 - c3 * powered)) ** (1 / m1) * np.float32(10_000 / REFERENCE_WHITE)


def _hlg_light(signal: np.ndarray) -> np.ndarray:
    """Display light relative to :data:`REFERENCE_WHITE` from hybrid log-gamma, on a screen of 1,000 cd/m²."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * math.log(4 * a)
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
    return scene * np.maximum(luminance, 1e-6)[..., None] ** np.float32(0.2) * np.float32(1_000 / REFERENCE_WHITE)


def _shoulder(value: np.ndarray, knee: float = 0.3, peak: float = 1_000 / REFERENCE_WHITE) -> np.ndarray:
    """``value`` up to ``knee``, from there on a curve that reaches 1 at ``peak``."""
    a = -(knee**2) * (peak - 1) / (knee**2 - 2 * knee + peak)
    b = (knee**2 - 2 * knee * peak + peak) / max(peak - 1, 1e-6)
    return np.where(value <= knee, value, (b**2 + 2 * b * knee + knee**2) / (b - a) * (value + a) / (value + b))
