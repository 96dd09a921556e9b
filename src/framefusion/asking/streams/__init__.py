"""Frames that come one after the other: of a file, of one that grows, an address, a camera, or any iterator."""

from framefusion.asking.streams.sources import open_stream
from framefusion.asking.streams.stream import Frame, Stream, StreamStatus

__all__ = ["Frame", "Stream", "StreamStatus", "open_stream"]
