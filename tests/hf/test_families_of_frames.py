"""Where the families with a run a frame and the positions of text say their tokens are, for prompts made by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

import framefusion
from framefusion.hf.encoder import recorded
from framefusion.hf.families.base import Call
from framefusion.hf.families.kimi_k25 import KimiK25
from framefusion.hf.families.lfm2_vl import Lfm2VL
from framefusion.hf.families.molmo2 import Molmo2
from framefusion.hf.families.nemotron_h_omni import NemotronHOmni
from tests.hf import models
from tests.hf.case import END, IMAGE, PAD, START, VIDEO
from tests.hf.families.kimi_k25 import label
from tests.hf.families.lfm2_vl import COLON, FRAME, FROM, SPACE, THUMBNAIL, TILE
from tests.hf.layouts import check, encoded, kinds_and_frames, layouts_of
from tests.hf.prompts import PROMPTS
from tests.hf.ways import PLANS, generate

KIMI = {
    "video_token_id": VIDEO,
    "image_token_id": IMAGE,
    "vision_config": type("Vision", (), {"merge_kernel_size": (2, 2)}),
}


class TestKimiK25:
    """Chunks behind timestamps; every video begins at 00:00:00.000."""

    def video(self, chunks: int, size: int, first: int = 0) -> list[int]:
        return [token for t in range(chunks) for token in [*label(first + 2 * t), *[VIDEO] * size, END]]

    def grids(self, *chunks: tuple[int, int]) -> dict[str, Any]:
        return {
            "pixel_values_videos": torch.zeros(1),
            "video_grid_thw": torch.tensor([[4, 2 * h, 2 * w] for h, w in chunks]),
        }

    def test_chunks_of_two_videos(self) -> None:
        row = [30, *self.video(3, 6), *self.video(2, 6), 31]
        (layout,) = layouts_of(KimiK25(), KIMI, [row], **self.grids(*[(2, 3)] * 5))
        places = [c for c, token in enumerate(row) if token == VIDEO]
        check(layout, [("video", (3, 2, 3), places[:18]), ("video", (2, 2, 3), places[18:])])

    def test_times_pass_a_minute_and_an_hour(self) -> None:
        row = [30, *self.video(3, 4, 57), *self.video(3, 4, 3597), 31]
        (layout,) = layouts_of(KimiK25(), KIMI, [row], **encoded(video=(torch.zeros(4, 8),) * 6))
        # Both go on from each other in nothing but the time; the prompts that are made here put words between.
        assert kinds_and_frames(layout) == [("video", 6)]
        row = [30, *self.video(3, 4, 57), 32, 33, 34, *self.video(3, 4, 3597), 31]
        (layout,) = layouts_of(KimiK25(), KIMI, [row], **encoded(video=(torch.zeros(4, 8),) * 6))
        assert kinds_and_frames(layout) == [("video", 3), ("video", 3)]

    def test_chunks_of_another_size_are_another_video(self) -> None:
        row = [*self.video(2, 6), *self.video(2, 4, 4), 31]
        (layout,) = layouts_of(KimiK25(), KIMI, [row], **self.grids((2, 3), (2, 3), (2, 2), (2, 2)))
        assert layout.grids == ((2, 2, 3), (2, 2, 2))

    def test_broken_inputs(self) -> None:
        row = [30, *self.video(2, 6), 31]
        with pytest.raises(ValueError, match=r"input_ids\[0\] has a run of 6 video tokens, .* \(it has 2×2\)"):
            layouts_of(KimiK25(), KIMI, [row], **self.grids((2, 2), (2, 2)))
        with pytest.raises(ValueError, match=r"does not match the next chunk of frames \(there is none\)"):
            layouts_of(KimiK25(), KIMI, [row], **self.grids((2, 3)))


class TestLfm2VL:
    """Tiles behind markers; frames behind labels."""

    def frame(self, second: int, size: int) -> list[int]:
        return [11, FRAME, FROM, SPACE, 20, 20, COLON, 20, 20 + second, COLON, START, *[IMAGE] * size, END]

    def sizes(self, *sizes: tuple[int, int]) -> dict[str, Any]:
        return {
            "pixel_values": torch.zeros(1),
            "spatial_shapes": torch.tensor([[2 * h, 2 * w] for h, w in sizes]),
        }

    config: ClassVar = {"image_token_id": IMAGE, "downsample_factor": 2}

    def test_frames_and_tiles(self) -> None:
        tiles = [START, TILE, *[IMAGE] * 4, TILE, *[IMAGE] * 4, THUMBNAIL, *[IMAGE] * 2, END]
        row = [30, *self.frame(0, 6), *self.frame(1, 6), *self.frame(1, 6), 31, *tiles, *tiles, START, IMAGE, END, 32]
        three = ((2, 2), (2, 2), (1, 2))
        (layout,) = layouts_of(Lfm2VL(), self.config, [row], **self.sizes(*[(2, 3)] * 3, *three, *three, (1, 1)))
        places = [c for c, token in enumerate(row) if token == IMAGE]
        expected = [("video", (3, 2, 3), places[:18]), ("image", (1, 1, 10), places[18:28])]
        check(layout, [*expected, ("image", (1, 1, 10), places[28:38]), ("image", (1, 1, 1), places[38:])])

    def test_photographs_side_by_side_are_no_video(self) -> None:
        photograph = [START, *[IMAGE] * 4, END]
        row = [30, *photograph, *photograph, 11, *photograph, 31]
        (layout,) = layouts_of(Lfm2VL(), self.config, [row], **self.sizes(*[(2, 2)] * 3))
        assert kinds_and_frames(layout) == [("image", 1)] * 3

    def test_an_image_of_tiles_without_markers(self) -> None:
        """``use_image_special_tokens=False``."""
        (layout,) = layouts_of(Lfm2VL(), self.config, [[30, *[IMAGE] * 10, 31]], **self.sizes((2, 2), (2, 2), (1, 2)))
        check(layout, [("image", (1, 1, 10), list(range(1, 11)))])

    def test_broken_inputs(self) -> None:
        with pytest.raises(ValueError, match=r"input_ids\[0\] has a run of 5 image tokens, which does not match"):
            layouts_of(Lfm2VL(), self.config, [[30, *[IMAGE] * 5, 31]], **self.sizes((2, 2), (2, 2)))


class TestMolmo2:
    """One placeholder for both kinds; the call tells which."""

    config: ClassVar = {"image_patch_id": IMAGE}

    def test_frames(self) -> None:
        frame = [6, *[IMAGE] * 6, 7]
        row = [30, *frame, 31, *frame, 32]
        grids = {"pixel_values_videos": torch.zeros(1), "video_grids": torch.tensor([[2, 2, 3]])}
        (layout,) = layouts_of(Molmo2(), self.config, [row], **grids)
        check(layout, [("video", (2, 2, 3), [*range(2, 8), *range(11, 17)])])

    def test_views_of_an_image_are_one_item(self) -> None:
        row = [30, *[8, IMAGE, IMAGE, 5, END], *[START, *[IMAGE] * 3, 5, *[IMAGE] * 3, 5, END], 31]
        grids = {"pixel_values": torch.zeros(1), "image_grids": torch.tensor([[1, 2, 2, 3]])}
        (layout,) = layouts_of(Molmo2(), self.config, [row], **grids)
        check(layout, [("image", (1, 1, 8), [2, 3, *range(7, 10), *range(11, 14)])])


@pytest.mark.parametrize("name", ["exaone4_5", "molmo2"])
def test_features_carry_their_grids(name: str) -> None:
    """Where nothing else tells frames apart, also of a video that was encoded before a reduction was attached."""
    case = models.build(name)
    inputs = case.inputs(PROMPTS["single"](case))
    taken = {key: inputs.pop(key) for key in list(inputs) if key.startswith(("pixel", "video"))}
    for carrying in (True, False):
        with torch.no_grad():
            if carrying:
                with recorded(case.model):
                    features = case.model.model.get_video_features(**taken, return_dict=True)
            else:
                features = case.model.model.get_video_features(**taken, return_dict=True)
        with framefusion.attach(case.model, PLANS["two stages"]) as run:
            ahead = {**inputs, "mm_encoder_outputs": {"video": features}}
            if carrying:
                generate(case, ahead, max_new_tokens=1)
                assert run.layout[0].grids == ((6, 3, 3),)
            else:
                with pytest.raises(ValueError, match="belong to no video whose size is known"):
                    generate(case, ahead, max_new_tokens=1)


def test_beams_share_the_grids_of_their_video() -> None:
    case = models.build("exaone4_5")
    with framefusion.attach(case.model, PLANS["two stages"]) as run:
        generate(case, case.inputs(PROMPTS["ragged"](case)), num_beams=2)
    assert [layout.grids for layout in run.layout] == [
        g for g in (((6, 3, 3),), ((6, 3, 3),) * 2, ()) for _ in range(2)
    ]


class TestNemotronHOmni:
    """A run every two frames behind labels; videos of one call are of one size, and images are not beside them."""

    CONFIG: ClassVar[dict[str, Any]] = {
        "image_token_id": IMAGE,
        "downsample_ratio": 0.5,
        "vision_config": SimpleNamespace(patch_size=4),
    }

    def layouts(self, rows: list[list[int]], rate: float = 0.0, **arguments: Any) -> Any:
        model = SimpleNamespace(config=SimpleNamespace(**self.CONFIG), video_pruning_rate=rate)
        ids = torch.tensor([[PAD] * (max(map(len, rows)) - len(row)) + row for row in rows])
        return NemotronHOmni().layouts(model, Call(ids, None, arguments))

    def video(self, pairs: int, size: int) -> list[int]:
        return [token for t in range(pairs) for token in [11, 20 + t, START, *[IMAGE] * size, END]]

    def test_videos_of_a_batch(self) -> None:
        rows = [[30, *self.video(2, 6), 31, *self.video(2, 6), 32], [33, *self.video(2, 6), 34]]
        layouts = self.layouts(rows, pixel_values_videos=torch.zeros(3, 2, 6, 16, 24))
        assert [layout.grids for layout in layouts] == [((2, 2, 3), (2, 2, 3)), ((2, 2, 3),)]
        assert layouts[0].columns.tolist() == [column for column, token in enumerate(rows[0]) if token == IMAGE]

    def test_encoded_ahead_frames_are_rows(self) -> None:
        (layout,) = self.layouts([[30, *self.video(3, 6), 31]], **encoded(video=(torch.zeros(18, 8),)))
        check(layout, [("video", (3, 1, 6), layout.columns.tolist())])

    def test_images_of_two_sizes(self) -> None:
        row = [30, START, *[IMAGE] * 4, END, START, *[IMAGE] * 6, END, 31]
        sizes = {"pixel_values": torch.zeros(1), "image_grid_hw": torch.tensor([[4, 4], [4, 6]])}
        (layout,) = self.layouts([row], **sizes)
        assert layout.kinds == ("image", "image")
        assert layout.grids == ((1, 2, 2), (1, 2, 3))

    def test_broken_inputs(self) -> None:
        with pytest.raises(ValueError, match=r"input_ids\[0\] has 10 video tokens"):
            self.layouts([[30, *self.video(2, 5), 31]], pixel_values_videos=torch.zeros(1, 2, 6, 16, 24))

    def test_a_model_that_prunes_by_itself(self) -> None:
        row = [30, *self.video(2, 6), 31]
        with pytest.raises(ValueError, match=r"drops video tokens itself \(video_pruning_rate=0\.7\), and two rules"):
            self.layouts([row], 0.7, pixel_values_videos=torch.zeros(1, 2, 6, 16, 24))
        sizes = {"pixel_values": torch.zeros(1), "image_grid_hw": torch.tensor([[4, 6], [4, 6]])}
        assert len(self.layouts([row], 0.7, **sizes)[0].grids) == 2
