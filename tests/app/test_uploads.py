"""Files from strangers."""

from __future__ import annotations

import dataclasses
import io

import av
import pytest
from PIL import Image

from framefusion.app.limits import VisitError
from framefusion.app.uploads import FORMATS, check_read, check_upload
from framefusion.asking.decoding.errors import VideoError
from framefusion.asking.video import read_video
from framefusion.assets import DEMO_VIDEO, REAL_VIDEO
from tests.app.conftest import LIMITS, clip
from tests.asking.media import corpus


def check(path, limits=LIMITS, frames=8):
    check_upload(str(path), "mine", limits, frames)


@pytest.mark.parametrize(
    "entry", [one for one in corpus.ENTRIES if one.expected != "refused"], ids=lambda one: one.name
)
def test_what_the_reader_takes_is_taken(entry, tmp_path):
    """But for what names other files."""
    path = entry.make(tmp_path)
    if path.is_dir():
        return
    if path.suffix == ".m3u8":
        with pytest.raises(VisitError, match="playlist"):
            check(path)
        return
    check(path)


def test_bundled_files_and_pictures_are_taken(tmp_path):
    check(DEMO_VIDEO)
    check(REAL_VIDEO)
    Image.new("RGB", (30, 20)).save(tmp_path / "photo.png")
    check(tmp_path / "photo.png")


def test_every_format_is_one_that_ffmpeg_knows():
    known = {part for name in av.formats_available for part in name.split(",")}
    # Names of the demuxers; a build may lack some, but not most.
    assert len(set(FORMATS.split(",")) & known) >= 30


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:8,\n{}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4", "list"])
def test_a_playlist_shows_no_file_of_the_machine(tmp_path, name):
    """Not even one that FFmpeg by itself would follow."""
    segment = clip(tmp_path / "secret.ts", codec="mpeg2video")
    path = tmp_path / name
    path.write_text(PLAYLIST.format(segment))
    with pytest.raises((VisitError, VideoError)):
        check(path)
    if name == "list.m3u8":
        assert len(read_video(path, frames=2)) == 2, "FFmpeg follows it, so that the refusal is ours"
        with pytest.raises(VisitError, match="mine is a playlist or another kind of file that is not taken here"):
            check(path)


def test_a_list_of_joined_files_is_refused(tmp_path):
    clip(tmp_path / "other.mp4")
    (tmp_path / "list.ffconcat").write_text("ffconcat version 1.0\nfile other.mp4\n")
    with pytest.raises(VisitError, match="playlist"):
        check(tmp_path / "list.ffconcat")


def test_what_cannot_be_read_has_the_librarys_sentence(tmp_path):
    wrong = {
        b"": "mine is empty, not a video",
        bytes(range(256)) * 99: r"mine is not a video that can be read \(invalid data",
        b"a text\n" * 99: "mine is a text file, not a video",
    }
    for number, (content, said) in enumerate(wrong.items()):
        path = tmp_path / f"{number}.txt"
        path.write_bytes(content)
        with pytest.raises(VideoError, match=said) as caught:
            check(path)
        assert str(tmp_path) not in str(caught.value)


def test_a_broken_picture_is_left_to_the_reader(tmp_path):
    """Which says that it is neither a picture nor a video."""
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), "red").save(buffer, "JPEG")
    path = tmp_path / "broken.jpg"
    path.write_bytes(buffer.getvalue()[:150])
    with pytest.raises(VideoError, match="mine is neither a picture nor a video that can be read"):
        check(path)


def test_sizes_and_lengths_have_limits(tmp_path):
    path = clip(tmp_path / "a.mp4", seconds=2)
    with pytest.raises(VisitError, match=r"mine has 0\.\d MiB, more than the 0\.0 MiB"):
        check(path, dataclasses.replace(LIMITS, upload=100))
    with pytest.raises(VisitError, match=r"mine lasts 2 s, longer than the 1 s that are taken here; cut it"):
        check(path, dataclasses.replace(LIMITS, seconds=1))
    with pytest.raises(VisitError, match="8 pictures of 64 × 48 pixels take"):
        check(path, dataclasses.replace(LIMITS, decoded=8 * 64 * 48 * 3 - 1))
    check(path, dataclasses.replace(LIMITS, decoded=8 * 64 * 48 * 3))
    with pytest.raises(VisitError, match="16 pictures"):
        check(path, dataclasses.replace(LIMITS, decoded=8 * 64 * 48 * 3), frames=None)
    Image.new("RGB", (30, 20)).save(tmp_path / "photo.png")
    with pytest.raises(VisitError, match="1 pictures of 30 × 20"):
        check(tmp_path / "photo.png", dataclasses.replace(LIMITS, decoded=30))


def test_a_video_that_is_longer_than_it_says_is_refused_when_it_was_read():
    video = read_video(DEMO_VIDEO, frames=8)
    check_read(video, "mine", LIMITS)
    check_read(Image.new("RGB", (4, 4)), "mine", LIMITS)
    with pytest.raises(VisitError, match="mine lasts 8 s"):
        check_read(video, "mine", dataclasses.replace(LIMITS, seconds=7))
    with pytest.raises(VisitError, match="mine would be shown as 8 frames, more than the 7 allowed here"):
        check_read(video, "mine", dataclasses.replace(LIMITS, frames=7))
