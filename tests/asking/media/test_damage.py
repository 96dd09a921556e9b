"""Files that were damaged at random: frames that make sense, or one sentence."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from framefusion.asking.media import read_media
from framefusion.asking.video import Video, VideoError
from tests.asking.media.corpus import ENTRIES

NAMES = ("h264.mp4", "h264.ts", "h264.flv", "vp8.webm", "xvid.avi", "mpeg1.mpg", "prores.mov", "rv20.rm", "moving.apng",
         "moving.gif", "moving.webp", "stream.h264")  # fmt: skip


def flipped(data: bytearray, chance: random.Random) -> bytes:
    for _ in range(chance.choice([1, 5, 50, 500])):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def head_flipped(data: bytearray, chance: random.Random) -> bytes:
    for _ in range(10):
        data[chance.randrange(min(len(data), 400))] = chance.randrange(256)
    return bytes(data)


def cut(data: bytearray, chance: random.Random) -> bytes:
    return bytes(data[: chance.randrange(1, len(data))])


def zeroed(data: bytearray, chance: random.Random) -> bytes:
    begin = chance.randrange(len(data))
    end = min(len(data), begin + chance.choice([10, 1000, 5000]))
    data[begin:end] = bytes(end - begin)
    return bytes(data)


def repeated(data: bytearray, chance: random.Random) -> bytes:
    begin = chance.randrange(len(data))
    return bytes(data[:begin] + data[begin // 2 :])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_give_frames_that_make_sense_or_one_sentence(name: str, tmp_path: Path) -> None:
    whole = next(entry for entry in ENTRIES if entry.name == name).make(tmp_path).read_bytes()
    chance = random.Random(name)
    path = tmp_path / f"damaged-{name}"
    reasons: list[str] = []
    for damage in (flipped, head_flipped, cut, zeroed, repeated) * 4:
        path.write_bytes(damage(bytearray(whole), chance))
        try:
            video = read_media(path, frames=chance.choice([1, 4, 1000]))
        except VideoError as error:
            reasons.append(str(error))
            continue
        if isinstance(video, Video):
            assert len(video.frames) == len(video.timestamps) == len(video.indices) > 0
            assert np.isfinite(video.timestamps).all()
            assert (np.diff(video.timestamps) >= 0).all()
            assert video.duration > 0
    assert not any("\n" in reason for reason in reasons)
