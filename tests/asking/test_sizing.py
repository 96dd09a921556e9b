"""Sizing from configuration alone: every count is that of the real processor, model and cache."""

from __future__ import annotations

import copy
import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from typer.testing import CliRunner

import framefusion
from framefusion import FrameFusion, assets, cli
from framefusion.asking.ask import prompt_inputs, turn_inputs
from framefusion.asking.loading import ModelError, load, load_skeleton
from framefusion.asking.sizing import PlanError, plan
from framefusion.asking.video import Video
from framefusion.hf import shapes
from framefusion.hf.decoder import attends, first_after_attention
from framefusion.hf.decoder import decoder_of as hf_decoder_of
from framefusion.hf.families import Call, find
from framefusion.hf.summary import DecoderSize
from framefusion.reduction.schedule import tokens_per_layer
from tests import tiny_checkpoints
from tests.hf import models

QUESTION = "what colour is the circle"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """Tiny checkpoints by name, with weights; ``"bundled"`` is that of the package."""
    directory = tmp_path_factory.mktemp("checkpoints")
    made = {name: save(directory / name) for name, save in tiny_checkpoints.SAVE.items()}
    return {**made, "bundled": assets.BUNDLED["bundled"]}


NAMES = [*tiny_checkpoints.SAVE, "bundled"]


def video(frames: int, width: int, height: int) -> Video:
    """A real video in memory, one frame a second, noise throughout."""
    pixels = np.random.default_rng(0).integers(0, 255, (frames, height, width, 3), dtype=np.uint8)
    indices = np.arange(frames)
    return Video(pixels, indices / 1.0, indices, float(frames), 1.0, frames, Path("noise"))


def real_inputs(loaded: Any, frames: int, width: int, height: int) -> Any:
    content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    return turn_inputs(content, [video(frames, width, height)], [], loaded.model, loaded.processor)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("frames", "size"), [(4, (96, 64)), (7, (200, 120)), (16, (64, 128))])
def test_tokens_are_those_of_a_real_prefill(checkpoints, name, frames, size):
    """Of an attached model that was asked about a real video of this size, by the stages it really had."""
    loaded = load(checkpoints[name])
    inputs = real_inputs(loaded, frames, *size)
    settings = [FrameFusion(keep=0.3, relevance="none"), FrameFusion(keep={0: 0.5, 2: 0.25}, relevance="none")]
    found = plan(checkpoints[name], frames=frames, settings=settings, size=size, prompt=QUESTION)
    assert [row.plan for row in found.rows] == ["all tokens", "keep=0.3", "keep=0:0.5+2:0.25"]
    for row, reduction in zip(found.rows, [FrameFusion(keep=1.0), *settings], strict=True):
        with framefusion.attach(loaded.model, reduction) as run, torch.no_grad():
            cache = loaded.model(**inputs, use_cache=True).past_key_values
        summary = run.summary()
        assert row.visual_tokens == summary.visual_tokens_before
        assert row.visual_tokens + row.text_tokens == inputs["input_ids"].shape[1]
        assert row.visual_tokens_per_layer == summary.tokens_per_layer
        assert row.mean_share == pytest.approx(summary.mean_share)
        assert row.flops == summary.flops_after
        assert row.kv_bytes_per_layer == [layer.keys.nbytes + layer.values.nbytes for layer in cache.layers]
        assert row.exact


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_bytes_are_those_of_the_loaded_model(checkpoints, name):
    network = load(checkpoints[name]).model
    found = plan(checkpoints[name], frames=2, size=(64, 64))
    assert found.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert found.weight_bytes == sum(parameter.nbytes for parameter in network.parameters())
    assert (found.dtype, found.layers) == ("float32", network.config.get_text_config().num_hidden_layers)
    half = plan(checkpoints[name], frames=2, size=(64, 64), dtype="bf16")
    assert (half.dtype, half.weight_bytes) == ("bfloat16", found.weight_bytes // 2)
    assert half.rows[0].kv_bytes == found.rows[0].kv_bytes // 2


def test_no_weights_are_needed(checkpoints, tmp_path):
    source = checkpoints["qwen2.5-vl"]
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    keep = FrameFusion(keep=0.3)
    found, expected = (plan(place, frames=4, settings=keep, size=(96, 64)) for place in (tmp_path, source))
    assert found.rows == expected.rows
    with pytest.raises(ModelError, match="no weights in safetensors"):
        load(tmp_path)


def test_what_a_request_takes_is_what_its_cache_holds(checkpoints):
    """Also behind the answer: the last new token is never put on the cache."""
    loaded = load(checkpoints["qwen2.5-vl"])
    loaded.model.generation_config.eos_token_id = None
    inputs = real_inputs(loaded, 4, 96, 64)
    settings = FrameFusion(keep=0.3, relevance="none")
    with framefusion.attach(loaded.model, settings):
        output = loaded.model.generate(**inputs, max_new_tokens=5, do_sample=False, return_dict_in_generate=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in output.past_key_values.layers)
    options: dict[str, Any] = {"frames": 4, "settings": settings, "size": (96, 64), "prompt": QUESTION, "new_tokens": 5}
    found = plan(checkpoints["qwen2.5-vl"], **options)
    assert found.rows[1].request_bytes == held
    assert found.rows[1].requests is None
    for free, fitting in ((3 * held, 3), (3 * held - 1, 2), (held - 1, 0), (-1, 0)):
        with_memory = plan(checkpoints["qwen2.5-vl"], **options, memory=found.weight_bytes + free)
        assert with_memory.rows[1].requests == fitting
    assert plan(checkpoints["qwen2.5-vl"], **options, memory=10 * held, weights=6 * held).rows[1].requests == 4


def decoder_of(model: Any) -> tuple[Any, list[Any], DecoderSize]:
    decoder = hf_decoder_of(model.base_model)
    layers = list(decoder.layers)
    return decoder, layers, DecoderSize.of(layers, decoder.config, decoder.dtype)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_onevision", "qwen3_vl", "gemma3"])
@pytest.mark.parametrize("tokens", [5, 120])
def test_decoder_flops_are_those_that_torch_counts(name, tokens):
    """Torch counts the masked half of the scores too, which no causal kernel needs to compute."""
    case = models.build(name, attention="eager")
    decoder, layers, size = decoder_of(case.model)
    hidden = torch.randn(1, tokens, decoder.config.hidden_size)
    position = torch.arange(tokens)[None]
    with torch.no_grad(), FlopCounterMode(display=False, depth=99) as counter:
        decoder(inputs_embeds=hidden, position_ids=position, use_cache=False)
    expected = 0.0
    for layer in range(len(layers)):
        window = size.windows[layer]
        seen = tokens if window is None else min(tokens, window)
        needed = 2.0 * size.widths[layer] * seen * (2 * tokens - seen + 1)
        expected += size.flops(layer, tokens) - needed + 4.0 * size.widths[layer] * tokens**2
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("name", list(models.BUILDERS))
def test_encoder_flops_are_those_that_torch_counts_in_a_real_run(name):
    """Counted without weights and for one temporal patch; torch counts the whole video with weights."""
    case = models.build(name, attention="eager")
    frames, (height, width) = 3, case.frame
    inputs = case.inputs([[3, (frames, height, width), 4]])
    kind = "video" if "pixel_values_videos" in inputs else "image"
    encode, given = getattr(case.model.base_model, f"get_{kind}_features", None), dict(inputs)
    if encode is None:
        # A video is encoded as images.
        encode = case.model.base_model.get_image_features
        given["pixel_values"] = given.pop("pixel_values_videos")
    known = inspect.signature(encode).parameters
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encode(**{key: value for key, value in given.items() if key in known})
    if name == "gemma3n":
        # The tower of its test model is none of its configuration.
        skeleton = copy.deepcopy(case.model).to("meta")
    else:
        with torch.device("meta"):
            skeleton = type(case.model)._from_config(copy.deepcopy(case.model.config), attn_implementation="eager")
    given = {key: value.to("meta") if value.is_floating_point() else value for key, value in inputs.items()}
    assert counter.get_total_flops() > 0
    counted = shapes.encoder_flops(skeleton.base_model, given)
    # What this one has outside of its encoder is in the test of whole models.
    found = counted.tower if name == "llama4" else counted.total
    assert found == pytest.approx(counter.get_total_flops(), rel=0.02)


PARTS = {
    **dict.fromkeys(("gemma4", "gemma4_moe", "gemma4_e"), ("vision_tower", "embed_vision")),
    "llama4": ("vision_model", "multi_modal_projector"),
    "nemotron_h_omni": ("vision_model", "multi_modal_projector"),
}
"""The tower and the projector of families whose patches are padded, turned by complex numbers or packed in pairs."""


@pytest.mark.parametrize("name", list(PARTS))
@pytest.mark.parametrize("frames", [1, 4])
def test_encoder_flops_are_those_of_the_modules_of_a_whole_model(name, frames):
    case = models.build(name, attention="eager")
    inputs = case.inputs([[3, (frames, *case.frame), 4]])
    with torch.no_grad(), FlopCounterMode(display=False, depth=4) as counter:
        case.model(**inputs)
    counts = {place: sum(own.values()) for place, own in counter.get_flop_counts().items()}
    tower, projector = (
        next(flops for place, flops in counts.items() if place.split(".")[1:][-1:] == [part]) for part in PARTS[name]
    )
    with torch.device("meta"):
        skeleton = type(case.model)._from_config(copy.deepcopy(case.model.config), attn_implementation="eager")
    given = {key: value.to("meta") if value.is_floating_point() else value for key, value in inputs.items()}
    counted = shapes.encoder_flops(skeleton.base_model, given)
    assert (counted.tower, counted.projector) == (tower, projector)


@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_5_moe", "nemotron_h_omni"])
def test_states_are_those_of_a_real_cache(name):
    case = models.build(name, attention="eager")
    decoder, layers, _ = decoder_of(case.model)
    cache = DynamicCache(config=decoder.config)
    with torch.no_grad():
        decoder(inputs_embeds=torch.randn(1, 9, decoder.config.hidden_size), past_key_values=cache, use_cache=True)
    held = 0
    for index, layer in enumerate(layers):
        if not attends(layer):
            states = [value for value in vars(cache.layers[index]).values() if value is not None]
            flat = torch.utils._pytree.tree_leaves(states)
            held += sum(value.nbytes for value in flat if isinstance(value, torch.Tensor))
    with torch.device("meta"):
        skeleton = type(case.model)._from_config(copy.deepcopy(case.model.config), attn_implementation="eager")
    assert held > 0
    assert shapes.state_bytes(hf_decoder_of(skeleton.base_model)) == held
    assert first_after_attention(layers) == 1
    assert shapes.state_bytes(models.build("qwen2_vl").model.base_model.get_decoder()) == 0


def processors() -> dict[str, Any]:
    """Real processors with their default sizes, beside those of the checkpoints."""
    text = tiny_checkpoints.tokenizer()
    template = tiny_checkpoints.TEMPLATE
    qwen = template.replace("{{ VIDEO }}", "<|vision_start|><|video_pad|><|vision_end|>")
    return {
        "qwen3_vl": hf.Qwen3VLProcessor(Qwen2VLImageProcessor(), text, hf.Qwen3VLVideoProcessor(), chat_template=qwen),
        "video_llama3": hf.VideoLlama3Processor(
            hf.VideoLlama3ImageProcessor(),
            text,
            hf.VideoLlama3VideoProcessor(),
            chat_template=template.replace("{{ VIDEO }}", "<|video_pad|>"),
        ),
        "llava_next_video": hf.LlavaNextVideoProcessor(
            hf.LlavaNextVideoVideoProcessor(),
            hf.LlavaNextImageProcessor(),
            text,
            patch_size=14,
            vision_feature_select_strategy="default",
            chat_template=template.replace("{{ VIDEO }}", "<video>"),
        ),
    }


@pytest.mark.parametrize("name", ["qwen3_vl", "video_llama3", "llava_next_video"])
def test_blank_prompts_are_those_of_real_videos(name):
    """With timestamps, with tokens that a processor would leave out, and where it insists on pixels."""
    from framefusion.asking.loading import LoadedModel
    from framefusion.asking.sizing import _inputs

    processor, family = processors()[name], find(models.build(name).model)
    loaded = LoadedModel(None, processor, name, "float32", "meta", "eager")
    content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    blank = _inputs(loaded, family.all_tokens, 6, (320, 200), 1.0, QUESTION)
    real = prompt_inputs(content, [video(6, 320, 200)], [], processor, family.all_tokens)
    assert torch.equal(blank["input_ids"], real["input_ids"])
    assert blank["pixel_values_videos"].shape == real["pixel_values_videos"].shape
    if name == "video_llama3":
        shown = video(6, 320, 200)
        still = prompt_inputs(content, [replace(shown, frames=shown.frames * 0)], [], processor, {})
        assert still["input_ids"].shape[1] < blank["input_ids"].shape[1]


@pytest.mark.parametrize("cost", [0.3, 0.5, 1.0])
def test_a_cost_is_met_by_its_layers(cost):
    settings = FrameFusion(cost=cost)
    found = tokens_per_layer(settings.plan(1000, 28), 1000, 28)
    assert sum(found) == pytest.approx(28 * 1000 * cost, abs=28)
    assert found == sorted(found, reverse=True)
    merging = tokens_per_layer(replace(settings, merge=True).plan(1000, 28), 1000, 28)
    assert sum(merging) == pytest.approx(28 * 1000 * cost, abs=28)
    assert merging[0] == 1000


def test_rows_come_in_order_and_say_where_a_video_decides():
    found = plan(
        frames=[2, 8, 2], settings=[FrameFusion(cost=0.5, merge=True), FrameFusion(keep=0.5, novelty_lower_bound=0.2)]
    )
    names = ["all tokens", "cost=0.5", "keep=0.5"]
    assert [(row.frames, row.plan) for row in found.rows] == [(n, name) for n in (2, 8) for name in names]
    assert [row.exact for row in found.rows[:3]] == [True, False, False]
    assert [row.plan for row in plan(frames=2).rows] == ["all tokens", "cost=0.3"]
    record = json.loads(json.dumps(found.as_dict()))
    assert record["rows"][1]["kv_bytes"] == found.rows[1].kv_bytes
    assert record["size"] == [1280, 720]


TOWERED = ("qwen2-vl", "qwen2.5-vl", "llava-onevision")


@pytest.mark.parametrize("name", TOWERED)
@pytest.mark.parametrize("frames", [4, 7])
def test_what_merges_in_a_tower_is_what_a_real_run_encodes(checkpoints, name, frames):
    loaded = load(checkpoints[name])
    settings = FrameFusion(cost=0.5, tower="tome:0.8")
    whole, row = plan(checkpoints[name], frames=frames, settings=settings, size=(200, 120), prompt=QUESTION).rows
    with framefusion.attach(loaded.model, settings, timed=True) as run, torch.no_grad():
        loaded.model(**real_inputs(loaded, frames, 200, 120))
    summary = run.summary()
    assert row.plan == "cost=0.5 tower=tome:0.8"
    assert 0.5 < row.tower_share < 1
    assert row.tower_share == summary.tower_share
    assert not row.encoder_at_most
    assert row.first_token_flops == pytest.approx(summary.first_token_flops[1])
    assert row.end_to_end_factor == pytest.approx(summary.end_to_end_factor)
    assert row.encoder_flops < whole.encoder_flops == row.all_tokens_encoder_flops
    assert (whole.tower, whole.tower_share) == (None, None)


def test_what_changed_in_a_tower_is_told_as_the_most():
    whole, row = plan(frames=4, settings=FrameFusion(cost=0.5, tower="changed:4")).rows
    assert (row.plan, row.tower, row.tower_share) == ("cost=0.5 tower=changed:4", "changed:4", 1.0)
    assert row.encoder_at_most
    assert not whole.encoder_at_most
    assert row.encoder_flops == whole.encoder_flops


def test_a_tower_that_cannot_be_followed_is_refused(tmp_path):
    from tests import family_checkpoints

    with pytest.raises(
        PlanError, match=r"cost=0\.3 tower=tome with 2 frames: .* cannot be followed by Nemotron-H-Omni"
    ):
        plan(
            family_checkpoints.save("nemotron_h_omni", tmp_path),
            frames=2,
            size=(48, 32),
            settings=FrameFusion(tower="tome"),
        )
    with pytest.raises(PlanError, match=r"ToMe\.work must be at least"):
        plan(frames=2, settings=FrameFusion(tower="tome:0.1"))


def test_quantized_weights_need_their_size(checkpoints, tmp_path):
    for path in checkpoints["llava-onevision"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert plan(tmp_path, frames=2).weight_bytes is None
    with pytest.raises(PlanError, match="give weights too"):
        plan(tmp_path, frames=2, memory=10**9)
    assert plan(tmp_path, frames=2, memory=10**9, weights=10**8).weight_bytes == 10**8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "frames must be a whole number, at least 1, got 0"),
        ({"frames": []}, "frames is empty"),
        ({"frames": 2, "size": (0, 5)}, "size must be"),
        ({"frames": 2, "size": (5,)}, "size must be width and height"),
        ({"frames": 2, "fps": 0}, "fps must be"),
        ({"frames": 2, "prompt": " "}, "prompt must be"),
        ({"frames": 2, "new_tokens": 0}, "new_tokens must be"),
        ({"frames": 2, "memory": 0}, "memory must be"),
        ({"frames": 2, "settings": ["x"]}, "settings must be"),
        ({"frames": 2, "settings": FrameFusion(keep=[0.1, 0.2])}, "one request"),
        ({"frames": 2, "settings": FrameFusion(cost=0.05, merge=True)}, "cost=0.05 with 2 frames: .* smallest cost"),
        ({"frames": 2, "settings": FrameFusion(keep={19: 0.5})}, "12 decoder layers"),
        ({"frames": 2, "settings": FrameFusion(stages="auto")}, "stages='auto' are those that fit the weights"),
        ({"frames": 2, "settings": FrameFusion(stages=[(0.5, 1)])}, "stages=0.5:1 with 2 frames: .* Ask for more than"),
    ],
)
def test_what_cannot_be_planned_is_refused(options, message):
    with pytest.raises(PlanError, match=message):
        plan(**options)


def test_a_processor_without_videos_and_one_that_refuses_the_size(checkpoints, monkeypatch):
    with pytest.raises(PlanError, match=r"refuses 2 frames of 1×9999"):
        plan(checkpoints["qwen2-vl"], frames=2, size=(1, 9999))
    monkeypatch.setattr("framefusion.asking.sizing.MAX_BYTES", 10)
    with pytest.raises(PlanError, match="needs real pixels"):
        plan(checkpoints["qwen2-vl"], frames=2, size=(1, 9999))
    loaded = load_skeleton()
    monkeypatch.delattr(type(loaded.processor), "video_processor", raising=False)
    loaded.processor.video_processor = None
    monkeypatch.setattr("framefusion.asking.sizing.load_skeleton", lambda *args, **more: loaded)
    with pytest.raises(PlanError, match="takes images only"):
        plan(frames=2)


def test_an_encoder_that_cannot_be_counted_is_told(monkeypatch, caplog):
    def broken(*args: Any) -> Any:
        raise RuntimeError("no shapes")

    monkeypatch.setattr("framefusion.asking.sizing.encoder_flops", broken)
    assert plan(frames=2).rows[0].encoder_flops is None
    assert "cannot be counted: no shapes" in caplog.text


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return lambda *words: CliRunner().invoke(cli.app, ["plan", *map(str, words)], catch_exceptions=False)


def test_the_command_prints_what_the_function_finds(run):
    options = ["--frames", "4,8", "--size", "96x64", "--keep", "0.5", "--keep", "1:0.5,3:0.25", "--cost", 0.4]
    result = run(*options, "--memory", "100MB", "--weights", "10 MiB", "--max-new-tokens", 7, "--json")
    assert result.exit_code == 0, result.stderr
    settings = [FrameFusion(keep=0.5), FrameFusion(keep={1: 0.5, 3: 0.25}), FrameFusion(cost=0.4)]
    expected = plan(
        frames=[4, 8], settings=settings, size=(96, 64), memory=100 * 10**6, weights=10 * 2**20, new_tokens=7
    )
    assert json.loads(result.stdout) == json.loads(json.dumps(expected.as_dict()))


def test_every_cost_is_spent_in_all_stages(run):
    result = run("--frames", 8, "--stages", "0:1", "--stages", "0:1,0.5:0.5", "--cost", 0.3, "--cost", 0.6, "--json")
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)["rows"][1:]
    assert [row["plan"] for row in rows] == [f"cost={c} stages={s}" for c in (0.3, 0.6) for s in ("0:1", "0:1+0.5:0.5")]
    first, half = rows[0]["visual_tokens_per_layer"], rows[1]["visual_tokens_per_layer"]
    assert first == [154] * 12
    assert half == [205] * 6 + [102] * 6
    assert json.loads(run("--frames", 8, "--stages", "0:1", "--json").stdout)["rows"][1:] == rows[:1]


def test_the_table(run):
    result = run("--frames", 8, "--keep", 0.2, "--cost", 0.5, "--memory", "1GiB", "--per-layer")
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["8", "keep=0.2", "512", "102", "26.6", "%"] in [line[:6] for line in lines]
    assert ["8", "cost=0.5", "512"] in [line[:3] for line in lines]
    assert ["3", "102"] in [line[:2] for line in lines]
    assert "2,284,544 parameters in float32" in result.stdout
    assert "answers of 64 tokens" in result.stdout
    assert "requests" not in run("--frames", 2, "--keep", 0.2).stdout


def test_the_table_says_what_a_tower_leaves(run):
    told = run("--frames", 8, "--tower", "tome")
    assert told.exit_code == 0, told.stderr
    assert "cost=0.3 tower=tome with 8 frames: 6" in told.stdout
    assert "of the vision tower's work." in told.stdout
    assert "≤" not in told.stdout
    told = run("--frames", 8, "--keep", 0.5, "--tower", "changed")
    (row,) = (line for line in told.stdout.splitlines() if "tower=changed" in line and "≤" in line)
    assert row.count("≤") == 2
    assert row.count("≥") == 1
    assert "encodes at most that much" in told.stdout


def test_a_settings_file(run, tmp_path):
    framefusion.save_settings(tmp_path / "mine.json", FrameFusion(keep=0.25))
    rows = json.loads(run("--frames", 2, "--settings", "mine.json", "--json").stdout)["rows"]
    assert [row["plan"] for row in rows] == ["all tokens", "keep=0.25"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--frames", "4,x"], "--frames must be whole numbers"),
        (["--frames", "0"], "--frames must be whole numbers"),
        (["--size", "12"], "--size must be width and height"),
        (["--memory", "much"], "--memory must be a size such as 24GiB"),
        (["--weights", "0"], "--weights must be a size"),
        (["--keep", "x"], "--keep must be a share"),
        (["--keep", "1.5"], "keep must be in"),
        (["--cost", "0"], "cost must be in"),
        (["--tower", "half"], "--tower must be None"),
        (["--stages", "0:2"], "the share of stages[0] must be in"),
        (["--settings", "none.json"], "cannot read none.json"),
        (["--model", "./nothing"], "there is no directory ./nothing"),
        (["--fps", "0"], "fps must be"),
        (["--max-new-tokens", "0"], "new_tokens must be"),
    ],
)
def test_what_users_get_wrong_ends_in_one_sentence(run, words, message):
    result = run(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_layouts_of_a_blank_prompt_need_no_pixels(checkpoints):
    loaded = load_skeleton(checkpoints["qwen2.5-vl"])
    assert loaded.device == "meta"
    assert loaded.attention == "eager"
    ids = torch.tensor([[1, 2]])
    (layout,) = find(loaded.model).layouts(loaded.model.base_model, Call(ids, None, {"input_ids": ids}))
    assert len(layout) == 0
