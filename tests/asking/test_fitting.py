"""Frames at the size that a processor makes of them: the same bits for the model, whoever reads them."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import framefusion.asking.decoding.pictures as pictures_module
from framefusion import FrameFusion, ask, restore_session, session
from framefusion.asking.fitting import Fitting, _Resizer, resized
from framefusion.asking.loading import load
from framefusion.asking.prompts import AskError, content_of, prompt_inputs
from framefusion.asking.report import report_data
from framefusion.asking.video import Video, read_video
from framefusion.hf.families import find
from framefusion.hf.prefix_file import taken_apart
from tests import family_checkpoints
from tests.asking.test_prompts import family
from tests.asking.test_video import numbered, write_video
from tests.hf import models

OWN_WAYS = {"gemma4", "gemma4_moe", "gemma4_e", "kimi_k25", "molmo2", "nemotron_h_omni", "smolvlm"}
"""Models whose video processors do more than resize, or resize in ways of their own."""


def fitting_of(name: str) -> tuple[Any, Any, Fitting]:
    processor, family = family_checkpoints.processor(name), find(models.build(name).model)
    return processor, family, Fitting(processor, family)


def drawn(frames: int, height: int, width: int, seed: int = 0) -> Video:
    pictures = np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)
    seconds = np.arange(float(frames))
    return Video(pictures, seconds, np.arange(frames), float(frames), 1.0, frames, Path("clip.mp4"))


def inputs_of(processor: Any, family: Any, *videos: Video) -> dict[str, Any]:
    return dict(prompt_inputs(content_of(videos, "what?"), videos, [], processor, family=family))


def fitted_by(fitting: Fitting, video: Video) -> Video:
    resize = fitting(len(video), video.height, video.width)
    return video if resize is None else resized(video, resize)


def assert_same(some: dict[str, Any], others: dict[str, Any]) -> None:
    assert some.keys() == others.keys()
    for name, value in some.items():
        assert torch.equal(value, others[name]) if isinstance(value, torch.Tensor) else value == others[name], name


@pytest.mark.parametrize("name", models.BUILDERS)
def test_a_processor_makes_the_same_of_fitted_frames(name):
    processor, family, fitting = fitting_of(name)
    found = set()
    for seed, (frames, height, width) in enumerate([(4, 32, 48), (8, 90, 61), (5, 200, 120), (4, 300, 533)]):
        video = drawn(frames, height, width, seed)
        fitted = fitted_by(fitting, video)
        if fitted is video:
            continue
        found.add(fitted.frames.shape[1:3])
        assert fitted.own_size == (height, width)
        assert_same(inputs_of(processor, family, video), inputs_of(processor, family, fitted))
    takes_videos = getattr(processor, "video_processor", None) is not None
    assert bool(found) is (takes_videos and name not in OWN_WAYS)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["qwen3_vl", "glm46v", "qwen2_5_vl", "video_llama3", "minicpmv4_6", "llava_next_video"]),
    frames=st.integers(1, 12),
    height=st.integers(8, 400),
    width=st.integers(8, 400),
    others=st.booleans(),
)
def test_any_size_and_number_of_frames(name, frames, height, width, others):
    processor, family, fitting = fitting_of(name)
    video, beside = drawn(frames, height, width), drawn(4, 40, 56, 1)
    more = [beside] if others and name != "llava_next_video" else []
    fitted = fitted_by(fitting, video)
    whole = inputs_of(processor, family, video, *more)
    assert_same(whole, inputs_of(processor, family, fitted, *(fitted_by(fitting, own) for own in more)))


def test_the_size_goes_by_the_number_of_frames_at_once():
    _, _, fitting = fitting_of("qwen3_vl")

    sizes = [fitting(count, 300, 533)(np.zeros((300, 533, 3), np.uint8)).shape for count in (4, 16, 64)]
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize("change", ["nothing", "another way", "twice", "not at all", "broken"])
def test_a_processor_of_another_kind_is_not_followed(change, monkeypatch):
    processor, family, _ = fitting_of("llava_next_video")
    own, kind = processor.video_processor, type(processor.video_processor)
    assert Fitting(processor, family)(4, 90, 61) is not None
    process = kind._preprocess

    class Other(kind):  # type: ignore[misc, valid-type]
        def resize(self, video: torch.Tensor, size: Any, resample: Any = None, **options: Any) -> torch.Tensor:
            made = super().resize(video, size=size, resample=resample)
            return made.flip(-1) if change == "another way" else made

        def _preprocess(self, videos: list[torch.Tensor], **options: Any) -> Any:
            if change == "broken":
                raise RuntimeError("no")
            if change == "twice":
                videos = [self.resize(video, size=options["size"], resample=options["resample"]) for video in videos]
            return process(self, videos, **options)

    processor.video_processor = Other(**own.to_dict())
    processor.video_processor.do_resize = change != "not at all"
    assert (Fitting(processor, family)(4, 90, 61) is None) is (change != "nothing")


def test_a_processor_that_cuts_large_frames_up_is_not_followed():
    """What it makes of small ones, it would resize once more beside a large one."""
    processor, family, _ = fitting_of("minicpmv4_6")
    processor.video_processor = type(processor.video_processor)()
    small, large = drawn(4, 64, 320), drawn(4, 360, 640)
    expected = inputs_of(processor, family, small, large)
    fitting = Fitting(processor, family)
    assert_same(expected, inputs_of(processor, family, fitted_by(fitting, small), fitted_by(fitting, large)))


def test_a_size_that_the_processor_would_resize_once_more_is_left_alone():
    """The bundled Qwen2.5-VL makes 144×60 of 640×272, and something else of that."""
    loaded = load("bundled-qwen", device="cpu")
    family, video = find(loaded.model), drawn(8, 272, 640)
    fitted = fitted_by(Fitting(loaded.processor, family), video)
    assert (fitted.height, fitted.width) == (60, 144)
    expected = inputs_of(loaded.processor, family, video)
    assert_same(expected, inputs_of(loaded.processor, family, fitted))
    again = inputs_of(loaded.processor, family, replace(fitted, read_size=None))
    assert again["pixel_values_videos"].shape != expected["pixel_values_videos"].shape


def test_the_processor_is_left_as_it_was():
    processor, _, fitting = fitting_of("qwen2_5_vl")
    before = dict(vars(processor.video_processor)), processor.video_processor
    assert fitting(4, 90, 61) is not None
    assert (dict(vars(processor.video_processor)), processor.video_processor) == before
    assert "resize" not in vars(processor.video_processor)


@pytest.mark.parametrize("change", ["in its place", "another size", "another processor"])
def test_settings_that_change_later_are_followed(change):
    processor, _, fitting = fitting_of("qwen2_5_vl")
    processor.video_processor.size = dict(processor.video_processor.size)
    video, own = drawn(4, 300, 533), processor.video_processor
    before = fitted_by(fitting, video)
    smaller = {**own.size, "longest_edge": own.size["longest_edge"] // 4}
    if change == "in its place":
        own.size.update(smaller)
    elif change == "another size":
        own.size = smaller
    else:
        processor.video_processor = type(own)(**{**own.to_dict(), "size": smaller})
    after = fitted_by(fitting, video)
    assert after.height < before.height
    assert after.frames.shape == fitted_by(Fitting(processor), video).frames.shape


def test_several_threads_may_ask():
    sizes = [(4 + 2 * (i % 3), 80 + i, 120 + 2 * i) for i in range(24)]
    alone = [fitted_by(fitting_of("qwen3_vl")[2], drawn(*size)).frames.shape for size in sizes]
    _, _, fitting = fitting_of("qwen3_vl")
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda size: fitted_by(fitting, drawn(*size)).frames.shape, sizes))
    assert together == alone


def halved(count: int, height: int, width: int) -> Any:
    """Every other pixel."""
    return lambda frame: frame[::2, ::2]


@pytest.fixture
def sources(tmp_path) -> dict[str, Path]:
    """The same 40 pictures in files of several kinds."""
    pictures = [numbered(i) for i in range(40)]
    write_video(tmp_path / "clip.mp4", pictures)
    # Packets without times have to be decoded from the beginning.
    write_video(tmp_path / "clip.m4v", pictures, container="m4v")
    stills = [Image.fromarray(picture) for picture in pictures]
    stills[0].save(tmp_path / "clip.gif", save_all=True, append_images=stills[1:], duration=100)
    (tmp_path / "folder").mkdir()
    for i, still in enumerate(stills):
        still.save(tmp_path / "folder" / f"{i}.png")
    return {path.name: path for path in tmp_path.iterdir()}


@pytest.mark.parametrize("name", ["clip.mp4", "clip.m4v", "clip.gif", "folder"])
def test_frames_are_resized_as_they_are_read(sources, name):
    whole, fitted = read_video(sources[name], frames=7), read_video(sources[name], frames=7, fit=halved)
    np.testing.assert_array_equal(fitted.frames, whole.frames[:, ::2, ::2])
    assert fitted.read_size == fitted.own_size == whole.own_size == (whole.height, whole.width)
    assert whole.read_size is None
    assert fitted.indices.tolist() == whole.indices.tolist()


@pytest.mark.parametrize("name", ["clip.mp4", "clip.m4v", "clip.gif", "folder"])
def test_it_is_asked_for_the_frames_that_are_shown_at_once(sources, name):
    asked = []

    def noted(*given: int) -> None:
        asked.append(given)

    read_video(sources[name], frames=7, fit=noted)
    assert asked == [(7, 32, 128)]


def test_a_picture_on_display_for_long_is_shown_several_times(tmp_path):
    stills = [Image.fromarray(numbered(i)) for i in range(3)]
    stills[0].save(tmp_path / "long.gif", save_all=True, append_images=stills[1:], duration=[10_000, 100, 100])
    counts = []

    def noted(count: int, *size: int) -> Any:
        counts.append(count)
        return halved(count, *size)

    video = read_video(tmp_path / "long.gif", frames=2)
    assert video.indices.tolist() == [0, 0]
    assert video.frames.shape == (2, 32, 128, 3)
    assert read_video(tmp_path / "long.gif", frames=2, fit=noted).frames.shape == (2, 16, 64, 3)
    assert counts == [2]


def test_no_frame_of_its_own_size_stays_in_memory(tmp_path):
    pictures = [np.full((480, 640, 3), i, np.uint8) for i in range(60)]
    path, one = write_video(tmp_path / "large.mp4", pictures, gop=60), pictures[0].nbytes
    del pictures
    _, _, fitting = fitting_of("llava_onevision")
    assert fitting(60, 480, 640) is not None
    tracemalloc.start()
    read_video(path, frames=60, fit=fitting)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * one


def test_an_answer_is_the_same_when_there_is_no_room_for_large_frames(tmp_path, monkeypatch):
    pictures = [np.roll(numbered(i, 192, 96), i, 0) for i in range(40)]
    path = write_video(tmp_path / "wide.mp4", pictures)
    reduction = FrameFusion(cost=0.3)
    whole = ask(path, "what is shown?", settings=reduction, max_new_tokens=4)
    monkeypatch.setattr(pictures_module, "DRAWN_BYTES", 0)
    fitted = ask(path, "what is shown?", settings=reduction, max_new_tokens=4)
    assert whole.media[0].frames.shape == (16, 96, 192, 3)
    assert fitted.media[0].frames.shape == (16, 96, 96, 3)
    assert (fitted.text, fitted.summary.visual_tokens_after) == (whole.text, whole.summary.visual_tokens_after)
    assert_same({"segments": fitted.segments}, {"segments": whole.segments})
    # A report has them in the proportions that they had.
    assert report_data(fitted).frames[0].picture.shape == (96, 192, 3)


def test_videos_of_one_prompt_are_all_fitted_or_none(tmp_path, monkeypatch):
    """The processor is told of all of them whether to resize."""
    loaded = load("bundled-qwen", device="cpu")
    path = write_video(tmp_path / "wide.mp4", [numbered(i, 192, 96) for i in range(8)])
    few, photograph = np.stack([numbered(i, 160, 64) for i in range(4)]), Image.fromarray(numbered(3))
    media, options = [path, few, photograph], {"model": loaded, "frames": 8, "max_new_tokens": 4}
    whole = ask(media, "what is shown?", **options)
    monkeypatch.setattr(pictures_module, "DRAWN_BYTES", few.nbytes)
    fitted = ask(media, "what is shown?", **options)
    assert [own.read_size for own in fitted.media[:2]] == [(96, 192), (64, 160)]
    assert fitted.media[1].frames.shape != few.shape
    assert (fitted.text, fitted.summary.visual_tokens_before) == (whole.text, whole.summary.visual_tokens_before)
    assert_same({"segments": fitted.segments}, {"segments": whole.segments})


def test_answers_of_a_session_are_the_same(tmp_path, monkeypatch):
    """A file in parts, which goes on with frames, is saved and restored."""
    loaded, sizes = load(device="cpu"), []
    pictures = [np.roll(numbered(i, 192, 96), i, 0) for i in range(40)]
    path = write_video(tmp_path / "wide.mp4", pictures)

    def talked() -> Any:
        talk = session(loaded.model, loaded.processor, chunk=4, max_new_tokens=4)
        talk.add(path, frames=9)
        talk.save(tmp_path / "saved")
        talk = restore_session(tmp_path / "saved", loaded.model, loaded.processor)
        sizes.append(talk._held.items[0].stand_in.frames.shape[1:])
        talk.add(np.stack(pictures[:3]), timestamps=[20.0, 21.0, 22.0])
        assert talk.summary().items == (("wide.mp4", 12),)
        reply = talk.ask("what is shown?")
        talk.add(np.stack(pictures[:2])[:, :, ::2])
        assert talk.summary().items == (("wide.mp4", 12), ("frames", 2))
        return reply.text, reply.summary.tokens_per_layer, talk.ask("what is shown?").text

    fitted = talked()
    monkeypatch.setattr(Fitting, "__call__", lambda *given: None)
    assert talked() == fitted
    assert sizes == [(96, 96, 3), (96, 192, 3)]


@pytest.mark.parametrize("name", ["qwen3_vl", "glm46v"])
def test_frames_that_fill_no_temporal_patch_count_for_the_size(name):
    """It is that of asking afresh about all of them."""
    model, processor = family(name)
    frames, keep = np.stack([numbered(i, 256, 128) for i in range(5)]), FrameFusion(keep=1.0)
    whole = ask(frames, "what?", model=model, processor=processor, settings=keep, max_new_tokens=1)
    with session(model, processor, keep, max_new_tokens=1) as talk:
        talk.add(frames)
        reply = talk.ask("what?")
    assert reply.summary.visual_tokens_before == whole.summary.visual_tokens_before


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "glm46v"])
def test_a_video_that_began_with_less_than_a_temporal_patch_loses_no_frame(name):
    model, processor = family(name)

    def held(seed: int) -> Any:
        with session(model, processor, FrameFusion(keep=1.0), max_new_tokens=1) as talk:
            talk.add(drawn(1, 40, 40).frames)
            talk.add(np.concatenate([drawn(1, 40, 40, seed).frames, drawn(1, 40, 40, 3).frames]))
            return taken_apart(talk._held.prefix)[0]

    one, other = held(1), held(2)
    assert any(not torch.equal(value, other[key]) for key, value in one.items())


def test_memory_that_runs_out_on_the_way_leaves_a_session_as_it_was(monkeypatch):
    loaded, frames = load(device="cpu"), np.stack([numbered(i, 192, 96) for i in range(8)])
    count, resize = 0, _Resizer.resized

    def short(*given: Any, **options: Any) -> np.ndarray:
        nonlocal count
        count += 1
        if count > 6:
            raise MemoryError
        return resize(*given, **options)

    with session(loaded.model, loaded.processor, chunk=4, max_new_tokens=4) as talk:
        talk.add(frames[:2])
        before = talk._held
        monkeypatch.setattr(_Resizer, "resized", short)
        for options in ({}, {"new": True}):
            count = 0
            with pytest.raises(AskError, match="not enough memory for showing the video"):
                talk.add(frames, **options)
            assert talk._held is before


def test_a_session_that_was_saved_without_fitting_goes_on(tmp_path, monkeypatch):
    """Its frames and those of a further video are in one prompt."""
    loaded, question = load("bundled-qwen", device="cpu"), "what is shown?"
    wide = write_video(tmp_path / "wide.mp4", [np.roll(numbered(i, 640, 272), i, 0) for i in range(8)])
    tall = np.stack([np.roll(numbered(i, 96, 200), i, 0) for i in range(6)])

    def goes_on(talk: Any) -> Any:
        talk.add(tall[5:])
        talk.add(wide, frames=8)
        return talk.ask(question).text, talk._held.prefix.ids.tolist()

    with monkeypatch.context() as former:
        former.setattr(Fitting, "__call__", lambda *given: None)
        talk = session(loaded.model, loaded.processor, chunk=4, max_new_tokens=4)
        talk.add(tall[:5])
        talk.save(tmp_path / "saved")
        expected = goes_on(talk)
    assert goes_on(restore_session(tmp_path / "saved", loaded.model, loaded.processor)) == expected


def test_frames_of_a_size_that_the_processor_no_longer_makes_are_refused(monkeypatch):
    loaded = load(device="cpu")
    frames = np.stack([numbered(i) for i in range(3)])
    with session(loaded.model, loaded.processor, max_new_tokens=1) as talk:
        talk.add(frames)
        monkeypatch.setattr(Fitting, "to", lambda *given: None)
        with pytest.raises(AskError, match="96×96, and LlavaOnevisionProcessor resizes none to that"):
            talk.add(frames)
        assert talk.summary().items == (("frames", 3),)
        talk.add(frames, new=True)


@pytest.mark.parametrize("name", ["qwen3_vl", "glm46v", "qwen2_5_vl"])
@pytest.mark.parametrize("kind", ["file", "video", "frames", "a few frames first"])
def test_all_parts_of_a_video_have_the_size_of_the_first(tmp_path, name, kind):
    """Qwen3-VL and GLM make smaller frames of many than of few."""
    (model, processor), pictures = family(name), [numbered(i, 256, 128) for i in range(40)]
    path = write_video(tmp_path / "large.mp4", pictures)
    with session(model, processor, FrameFusion(keep=1.0), chunk=8, max_new_tokens=2) as talk:
        if kind == "file":
            talk.add(path, frames=21)
        elif kind == "video":
            talk.add(read_video(path, frames=21))
        else:
            few = 0 if kind == "frames" else 3
            for own in (pictures[:few], pictures[few:21]) if few else (pictures[:21],):
                talk.add(np.stack(own))
        ids = talk._held.prefix.ids[0]
        first = talk._held.items[0]
    # The size is that of the first part, whatever comes behind it.
    fitting, frames = Fitting(processor, find(model)), np.stack(pictures[:20])
    resize = fitting(3 if kind == "a few frames first" else 8, 128, 256)
    if kind in ("file", "video"):
        frames = read_video(path, frames=21).frames
    whole = replace(
        drawn(len(frames), 1, 1), frames=np.stack([resize(frame) for frame in frames]), read_size=(128, 256)
    )
    expected = inputs_of(processor, find(model), whole)["input_ids"][0]
    assert first.stand_in.frames.shape[1:] == whole.frames.shape[1:]
    token = model.config.video_token_id
    assert (ids == token).sum() == (expected == token).sum()
