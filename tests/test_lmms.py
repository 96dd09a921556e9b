"""The model of lmms-eval without lmms-eval: arguments, prompts, answers, likelihoods. ``tests/lmms`` has the rest."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from framefusion import DPP, Absorb, DySeg, FrameSimilarity, Merging, Novelty, Relevance, Windows
from framefusion.asking.ask import ask, model_inputs
from framefusion.asking.encodings import collate
from framefusion.asking.loading import load
from framefusion.asking.video import Video
from framefusion.lmms import arguments as arguments_module
from framefusion.lmms import manifest
from framefusion.lmms.answering import Answering
from framefusion.lmms.arguments import Generation, settings_from
from framefusion.lmms.prompts import Sample, prompt, read_visual
from framefusion.reduction.flat import FLAT, SWITCHES
from framefusion.reduction.settings import FrameFusion
from framefusion.reduction.settings_file import save_settings
from tests import tiny_checkpoints

QUESTION = "what colour is the circle"


def parsed(text):
    """A value as lmms-eval hands it over."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.isnumeric():
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


# --- arguments


@given(
    st.dictionaries(st.integers(0, 99), st.floats(0.001, 1), min_size=1, max_size=4),
)
def test_stages_are_read_as_written(shares):
    stages = dict(zip(sorted(shares), sorted(shares.values(), reverse=True), strict=True))
    text = "+".join(f"{layer}:{share!r}" for layer, share in stages.items())
    assert settings_from({"keep": parsed(text)}) == FrameFusion(keep=stages)


def test_every_setting_is_an_argument():
    given = {
        "cost": "0.4",
        "merge": "false",
        "similarity_lower_bound": "0.7",
        "segmentation": "frame-similarity",
        "segment_threshold": "0.8",
        "budget_rule": "marginal-value",
        "relevance": "text",
        "relevance_sign": "-1",
        "relevance_exponent": "0.5",
        "selector": "dpp",
        "gamma": "0.5",
        "later_frames": "0.9",
        "novelty_lower_bound": "0.1",
        "keep_lower_bound": "0.1",
        "dropped": "absorb",
        "dropped_lower_bound": "0.8",
        "seed": "7",
        "images": "False",
        "stages": "0:1+0.5:0.1",
        "tower": "changed:8",
    }
    others = {"keep", "merging", "novelty", "ratio_lower_bound"}
    others |= {"segment_minimum", "segment_sudden", "segment_window"}
    assert {*given, *others} == {*(field.name for field in dataclasses.fields(FrameFusion)), *FLAT, *SWITCHES}
    expected = FrameFusion(
        cost=0.4,
        stages=((0, 1), (0.5, 0.1)),
        tower="changed:8",
        segmentation=FrameSimilarity(0.8, 0.7),
        budget_rule="marginal-value",
        relevance=Relevance("text", -1, 0.5),
        selector=DPP(0.5, 0.9),
        novelty=Novelty(0.1, 0.1),
        dropped=Absorb(0.8),
        seed=7,
        images=False,
    )
    assert settings_from({name: parsed(text) for name, text in given.items()}) == expected
    merging = {"merge": True, "ratio_lower_bound": 0.2, "segmentation": "dyseg", "segment_minimum": 4}
    assert settings_from(merging) == FrameFusion(merging=Merging(0.6, 0.2), segmentation=DySeg(minimum=4))
    assert settings_from({"segmentation": "windows", "segment_window": 2}) == FrameFusion(segmentation=Windows(2))
    assert settings_from({"merging": True, "novelty": 0.1}) == FrameFusion(merging=True, novelty=0.1)
    assert settings_from({}) == FrameFusion()
    assert settings_from({"stages": parsed("auto")}) == FrameFusion(stages="auto")
    assert settings_from({"keep": parsed("1")}) == FrameFusion(keep=1)
    assert settings_from({"keep": parsed("0.2")}) == FrameFusion(keep=0.2)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            {"kost": 0.3},
            r"^unknown model argument 'kost'\. Did you mean 'cost'\? There are frames, settings, segmentation",
        ),
        ({"flash": True}, r"^unknown model argument 'flash'\. There are"),
        (
            {"keep": "2:0.5;14:0.1"},
            r"^keep must be a share such as 0\.2 or LAYER:SHARE pairs .* \(or 2:0\.5\+14:0\.1\)",
        ),
        ({"keep": "half"}, "^keep must be a share"),
        ({"keep": "2:0.5+2:0.1"}, "^keep names a layer twice"),
        ({"keep": "2:0.1+14:0.5"}, "cannot grow with depth"),
        ({"cost": 3}, "^cost must be in"),
        ({"stages": "early"}, r"^stages must be auto or DEPTH:SHARE pairs .* \(or 0:1\+0\.67:0\.25\), got 'early'"),
        ({"stages": 0.5}, r"^stages must be 'auto' or \(depth, share\) pairs .* got 0\.5"),
        ({"selector": "best"}, "^selector must be one of"),
        (
            {"settings": "a.json", "keep": 0.2, "merge": True},
            r"^settings=a\.json says .* leave out keep, merge",
        ),
        ({"settings": "gone.json"}, r"cannot read gone\.json"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(given, reason):
    with pytest.raises(ValueError, match=reason):
        settings_from(given, ["frames"])


def test_a_settings_file_is_read(tmp_path):
    settings = FrameFusion(keep={0: 0.5, 3: 0.1}, selector="dpp", segmentation="single")
    save_settings(tmp_path / "mine.json", settings)
    assert settings_from({"settings": str(tmp_path / "mine.json")}) == settings


def test_generations_are_greedy(caplog):
    task = {"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False, "until": ["\n\n"]}
    assert Generation.of(task) == Generation(16, ("\n\n",))
    assert Generation.of({}) == Generation.of({"until": None, "temperature": None, "top_k": 1}) == Generation(64, ())
    assert Generation.of({"until": "stop", "temperature": 0.2, "do_sample": False}) == Generation(64, ("stop",))
    assert not caplog.messages
    assert Generation.of({"image_aspect_ratio": "pad"}) == Generation()
    assert caplog.messages == ["image_aspect_ratio=pad has no effect: the processor prepares the pictures"]
    for kwargs, reason in [
        ({"temperature": 0.7}, "^temperature=0.7 asks for samples, .* add --gen_kwargs temperature=0,do_sample=False"),
        ({"temperature": 1.0, "do_sample": True}, "^temperature=1.0 asks for samples"),
        ({"num_beams": 3}, "^num_beams=3 is not supported"),
        ({"max_new_tokens": 0}, "^max_new_tokens must be a whole number, at least 1, got 0"),
        ({"max_new_tokens": 2.5}, "^max_new_tokens must be a whole number"),
        ({"until": ["", "b"]}, "^until must be texts that are not empty"),
        ({"until": [3]}, "^until must be texts"),
        ({"repetition_penalty": 1.2}, "^the task asks for repetition_penalty=1.2, which is not supported"),
    ]:
        with pytest.raises(ValueError, match=reason):
            Generation.of(kwargs)


@given(st.text("ab\n ", max_size=12), st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=3))
def test_answers_end_before_the_first_stop(text, until):
    expected = text
    for end in range(len(text) + 1):
        if any(text[end:].startswith(stop) for stop in until):
            expected = text[:end]
            break
    assert Generation(until=tuple(until)).cut(text) == expected


def test_only_the_model_needs_the_harness(monkeypatch):
    assert "lmms_eval" not in vars(arguments_module)
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    with pytest.raises(ImportError):
        manifest()


# --- prompts


def picture(width=80, height=60, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    pictures = np.random.default_rng(0).integers(0, 255, (8, 60, 80, 3), dtype=np.uint8)
    times = np.arange(8) + 0.5
    return Video(pictures, times, np.arange(5, 80, 10), 8.0, 10.0, 80, tmp_path_factory.mktemp("v") / "v.mp4")


def test_visuals_come_before_the_text_unless_the_text_says_where(video):
    kinds = [{"type": "video"}, {"type": "image"}]
    assert Sample("why?", (video, picture())).content == [*kinds, {"type": "text", "text": "why?"}]
    assert Sample("why?").content == [{"type": "text", "text": "why?"}]
    image = {"type": "image"}
    a, b, c = ({"type": "text", "text": text} for text in ("a ", " b ", " c"))
    assert Sample("a <image> b <image> c", (picture(), picture())).content == [a, image, b, image, c]
    assert Sample("<image><image> c", (picture(), picture())).content == [image, image, c]
    assert Sample("a <image>", (picture(),)).content == [a, image]
    for visuals in [(), (picture(), picture()), (video,), (picture(), video)]:
        with pytest.raises(ValueError, match=r"^the text has <image> 1 times, and there are"):
            _ = Sample("a <image>", visuals).content


def test_only_visuals_of_one_size_share_a_batch(video):
    assert Sample("a", (video, picture())).shape == Sample("b", (video, picture(seed=1))).shape
    short = dataclasses.replace(video, frames=video.frames[:4])
    shapes = [Sample("a", visuals).shape for visuals in [(), (video,), (short,), (picture(),), (picture(81),)]]
    assert len(set(shapes)) == len(shapes)


def test_videos_are_read_at_another_size():
    from framefusion.assets import DEMO_VIDEO

    whole = read_visual(str(DEMO_VIDEO), 4, None)
    fitted = read_visual(str(DEMO_VIDEO), 4, None, lambda count, height, width: lambda frame: frame[:count, :2])
    assert np.array_equal(fitted.frames, whole.frames[:, :4, :2])


def test_pictures_and_videos_are_read(tmp_path):
    from framefusion.assets import DEMO_VIDEO

    picture().save(tmp_path / "a.PNG")
    assert np.array_equal(read_visual(str(tmp_path / "a.PNG"), 4, None), picture())
    assert read_visual(picture().convert("L"), 4, None).mode == "RGB"
    assert len(read_visual(str(DEMO_VIDEO), 4, None)) == 4
    assert read_visual(str(DEMO_VIDEO), 4, None) is read_visual(str(DEMO_VIDEO), 4, None)
    (tmp_path / "b.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    for visual, reason in [
        (str(tmp_path / "b.png"), r"b\.png is neither a picture nor a video that can be read"),
        (str(tmp_path / "gone.png"), "no such file"),
        (str(tmp_path / "gone.mp4"), "no such file"),
        (str(tmp_path / "empty"), "is a directory without pictures"),
        ({"array": [], "sampling_rate": 16000}, "must be a PIL image or the path of a video or picture, got dict"),
        (None, "got NoneType"),
    ]:
        with pytest.raises(ValueError, match=reason):
            read_visual(visual, 4, None)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: load(save(root / name), device="cpu") for name, save in tiny_checkpoints.SAVE.items()}


@pytest.mark.parametrize("family", list(tiny_checkpoints.SAVE))
def test_a_video_and_a_question_are_what_ask_makes_of_them(models, video, family):
    loaded = models[family]
    expected = model_inputs(video, QUESTION, loaded.model, loaded.processor)
    own = prompt(Sample(QUESTION, (video,)), loaded.model, loaded.processor).inputs
    assert list(own) == list(expected)
    assert all(torch.equal(torch.as_tensor(own[name]), torch.as_tensor(expected[name])) for name in own)


def test_a_processor_without_a_template_is_refused(models, video, monkeypatch):
    loaded = models["qwen2-vl"]
    monkeypatch.setattr(loaded.processor, "chat_template", None)
    with pytest.raises(ValueError, match="the processor has no chat template"):
        prompt(Sample(QUESTION, (video,)), loaded.model, loaded.processor)


# --- answers


@pytest.mark.parametrize("family", list(tiny_checkpoints.SAVE))
def test_batches_answer_as_ask_does(models, video, family):
    loaded = models[family]
    settings = FrameFusion(keep=0.25)
    samples = [
        Sample(text, (video,)) for text in (QUESTION, "what is in the video", "which colour is it of the circle")
    ]
    with Answering(loaded.model, loaded.processor, settings) as answering:
        responses = answering.generate(samples, Generation(6))
    answers = [
        ask(video, one.text, model=loaded.model, processor=loaded.processor, settings=settings, max_new_tokens=6)
        for one in samples
    ]
    assert [one.text for one in responses] == [one.text for one in answers]
    spent, summaries = answering.spent, [one.summary for one in answers]
    assert spent.visual_tokens == sum(one.visual_tokens_before for one in summaries)
    assert spent.visual_token_share == pytest.approx(sum(one.mean_share for one in summaries) / 3)
    assert spent.kv_bytes == sum(one.kv_bytes_after for one in summaries)
    assert spent.kv_byte_share == pytest.approx(spent.kv_bytes / sum(one.kv_bytes_before for one in summaries))
    assert spent.new_tokens == sum(one.new_tokens for one in responses)


def test_generation_ends_behind_a_stop(models, video, monkeypatch):
    loaded, sample = models["qwen2-vl"], Sample(QUESTION, (video,))
    # random weights love special tokens; let them say words
    words = range(len(tiny_checkpoints.SPECIAL) + 1, len(loaded.processor.tokenizer))
    others = [token for token in range(tiny_checkpoints.TEXT["vocab_size"]) if token not in words]
    monkeypatch.setattr(loaded.model.generation_config, "suppress_tokens", others)

    def answer(until=()):
        with Answering(loaded.model, loaded.processor, FrameFusion(keep=0.5)) as answering:
            return answering.generate([sample, sample], Generation(8, until)), answering.spent

    (whole, _), _ = answer()
    assert whole.new_tokens == len(whole.text.split(" ")) == 8
    stop = " ".join(whole.text.split(" ")[2:4])
    (first, second), spent = answer((stop, "never said"))
    assert first.text == second.text == whole.text[: whole.text.index(stop)].strip()
    assert first.new_tokens == len(whole.text[: whole.text.index(stop) + len(stop)].split(" ")) < 8
    assert spent.new_tokens == 2 * first.new_tokens
    assert first.prompt_tokens == prompt(sample, loaded.model, loaded.processor).length


def log_likelihood(loaded, sample, tokens):
    """By one plain forward over prompt and continuation."""
    inputs = collate([prompt(sample, loaded.model, loaded.processor)], 0)
    given = inputs["input_ids"]
    with torch.inference_mode():
        longer = {
            name: torch.cat([value, torch.zeros_like(value[:, :1]).expand(-1, len(tokens))], 1)
            for name, value in inputs.items()
            if isinstance(value, torch.Tensor) and value.shape == given.shape
        }
        longer["input_ids"] = torch.cat([given, torch.tensor([tokens])], 1)
        longer["attention_mask"] = torch.ones_like(longer["input_ids"])
        logits = loaded.model(**{**inputs, **longer}).logits[0, given.shape[1] - 1 : -1].double()
    chosen = logits.log_softmax(-1)[range(len(tokens)), tokens]
    return -float(chosen.mean()), logits.argmax(-1).tolist() == tokens


@pytest.mark.parametrize("family", ["bundled", *tiny_checkpoints.SAVE])
def test_likelihoods_are_those_of_a_plain_forward(models, video, family):
    loaded = load(device="cpu") if family == "bundled" else models[family]
    sample = Sample(QUESTION, (video,))
    with Answering(loaded.model, loaded.processor, FrameFusion(keep=1.0)) as answering:
        greedy = answering.generate([sample], Generation(3))[0].text
        assert greedy or family != "bundled"
        for continuation in (" red circle", "green", greedy or "blue"):
            tokens = loaded.processor.tokenizer(continuation.strip(), add_special_tokens=False)["input_ids"]
            expected = log_likelihood(loaded, sample, tokens)
            got = answering.likelihood(sample, continuation)
            assert got[0] == pytest.approx(expected[0], abs=1e-4)
            assert got[1] == expected[1]


def test_a_reduction_does_not_see_what_is_to_be_likely(models, video):
    """The same tokens stay whatever continuation is asked for, and the likelihood is that of generating it."""
    loaded, sample = models["llava-onevision"], Sample(QUESTION, (video,))
    kept = []
    with Answering(loaded.model, loaded.processor, FrameFusion(keep={2: 0.1})) as answering:
        for continuation in ("red circle", "blue square is it"):
            answering.likelihood(sample, continuation)
            kept.append(answering.run.stages[0].kept[0].tolist())
        whole = answering.likelihood(sample, "red circle")
    assert kept[0] == kept[1]
    with Answering(loaded.model, loaded.processor, FrameFusion(keep=1.0)) as answering:
        assert answering.likelihood(sample, "red circle") != whole
        for continuation, reason in [("  ", "has no tokens"), ("red<|im_end|>red", "has a token that ends an answer")]:
            with pytest.raises(ValueError, match=reason):
                answering.likelihood(sample, continuation)


def test_requests_without_a_video_are_answered(models):
    loaded = models["qwen2-vl"]
    with Answering(loaded.model, loaded.processor, FrameFusion(keep=0.2)) as answering:
        responses = answering.generate([Sample(QUESTION), Sample("what is it")], Generation(3))
    assert len(responses) == 2
    assert answering.spent.visual_token_share == 1.0


def test_pictures_are_reduced_too(models, monkeypatch):
    loaded = models["qwen2-vl"]
    image = "{% elif part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif part.type == 'text' %}"
    template = loaded.processor.chat_template.replace("{% elif part.type == 'text' %}", image)
    monkeypatch.setattr(loaded.processor, "chat_template", template)
    samples = [Sample(f"what <image> is {word} <image>", (picture(), picture(seed=1))) for word in ("red", "blue")]
    with Answering(loaded.model, loaded.processor, FrameFusion(keep={0: 0.5})) as answering:
        assert len(answering.generate(samples, Generation(2))) == 2
    assert answering.spent.visual_tokens == 2 * 2 * 6
    assert answering.spent.visual_token_share == 0.5


def test_the_model_is_left_as_it_was(models, video):
    loaded = models["qwen2-vl"]
    with pytest.raises(ValueError, match="cannot be reached"):
        Answering(loaded.model, loaded.processor, FrameFusion(cost=0.01, merge=True))
    with (
        pytest.raises(ValueError, match="the text has <image>"),
        Answering(loaded.model, loaded.processor, FrameFusion(keep=0.5)) as answering,
    ):
        answering.generate([Sample("<image>", (video,))], Generation(1))
    with Answering(loaded.model, loaded.processor, FrameFusion(keep=0.5)) as answering:
        assert answering.generate([Sample(QUESTION, (video,))], Generation(1))
