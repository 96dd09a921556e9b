"""Photographs, animations and folders of pictures."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from framefusion.asking.media import read_media
from framefusion.asking.video import Video, VideoError, read_video
from tests.asking.media import corpus
from tests.asking.media.corpus import number_of, picture


def saved(path: Path, pixels: np.ndarray, **how: object) -> Path:
    Image.fromarray(pixels).save(path, **how)
    return path


def photograph(path: Path) -> np.ndarray:
    shown = read_media(path)
    assert isinstance(shown, Image.Image)
    assert shown.mode == "RGB"
    return np.asarray(shown)


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "webp", "ppm"])
def test_photographs_of_every_kind(tmp_path: Path, ending: str) -> None:
    how = {"lossless": True} if ending == "webp" else {}
    np.testing.assert_array_equal(photograph(saved(tmp_path / f"p.{ending}", picture(9), **how)), picture(9))


def test_the_first_bytes_decide_not_the_name(tmp_path: Path) -> None:
    saved(tmp_path / "p.png", picture(9)).rename(tmp_path / "p.mp4")
    np.testing.assert_array_equal(photograph(tmp_path / "p.mp4"), picture(9))
    corpus.write(tmp_path / "v.mp4", *corpus.PLAIN).rename(tmp_path / "v.jpg")
    assert isinstance(read_media(tmp_path / "v.jpg", frames=2), Video)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_upright(tmp_path: Path, orientation: int) -> None:
    upright = picture(9)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.swapaxes(0, 1), 6: np.rot90(upright), 7: upright[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(upright, 3),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "p.png", np.ascontiguousarray(stored), exif=exif)
    np.testing.assert_array_equal(photograph(path), upright)


def test_transparent_pixels_lie_on_white(tmp_path: Path) -> None:
    expected = corpus.on_white(9)
    np.testing.assert_allclose(photograph(saved(tmp_path / "a.png", corpus.transparent(9))), expected, atol=1)
    grey = np.zeros((4, 4, 2), np.uint8)
    assert (photograph(saved(tmp_path / "la.png", grey)) == 255).all()
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "p.gif", transparency=0)
    assert (photograph(tmp_path / "p.gif") == 255).all()


def test_sixteen_bits_and_other_colour_spaces(tmp_path: Path) -> None:
    wide = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    np.testing.assert_allclose(photograph(saved(tmp_path / "w.png", wide))[..., 0], wide / 257, atol=1)
    Image.fromarray(picture(9)).convert("CMYK").save(tmp_path / "c.tiff")
    np.testing.assert_allclose(photograph(tmp_path / "c.tiff"), picture(9), atol=2)
    Image.fromarray(picture(9)).convert("1").save(tmp_path / "b.png")
    assert set(np.unique(photograph(tmp_path / "b.png"))) == {0, 255}


def test_photographs_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = saved(tmp_path / "p.png", picture(9)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VideoError, match=r"cut\.png is not a picture that can be read"):
        read_media(tmp_path / "cut.png")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 64)
    with pytest.raises(VideoError, match=r"HEIF photograph.*JPEG"):
        read_media(tmp_path / "phone.heic")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64)
    with pytest.raises(VideoError, match="too large a picture"):
        read_media(tmp_path / "p.png")


def test_animations_keep_their_times(tmp_path: Path) -> None:
    pictures = [Image.fromarray(picture(number)) for number in range(4)]
    pictures[0].save(
        tmp_path / "m.webp", save_all=True, append_images=pictures[1:], duration=[100, 400, 100, 200], lossless=True
    )
    video = read_media(tmp_path / "m.webp")
    assert isinstance(video, Video)
    assert [number_of(frame) for frame in video.frames] == [0, 1, 2, 3]
    assert video.timestamps.tolist() == pytest.approx([0, 0.1, 0.5, 0.6])
    assert video.duration == pytest.approx(0.8)
    assert [number_of(frame) for frame in read_video(tmp_path / "m.webp", frames=2).frames] == [1, 3]


def test_animations_without_times_are_shown_as_browsers_show_them(tmp_path: Path) -> None:
    pictures = [Image.fromarray(picture(number)) for number in range(3)]
    pictures[0].save(tmp_path / "m.gif", save_all=True, append_images=pictures[1:], duration=0)
    assert read_video(tmp_path / "m.gif").timestamps.tolist() == pytest.approx([0, 0.1, 0.2])


def test_an_animation_that_ends_early(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pictures = [Image.fromarray(picture(number)) for number in range(8)]
    pictures[0].save(tmp_path / "m.png", save_all=True, append_images=pictures[1:], duration=200)
    whole = (tmp_path / "m.png").read_bytes()
    (tmp_path / "m.png").write_bytes(whole[: int(len(whole) * 0.8)])
    with caplog.at_level(logging.WARNING):
        video = read_video(tmp_path / "m.png")
    assert not video.complete
    assert "ends after" in caplog.text
    assert [number_of(frame) for frame in video.frames] == list(range(len(video)))


def test_a_folder_of_pictures_is_a_video_of_one_a_second(tmp_path: Path) -> None:
    for number in range(12):
        saved(tmp_path / f"frame{number}.png", picture(number))
    (tmp_path / "notes.txt").write_text("not a frame")
    video = read_media(tmp_path, frames=4)
    assert [number_of(frame) for frame in video.frames] == [1, 4, 7, 10]
    assert video.timestamps.tolist() == [1, 4, 7, 10]
    assert (video.duration, video.source_fps, video.total_frames) == (12, 1, 12)
    saved(tmp_path / "frame3.png", picture(3, 320, 192))
    assert [number_of(frame) for frame in read_video(tmp_path, frames=12).frames] == list(range(12))


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="directory without pictures"):
        read_media(tmp_path)
    saved(tmp_path / "a.png", picture(1))
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(VideoError, match=r"b\.png is not a picture that can be read"):
        read_media(tmp_path)
