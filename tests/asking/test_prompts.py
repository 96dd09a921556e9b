"""Prompts: nobody is asked about what the model cannot see, and whatever a processor raises is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from framefusion import FrameFusion
from framefusion.asking.ask import AskError, ask
from framefusion.asking.prompts import ProcessorError, check_seen, content_of, model_inputs, prompt_inputs
from framefusion.asking.report import lines, report_data
from framefusion.asking.video import Video
from framefusion.hf import UnsupportedModelError
from tests import family_checkpoints
from tests.hf import models

RNG = np.random.default_rng(0)


def video(frames: int = 4, height: int = 32, width: int = 48) -> Video:
    pictures = RNG.integers(0, 255, (frames, height, width, 3), dtype=np.uint8)
    return Video(pictures, np.arange(frames) / 1.0, np.arange(frames), float(frames), 1.0, frames, Path("clip.mp4"))


def photograph() -> Image.Image:
    return Image.fromarray(RNG.integers(0, 255, (32, 48, 3), dtype=np.uint8))


def family(name: str) -> tuple[Any, Any]:
    """A tiny model whose vocabulary is that of its processor, and the processor."""
    model = models.build(name).model
    model.resize_token_embeddings(family_checkpoints.FREE + len(family_checkpoints.CHARACTERS), mean_resizing=False)
    return model, family_checkpoints.processor(name)


@pytest.fixture(scope="module")
def qwen() -> tuple[Any, Any]:
    return family("qwen2_5_vl")


@pytest.fixture
def asked(qwen):
    model, processor = qwen

    def call(media: Any, **more: Any) -> Any:
        settings = FrameFusion(keep=0.5, selector="uniform")
        return ask(media, "what?", model=model, processor=processor, settings=settings, max_new_tokens=1, **more)

    return call


def test_a_template_that_leaves_a_kind_out_is_refused(qwen, asked, monkeypatch):
    model, processor = qwen
    whole = processor.chat_template
    for kind, noun, media in (("video", "video", [video()]), ("image", "photograph", [photograph(), video()])):
        monkeypatch.setattr(processor, "chat_template", whole.replace(f"'{kind}'", "'nothing'"))
        with pytest.raises(AskError, match=f"chat template of Qwen2_5_VLProcessor leaves every {noun} out"):
            model_inputs(media, "what?", model, processor)
        with pytest.raises(AskError, match="leaves every"):
            asked(media)


class Blind:
    """A processor that forgets an argument, as Gemma 3's forgets videos."""

    def __init__(self, processor: Any, forgets: str) -> None:
        self.processor, self.forgets = processor, forgets

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)

    def __call__(self, text: list[str], **options: Any) -> Any:
        for token in (self.processor.image_token, self.processor.video_token)[self.forgets == "videos" :]:
            text = [one.replace(token, "") for one in text]
        return self.processor(text=text, **{key: value for key, value in options.items() if key != self.forgets})


@pytest.mark.parametrize("media", [[video()], [video(), video()], [photograph(), video()]])
def test_a_processor_that_shows_less_than_was_given_is_refused(qwen, media):
    model, processor = qwen
    seen = sum(not isinstance(medium, Video) for medium in media)
    what = f"visual tokens of {seen} of {len(media)} videos and photographs only" if seen else "no visual token"
    with pytest.raises(AskError, match=f"Blind gave the model {what}, so that Qwen2.5-VL would answer about what it"):
        model_inputs(media, "what?", model, Blind(processor, "videos"))


def test_a_placeholder_without_pixels_is_not_seen(qwen):
    model, processor = qwen
    inputs = dict(model_inputs([photograph(), photograph()], "what?", model, processor))
    assert check_seen(model, inputs, 2, "it").counts == [24, 24]
    del inputs["pixel_values"]
    with pytest.raises(AskError, match="it gave the model no visual token"):
        check_seen(model, inputs, 2, "it")


def test_a_model_of_no_family_is_not_asked(qwen):
    with pytest.raises(UnsupportedModelError):
        model_inputs([video()], "what?", torch.nn.Linear(1, 1), qwen[1])


def test_a_processor_without_videos_shows_frames_only_to_families_that_know_them(qwen, monkeypatch):
    monkeypatch.setattr(qwen[1], "video_processor", None)
    with pytest.raises(AskError, match="Qwen2_5_VLProcessor takes images only, no videos; save the model's own"):
        model_inputs([video()], "what?", *qwen)


def test_what_a_processor_raises_is_one_sentence(qwen, asked):
    with pytest.raises(
        ProcessorError, match="Qwen2_5_VLProcessor cannot take the video: absolute aspect ratio must be"
    ):
        asked(video(height=5, width=1200))
    with pytest.raises(ProcessorError, match=r"cannot take the video and the photographs: .*ratio") as caught:
        asked([photograph(), Image.new("RGB", (1200, 5)), video()])
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (MemoryError(), "there is not enough memory for the video; show fewer frames"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
        (KeyError("size"), "Qwen2_5_VLProcessor cannot take the video: KeyError 'size'"),
        (AssertionError(), "Qwen2_5_VLProcessor cannot take the video: AssertionError"),
    ],
)
def test_whatever_a_processor_raises(qwen, monkeypatch, raised, said):
    def fails(*args: Any, **options: Any) -> Any:
        raise raised

    monkeypatch.setattr(type(qwen[1]), "__call__", fails)
    with pytest.raises(AskError, match=said):
        model_inputs(video(), "what?", *qwen)


def test_what_a_model_raises_is_told_from_our_own_defects(qwen, asked, monkeypatch):
    def fails(error: Exception) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            raise error

        return call

    with monkeypatch.context() as patched:
        # as if the model's own code did
        patched.setattr(type(qwen[0].model.visual), "forward", _of_transformers(fails(IndexError("too far"))))
        with pytest.raises(
            AskError, match="Qwen2_5_VLForConditionalGeneration failed while answering: IndexError too far"
        ):
            asked(video())
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")):
        with monkeypatch.context() as patched:
            patched.setattr(type(qwen[0].model.visual), "forward", fails(error))
            with pytest.raises(AskError, match="not enough memory for answering; show fewer frames"):
                asked(video())
    monkeypatch.setattr("framefusion.hf.prefill.Reduction", _of("framefusion.hf.made_up", fails(KeyError("ours"))))
    with pytest.raises(KeyError, match="ours"):
        asked(video())


def _of(module: str, function: Any) -> Any:
    """A function whose frame belongs to a module."""
    scope = {"__name__": module, "function": function}
    exec("def call(*args, **options):\n    return function(*args, **options)", scope)
    return scope["call"]


def _of_transformers(function: Any) -> Any:
    return _of("transformers.models.made_up", function)


def test_media_are_files_videos_and_pictures_in_any_order(asked, tmp_path):
    photograph().save(tmp_path / "a.png")
    answer = asked([tmp_path / "a.png", video(), photograph()])
    assert answer.layout.kinds == ("image", "video", "image")
    assert answer.layout.grids == ((1, 4, 6), (2, 4, 6), (1, 4, 6))
    assert answer.video is answer.media[1]
    alone = asked(photograph())
    assert (alone.video, alone.layout.kinds) == (None, ("image",))
    assert alone.summary.visual_tokens_after == 12
    turned = photograph()
    turned.getexif()[0x0112] = 6
    assert asked(turned).layout.grids == ((1, 6, 4),)
    for nothing in ([], [3]):
        with pytest.raises(AskError, match="media"):
            asked(nothing)


def test_photographs_stay_whole_if_the_settings_say_so(qwen):
    settings = FrameFusion(keep=0.5, selector="uniform", images=False)
    answer = ask(
        [photograph(), video()], "what?", model=qwen[0], processor=qwen[1], settings=settings, max_new_tokens=1
    )
    assert (answer.summary.visual_tokens_before, answer.summary.visual_tokens_after) == (48, 24)
    assert (answer.segments[:24] == -1).all()
    assert (answer.segments[24:] >= 0).all()
    data = report_data(answer)
    assert [(row.kind, row.kept, row.tokens) for row in data.media] == [("image", 24, 24), ("video", 24, 48)]
    assert ("Photographs", "left as they are, as the settings say, and not counted above") in lines(data)


@pytest.mark.parametrize("name", ["gemma3", "idefics3", "minicpmv4_7"])
def test_neighbours_that_look_alike_stay_apart(name):
    """Also videos of a single frame, and more than nine, whose numbers differ in the last digit alone."""
    model, processor = family(name)
    for media in (
        [video(1)] * 3,
        [video(2)] * 3,
        [photograph() for _ in range(12)],
        [video(2), photograph(), video(2)],
    ):
        inputs = model_inputs(media, "what?", model, processor)
        assert len(check_seen(model, inputs, len(media), "it").grids) == len(media)


def test_words_of_the_prompt_keep_their_place_beside_frames():
    processor = family_checkpoints.processor("gemma3")
    content = [{"type": "text", "text": "Before."}, *content_of([video(2)], "After."), {"type": "image"}]
    inputs = prompt_inputs(content, [video(2)], [photograph()], processor)
    words = processor.tokenizer.decode(inputs["input_ids"][0]).replace("<image_soft_token>", "")
    between = "\n\n<start_of_image><end_of_image>\n\n"
    assert f"Before.\nFrame from 00:00:{between}Frame from 00:01:{between}After.{between}" in words
