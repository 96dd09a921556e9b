"""Towers that encode only what changed, held to the full-length oracle, family by family."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import framefusion
from framefusion import FrameFusion
from framefusion.errors import ArgumentError, StateError
from framefusion.hf import UnsupportedModelError
from framefusion.hf import tower as towers
from framefusion.hf.families import FAMILIES, find
from framefusion.hf.towers import packed, running
from framefusion.hf.towers.base import rows_of
from framefusion.reduction.changes import Changed
from tests.hf import models
from tests.hf.case import Case, Image
from tests.hf.towers.oracle import at_full_length, features

STD = (0.3, 0.25, 0.2)
BY_FILE = {type(family).__module__.rpartition(".")[2]: family for family in FAMILIES}
"""A family's file has the name of its builder."""
FOLLOWED = [name for name in models.BUILDERS if BY_FILE[models.SIBLINGS.get(name, name)].tower is not None]
REFUSED = [name for name in models.BUILDERS if name not in FOLLOWED]
TOLERANCE = 2e-5


def everything(levels: float = 4.0) -> FrameFusion:
    """The tower alone: the decoder keeps all tokens. No block runs over all units."""
    return FrameFusion(cost=1.0, tower=Changed(levels, full_blocks=0, std=STD))


@pytest.fixture(params=FOLLOWED)
def case(request: pytest.FixtureRequest) -> Case:
    return models.build(request.param)


def videos(case: Case) -> dict[str, Any]:
    """Three videos in a padded batch of two, of different sizes where the family has no fixed one."""
    if case.fixed_grid is not None:
        return case.inputs([[3, (4, *case.fixed_grid), 4], [2, (4, *case.fixed_grid), 5, (4, *case.fixed_grid), 9]])
    return case.inputs([[3, (4, 3, 5), 4], [2, (1, 4, 3), 5, (5, 2, 2), 9]])


def masks_of(case: Case, inputs: dict[str, Any], share: float, seed: int) -> list[Tensor]:
    """Random units to encode; some frames none at all."""
    kind = find(case.model).tower
    assert kind is not None
    shapes = []
    with attached_noting(case, shapes):
        features(case, inputs)
    generator = torch.Generator().manual_seed(seed)
    masks = []
    for frames, units in shapes:
        mask = torch.rand(frames, units, generator=generator) < share
        mask[torch.rand(frames, generator=generator) < 0.25] = False
        mask[0] = True
        masks.append(mask)
    return masks


@contextmanager
def attached_noting(case: Case, shapes: list[tuple[int, int]]) -> Iterator[None]:
    def note(units: Tensor, *args: Any) -> Tensor:
        shapes.append(tuple(units.shape[:2]))
        return torch.ones(units.shape[:2], dtype=torch.bool)

    with pytest.MonkeyPatch.context() as patch, framefusion.attach(case.model, everything()):
        patch.setattr(towers, "changed_units", note)
        yield


@contextmanager
def encoding(
    case: Case, masks: Sequence[Tensor], settings: FrameFusion | None = None, full: int = 0
) -> Iterator[framefusion.Run]:
    """Attached, with these units to encode, whatever the pixels are, and so many last blocks that run over all."""
    waiting = list(masks)
    with (
        pytest.MonkeyPatch.context() as patch,
        framefusion.attach(case.model, everything() if settings is None else settings) as run,
    ):
        patch.setattr(towers, "changed_units", lambda *args: waiting.pop(0))
        patch.setattr(Changed, "full", lambda self, blocks: full)
        yield run
    assert not waiting


@pytest.mark.covering(1)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("full", [0, 1])
@pytest.mark.parametrize(("share", "seed"), [(0.2, 1), (0.6, 2), (0.0, 3)])
def test_equals_the_oracle(case: Case, share: float, seed: int, full: int, attention: str) -> None:
    case.model.set_attn_implementation(attention)
    inputs = videos(case)
    masks = masks_of(case, inputs, share, seed)
    with encoding(case, masks, full=full):
        got = features(case, inputs)
    with at_full_length(case, inputs, masks, full):
        wanted = features(case, inputs)
    plain = features(case, inputs)
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(got[name], value, atol=TOLERANCE, rtol=TOLERANCE)
        # The oracle could notice.
        assert got[name].shape == plain[name].shape
        assert (plain[name] - value).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_tokens_behind_the_last_blocks_are_not_taken_for_packed_rows(name: str) -> None:
    """A quarter of the rows runs, and four rows become one token: as many."""
    case = models.build(name)
    inputs = case.inputs([[(4, 3, 5), 4]])
    mask = torch.zeros(4, 15, dtype=torch.bool)
    mask[0] = True
    with encoding(case, [mask], full=1):
        got = features(case, inputs)
    with at_full_length(case, inputs, [mask], 1):
        wanted = features(case, inputs)
    for key, value in wanted.items():
        torch.testing.assert_close(got[key], value, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["smolvlm", "idefics3"])
def test_padding_inside_frames_stays_hidden(name: str, attention: str) -> None:
    case = models.build(name, attention)
    inputs = videos(case)
    shown = torch.ones(inputs["pixel_values"].shape[:2] + inputs["pixel_values"].shape[3:], dtype=torch.bool)
    # The frames of the first video are narrower than the others, and those of the last one lower.
    shown[0, :, :, 16:], shown[1, -4:, 12:] = False, False
    inputs["pixel_attention_mask"] = shown
    masks = masks_of(case, inputs, 0.4, 4)
    with encoding(case, masks):
        got = features(case, inputs)
    with at_full_length(case, inputs, masks):
        wanted = features(case, inputs)
    visible = features(case, {**inputs, "pixel_attention_mask": torch.ones_like(shown)})
    for key, value in wanted.items():
        torch.testing.assert_close(got[key], value, atol=TOLERANCE, rtol=TOLERANCE)
        assert (visible[key] - value).abs().max() > 100 * TOLERANCE


def test_packed_rows_that_are_all_rows_change_nothing(case: Case) -> None:
    """Bit for bit where the tower already runs over rows, or within rounding where it runs over views."""
    inputs = videos(case)
    plain = features(case, inputs)
    model = case.model.base_model
    kind = find(model).tower
    assert kind is not None
    tower = kind.module(model)
    masks = [torch.ones_like(mask) for mask in masks_of(case, inputs, 1.0, 0)]
    order = kind.order(tower, inputs) if "video_grid_thw" in inputs else None
    rows = rows_of(masks, kind.rows_of_unit(tower), kind.extra(tower), order)
    assert torch.equal(rows.kept, torch.arange(len(rows.source)))
    with ExitStack() as stack:
        for undo in running.hooks(kind, tower):
            stack.callback(undo)
        with running.running(packed.Run(rows, tower.config._attn_implementation)):
            got = features(case, inputs)
    for name, value in plain.items():
        if "video_grid_thw" in inputs:
            assert torch.equal(got[name], value), name
        else:
            torch.testing.assert_close(got[name], value, atol=2e-6, rtol=2e-6)


def test_encoding_everything_is_the_plain_model(case: Case) -> None:
    inputs = videos(case)
    with torch.no_grad():
        before = case.model(**inputs).logits
        with framefusion.attach(case.model, everything(0.0)) as run:
            during = case.model(**inputs).logits
            assert run.summary().tower_share == 1.0
        state = {name: module.config for name, module in case.model.named_modules() if hasattr(module, "config")}
        after = case.model(**inputs).logits
    assert torch.equal(during, before)
    assert torch.equal(after, before)
    assert not any(isinstance(config, running.TowerConfig) for config in state.values())


def still(case: Case, inputs: dict[str, Any]) -> dict[str, Any]:
    """The same call, of videos whose first frame stays."""
    inputs = dict(inputs)
    if "video_grid_thw" in inputs:
        grids = inputs["video_grid_thw"].tolist()
        parts = inputs["pixel_values_videos"].split([t * h * w for t, h, w in grids])
        stills = [part[: h * w].repeat(t, 1) for part, (t, h, w) in zip(parts, grids, strict=True)]
        inputs["pixel_values_videos"] = torch.cat(stills)
    elif "pixel_values_videos" in inputs:
        pixels = inputs["pixel_values_videos"]
        inputs["pixel_values_videos"] = pixels[:, :1].expand_as(pixels).contiguous()
    else:
        pixels = inputs["pixel_values"].clone()
        views = pixels if pixels.ndim == 4 else pixels.flatten(0, 1)
        # Four frames a video; rows of padding stay.
        for first in range(0, len(views), 4):
            views[first : first + 4] = views[first]
        inputs["pixel_values"] = views.view_as(pixels)
    return inputs


def logits(case: Case, inputs: dict[str, Any], ahead: bool) -> Any:
    """Of a forward pass, or of each step that ``generate()`` takes."""
    if not ahead:
        return case.model(**inputs).logits
    options = {"max_new_tokens": 2, "output_logits": True, "return_dict_in_generate": True}
    return case.model.generate(**inputs, **options).logits


@pytest.mark.covering(1)
@pytest.mark.parametrize("ahead", [False, True], ids=["forward", "generate"])
def test_a_still_video_is_encoded_once(case: Case, ahead: bool) -> None:
    """Of identical frames nothing is lost: all copies are right. Inside the forward pass, and ahead of it."""
    inputs = still(case, videos(case))
    with torch.no_grad():
        plain = logits(case, inputs, ahead)
        with framefusion.attach(case.model, everything()) as run:
            got = logits(case, inputs, ahead)
            share = run.summary().tower_share
    # All have four frames, or sizes of their own in the grids.
    grids = inputs.get("video_grid_thw", torch.tensor([[4, 1, 1]]))
    assert share == pytest.approx(float(grids[:, 1:].prod(1).sum() / grids.prod(1).sum()))
    for mine, wanted in zip(got, plain, strict=True):
        torch.testing.assert_close(mine, wanted, atol=2e-4, rtol=1e-4)


def test_reduction_behind_goes_by_what_the_tower_gives(case: Case) -> None:
    """Both together are the reduction alone of what the oracle encodes; counts and positions stay as expected."""
    inputs = videos(case)
    masks = masks_of(case, inputs, 0.4, 5)
    settings = FrameFusion(cost=0.4, tower=Changed(std=STD))
    with torch.no_grad():
        with encoding(case, masks, settings, full=1) as run:
            got = case.model(**inputs).logits
            summary = run.summary()
        with at_full_length(case, inputs, masks, 1), framefusion.attach(case.model, FrameFusion(cost=0.4)) as run:
            wanted = case.model(**inputs).logits
            assert run.summary().tokens_per_layer == summary.tokens_per_layer
            assert run.summary().tower_share is None
    torch.testing.assert_close(got, wanted, atol=2e-4, rtol=1e-4)
    kind = find(case.model).tower
    assert kind is not None
    blocks = len(kind.blocks(kind.module(case.model.base_model)))
    encoded = sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks)
    # The last block ran over all.
    assert summary.tower_share == pytest.approx((encoded * (blocks - 1) + 1) / blocks)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "internvl"])
def test_where_all_blocks_run_over_all_units_nothing_is_left_out(name: str) -> None:
    case = models.build(name)
    inputs = videos(case)
    settings = FrameFusion(cost=1.0, tower=Changed(255.0, full_blocks=1.0, std=STD))
    with framefusion.attach(case.model, settings) as run:
        got = features(case, inputs)
        assert run.encoded.encoded == run.encoded.units > 0
    for key, value in features(case, inputs).items():
        assert torch.equal(got[key], value)


def test_images_are_untouched(case: Case) -> None:
    """Alone, and beside a video where the family takes both: the image is encoded as ever, though it could be taken for
    the frames before."""
    if "image" not in case.takes:
        pytest.skip("the family takes videos only")
    size = Image(*case.frame)
    rows = [[3, size, 4, size, 6]] if not case.mixes else [[3, (3, *case.frame), 4, size, 6]]
    inputs = case.inputs(rows)
    with torch.no_grad():
        plain = case.model(**inputs).logits
        with framefusion.attach(case.model, everything(255.0)) as run:
            got = case.model(**inputs).logits
            share = run.summary().tower_share
    if case.mixes:
        assert share is not None
        assert share < 1
    else:
        assert share is None
        assert torch.equal(got, plain)


def test_images_alone_do_not_say_which_are_frames() -> None:
    case = models.build("smolvlm")
    pixels = videos(case)["pixel_values"]
    with framefusion.attach(case.model, everything()), pytest.raises(StateError, match="which images of SmolVLM are"):
        case.model.base_model.get_image_features(pixels)


def with_processor(folder: Path, **values: Any) -> Any:
    """A model whose checkpoint lies beside such a processor."""
    (folder / "preprocessor_config.json").write_text(json.dumps(values), encoding="utf-8")
    model = models.build("qwen2_vl").model.base_model
    model.config._name_or_path = str(folder)
    return model


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ({"image_std": [0.5, 0.25, 0.2]}, [127.5, 63.75, 51.0]),
        ({"image_std": [0.5] * 3, "rescale_factor": 1 / 127.5}, [63.75] * 3),
        ({"image_std": [0.5] * 3, "do_rescale": False}, [0.5] * 3),
        ({"image_std": [0.5] * 3, "do_normalize": False}, [255.0]),
        ({"image_std": 0.5}, [127.5]),
    ],
)
def test_grey_levels_are_those_of_the_processor(tmp_path: Path, values: dict[str, Any], levels: list[float]) -> None:
    model = with_processor(tmp_path, **values)
    torch.testing.assert_close(towers.grey_levels(model, Changed()), torch.tensor(levels))
    torch.testing.assert_close(towers.grey_levels(model, Changed(std=STD)), torch.tensor(STD) * 255)


def test_grey_levels_that_are_not_known_are_asked_for(tmp_path: Path) -> None:
    model = with_processor(tmp_path, size=3)
    said = r"no preprocessor_config\.json .* tower=Changed\(std=processor\.image_processor\.image_std\)"
    for name in (str(tmp_path), "", "nobody/has-this"):
        model.config._name_or_path = name
        with pytest.raises(ArgumentError, match=said):
            framefusion.attach(model, FrameFusion(tower="changed"))
    assert not any(
        type(module.config) is running.TowerConfig for module in model.modules() if hasattr(module, "config")
    )


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_by_name(name: str) -> None:
    case = models.build(name)
    with pytest.raises(UnsupportedModelError, match=rf"{find(case.model).name}.* its .*Attach without tower"):
        framefusion.attach(case.model, everything())
    # Nothing of it stays.
    framefusion.attach(case.model).detach()


def test_the_families_with_a_tower() -> None:
    """What the docs say of those that were there first."""
    assert {"video_llama3", "minicpmv4_6", "minicpmv4_7"} <= {*REFUSED}
    assert {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision", "gemma3", "internvl", "smolvlm"} <= {*FOLLOWED}
