"""Files from strangers: looked at before they are decoded."""

from __future__ import annotations

import os
from pathlib import Path

import av
from PIL import Image

from framefusion.app.limits import Limits, VisitError
from framefusion.asking.decoding.container import has_end, opened
from framefusion.asking.decoding.errors import VideoError
from framefusion.asking.decoding.source import Source, check_source
from framefusion.asking.decoding.stills import ENDINGS, is_moving_picture, is_picture
from framefusion.asking.media import Media
from framefusion.asking.video import Video

FORMATS = (
    "apng,asf,avi,dv,flv,gif,gxf,h264,hevc,ivf,m4v,matroska,webm,mjpeg,mov,mp4,m4a,3gp,3g2,mj2,mpeg,mpegts,mpegvideo,mxf,"
    "nut,obu,ogg,rm,swf,tty,vc1,vvc,wtv,yuv4mpegpipe,"
    "bmp_pipe,gif_pipe,jpeg_pipe,png_pipe,ppm_pipe,tiff_pipe,webp_pipe"
)
"""What FFmpeg may take an upload for: nothing that names other files, which would show what lies on this machine. Text
is opened as such, and refused as text."""


def check_upload(path: str, name: str, limits: Limits, frames: int | None) -> None:
    """Refuse a file before anything of it is decoded.

    Args:
        path: where it lies.
        name: what messages call it.
        limits: what it may take.
        frames: that will be shown of a video; None if that depends on it.

    Raises:
        VisitError: too large or too long.
        VideoError: not a video or photograph that can be read.
    """
    size = os.stat(path).st_size
    if size > limits.upload:
        raise VisitError(
            f"{name} has {size / 2**20:,.1f} MiB, more than the {limits.upload / 2**20:,.1f} MiB that are taken here"
        )
    if not size:
        raise VideoError(f"{name} is empty, not a video")
    source = Source(name, check_source(os.path.abspath(path)))
    shown = frames or limits.frames
    if is_picture(source):
        with Image.open(source.location) as picture:
            count = shown if is_moving_picture(source) else 1
            _check_pixels(name, picture.width, picture.height, count, limits)
        return
    try:
        with opened(source, options={"format_whitelist": FORMATS}) as (container, stream):
            if has_end(container):
                check_length(name, container.duration / av.time_base, limits)
            context = stream.codec_context
            _check_pixels(name, context.width, context.height, shown, limits)
    except VideoError as error:
        if Path(path).suffix.lower() in ENDINGS:
            raise VideoError(f"{name} is neither a picture nor a video that can be read") from error
        if isinstance(error.__cause__, av.error.ArgumentError):
            raise VisitError(
                f"{name} is a playlist or another kind of file that is not taken here; take an MP4, MOV, MKV, WebM, "
                "AVI or MPEG file"
            ) from error
        raise


def check_read(medium: Media, name: str, limits: Limits) -> None:
    """Refuse a video that turned out longer than it said.

    Raises:
        VisitError: too long, or more frames than are shown here.
    """
    if not isinstance(medium, Video):
        return
    check_length(name, medium.duration, limits)
    if len(medium) > limits.frames:
        raise VisitError(f"{name} would be shown as {len(medium)} frames, more than the {limits.frames} allowed here")


def check_length(name: str, seconds: float, limits: Limits) -> None:
    """Refuse a long video.

    Raises:
        VisitError: too long.
    """
    if seconds > limits.seconds:
        raise VisitError(
            f"{name} lasts {seconds:,.0f} s, longer than the {limits.seconds:,.0f} s that are taken here; cut it"
        )


def _check_pixels(name: str, width: int, height: int, count: int, limits: Limits) -> None:
    taken = 3 * width * height * count
    if taken > limits.decoded:
        raise VisitError(
            f"{count} pictures of {width} × {height} pixels take {taken / 2**20:,.0f} MiB, more than the "
            f"{limits.decoded / 2**20:,.0f} MiB that are there for {name}; show fewer frames or a smaller video"
        )
