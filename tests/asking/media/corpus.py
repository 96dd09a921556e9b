"""Files of every kind that people hand to a video reader, each with what ``ffmpeg`` itself shows of it.

Every picture carries its number: eight blocks in its upper third are its bits, the lower part shows coloured fields, so
that a wrong frame, a wrong orientation and wrong colours all differ from the picture that is right.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import imageio_ffmpeg
import numpy as np

WIDTH, HEIGHT, RATE, COUNT = 160, 96, 10, 40
FIELDS = ((220, 30, 30), (30, 200, 40), (40, 50, 220), (200, 200, 200))
"""RGB colours below the number, from left to right."""

SQUARE = "scale=iw*max(sar\\,1):ih/min(sar\\,1),setsar=1"
"""Filters after which pixels are square and none is lost, as players show them."""

_SHOWN = re.compile(r"n: *(\d+) +pts: *(\S+) +pts_time:(\S+) +duration: *(\S+) +duration_time:(\S+)")


@dataclass(frozen=True)
class Entry:
    """One file of the corpus.

    Attributes:
        name: what the file is, and its name.
        make: writes it into a directory and returns its path.
        view: filters through which ``ffmpeg`` shows it as a player would.
    like: writes another file, which ``ffmpeg`` shows as this one should be shown.
        tolerance: largest mean difference per pixel and channel (0 to 255) to the picture of ``ffmpeg``.
        expected: ``"right"``; ``"damaged"``, some pictures, whatever a decoder makes of the damage; or ``"refused"``.
        warned: whether a warning belongs beside the pictures.
    """

    name: str
    make: Callable[[Path], Path]
    view: str = SQUARE
    tolerance: float = 5.0
    expected: str = "right"
    warned: bool = False
    like: Callable[[Path], Path] | None = None


@dataclass(frozen=True)
class Shown:
    """What ``ffmpeg`` shows of a file.

    Attributes:
        pictures: uint8 ``(T, H, W, 3)``.
        times: float64 ``(T,)``, seconds from the first picture.
        duration: seconds up to the end of the last picture.
    """

    pictures: np.ndarray
    times: np.ndarray
    duration: float


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """uint8 ``(height, width, 3)`` that says its number."""
    drawn = np.full((height, width, 3), 20, np.uint8)
    for bit in range(8):
        if number >> bit & 1:
            drawn[: height // 3, bit * width // 8 : (bit + 1) * width // 8] = 235
    for index, colour in enumerate(FIELDS):
        drawn[height // 2 :, index * width // 4 : (index + 1) * width // 4] = colour
    return drawn


def number_of(shown: np.ndarray) -> int:
    """The number that an upright picture says."""
    height, width = shown.shape[:2]
    centres = [shown[height // 6, (2 * bit + 1) * width // 16].astype(float).mean() for bit in range(8)]
    return sum(1 << bit for bit, value in enumerate(centres) if value > 128)


def transparent(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """uint8 ``(height, width, 4)``: as :func:`picture`; the second field is half transparent, the third wholly."""
    drawn = np.dstack([picture(number, width, height), np.full((height, width), 255, np.uint8)])
    drawn[height // 2 :, width // 4 : width // 2, 3] = 128
    drawn[height // 2 :, width // 2 : 3 * width // 4, 3] = 0
    return drawn


def on_white(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """What :func:`transparent` looks like on a white page."""
    drawn = transparent(number, width, height).astype(float)
    share = drawn[..., 3:] / 255
    return np.round(drawn[..., :3] * share + 255 * (1 - share)).astype(np.uint8)


Draw = Callable[[int, int, int], np.ndarray]


@cache
def _raw(draw: Draw, numbers: tuple[int, ...], width: int, height: int) -> bytes:
    return b"".join(draw(number, width, height).tobytes() for number in numbers)


def ffmpeg(*words: object, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run the binary of ``imageio-ffmpeg`` quietly.

    Raises:
        AssertionError: it fails; with its last words.
    """
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-y", "-hide_banner", *map(str, words)]
    if given is not None:
        command.remove("-nostdin")
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return done


def write(
    path: Path,
    *options: object,
    numbers: Iterable[int] = range(COUNT),
    size: tuple[int, int] = (WIDTH, HEIGHT),
    rate: object = RATE,
    after: Sequence[object] = (),
    draw: Draw = picture,
) -> Path:
    """Encode numbered pictures; ``options`` stand before the path, ``after`` are further inputs."""
    width, height = size
    layout = "rgba" if draw is transparent else "rgb24"
    source = ("-f", "rawvideo", "-pix_fmt", layout, "-s", f"{width}x{height}", "-r", rate, "-i", "-")
    ffmpeg("-v", "error", *source, *after, *options, path, given=_raw(draw, tuple(numbers), width, height))
    return path


def shown(path: Path, view: str = SQUARE) -> Shown:
    """What ``ffmpeg`` shows of a file, decoded to the end.

    Raises:
        AssertionError: it shows nothing.
    """
    found = ffmpeg(
        "-i", path, "-fps_mode", "passthrough", "-vf", f"{view},showinfo", "-f", "rawvideo", "-pix_fmt", "rgb24",
        "-sws_flags", "accurate_rnd+full_chroma_int", "-",
    )  # fmt: skip
    text = found.stderr.decode(errors="replace")
    lines = [match for line in text.splitlines() if (match := _SHOWN.search(line))]
    sizes = re.findall(r" s:(\d+)x(\d+) ", text)
    width, height = map(int, sizes[0])
    pictures = np.frombuffer(found.stdout, np.uint8).reshape(-1, height, width, 3)
    times = np.array([float(match[3]) for match in lines])
    assert len(times) == len(pictures) > 0, (len(times), len(pictures))
    last = float(lines[-1][5]) if lines[-1][5] not in ("NOPTS", "N/A") else 0.0
    rate = len(times) / (times[-1] - times[0]) if len(times) > 1 else 25.0
    return Shown(pictures, times - times[0], float(times[-1] - times[0] + (last or 1 / rate)))


def truth_of(entry: Entry, path: Path) -> Shown:
    """What a reader should give of an entry that was written to ``path``."""
    if entry.like is None:
        return shown(path, entry.view)
    with tempfile.TemporaryDirectory() as directory:
        return shown(entry.like(Path(directory)), entry.view)


H264 = ("-c:v", "libx264", "-preset", "medium", "-g", 10, "-bf", 2, "-pix_fmt", "yuv420p")
PLAIN = ("-c:v", "libx264", "-preset", "ultrafast", "-g", 5, "-bf", 0, "-pix_fmt", "yuv420p")


def _encoded(name: str, *options: object, **how: object) -> Callable[[Path], Path]:
    return lambda folder: write(folder / name, *options, **how)  # type: ignore[arg-type]


def _copied(name: str, source: Callable[[Path], Path], *options: object, before: Sequence[object] = ()):
    """Another container around packets that were encoded already."""

    def make(folder: Path) -> Path:
        inside = folder / f"of-{name}"
        inside.mkdir(exist_ok=True)
        ffmpeg("-v", "error", *before, "-i", source(inside), "-c", "copy", *options, folder / name)
        return folder / name

    return make


def _changed(name: str, source: Callable[[Path], Path], change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    """The bytes of another file, changed."""

    def make(folder: Path) -> Path:
        inside = folder / f"of-{name}"
        inside.mkdir(exist_ok=True)
        (folder / name).write_bytes(change(source(inside).read_bytes()))
        return folder / name

    return make


def _joined(name: str, *sources: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Files one behind the other, as ``cat`` joins them."""

    def make(folder: Path) -> Path:
        inside = folder / f"of-{name}"
        inside.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"".join(source(inside).read_bytes() for source in sources))
        return folder / name

    return make


def _lost(name: str, source: Callable[[Path], Path], share: float, seed: int = 0) -> Callable[[Path], Path]:
    """Noise in place of a share of a file's packets, but for their first bytes: a failing memory card."""

    def make(folder: Path) -> Path:
        import av

        inside = folder / f"of-{name}"
        inside.mkdir(exist_ok=True)
        path = source(inside)
        data = bytearray(path.read_bytes())
        with av.open(str(path)) as container:
            spans = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
        random = np.random.default_rng(seed)
        for position, size in spans[:1] + [span for span in spans[1:] if random.random() < share]:
            keep = min(size, 40 if position != spans[0][0] else 760)
            data[position + keep : position + size] = random.integers(0, 256, size - keep, np.uint8).tobytes()
        (folder / name).write_bytes(bytes(data))
        return folder / name

    return make


def _variable(name: str, times: Sequence[float]) -> Callable[[Path], Path]:
    """One picture at each time, in seconds."""

    def make(folder: Path) -> Path:
        import av

        with av.open(str(folder / name), "w") as out:
            stream = out.add_stream("libx264", rate=1000, options={"preset": "ultrafast", "g": "5", "bf": "0"})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            from fractions import Fraction

            stream.codec_context.time_base = Fraction(1, 1000)
            for number, time in enumerate(times):
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
                frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        return folder / name

    return make


def _turned(name: str, degrees: int, *flips: str) -> Callable[[Path], Path]:
    return _copied(
        name,
        _encoded("flat.mp4", *PLAIN),
        before=("-display_rotation:v:0", degrees, *(word for flip in flips for word in (f"-display_{flip}:v:0",))),
    )


def _crypt(name: str) -> Callable[[Path], Path]:
    return _encoded(
        name, *PLAIN, "-encryption_scheme", "cenc-aes-ctr", "-encryption_key", "76a6c65c5ea762046bd749a2e632ccbb",
        "-encryption_kid", "a7e61c373e219033c21091fa607bf3b8",
    )  # fmt: skip


def _tail_lost(data: bytes, share: float = 0.6) -> bytes:
    return data[: int(len(data) * share)]


def _packets_lost(data: bytes) -> bytes:
    """An MPEG-TS without three packets in the middle of each tenth of it."""
    packets = [data[start : start + 188] for start in range(0, len(data), 188)]
    tenth = max(len(packets) // 10, 1)
    return b"".join(packet for index, packet in enumerate(packets) if index < 20 or index % tenth > 2)


def _hdr(transfer: str) -> tuple[object, ...]:
    return (
        "-vf", "setparams=color_primaries=bt709:color_trc=bt709:colorspace=gbr,format=gbrp,"
        "zscale=t=linear:npl=203,format=gbrpf32le,"
        f"zscale=p=bt2020:t={transfer}:m=bt2020nc:r=limited:npl=203,format=yuv420p10le",
        "-c:v", "libx265", "-x265-params", f"log-level=none:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc",
        "-color_primaries", "bt2020", "-color_trc", transfer, "-colorspace", "bt2020nc",
    )  # fmt: skip


SCREEN = (
    "zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt709,tonemap=mobius:param=0.3:peak=4.926:desat=0,"
    "zscale=t=iec61966-2-1:m=gbr:r=full,format=gbrp"
)
"""HDR as a screen shows it, through ``ffmpeg``'s own filters."""

_WHITE = _encoded("white.mkv", "-c:v", "ffv1", "-pix_fmt", "gbrp", draw=on_white)

RECORDED = [i / 30 for i in range(30)] + [1.0 + k for k in range(9)]
"""A screen recording: thirty pictures in the first second, then one a second."""

_TS = _encoded("first.ts", *PLAIN, numbers=range(20))
_TS_NEXT = _encoded("second.ts", *PLAIN, numbers=range(20, 40))
_TS_LATER = _copied("later.ts", _TS_NEXT, "-output_ts_offset", 3600)
_TS_LARGE = _encoded("large.ts", *PLAIN, numbers=range(20, 40), size=(320, 192))

ENTRIES: tuple[Entry, ...] = (
    # containers and codecs
    Entry("h264.mp4", _encoded("h264.mp4", *H264)),
    Entry("h264-plain.mp4", _encoded("h264-plain.mp4", *PLAIN)),
    Entry("hevc.mp4", _encoded("hevc.mp4", "-c:v", "libx265", "-preset", "fast", "-x265-params", "log-level=none")),
    Entry("hevc-10-bit.mkv", _encoded("hevc-10-bit.mkv", "-c:v", "libx265", "-preset", "fast", "-pix_fmt",
                                      "yuv420p10le", "-x265-params", "log-level=none")),
    Entry("av1.mp4", _encoded("av1.mp4", "-c:v", "libsvtav1", "-preset", 10, "-g", 10)),
    Entry("mpeg4.mp4", _encoded("mpeg4.mp4", "-c:v", "mpeg4", "-q:v", 2, "-bf", 2)),
    Entry("fragmented.mp4", _encoded("fragmented.mp4", *H264, "-movflags", "frag_keyframe+empty_moov")),
    Entry("prores.mov", _encoded("prores.mov", "-c:v", "prores_ks")),
    Entry("h264.mkv", _encoded("h264.mkv", *H264)),
    Entry("ffv1.mkv", _encoded("ffv1.mkv", "-c:v", "ffv1", "-pix_fmt", "yuv444p")),
    Entry("vp8.webm", _encoded("vp8.webm", "-c:v", "libvpx", "-b:v", "400k", "-auto-alt-ref", 1, "-lag-in-frames", 16)),
    Entry("vp9.webm", _encoded("vp9.webm", "-c:v", "libvpx-vp9", "-b:v", "400k", "-auto-alt-ref", 1,
                               "-lag-in-frames", 16, "-deadline", "realtime", "-cpu-used", 5)),
    Entry("av1.webm", _encoded("av1.webm", "-c:v", "libsvtav1", "-preset", 10)),
    Entry("xvid.avi", _encoded("xvid.avi", "-c:v", "libxvid", "-q:v", 2, "-bf", 2)),
    Entry("mjpeg.avi", _encoded("mjpeg.avi", "-c:v", "mjpeg", "-q:v", 2, "-pix_fmt", "yuvj420p")),
    Entry("h264-b-frames.avi", _copied("h264-b-frames.avi", _encoded("b.mp4", *H264)),
          like=_encoded("b.mp4", *H264)),
    Entry("cinepak.avi", _encoded("cinepak.avi", "-c:v", "cinepak"), tolerance=12),
    Entry("palette.avi", _encoded("palette.avi", "-c:v", "msrle", "-pix_fmt", "pal8"), tolerance=12),
    Entry("h264.ts", _encoded("h264.ts", *H264)),
    Entry("hevc.ts", _encoded("hevc.ts", "-c:v", "libx265", "-preset", "fast", "-x265-params", "log-level=none")),
    Entry("mpeg2.ts", _encoded("mpeg2.ts", "-c:v", "mpeg2video", "-q:v", 2, "-bf", 2, rate=25)),
    Entry("h264.m2ts", _encoded("h264.m2ts", *H264)),
    Entry("mpeg1.mpg", _encoded("mpeg1.mpg", "-c:v", "mpeg1video", "-q:v", 2, "-bf", 2, rate=25)),
    Entry("mpeg2.vob", _encoded("mpeg2.vob", "-c:v", "mpeg2video", "-q:v", 2, "-bf", 2, rate=25)),
    Entry("mpeg2.mxf", _encoded("mpeg2.mxf", "-c:v", "mpeg2video", "-q:v", 2, "-bf", 2, rate=25)),
    Entry("h264.flv", _encoded("h264.flv", *H264)),
    Entry("sorenson.flv", _encoded("sorenson.flv", "-c:v", "flv", "-q:v", 2)),
    Entry("wmv2.wmv", _encoded("wmv2.wmv", "-c:v", "wmv2", "-q:v", 2)),
    Entry("theora.ogv", _encoded("theora.ogv", "-c:v", "libtheora", "-q:v", 9)),
    Entry("h263.3gp", _encoded("h263.3gp", "-c:v", "h263", "-q:v", 2, size=(176, 144))),
    Entry("rv20.rm", _encoded("rv20.rm", "-c:v", "rv20", "-q:v", 2)),
    Entry("dv.dv", _encoded("dv.dv", "-c:v", "dvvideo", "-pix_fmt", "yuv420p", "-s", "720x576", rate=25,
                            numbers=range(10)), view=f"{SQUARE},estdif=frame:deint=interlaced"),
    Entry("mpeg4.nut", _encoded("mpeg4.nut", "-c:v", "mpeg4", "-q:v", 2, "-bf", 2)),
    Entry("vp9.ivf", _encoded("vp9.ivf", "-c:v", "libvpx-vp9", "-b:v", "400k", "-deadline", "realtime", "-cpu-used",
                              5)),
    Entry("raw.y4m", _encoded("raw.y4m", "-pix_fmt", "yuv420p")),
    Entry("stream.h264", _encoded("stream.h264", *H264)),
    Entry("stream.hevc", _encoded("stream.hevc", "-c:v", "libx265", "-preset", "fast", "-x265-params",
                                  "log-level=none")),
    Entry("stream.mjpeg", _encoded("stream.mjpeg", "-c:v", "mjpeg", "-q:v", 2, "-pix_fmt", "yuvj420p")),
    # pictures that move
    Entry("moving.gif", _encoded("moving.gif"), tolerance=16),
    Entry("moving.webp", _encoded("moving.webp", "-c:v", "libwebp_anim", "-lossless", 1, "-loop", 0)),
    Entry("moving.apng", _encoded("moving.apng", "-plays", 0)),
    # times
    Entry("clock-restarts.ts", _joined("clock-restarts.ts", _TS, _TS_NEXT)),
    Entry("clock-jumps.ts", _joined("clock-jumps.ts", _TS, _TS_LATER)),
    Entry("clock-wraps.ts", _copied("clock-wraps.ts", _encoded("b.ts", *H264), "-output_ts_offset", 95441)),
    Entry("starts-inside-open.ts", _changed("starts-inside-open.ts", _encoded("b.ts", *H264, "-x264-params",
                                                                              "open-gop=1:keyint=10"),
                                            lambda data: data[: 188 * 3] + data[len(data) // 3 // 188 * 188 :])),
    Entry("playlist.m3u8", _encoded("playlist.m3u8", *PLAIN, "-f", "hls", "-hls_time", 1, "-hls_list_size", 0)),
    Entry("gap.ts", _joined("gap.ts", _TS, _copied("gap2.ts", _TS_NEXT, "-output_ts_offset", 5))),
    Entry("screen.mp4", _variable("screen.mp4", RECORDED)),
    Entry("screen.mkv", _variable("screen.mkv", RECORDED)),
    Entry("late-start.mkv", _copied("late-start.mkv", _encoded("b.mkv", *H264), "-output_ts_offset", 5)),
    Entry("edit-list.mp4", _copied("edit-list.mp4", _encoded("b.mp4", *H264), before=("-ss", 0.55))),
    Entry("edit-list.mov", _copied("edit-list.mov", _encoded("b.mov", *H264), before=("-ss", 1.23))),
    Entry("odd-rate.mp4", _encoded("odd-rate.mp4", *H264, rate="24000/1001")),
    Entry("one-frame.mp4", _encoded("one-frame.mp4", *PLAIN, numbers=[5])),
    Entry("two-frames.mkv", _encoded("two-frames.mkv", *PLAIN, numbers=[5, 6])),
    Entry("without-duration.mkv", _encoded("without-duration.mkv", *H264, "-live", 1)),
    Entry("late-picture.mp4", _encoded("late-picture.mp4", *H264, "-c:a", "aac", "-shortest", "-map", "0:v", "-map",
                                       "1:a", after=("-f", "lavfi", "-i", "sine=duration=4"))),
    Entry("longer-sound.mp4", _encoded("longer-sound.mp4", *H264, "-c:a", "aac", "-map", "0:v", "-map", "1:a",
                                       after=("-f", "lavfi", "-i", "sine=duration=9"))),
    Entry("starts-inside.ts", _changed("starts-inside.ts", _encoded("b.ts", *H264),
                                       lambda data: data[: 188 * 3] + data[len(data) // 3 // 188 * 188 :])),
    # streams
    Entry("cover.mp4", _encoded("cover.mp4", *H264, "-map", "1:v", "-map", "0:v", "-disposition:v:0", "attached_pic",
                                "-c:v:0", "png", "-disposition:v:1", "default",
                                after=("-f", "lavfi", "-i", "color=red:s=64x64:d=0.04"))),
    Entry("two-videos.mkv", _encoded("two-videos.mkv", *H264, "-map", "1:v", "-map", "0:v", "-disposition:v:0", 0,
                                     "-disposition:v:1", "default",
                                     after=("-f", "lavfi", "-i", "color=red:s=64x64:d=4:r=10"))),
    Entry("larger-second.mp4", _encoded("larger-second.mp4", *H264, "-map", "1:v", "-map", "0:v", "-disposition:v:0",
                                        0, "-disposition:v:1", 0,
                                        after=("-f", "lavfi", "-i", "color=red:s=64x64:d=4:r=10"))),
    # orientation
    *(
        Entry(name := f"turned-{degrees}{''.join('-' + flip for flip in flips)}.mp4", _turned(name, degrees, *flips))
        for degrees in (0, 90, 180, 270)
        for flips in ((), ("hflip",), ("vflip",))
    ),
    Entry("turned-90.mov", _turned("turned-90.mov", 90)),
    Entry("turned-90.mkv", _turned("turned-90.mkv", 90)),
    # pixels
    Entry("wide-pixels.mp4", _encoded("wide-pixels.mp4", *H264, "-vf", "setsar=2")),
    Entry("tall-pixels.mkv", _encoded("tall-pixels.mkv", *H264, "-vf", "setsar=3/4")),
    Entry("bt709.mp4", _encoded("bt709.mp4", *H264, "-vf", "scale=out_color_matrix=bt709:out_range=tv", "-colorspace",
                                "bt709", "-color_primaries", "bt709", "-color_trc", "bt709")),
    Entry("full-range.mp4", _encoded("full-range.mp4", *H264, "-vf", "scale=out_range=pc", "-color_range", "pc")),
    Entry("bt2020.mp4", _encoded("bt2020.mp4", "-c:v", "libx265", "-vf", "scale=out_color_matrix=bt2020:out_range=tv",
                                 "-pix_fmt", "yuv420p10le", "-colorspace", "bt2020nc", "-x265-params",
                                 "log-level=none:colormatrix=bt2020nc")),
    Entry("rgb.mkv", _encoded("rgb.mkv", "-c:v", "libx264rgb", "-g", 10)),
    Entry("grey.mp4", _encoded("grey.mp4", "-c:v", "libx264", "-pix_fmt", "gray")),
    Entry("odd-size.mp4", _encoded("odd-size.mp4", *PLAIN[:-2], "-pix_fmt", "yuv444p", size=(151, 87))),
    Entry("interlaced.ts", _encoded("interlaced.ts", "-vf", "tinterlace=interleave_top,fieldorder=tff", "-c:v",
                                    "libx264", "-flags", "+ildct+ilme", "-x264-params", "tff=1", "-g", 10),
          view="estdif=frame:deint=interlaced"),
    Entry("interlaced.mov", _encoded("interlaced.mov", "-vf", "tinterlace=interleave_bottom,fieldorder=bff", "-c:v",
                                     "mpeg2video", "-q:v", 2, "-flags", "+ildct+ilme", "-field_order", "bb", rate=25),
          view="estdif=frame:deint=interlaced"),
    Entry("cropped.mp4", _encoded("cropped.mp4", *PLAIN, "-bsf:v",
                                  "h264_metadata=crop_left=16:crop_right=4:crop_top=8:crop_bottom=2")),
    Entry("wide-and-turned.mp4", _copied("wide-and-turned.mp4", _encoded("wide.mp4", *PLAIN, "-vf", "setsar=2"),
                                         before=("-display_rotation:v:0", 90))),
    Entry("hd.mp4", _encoded("hd.mp4", *PLAIN, "-vf", "scale=out_color_matrix=bt709:out_range=tv,setparams=colorspace="
                             "unknown", size=(1280, 720), numbers=range(8)),
          view="scale=in_color_matrix=bt709:in_range=tv", tolerance=2),
    Entry("hdr-pq.mkv", _encoded("hdr-pq.mkv", *_hdr("smpte2084")), view=SCREEN, tolerance=8),
    Entry("hdr-hlg.mkv", _encoded("hdr-hlg.mkv", *_hdr("arib-std-b67")), view=SCREEN, tolerance=8),
    Entry("transparent.mov", _encoded("transparent.mov", "-c:v", "png", draw=transparent), like=_WHITE),
    Entry("transparent-prores.mov", _encoded("transparent-prores.mov", "-c:v", "prores_ks", "-profile:v", 4,
                                             draw=transparent), like=_WHITE),
    Entry("transparent.webp", _encoded("transparent.webp", "-c:v", "libwebp_anim", "-lossless", 1, draw=transparent),
          like=_WHITE),
    Entry("transparent.apng", _encoded("transparent.apng", draw=transparent), like=_WHITE),
    Entry("size-changes.ts", _joined("size-changes.ts", _TS, _TS_LARGE)),
    # damage
    Entry("ends-early.mp4", _changed("ends-early.mp4", _encoded("b.mp4", *H264, "-movflags", "faststart"),
                                     lambda data: _tail_lost(data, 0.7)), warned=True),
    Entry("ends-early.mkv", _changed("ends-early.mkv", _encoded("b.mkv", *H264), lambda data: _tail_lost(data, 0.6)),
          warned=True),
    Entry("still-growing.mp4", _changed("still-growing.mp4", _encoded("b.mp4", *H264, "-movflags",
                                                                      "frag_keyframe+empty_moov"), _tail_lost),
          warned=True),
    Entry("lost-packets.ts", _changed("lost-packets.ts", _encoded("b.ts", *H264), _packets_lost), expected="damaged",
          warned=True),
    Entry("some-lost.mp4", _lost("some-lost.mp4", _encoded("b.mp4", *PLAIN), 0.1), expected="damaged", warned=True),
    Entry("tail-lost.mkv", _copied("tail-lost.mkv", _encoded("b.mkv", *PLAIN), "-live", 1, "-bsf:v",
                                   "noise=amount=if(gte(n\\,20)\\,1\\,0)"), warned=True),
    Entry("all-lost.mp4", _lost("all-lost.mp4", _encoded("b.mp4", *PLAIN), 1.0), expected="refused"),
    Entry("encrypted.mp4", _crypt("encrypted.mp4"), expected="refused"),
    Entry("without-index.mp4", _changed("without-index.mp4", _encoded("b.mp4", *H264), _tail_lost),
          expected="refused"),
)  # fmt: skip
"""Every file; names are unique."""
