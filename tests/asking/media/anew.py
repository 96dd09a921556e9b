"""The slow way to a picture: a graph of FFmpeg's filters for each, and NumPy that turns it."""

from __future__ import annotations

from typing import Any

import av
import numpy as np

from framefusion.asking.decoding import pixels


class Anew:
    """As :class:`framefusion.asking.decoding.pixels.Painter`."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def picture(self, frame: Any, size: tuple[int, int]) -> np.ndarray:
        matrix = pixels.display_matrix(frame)
        size = size[::-1] if pixels._quarter_turned(matrix) else size
        transfer = pixels._characteristic(frame, self.stream, "color_trc")
        if transfer in (pixels._PQ, pixels._HLG):
            primaries = pixels._characteristic(frame, self.stream, "color_primaries")
            signal = _converted(frame, size, "rgb48le").astype(np.float32) / 65535
            drawn = pixels._tone_mapped(signal, transfer, primaries)
        elif pixels._has_alpha(frame):
            drawn = pixels.on_white(_converted(frame, size, "rgba"))
        else:
            drawn = _converted(frame, size, "rgb24")
        return np.ascontiguousarray(pixels._upright(drawn, matrix))


def _converted(frame: Any, size: tuple[int, int], layout: str) -> np.ndarray:
    chain = [("scale", f"{size[0]}:{size[1]}:flags=bicubic{pixels._matrix(frame)}"), ("format", layout)]
    if frame.interlaced_frame:
        chain.insert(0, ("estdif", "mode=frame:deint=interlaced"))
    graph = av.filter.Graph()
    nodes = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)]
    nodes += [graph.add(name, options) for name, options in chain] + [graph.add("buffersink")]
    graph.link_nodes(*nodes).configure()
    nodes[0].push(frame)
    nodes[0].push(None)
    shown: Any = nodes[-1].pull()
    return shown.to_ndarray()
