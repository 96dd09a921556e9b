"""What a reader refuses."""

from __future__ import annotations

from framefusion.errors import FrameFusionError


class VideoError(FrameFusionError, ValueError):
    """A video that cannot be read, or a request for frames that makes no sense. The text is one sentence."""


class IrregularError(FrameFusionError):
    """Packets that do not tell which frames are shown and when: the file has to be decoded to find out."""
