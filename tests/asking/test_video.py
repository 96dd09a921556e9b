"""Videos of numbered frames: what comes back must be exactly the frames that were on display."""

import fractions
import tracemalloc
import wave
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest

import framefusion.asking.decoding.frames as frames_module
import framefusion.asking.decoding.pictures as pictures_module
from framefusion.asking.video import VideoError, read_video

BLOCK = 16
BITS = 8


def numbered(number: int, width: int = BLOCK * BITS, height: int = 2 * BLOCK) -> np.ndarray:
    """A picture that says its number: bit ``b`` is a white block, the lower half is dark."""
    picture = np.full((height, width, 3), 20, dtype=np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            picture[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 235
    return picture


def number_of(picture: np.ndarray) -> int:
    centers = picture[BLOCK // 2, BLOCK // 2 : BLOCK * BITS : BLOCK].mean(axis=-1)
    return sum(1 << bit for bit, value in enumerate(centers) if value > 128)


def write_video(path: Path, pictures, stamps=None, rate=10, gop=5, options=None, rotation=None, container=None):
    """Encode ``pictures`` (MPEG-4 part 2, which every FFmpeg build has); ``stamps`` in 1/100 s."""
    with av.open(str(path), "w", format=container, options=options or {}) as out:
        stream = out.add_stream("mpeg4", rate=rate, options={"g": str(gop), "qscale": "2"})
        stream.width, stream.height = pictures[0].shape[1], pictures[0].shape[0]
        stream.pix_fmt = "yuv420p"
        if stamps is not None:
            stream.codec_context.time_base = fractions.Fraction(1, 100)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for position, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = position if stamps is None else stamps[position]
            frame.time_base = fractions.Fraction(1, rate) if stamps is None else fractions.Fraction(1, 100)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """100 numbered frames, 10 a second, a keyframe every 5."""
    return write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", [numbered(i) for i in range(100)])


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 8, 33, 99])
def test_frames_come_from_the_middle_of_equal_intervals(clip, frames):
    video = read_video(clip, frames=frames)
    expected = [int((i + 0.5) * 100 / frames + 1e-9) for i in range(frames)]
    assert [number_of(picture) for picture in video.frames] == expected
    assert video.indices.tolist() == expected
    np.testing.assert_allclose(video.timestamps, np.array(expected) / 10, atol=1e-6)


def test_default_is_eight_frames_and_the_source_is_described(clip):
    video = read_video(clip)
    assert video.frames.shape == (8, 32, 128, 3)
    assert video.frames.dtype == np.uint8
    assert (len(video), video.height, video.width) == (8, 32, 128)
    assert video.duration == pytest.approx(10.0)
    assert video.source_fps == pytest.approx(10.0)
    assert video.total_frames == 100
    assert video.path == clip
    assert video.complete


def test_fps_counts_over_the_playing_time(clip):
    assert read_video(clip, fps=2).indices.tolist() == [2 + 5 * i for i in range(20)]
    assert len(read_video(clip, fps=0.01)) == 1
    assert len(read_video(clip, fps=1000)) == 100


def test_seeking_gives_what_reading_everything_gives(clip):
    everything = read_video(clip, frames=100).frames
    sparse = read_video(clip, frames=4)
    np.testing.assert_array_equal(sparse.frames, everything[sparse.indices])


def test_seeking_decodes_less(clip, monkeypatch):
    decoded = []
    original = frames_module.decoded

    def counted(container, stream):
        for event in original(container, stream):
            decoded.append(isinstance(event, av.VideoFrame))
            yield event

    monkeypatch.setattr(frames_module, "decoded", counted)
    read_video(clip, frames=2)
    assert sum(decoded) < 40


def test_inexact_seek_falls_back_to_reading_on(clip, monkeypatch):
    expected = read_video(clip, frames=4)
    original = frames_module.opened

    class Late:
        """A container whose index points two key frames too far."""

        def __init__(self, container):
            self.container = container

        def __getattr__(self, name):
            return getattr(self.container, name)

        def seek(self, stamp, stream):
            tried.append(stamp)
            self.container.seek(stamp + round(1.0 / stream.time_base), stream=stream)

    @contextmanager
    def opened(source, threads="AUTO"):
        with original(source, threads) as (container, stream):
            yield Late(container), stream

    tried = []
    monkeypatch.setattr(frames_module, "opened", opened)
    np.testing.assert_array_equal(read_video(clip, frames=4).frames, expected.frames)
    assert tried


def test_variable_frame_rate_samples_by_time_not_by_count(tmp_path):
    # ten frames in the first second, then one frame that stays for nine
    stamps = [10 * i for i in range(10)] + [100, 1000]
    path = write_video(tmp_path / "vfr.mkv", [numbered(i) for i in range(12)], stamps=stamps)
    video = read_video(path, frames=5)
    assert [number_of(picture) for picture in video.frames] == [10, 10, 10, 10, 10]
    assert read_video(path, fps=10).indices.max() == 11


def test_fewer_frames_than_asked_gives_each_once(tmp_path):
    path = write_video(tmp_path / "short.mp4", [numbered(i) for i in range(3)])
    video = read_video(path, frames=8)
    assert [number_of(picture) for picture in video.frames] == [0, 1, 2]


def test_single_frame(tmp_path):
    video = read_video(write_video(tmp_path / "one.mp4", [numbered(5)]), frames=8)
    assert [number_of(picture) for picture in video.frames] == [5]
    assert video.duration > 0


def test_stream_without_timestamps_or_duration(tmp_path):
    path = write_video(tmp_path / "raw.m4v", [numbered(i) for i in range(20)], container="m4v")
    video = read_video(path, frames=4)
    assert [number_of(picture) for picture in video.frames] == [2, 7, 12, 17]


def test_avi_gives_the_same_frames(tmp_path):
    path = write_video(tmp_path / "old.avi", [numbered(i) for i in range(20)])
    assert [number_of(picture) for picture in read_video(path, frames=4).frames] == [2, 7, 12, 17]


def test_first_frame_not_at_zero(tmp_path):
    stamps = [500 + 10 * i for i in range(20)]
    path = write_video(tmp_path / "late.mkv", [numbered(i) for i in range(20)], stamps=stamps)
    video = read_video(path, frames=4)
    assert [number_of(picture) for picture in video.frames] == [2, 7, 12, 17]
    np.testing.assert_allclose(video.timestamps, [0.2, 0.7, 1.2, 1.7], atol=1e-6)


@pytest.mark.skipif(not hasattr(av.VideoStream, "set_display_rotation"), reason="this PyAV cannot write rotation")
@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotation_metadata_is_applied(tmp_path, rotation):
    picture = numbered(0)
    picture[:BLOCK, :BLOCK] = (235, 20, 20)  # a red mark at the top left of the stored picture
    path = write_video(tmp_path / "turned.mp4", [picture] * 4, rotation=rotation)
    frame = read_video(path, frames=1).frames[0]
    assert frame.shape == ((32, 128, 3) if rotation == 180 else (128, 32, 3))
    # a display matrix of +90° turns the picture counterclockwise: top left goes to bottom left
    corner = {90: (-8, 8), 180: (-8, -8), -90: (8, -8)}[rotation]
    red, green, _ = frame[corner].astype(int)
    assert red > 150
    assert green < 100


def test_change_of_size_in_the_stream_keeps_the_first_size(tmp_path):
    path = tmp_path / "grows.mjpeg"
    with open(path, "wb") as out:
        for width in (64, 64, 96, 96):
            codec = av.CodecContext.create("mjpeg", "w")
            codec.width, codec.height, codec.pix_fmt = width, width, "yuvj420p"
            codec.time_base = fractions.Fraction(1, 25)
            frame = av.VideoFrame.from_ndarray(np.full((width, width, 3), width, np.uint8), format="rgb24")
            for packet in [*codec.encode(frame.reformat(format="yuvj420p")), *codec.encode(None)]:
                out.write(bytes(packet))
    assert read_video(path, frames=4).frames.shape == (4, 64, 64, 3)


def test_truncated_file_gives_what_can_be_read(tmp_path, caplog):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (64, 128, 3), dtype=np.uint8) for _ in range(60)]
    whole = write_video(tmp_path / "whole.mp4", noise, options={"movflags": "faststart"})
    data = whole.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) // 2])
    video = read_video(cut, frames=4)
    assert len(video) == 4
    assert not video.complete
    assert 0 < video.duration < 5
    assert video.indices.max() < 45
    assert "ends after" in caplog.text
    assert read_video(whole, frames=4).complete


def test_truncated_before_its_index_is_a_clear_error(tmp_path, clip):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clip.read_bytes()[:2000])
    with pytest.raises(VideoError, match=r"cut\.mp4 is not a video that can be read"):
        read_video(cut)


def test_damage_in_the_middle_is_skipped(tmp_path, clip):
    data = bytearray(clip.read_bytes())
    middle = len(data) // 3
    data[middle : middle + 400] = b"\xff" * 400
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(bytes(data))
    assert len(read_video(damaged, frames=10)) == 10


def test_audio_only(tmp_path):
    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", "not compressed"))
        out.writeframes(b"\0\0" * 8000)
    with pytest.raises(VideoError, match="has no video stream"):
        read_video(path)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_container_without_frames(tmp_path, suffix):
    path = tmp_path / f"empty.{suffix}"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        out.start_encoding()
    with pytest.raises(VideoError, match=r"contains no frames|has no video stream|end of file"):
        read_video(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("noise.mp4", bytes(range(256)) * 40, "not a video"),
        ("zeros.mp4", bytes(10_000), "not a video"),
        ("empty.mp4", b"", "is empty"),
        ("notes.txt", b"The shopping list of a quiet afternoon.\n" * 50, "not a video"),
        ("page.html", b"<!doctype html><title>No</title>" * 20, "not a video"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(VideoError, match=message) as caught:
        read_video(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(VideoError, match=r"no such file: .*gone\.mp4"):
        read_video(tmp_path / "gone.mp4")
    with pytest.raises(VideoError, match="is a directory without pictures"):
        read_video(tmp_path)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"frames": 0}, "frames must be at least 1, got 0"),
        ({"frames": -3}, "frames must be at least 1, got -3"),
        ({"frames": 2.5}, "frames must be a whole number, got 2.5"),
        ({"frames": True}, "frames must be a whole number, got True"),
        ({"fps": 0}, "fps must be a number above 0, got 0"),
        ({"fps": -1.0}, "fps must be a number above 0"),
        ({"fps": float("nan")}, "fps must be a number above 0, got nan"),
        ({"fps": float("inf")}, "fps must be a number above 0, got inf"),
        ({"frames": 8, "fps": 1.0}, "exclude each other"),
    ],
)
def test_impossible_requests(clip, request_, message):
    with pytest.raises(VideoError, match=message):
        read_video(clip, **request_)


def test_request_beyond_memory_is_refused_before_it_is_decoded(clip, monkeypatch):
    monkeypatch.setattr(pictures_module, "MAX_BYTES", 10 * 32 * 128 * 3)
    assert len(read_video(clip, frames=10)) == 10
    with pytest.raises(VideoError, match="11 frames of 128×32 pixels would take"):
        read_video(clip, frames=11)


def test_memory_is_bounded_by_the_result(tmp_path):
    pictures = [np.full((480, 640, 3), i, np.uint8) for i in range(60)]
    path = write_video(tmp_path / "large.mp4", pictures, gop=60)
    one = pictures[0].nbytes
    del pictures
    tracemalloc.start()
    read_video(path, frames=4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * one
