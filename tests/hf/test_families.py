"""Where each family says its visual tokens are, for prompts made by hand: the oracle cannot tell frames apart."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

import framefusion
from framefusion.hf.families import Call, Family
from framefusion.hf.families.glm4v import Glm4v
from framefusion.hf.families.qwen3_5 import Qwen35
from framefusion.hf.families.qwen3_vl import Qwen3VL
from framefusion.reduction.layout import VisualLayout
from tests.hf import models, oracle
from tests.hf.case import END, IMAGE, PAD, START, VIDEO, Case, Video, mrope_types
from tests.hf.families.qwen2_5_omni import AUDIO, AUDIO_END, AUDIO_START
from tests.hf.layouts import check, encoded, layouts_of
from tests.hf.prompts import PROMPTS
from tests.hf.ways import PLANS, TOLERANCE, generate


class TestQwen3VL:
    """One run a frame, with timestamps between."""

    config: ClassVar = {
        "video_token_id": VIDEO,
        "image_token_id": IMAGE,
        "vision_config": SimpleNamespace(spatial_merge_size=2),
    }
    wide: ClassVar = [START, *[VIDEO] * 6, END]
    narrow: ClassVar = [START, *[VIDEO] * 2, END]
    rows: ClassVar = [
        [50, *wide, 51, *wide, 52],
        [60],
        [61, START, *[IMAGE] * 4, END, 62, *narrow, 63, *narrow, 64, *narrow],
    ]
    grids: ClassVar = {
        "video_grid_thw": torch.tensor([[2, 4, 6], [3, 2, 4]]),
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
    }

    def features(self) -> dict[str, Any]:
        return encoded(video=(torch.zeros(12, 8), torch.zeros(6, 8)), image=(torch.zeros(4, 8),))

    def check(self, layouts: list[VisualLayout], *sizes: tuple[int, int]) -> None:
        """The layouts of ``rows``, with the ``(H, W)`` of the two videos and of the image."""
        first, second, third = layouts
        check(first, [("video", (2, *sizes[0]), [*range(5, 11), *range(14, 20)])])
        check(second, [])
        check(third, [("image", (1, *sizes[2]), [2, 3, 4, 5]), ("video", (3, *sizes[1]), [9, 10, 14, 15, 19, 20])])

    def test_with_pixels(self) -> None:
        pixels = {"pixel_values_videos": torch.zeros(72, 12), "pixel_values": torch.zeros(16, 12)}
        self.check(layouts_of(Qwen3VL(), self.config, self.rows, **pixels, **self.grids), (2, 3), (1, 2), (2, 2))

    @pytest.mark.parametrize(("name", "family"), [("qwen3_vl", Qwen3VL()), ("qwen3_5", Qwen35())])
    def test_in_generate(self, name: str, family: Family) -> None:
        """Grids are gone; positions still tell them."""
        length = max(map(len, self.rows))
        batch: dict[str, Any] = {"input_ids": torch.tensor([[PAD] * (length - len(row)) + row for row in self.rows])}
        mrope_types(batch)
        model = models.build(name).model.model
        mask = (batch["input_ids"] != PAD).long()
        positions, _ = model.get_rope_index(**batch, **self.grids, attention_mask=mask)
        for given in (positions, torch.cat([positions[:1], positions])):
            layouts = family.layouts(model, Call(batch["input_ids"], given, self.features()))
            self.check(layouts, (2, 3), (1, 2), (2, 2))

    def test_without_positions(self) -> None:
        self.check(layouts_of(Qwen3VL(), self.config, self.rows, **self.features()), (1, 6), (1, 2), (1, 4))

    def test_broken_inputs(self) -> None:
        row = [50, *[VIDEO] * 5, 51, *[VIDEO] * 5, 52, *[VIDEO] * 2]
        for size, message in (
            (12, "has 12 tokens of one item in 3 runs of different lengths"),
            (13, "has 12 video tokens; 12 of them belong to the next video's 1×1×13"),
            (10, "has 12 video tokens; 2 of them belong to no video whose size is known"),
        ):
            with pytest.raises(ValueError, match=rf"input_ids\[0\] {message}"):
                layouts_of(Qwen3VL(), self.config, [row], **encoded(video=(torch.zeros(size, 8),)))


class TestGlm4v:
    """Laid out as Qwen3-VL, but videos use the image token; the model takes one kind in a call."""

    config: ClassVar = {**TestQwen3VL.config, "video_token_id": VIDEO}
    frame: ClassVar = [START, *[IMAGE] * 6, END, 50]

    @pytest.mark.parametrize("raw", [True, False])
    @pytest.mark.parametrize("kind", ["video", "image"])
    def test_the_call_tells_the_kind(self, kind: str, raw: bool) -> None:
        rows = [[51, *self.frame * 3, 52], [53, *self.frame]]
        counts = (2, 1, 1) if kind == "video" else (1, 1, 1, 1)
        pixels = {"pixel_values_videos" if kind == "video" else "pixel_values": torch.zeros(96, 12)}
        grids = {f"{kind}_grid_thw": torch.tensor([[t, 4, 6] for t in counts])}
        features = encoded(**{kind: tuple(torch.zeros(6 * t, 8) for t in counts)})
        h, w = (2, 3) if raw else (1, 6)
        first, second = layouts_of(Glm4v(), self.config, rows, **({**pixels, **grids} if raw else features))
        runs = [list(range(c, c + 6)) for c in (2, 11, 20)]
        columns = [runs[0] + runs[1], runs[2]] if kind == "video" else runs
        check(first, [(kind, (t, h, w), mine) for t, mine in zip(counts, columns, strict=False)])
        check(second, [(kind, (1, h, w), list(range(21, 27)))])


class TestOmni:
    # Between the frames stand the tokens of their sound, in chunks or up to the next frame.
    sounds: ClassVar[dict[str, list[int]]] = {
        "qwen2_5_omni": [*[VIDEO] * 18, *[AUDIO] * 8, *[VIDEO] * 18, *[AUDIO] * 8, *[VIDEO] * 18, *[AUDIO] * 4],
        "qwen3_omni": [*([VIDEO] * 9 + [AUDIO] * 4) * 2, *[VIDEO] * 9, *[AUDIO] * 2, *[VIDEO] * 27],
    }

    @pytest.mark.parametrize("settings", list(PLANS))
    @pytest.mark.parametrize("name", ["qwen2_5_omni", "qwen3_omni"])
    def test_a_video_with_its_sound(self, name: str, settings: str) -> None:
        case = models.build(name)
        row = [20, 21, 22, START, AUDIO_START, *self.sounds[name], AUDIO_END, END, 23, 24, 25]
        columns = [column for column, token in enumerate(row) if token == VIDEO]
        inputs = {
            "input_ids": torch.tensor([row]),
            "attention_mask": torch.ones(1, len(row), dtype=torch.long),
            **case.encode([Video(6, 3, 3)], []),
            "input_features": torch.randn(1, 8, 80),
            "feature_attention_mask": torch.ones(1, 80, dtype=torch.long),
            "use_audio_in_video": True,
        }
        with framefusion.attach(case.model, PLANS[settings]) as run:
            with torch.no_grad():
                case.model(**inputs)
            check(run.layout[0], [("video", (6, 3, 3), columns)])
            out = generate(case, inputs)
        check(run.layout[0], [("video", (6, 3, 3), columns)])
        expected = oracle.logits(case.model, inputs, run.stages, out.sequences)
        torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.covering(1)
@pytest.mark.parametrize("rows", list(PROMPTS))
def test_generate_finds_what_a_forward_pass_finds(case: Case, rows: str) -> None:
    """``generate()`` encodes ahead and drops sizes; grids may then be known less well, but frames and patches agree."""
    inputs = case.inputs(PROMPTS[rows](case))
    with framefusion.attach(case.model, PLANS["two stages"]) as run, torch.no_grad():
        case.model(**inputs)
        direct = run.layout
        generate(case, inputs, max_new_tokens=1)
    for mine, expected in zip(run.layout, direct, strict=True):
        assert mine.kinds == expected.kinds
        for name in ("columns", "item", "frame", "patch"):
            assert torch.equal(getattr(mine, name), getattr(expected, name)), name


@pytest.mark.parametrize("rows", ["single", "ragged"])
def test_videos_are_found_as_they_were_made(case: Case, rows: str) -> None:
    prompt = PROMPTS[rows](case)
    with framefusion.attach(case.model, PLANS["two stages"]) as run, torch.no_grad():
        case.model(**case.inputs(prompt))
    for layout, parts in zip(run.layout, prompt, strict=True):
        videos = [part for part in parts if isinstance(part, tuple)]
        assert layout.kinds == ("video",) * len(videos)
        assert layout.grids == tuple(videos)
        patches = [torch.arange(h * w).repeat(t) for t, h, w in videos]
        assert torch.equal(layout.patch, torch.cat([torch.zeros(0, dtype=torch.long), *patches]))
