"""Every family through the command line, with its own processor class and chat template: the model sees what it is
given, and is told when."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from framefusion import cli
from framefusion.asking.encodings import collate, prompts
from framefusion.asking.loading import load
from framefusion.asking.prompts import model_inputs, prompt_inputs
from framefusion.asking.video import Video
from framefusion.hf import families
from tests import family_checkpoints
from tests.hf import models

WIDTH, HEIGHT, FRAMES = 48, 32, 4
TIMES = np.array([0.0, 0.5, 3.25, 71.0])
"""When the frames of an uneven video are shown; its mean rate says nothing about them."""

SQUARE, PATCHES = 3 * 3, 4 * 6
"""Tokens of a frame of the families whose frames have one size, and of 32 × 48 pixels at 8 pixels a token."""
VIDEO = {
    **dict.fromkeys(("gemma3", "llava_onevision", "llava_next_video", "internvl", "smolvlm", "idefics3"), 4 * SQUARE),
    **dict.fromkeys(("gemma3n", "llava", "llama4", "cohere2_vision", "ovis2"), 4 * SQUARE),
    **dict.fromkeys(("video_llama3", "mistral3", "ministral3"), 4 * PATCHES),
    # enlarged to at most 70 tokens of 12 × 12 pixels
    **dict.fromkeys(("gemma4", "gemma4_moe", "gemma4_e"), 4 * 6 * 10),
    # a base view and one tile with its newlines
    "llava_next": 4 * 21,
    "aria": 4 * 16,
    # with a class token each
    "video_llava": 4 * (SQUARE + 1),
    "minicpmv4_6": 4 * 4,
    "minicpmv4_7": 4 * 4,
    "lfm2_vl": 4 * 6,
    "molmo2": 4 * SQUARE,
    "perception_lm": 4 * SQUARE,
    # their processors enlarge every video to at least 128 tokens of 28 × 28 pixels
    "qwen2_5_omni": 2 * 33 * 49,
    "qwen3_omni": 2 * 37 * 56,
}
"""Visual tokens of four frames; of the others two temporal patches."""
PHOTOGRAPH = {
    "gemma3": (SQUARE, SQUARE),
    # alone a base view and one tile with its newlines; several only have a base view and one newline
    "llava_onevision": (36 + 4 * 7, 36 + 1),
    "llava_next_video": (36 + 4 * 7, 36 + 4 * 7),
    # two tiles and the whole
    "internvl": (3 * SQUARE, 3 * SQUARE),
    # four tiles and the whole
    "smolvlm": (5 * SQUARE, 5 * SQUARE),
    "idefics3": (5 * SQUARE, 5 * SQUARE),
    **dict.fromkeys(("gemma4", "gemma4_moe", "gemma4_e"), (6 * 10, 6 * 10)),
    **dict.fromkeys(("gemma3n", "llava", "video_llava"), (SQUARE, SQUARE)),
    "llava_next": (21, 21),
    **dict.fromkeys(("llama4", "cohere2_vision", "ovis2"), (3 * SQUARE, 3 * SQUARE)),
    "aria": (16, 16),
    # images are not merged
    "video_llama3": (8 * 12, 8 * 12),
    "minicpmv4_6": (4, 4),
    "minicpmv4_7": (4, 4),
    # two tiles and the whole
    "lfm2_vl": (2 * SQUARE + 6, 2 * SQUARE + 6),
    # one tile and the whole
    "perception_lm": (2 * SQUARE, 2 * SQUARE),
}
"""Visual tokens of one photograph, and of each of two; of the others one temporal patch."""
ONE_KIND = ("glm4v", "glm46v", "glm4v_moe", "molmo2", "nemotron_h_omni")
"""Families that take videos or photographs in one prompt, not both."""


def needs_words(name: str) -> None:
    if name == "smolvlm":
        pytest.importorskip("num2words", reason="SmolVLM's processor spells out the number of frames with it")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    @cache
    def save(name: str) -> Path:
        needs_words(name)
        if name == "gemma3n":
            pytest.importorskip("timm", reason="Gemma 3n's vision tower is one of its models")
        return family_checkpoints.save(name, tmp_path_factory.mktemp(name) / "model")

    return save


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> dict[str, Path]:
    """A video of four frames and two photographs."""
    directory, rng = tmp_path_factory.mktemp("media"), np.random.default_rng(0)
    pictures = rng.integers(0, 255, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    with av.open(str(directory / "clip.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=2)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv444p"
        for picture in pictures:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    for name, picture in zip("ab", pictures, strict=False):
        Image.fromarray(picture).save(directory / f"{name}.png")
    return {name: directory / name for name in ("clip.mkv", "a.png", "b.png")}


@pytest.fixture
def ask(checkpoint, media):
    def asked(family: str, *names: str) -> Any:
        words = [*(media[name] for name in names), "what?", "--model", checkpoint(family), "--max-new-tokens", 1]
        return CliRunner().invoke(cli.app, ["ask", *map(str, words), "--keep", "0.5", "--json"])

    return asked


def told(result: Any) -> list[tuple[str, int]]:
    """Kind and tokens of each medium, which are all that there are."""
    assert result.exit_code == 0, result.stderr
    return told_of(json.loads(result.stdout))


def told_of(found: dict[str, Any]) -> list[tuple[str, int]]:
    seen = [(medium["kind"], medium["tokens"]) for medium in found["media"]]
    assert sum(tokens for _, tokens in seen) == found["visual_tokens"]["before"]
    assert 0 < found["visual_tokens"]["after"] < found["visual_tokens"]["before"]
    return seen


def test_every_family_is_tried():
    classes = {type(models.build(name).model).__name__ for name in family_checkpoints.PARTS}
    assert classes == {family.model_classes[0] for family in families.FAMILIES if family.verified.startswith("masked")}


@pytest.mark.parametrize("family", family_checkpoints.PARTS)
def test_a_video_is_seen(ask, family):
    assert told(ask(family, "clip.mkv")) == [("video", VIDEO.get(family, 2 * PATCHES))]


@pytest.mark.parametrize("family", models.apart(family_checkpoints.PARTS))
def test_photographs_are_seen(ask, family):
    alone, beside = PHOTOGRAPH.get(family, (PATCHES, PATCHES))
    assert told(ask(family, "a.png")) == [("image", alone)]
    assert told(ask(family, "a.png", "b.png")) == [("image", beside)] * 2


@pytest.mark.parametrize(
    "family",
    [*ONE_KIND, "gemma3", "smolvlm", "idefics3", "qwen3_vl", "internvl", "llava_onevision", "kimi_k25", "lfm2_vl"],
)
def test_a_video_between_photographs(ask, family):
    mixed = ask(family, "a.png", "clip.mkv", "b.png")
    if family in ONE_KIND:
        assert mixed.exit_code == 2
        assert mixed.stderr.count("\n") == 1
        assert "takes videos or photographs in one prompt, not both; ask about them separately" in mixed.stderr
        return
    # beside a video these have one view of each photograph
    one_view = {"smolvlm": SQUARE, "idefics3": SQUARE, "lfm2_vl": 6}
    beside = one_view.get(family, PHOTOGRAPH.get(family, (PATCHES, PATCHES))[1])
    assert told(mixed) == [("image", beside), ("video", VIDEO.get(family, 2 * PATCHES)), ("image", beside)]


def clock(seconds: float) -> str:
    return f"{int(seconds // 60):02d}:{int(seconds % 60):02d}"


PAIRS = TIMES.reshape(-1, 2)
PICTURES = ("mistral3", "ministral3", "llava", "llava_next", "gemma3n", "llama4", "cohere2_vision", "aria", "ovis2")
"""Families of images that take the frames of a video as images behind their times."""
WRITTEN = {
    **dict.fromkeys(
        ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "lfm3_vl"),
        (r"<([\d.]+) seconds>", [f"{time:.1f}" for time in PAIRS.mean(1)]),
    ),
    # of each pair the first frame
    **dict.fromkeys(("glm4v", "glm4v_moe"), (r"<\|end_of_image\|>(\d+)", [str(int(time)) for time in PAIRS[:, 0]])),
    "glm46v": (r"([\d.]+) seconds", [f"{time:.1f}" for time in PAIRS[:, 0]]),
    "video_llama3": (r"Time ([\d.]+)s:", [f"{time:.1f}" for time in TIMES]),
    "nemotron_h_omni": (r"rame \d sampled at ([\d.]+) seconds", [f"{time:.2f}" for time in TIMES]),
    "molmo2": (r"([\d.]+) <frame_start>", [f"{time:.1f}" for time in TIMES]),
    # of each chunk the first frame
    "kimi_k25": (
        r"00:(\d+:[\d.]+)<\|media_begin\|>video",
        [f"{clock(time)}.{time % 1 * 1000:03.0f}" for time in PAIRS[:, 0]],
    ),
    **dict.fromkeys(
        ("smolvlm", "idefics3", "gemma3", "lfm2_vl", *PICTURES),
        (r"Frame from ([\d:]+):", [clock(time) for time in TIMES]),
    ),
    **dict.fromkeys(("gemma4", "gemma4_moe", "gemma4_e"), (r"(\d\d:\d\d) <\|image>", [clock(time) for time in TIMES])),
}
"""How each family writes times, and what is right."""
UNTIMED = (
    "llava_onevision",
    "llava_next_video",
    "internvl",
    "minicpmv4_6",
    "minicpmv4_7",
    "qwen2_vl",
    "exaone4_5",
    "perception_lm",
    "ernie4_5_vl_moe",
    "video_llava",
)
SPACED = {"qwen2_5_vl": "second_per_grid_ts", "qwen2_5_omni": "video_second_per_grid"}
SPACED["qwen3_omni"] = SPACED["qwen2_5_omni"]


def uneven(times: np.ndarray, total: int) -> Video:
    pictures = np.random.default_rng(1).integers(0, 255, (len(times), HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Video(pictures, times, np.arange(len(times)), 80.0, total / 80.0, total, Path("uneven.mkv"))


@cache
def kind_of(name: str) -> families.Family:
    return families.find(models.build(name).model)


def inputs_of(family: str, video: Video) -> tuple[Any, str]:
    needs_words(family)
    processor = family_checkpoints.processor(family)
    content = [{"type": "video"}, {"type": "text", "text": "when?"}]
    inputs = prompt_inputs(content, [video], [], processor, family=kind_of(family))
    return inputs, processor.tokenizer.decode(inputs["input_ids"][0])


def test_every_family_is_known_for_its_times():
    assert {*WRITTEN, *UNTIMED, *SPACED} == set(family_checkpoints.PARTS)


@pytest.mark.parametrize("family", WRITTEN)
def test_times_in_the_prompt_are_those_of_the_frames(family):
    pattern, right = WRITTEN[family]
    _, text = inputs_of(family, uneven(TIMES, 900))
    assert re.findall(pattern, text) == right


@pytest.mark.parametrize("family", SPACED)
def test_the_distance_of_frames_is_that_of_the_frames_shown(family):
    """These models have them evenly spaced: over the playing time, or where every frame is shown between the frames."""
    sampled, _ = inputs_of(family, uneven(TIMES, 900))
    assert sampled[SPACED[family]].tolist() == [2 * 80.0 / 4]
    whole, _ = inputs_of(family, uneven(np.array([0.0, 0.25, 0.5, 0.75]), 4))
    assert whole[SPACED[family]].tolist() == [2 * 0.25]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "glm4v", "glm46v"])
def test_a_single_frame_fills_a_temporal_patch(family):
    """As it does in the others; these processors would refuse it."""
    inputs, _ = inputs_of(family, uneven(np.array([7.0]), 900))
    assert inputs["video_grid_thw"].tolist() == [[1, 8, 12]]


@pytest.mark.parametrize("family", ["gemma3", "idefics3", "lfm2_vl"])
def test_frames_as_images_reach_every_command(checkpoint, media, monkeypatch, tmp_path, family):
    monkeypatch.chdir(tmp_path)

    def run(*words: Any) -> Any:
        result = CliRunner().invoke(cli.app, [*map(str, words), "--model", str(checkpoint(family)), "--json"])
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    clip, of_photograph = str(media["clip.mkv"]), PHOTOGRAPH[family][0]
    assert told_of(run("inspect", clip, "--keep", 0.5)) == [("video", VIDEO[family])]
    rows = [
        {"video": clip, "question": "what?", "answer": "it"},
        {"image": str(media["a.png"]), "question": "what?"},
    ]
    Path("questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("batch", "questions.jsonl", "--keep", 0.5, "--max-new-tokens", 1)["errors"] == 0
    answered = [json.loads(line) for line in Path("results.jsonl").read_text().splitlines()]
    assert [row["tokens_before"] for row in answered] == [VIDEO[family], of_photograph]
    few = ("--methods", "uniform", "--budgets", 1, "--frames", 4, "--timed", 0, "--max-new-tokens", 1, "--no-plots")
    run("eval", "--data", "questions.jsonl", *few)
    cells = [json.loads(line) for line in Path("out/eval/questions.jsonl").read_text().splitlines()]
    assert sorted({row["tokens"] for row in cells}) == sorted({VIDEO[family], of_photograph})
    (row,) = run("plan", "--frames", 4, "--size", f"{WIDTH}x{HEIGHT}", "--keep", 1)["rows"][:1]
    assert row["visual_tokens"] == VIDEO[family]


@pytest.mark.parametrize("family", ["gemma3", "idefics3", "smolvlm", "exaone4_5", "kimi_k25"])
def test_prompts_encoded_ahead_are_those_of_the_pixels(checkpoint, family):
    """As evaluations ask them, in a batch of two lengths."""
    loaded = load(checkpoint(family), device="cpu")
    video = uneven(TIMES, 900)
    made = prompts(loaded.model, loaded.processor, video, ["what?", "what is it?"])
    with torch.no_grad():
        expected = loaded.model(**model_inputs(video, "what?", loaded.model, loaded.processor)).logits[0, -1]
        output = loaded.model.generate(
            **collate(made, 0), max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    torch.testing.assert_close(output.logits[0][0], expected, rtol=1e-4, atol=1e-4)
