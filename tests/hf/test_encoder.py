"""The attention of the vision encoder: what eager attention reports, brought to the tokens, and what goes by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

import framefusion
from framefusion import FrameFusion
from framefusion.hf import UnsupportedModelError, encoder
from framefusion.hf.families import Call, find
from framefusion.reduction.layout import VisualLayout
from tests.hf import models
from tests.hf.case import Case, Image
from tests.hf.families import llava_onevision
from tests.hf.prompts import PROMPTS
from tests.hf.ways import difference, greedy

TELLING = ("llava_onevision", "qwen2_vl", "qwen2_5_vl")
SETTINGS = FrameFusion(keep={0: 0.4}, selector="topk", relevance="encoder", segmentation="single", dropped="drop")


def with_head() -> Case:
    """LLaVA-OneVision whose SigLIP has its pooling head."""
    torch.manual_seed(1)
    config = LlavaOnevisionConfig.from_dict(llava_onevision.build().model.config.to_dict())
    config.vision_config.vision_use_head = True
    model: Any = LlavaOnevisionForConditionalGeneration(config)
    return llava_onevision.case_of("llava_onevision", model.eval(), newlines=1)


def textbook(case: Case, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Per video ``(N,)``: the mean over heads and queries of the last layer's full attention, patch by patch."""
    model = case.model.base_model
    if case.name == "llava_onevision":
        pixels = inputs["pixel_values_videos"]
        videos, frames = pixels.shape[:2]
        with torch.no_grad():
            case.model.set_attn_implementation("eager")
            out = model.vision_tower(pixels.flatten(0, 1), output_attentions=True)
            case.model.set_attn_implementation("sdpa")
            if hasattr(model.vision_tower, "head"):
                head, last = model.vision_tower.head, out.last_hidden_state
                _, weights = head.attention(head.probe.repeat(len(last), 1, 1), last, last)
                received = weights[:, 0]
            else:
                received = out.attentions[-1].mean((1, 2))
        side = int(received.shape[1] ** 0.5)
        half = -(-side // 2)
        maps = nn.functional.interpolate(received.view(-1, 1, side, side), (half, half), mode="bilinear")
        return list(maps.reshape(videos, frames * half * half))
    seen: list[Tensor] = []

    def note(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        """Full attention of the last block from its own projections, chunk by chunk."""
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        qkv = module.qkv(hidden).reshape(len(hidden), 3, module.num_heads, -1)
        cos, sin = (table.double() for table in kwargs["position_embeddings"])

        def turned(x: Tensor) -> Tensor:
            first, second = x.chunk(2, dim=-1)
            return x * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]

        q, k = turned(qkv[:, 0].double()), turned(qkv[:, 1].double())
        for start, end in zip(kwargs["cu_seqlens"][:-1].tolist(), kwargs["cu_seqlens"][1:].tolist(), strict=True):
            scores = torch.einsum("qhd,khd->hqk", q[start:end], k[start:end]) * module.scaling
            seen.append(scores.softmax(-1).mean((0, 1)))

    handle = model.visual.blocks[-1].attn.register_forward_hook(note, with_kwargs=True)
    # What the merger does to features it does to a mark of each patch: so the order is that of the model.
    marks: list[Tensor] = []
    spy = model.visual.merger.register_forward_hook(lambda m, a, o: marks.append(o))
    with torch.no_grad():
        out = model.visual(inputs["pixel_values_videos"], grid_thw=inputs["video_grid_thw"])
    handle.remove()
    spy.remove()
    merged = torch.cat(seen).view(-1, model.visual.spatial_merge_size**2).mean(1)
    order = [int((marks[0] == row).all(1).nonzero()[0]) for row in out.pooler_output]
    sizes = (inputs["video_grid_thw"].prod(1) // model.visual.spatial_merge_size**2).tolist()
    return list(merged[order].float().split(sizes))


@pytest.fixture(params=[*TELLING, "pooling head"])
def case(request: pytest.FixtureRequest) -> Case:
    return with_head() if request.param == "pooling head" else models.build(request.param)


def recorded(case: Case, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, call: Any) -> list[Tensor]:
    """What a prefill goes by, per sample."""
    seen: list[list[Tensor]] = []
    original = encoder.received

    def spy(call: Call, layouts: list[VisualLayout]) -> list[Tensor]:
        seen.append(original(call, layouts))
        return seen[-1]

    monkeypatch.setattr(encoder, "received", spy)
    with framefusion.attach(case.model, SETTINGS), torch.no_grad():
        call(inputs)
    return seen[-1]


@pytest.mark.parametrize("ahead", [False, True], ids=["forward", "generate"])
def test_equals_full_attention(case: Case, ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoded inside the forward pass, and ahead of it by ``generate()``; several videos, padding."""
    inputs = case.inputs([[3, (3, *case.frame), 4], [2, (3, *case.frame), 9]])
    wanted = textbook(case, inputs)
    call = (lambda i: case.model.generate(**i, max_new_tokens=1)) if ahead else (lambda i: case.model(**i))
    got = recorded(case, inputs, monkeypatch, call)
    assert len(got) == 2
    for mine, expected in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-6, rtol=1e-4)
        assert mine.std() > 1e-5 * mine.mean()


def test_beams_share_the_encoding_of_their_sample(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = case.inputs([[3, (3, *case.frame), 4], [2, (3, *case.frame), 9]])
    alone = recorded(case, inputs, monkeypatch, lambda i: case.model.generate(**i, max_new_tokens=1))
    beams = recorded(case, inputs, monkeypatch, lambda i: case.model.generate(**i, max_new_tokens=1, num_beams=3))
    assert len(beams) == 6
    for row, mine in enumerate(beams):
        assert torch.equal(mine, alone[row // 3])


@pytest.mark.parametrize("family", TELLING)
def test_the_most_attended_patches_stay(family: str) -> None:
    """Before layer 0, in a model, against the oracle."""
    case = models.build(family)
    inputs = case.inputs([[3, (4, *case.frame), 4]])
    with framefusion.attach(case.model, SETTINGS) as run:
        said = greedy(case, inputs, run)
        (kept,), (layout,) = run.stages[0].kept, run.layout
    assert difference(case, inputs, said) <= 2e-4
    (scores,) = textbook(case, inputs)
    count = max(1, int(0.4 * len(layout) + 0.5))
    wanted = layout.columns[scores.argsort(descending=True, stable=True)[:count]]
    assert set(kept[torch.isin(kept, layout.columns)].tolist()) == set(wanted.tolist())


@pytest.mark.parametrize("family", TELLING)
def test_the_last_token_takes_over_inside(family: str) -> None:
    case = models.build(family)
    inputs = case.inputs(PROMPTS["ragged"](case))
    settings = replace(SETTINGS, keep={0: 0.6, 2: 0.3}, relevance="encoder-last")
    with framefusion.attach(case.model, settings) as run:
        said = greedy(case, inputs, run)
        assert [stage.layer for stage in run.stages] == [0, 2]
    assert difference(case, inputs, said) <= 2e-4


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_images_count_as_well(family: str) -> None:
    case = models.build(family)
    inputs = case.inputs([[3, Image(2, 3), 2, (3, *case.frame), 4], [2, Image(4, 2), 9]])
    with framefusion.attach(case.model, SETTINGS) as run:
        said = greedy(case, inputs, run)
        assert run.stages
    assert difference(case, inputs, said) <= 2e-4


def test_images_that_are_cut_into_views_are_refused() -> None:
    case = models.build("llava_onevision")
    inputs = case.inputs([[3, Image(3, 3), 2]])
    with framefusion.attach(case.model, SETTINGS), pytest.raises(ValueError, match="the images of this call have"):
        case.model(**inputs)


def test_what_is_detached_is_as_before(case: Case) -> None:
    inputs = case.inputs([[3, (3, *case.frame), 4]])
    model = case.model.base_model
    module = find(model).encoder_attention(model)
    before = getattr(module, "config", None)
    with torch.no_grad():
        plain = case.model(**inputs).logits
        with framefusion.attach(case.model, FrameFusion(keep=1.0, relevance="encoder")):
            attached = case.model(**inputs).logits
        after = case.model(**inputs).logits
    assert torch.equal(plain, attached)
    assert torch.equal(plain, after)
    assert getattr(module, "config", None) is before
    assert "get_video_features" not in vars(model)
    assert model not in encoder._recording


def test_other_families_refuse_by_name(name: str) -> None:
    case = models.build(name)
    if name in TELLING:
        framefusion.attach(case.model, SETTINGS).detach()
        return
    for relevance in ("encoder", "encoder-last"):
        settings = FrameFusion(keep={0: 0.5}, relevance=relevance)  # type: ignore[arg-type]
        with pytest.raises(UnsupportedModelError) as caught:
            framefusion.attach(case.model, settings)
        assert find(case.model).name in str(caught.value)
        assert "Known: LLaVA-OneVision, Qwen2-VL, Qwen2.5-VL." in str(caught.value)
    framefusion.attach(case.model).detach()  # nothing of the refused one is left


def test_a_tower_with_a_class_token_is_refused() -> None:
    """And to record it does nothing."""
    case = models.build("llava_onevision")
    tower = case.model.base_model.vision_tower
    tower.encoder.layer = tower.encoder.layers
    del tower.encoder.layers
    with pytest.raises(UnsupportedModelError, match=r"LLaVA-OneVision \(LlavaOnevisionModel\) does not tell that of"):
        framefusion.attach(case.model, SETTINGS)
    with encoder.recorded(case.model):
        assert case.model.base_model not in encoder._recording


def test_videos_that_were_encoded_before_are_refused() -> None:
    """Without recording nothing is known of them."""
    case = models.build("qwen2_5_vl")
    inputs = case.inputs([[3, (3, *case.frame), 4]])
    with torch.no_grad():
        output = case.model.base_model.get_video_features(
            inputs.pop("pixel_values_videos"), video_grid_thw=inputs["video_grid_thw"], return_dict=True
        )
        message = r"the videos of this call have \d+ visual tokens, but of nothing the attention"
        with framefusion.attach(case.model, SETTINGS), pytest.raises(ValueError, match=message):
            case.model(**inputs, mm_encoder_outputs={"video": output})
