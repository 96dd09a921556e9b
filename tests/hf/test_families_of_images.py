"""The same as ``test_families.py`` for families whose frames are images, in tiles, slices or of their own size."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import framefusion
from framefusion.hf.families import Family
from framefusion.hf.families.gemma3 import Gemma3
from framefusion.hf.families.idefics3 import Idefics3
from framefusion.hf.families.internvl import InternVL
from framefusion.hf.families.llava_next_video import LlavaNextVideo
from framefusion.hf.families.minicpmv4_6 import MiniCPMV46
from framefusion.hf.families.smolvlm import SmolVLM
from framefusion.hf.families.video_llama3 import VideoLlama3
from framefusion.reduction.layout import VisualLayout
from tests.hf import oracle
from tests.hf.case import END, IMAGE, START, VIDEO
from tests.hf.families import internvl as internvl_case
from tests.hf.families import smolvlm as smolvlm_case
from tests.hf.families import video_llama3 as video_llama3_case
from tests.hf.families.minicpmv4_6 import NEWLINE, SLICE, SLICE_END
from tests.hf.layouts import check, encoded, kinds_and_frames, layouts_of
from tests.hf.prompts import PROMPTS
from tests.hf.ways import PLANS, TOLERANCE, generate


class TestInternVL:
    """Videos and images share a placeholder; the labels tell them apart."""

    config: ClassVar = {
        "image_token_id": IMAGE,
        "downsample_ratio": 0.5,
        "vision_config": SimpleNamespace(patch_size=[4, 4]),
    }
    view: ClassVar = [START, *[IMAGE] * 4, END]

    def layouts(self, *rows: list[int]) -> list[VisualLayout]:
        return layouts_of(InternVL(), self.config, list(rows), **encoded(image=torch.zeros(9, 4, 8)))

    def video(self, frames: int, first: int = 1) -> list[int]:
        newline = internvl_case.NEWLINE
        parts = [[newline, *internvl_case.label(k), *self.view[1:]] for k in range(first, first + frames)]
        return [token for part in parts for token in part][1:]

    @pytest.mark.parametrize("raw", [True, False])
    def test_a_video_beside_images(self, raw: bool) -> None:
        row = [50, 51, *self.video(2), 52, *self.view, 53, START, *[IMAGE] * 12, END]
        other = [60, 61, *self.view, 62]
        inputs = {"pixel_values": torch.zeros(7, 3, 16, 16)} if raw else encoded(image=torch.zeros(7, 4, 8))
        first, second, third = layouts_of(InternVL(), self.config, [row, other, [63]], **inputs)
        video = ("video", (2, 2, 2), [7, 8, 9, 10, 18, 19, 20, 21])
        image, tiles = ("image", (1, 2, 2), [25, 26, 27, 28]), ("image", (1, 1, 12), list(range(32, 44)))
        check(first, [video, image, tiles])
        pad = len(row) - len(other)
        check(second, [("image", (1, 2, 2), [pad + 3, pad + 4, pad + 5, pad + 6])])
        check(third, [])

    def test_numbers_grow_longer(self) -> None:
        [layout] = self.layouts([50, *self.video(101)])
        assert kinds_and_frames(layout) == [("video", 101)]

    def test_videos_one_after_the_other(self) -> None:
        newline = internvl_case.NEWLINE
        row = [newline, *self.video(3), newline, *self.video(12), 40, 41, newline, *self.video(2)]
        assert kinds_and_frames(self.layouts(row)[0]) == [("video", 3), ("video", 12), ("video", 2)]

    def test_videos_of_one_frame_are_images(self) -> None:
        newline = internvl_case.NEWLINE
        row = [newline, *self.video(1), newline, *self.video(1), 40]
        assert kinds_and_frames(self.layouts(row)[0]) == [("image", 1), ("image", 1)]

    def test_images_one_after_the_other(self) -> None:
        newline = internvl_case.NEWLINE
        row = [newline, *self.view, newline, *self.view, newline, *self.view, 40, 41, *self.view, *self.view]
        assert kinds_and_frames(self.layouts(row)[0]) == [("image", 1)] * 5

    def test_images_between_texts(self) -> None:
        row = [newline := internvl_case.NEWLINE, 40, 41, 42, 43, *self.view, newline, 44, 41, 42, 43, *self.view]
        assert kinds_and_frames(self.layouts(row)[0]) == [("image", 1)] * 2

    def test_placeholders_are_text_without_pixels(self) -> None:
        [layout] = layouts_of(InternVL(), self.config, [[50, *self.video(2)]])
        check(layout, [])

    def test_a_broken_run(self) -> None:
        with pytest.raises(
            ValueError, match=r"input_ids\[1\] has a run of 5 image tokens, which is no multiple of the 4"
        ):
            self.layouts([50, *self.view], [50, START, *[IMAGE] * 5, END])


@pytest.mark.parametrize("family", [SmolVLM(), Idefics3()], ids=["smolvlm", "idefics3"])
class TestSmolVLM:
    """Videos and images share a placeholder; markers tell tiles, and labels frames."""

    view: ClassVar = [smolvlm_case.FAKE, smolvlm_case.WHOLE, *[IMAGE] * 4, smolvlm_case.FAKE]
    tiles: ClassVar = [
        *[smolvlm_case.FAKE, smolvlm_case.LEFT, *[IMAGE] * 4],
        *[smolvlm_case.FAKE, smolvlm_case.RIGHT, *[IMAGE] * 4, smolvlm_case.NEWLINE],
        *[smolvlm_case.NEWLINE, *view],
    ]

    def layouts(self, family: Family, *rows: list[int]) -> list[VisualLayout]:
        features = encoded(image=[torch.zeros(4, 8)])
        return layouts_of(family, {"image_token_id": IMAGE}, list(rows), **features)

    def video(self, seconds: list[int]) -> list[int]:
        newline = smolvlm_case.NEWLINE
        parts = [[newline, *smolvlm_case.label(second), *self.view[2:]] for second in seconds]
        return [*smolvlm_case.INTRO, *(token for part in parts for token in part), newline, newline]

    @pytest.mark.parametrize("raw", [True, False])
    def test_a_video_beside_images(self, family: Family, raw: bool) -> None:
        row = [50, *self.tiles, 51, *self.video([0, 1]), *self.view]
        inputs = {"pixel_values": torch.ones(1, 6, 3, 16, 16)} if raw else encoded(image=[torch.zeros(24, 8)])
        first, second = layouts_of(family, {"image_token_id": IMAGE}, [row, [60, 61]], **inputs)
        tiles = ("image", (1, 1, 12), [3, 4, 5, 6, 9, 10, 11, 12, 17, 18, 19, 20])
        video = ("video", (2, 2, 2), [40, 41, 42, 43, 57, 58, 59, 60])
        check(first, [tiles, video, ("image", (1, 2, 2), [66, 67, 68, 69])])
        check(second, [])

    @pytest.mark.parametrize("seconds", [[0, 1], list(range(55, 65)), [0, 90, 3600, 6000], [0] * 5, [7, 7, 8, 8]])
    def test_times(self, family: Family, seconds: list[int]) -> None:
        [layout] = self.layouts(family, [50, *self.video(seconds), 51])
        assert kinds_and_frames(layout) == [("video", len(seconds))]

    def test_videos_one_after_the_other(self, family: Family) -> None:
        row = [50, *self.video([0, 1, 2]), *self.video([0, 1]), *self.video([0]), 51]
        [layout] = self.layouts(family, row)
        assert kinds_and_frames(layout) == [("video", 3), ("video", 2), ("image", 1)]

    def test_images_one_after_the_other(self, family: Family) -> None:
        named = [smolvlm_case.NEWLINE, 40, smolvlm_case.COLON, *self.view]
        row = [50, *self.view, *self.view, *named, *named, *named, *self.tiles, *self.tiles, 51, *self.view]
        [layout] = self.layouts(family, row)
        assert layout.grids == ((1, 2, 2),) * 5 + ((1, 1, 12),) * 2 + ((1, 2, 2),)
        assert set(layout.kinds) == {"image"}

    def test_a_broken_run(self, family: Family) -> None:
        with pytest.raises(ValueError, match=r"input_ids has runs of \[3, 4\] image tokens, but every frame or tile"):
            self.layouts(family, [50, *self.view], [50, *self.view[:2], *[IMAGE] * 3])


class TestLlavaNextVideo:
    """One run a video, of frames of one size."""

    config: ClassVar = {
        "video_token_id": VIDEO,
        "image_token_id": IMAGE,
        "spatial_pool_stride": 2,
        "vision_config": SimpleNamespace(image_size=20, patch_size=4),
    }

    @pytest.mark.parametrize("raw", [True, False])
    def test_videos_and_images(self, raw: bool) -> None:
        # Five patches a side leave two after pooling.
        rows = [[50, *[VIDEO] * 24, 51, *[IMAGE] * 7, 52, *[IMAGE] * 5], [60], [61, *[VIDEO] * 12, 62]]
        pixels = {"pixel_values_videos": torch.zeros(3, 3, 3, 20, 20), "pixel_values": torch.zeros(2, 2, 3, 20, 20)}
        images = [torch.zeros(7, 8), torch.zeros(5, 8)]
        inputs = pixels if raw else encoded(video=torch.zeros(3, 12, 8), image=images)
        first, second, third = layouts_of(LlavaNextVideo(), self.config, rows, **inputs)
        videos = [("video", (3, 2, 2), list(range(c, c + 12))) for c in (1, 13)]
        check(first, [*videos, ("image", (1, 1, 7), list(range(26, 33))), ("image", (1, 1, 5), list(range(34, 39)))])
        check(second, [])
        pad = len(rows[0]) - len(rows[2])
        check(third, [("video", (3, 2, 2), list(range(pad + 1, pad + 13)))])

    def test_a_broken_run(self) -> None:
        with pytest.raises(ValueError, match=r"input_ids\[0\] has a run of 13 video tokens, which is no multiple"):
            layouts_of(LlavaNextVideo(), self.config, [[VIDEO] * 13], **encoded(video=torch.zeros(1, 12, 8)))


class TestVideoLlama3:
    """One run a frame, of the cells that the processor kept."""

    config: ClassVar = {"video_token_id": VIDEO, "image_token_id": IMAGE}
    grids: ClassVar = {
        "video_grid_thw": torch.tensor([[3, 4, 4], [2, 2, 4]]),
        "video_merge_sizes": torch.tensor([2, 2]),
    }
    # Three frames of 2 × 2 and two of 1 × 2.
    kept: ClassVar = torch.tensor([1, 1, 1, 1, 0, 1, 0, 1, 1, 0, 0, 0, 1, 1, 0, 1]).bool()
    row: ClassVar = [50, *[VIDEO] * 4, 51, *[VIDEO] * 2, 52, VIDEO, 53, VIDEO, VIDEO, 54, VIDEO, 55]
    columns: ClassVar = [[1, 2, 3, 4, 6, 7, 9], [11, 12, 14]]
    cells: ClassVar = [[0, 1, 2, 3, 5, 7, 8], [0, 1, 3]]

    def features(self) -> dict[str, Any]:
        return encoded(video=(torch.zeros(12, 8), torch.zeros(4, 8)))

    def layouts(self, row: list[int], kept: Tensor | None, **inputs: Any) -> VisualLayout:
        mask = {"video_compression_mask": kept}
        return layouts_of(VideoLlama3(), self.config, [[60, 61], row], **mask, **inputs)[1]

    def test_with_pixels(self) -> None:
        layout = self.layouts(self.row, self.kept, pixel_values_videos=torch.zeros(64, 12), **self.grids)
        check(layout, list(zip(("video",) * 2, ((3, 2, 2), (2, 1, 2)), self.columns, strict=True)), self.cells)

    def test_in_generate(self) -> None:
        layout = self.layouts(self.row, self.kept, **self.features())
        check(layout, list(zip(("video",) * 2, ((3, 1, 4), (2, 1, 2)), self.columns, strict=True)), self.cells)

    @pytest.mark.parametrize("raw", [True, False])
    def test_uncompressed_and_images(self, raw: bool) -> None:
        frame = [50, *[VIDEO] * 4]
        row = [*frame * 3, 51, VIDEO, VIDEO, 52, VIDEO, VIDEO, *[IMAGE] * 6]
        pixels = {"pixel_values_videos": torch.zeros(64, 12), "pixel_values": torch.zeros(24, 12), **self.grids}
        pixels |= {"image_grid_thw": torch.tensor([[1, 4, 6]]), "image_merge_sizes": torch.tensor([2])}
        features = encoded(video=(torch.zeros(12, 8), torch.zeros(4, 8)), image=(torch.zeros(6, 8),))
        layout = self.layouts(row, None, **(pixels if raw else features))
        first, second = [*range(1, 5), *range(6, 10), *range(11, 15)], [16, 17, 19, 20]
        grids = ((3, 2, 2), (2, 1, 2), (1, 2, 3)) if raw else ((3, 1, 4), (2, 1, 2), (1, 1, 6))
        columns = (first, second, list(range(21, 27)))
        check(layout, list(zip(("video", "video", "image"), grids, columns, strict=True)))

    def test_broken_inputs(self) -> None:
        with pytest.raises(ValueError, match="video_compression_mask has 15 entries, but the videos have 16 tokens"):
            self.layouts(self.row, self.kept[:-1], **self.features())
        with pytest.raises(ValueError, match=r"input_ids\[1\] has 9 video tokens, of which 7 belong to whole videos"):
            self.layouts(self.row[:-2], self.kept, **self.features())
        moved = [50, *[VIDEO] * 3, 51, *[VIDEO] * 3, *self.row[8:]]
        with pytest.raises(ValueError, match=r"a video in 3 runs of \[3, 3, 1\] tokens, which are not what its"):
            self.layouts(moved, self.kept, **self.features())

    @pytest.mark.parametrize("rows", list(PROMPTS))
    @pytest.mark.parametrize("settings", list(PLANS))
    def test_compressed_videos_equal_the_masked_oracle(self, settings: str, rows: str) -> None:
        torch.manual_seed(1)
        case = video_llama3_case.build(compressed=True)
        case.model.eval()
        inputs = case.inputs(PROMPTS[rows](case))
        visual = int(((inputs["input_ids"] == VIDEO) | (inputs["input_ids"] == IMAGE)).sum())
        with framefusion.attach(case.model, PLANS[settings]) as run:
            out = generate(case, inputs)
        assert run.tokens_per_layer[-1] < run.summary().visual_tokens_before == visual
        expected = oracle.logits(case.model, inputs, run.stages, out.sequences)
        torch.testing.assert_close(torch.stack(out.logits, 1), expected, atol=TOLERANCE, rtol=0)


class TestGemma3:
    config: ClassVar[dict[str, Any]] = {"image_token_id": IMAGE, "mm_tokens_per_image": 9}
    newlines = 9

    def image(self, *label: int) -> list[int]:
        return [*label, self.newlines, START, *[IMAGE] * 9, END, self.newlines]

    def test_frames_stand_behind_labels(self) -> None:
        frames = [token for number in (10, 11, 12) for token in self.image(30, number, 31)]
        rows = [[20, 21, *frames, 22, *self.image(), 23, 24, *frames], [25, 26, *self.image()], [27]]
        length = len(self.image(30, 10, 31))
        first, image, second = 2 + 5, 2 + 3 * length + 3, 2 + 3 * length + 1 + 13 + 2 + 5
        pad = len(rows[0]) - len(rows[1])
        for given in (encoded(image=torch.zeros(8, 9, 4)), {"pixel_values": torch.zeros(8, 3, 24, 24)}):
            mixed, alone, none = layouts_of(Gemma3(), self.config, rows, **given)
            video = [first + length * frame + cell for frame in range(3) for cell in range(9)]
            other = [second + length * frame + cell for frame in range(3) for cell in range(9)]
            own = list(range(image, image + 9))
            check(mixed, [("video", (3, 3, 3), video), ("image", (1, 3, 3), own), ("video", (3, 3, 3), other)])
            check(alone, [("image", (1, 3, 3), list(range(pad + 4, pad + 13)))])
            check(none, [])

    def test_frames_may_follow_each_other_without_labels(self) -> None:
        rows = [[20, 21, *self.image(), *self.image(), 22, *self.image()]]
        [layout] = layouts_of(Gemma3(), self.config, rows, **encoded(image=torch.zeros(3, 9, 4)))
        assert layout.kinds == ("video", "image")
        assert layout.grids == ((2, 3, 3), (1, 3, 3))

    def test_images_with_other_words_between_are_images(self) -> None:
        rows = [[20, 21, *self.image(), 22, 23, *self.image(), 24, 25, *self.image()]]
        [layout] = layouts_of(Gemma3(), self.config, rows, **encoded(image=torch.zeros(3, 9, 4)))
        assert layout.kinds == ("image",) * 3

    def test_placeholders_without_pixels_are_text(self) -> None:
        [layout] = layouts_of(Gemma3(), self.config, [self.image()])
        check(layout, [])

    def test_broken_runs(self) -> None:
        with pytest.raises(ValueError, match=r"input_ids\[0\] has a run of 8 image tokens, but an image has 9; pass"):
            layouts_of(Gemma3(), self.config, [[*[IMAGE] * 8]], pixel_values=torch.zeros(1, 3, 24, 24))


class TestMiniCPMV:
    config: ClassVar[dict[str, Any]] = {"image_token_id": IMAGE, "video_token_id": VIDEO}

    def picture(self, token: int, whole: int, slices: int = 0, each: int = 0) -> list[int]:
        """A whole view and two rows of slices."""
        row = [SLICE, *[token] * each, SLICE_END] * (slices // 2)
        return [START, *[token] * whole, END, *([*row, NEWLINE, *row] if slices else [])]

    def test_frames_follow_each_other_behind_markers(self) -> None:
        rows = [
            [20, 21, *self.picture(VIDEO, 6) * 3, 22, *self.picture(VIDEO, 6) * 2, *self.picture(IMAGE, 4), 23],
            [24, *self.picture(VIDEO, 4), 25],
        ]
        pad = len(rows[0]) - len(rows[1])
        first = [3 + 8 * frame + cell for frame in range(3) for cell in range(6)]
        second = [2 + 24 + 2 + 8 * frame + cell for frame in range(2) for cell in range(6)]
        image = 2 + 24 + 1 + 16 + 1
        # Two rows of three tokens, of four by four patches each; one of four; two by two.
        sizes = {
            "target_sizes_videos": torch.tensor([[8, 12]] * 5 + [[4, 16]]),
            "target_sizes": torch.tensor([[8, 8]]),
            "pixel_values_videos": torch.zeros(1),
            "pixel_values": torch.zeros(1),
        }
        two, one = layouts_of(MiniCPMV46(), self.config, rows, **sizes)
        own = ("image", (1, 2, 2), list(range(image, image + 4)))
        check(two, [("video", (3, 2, 3), first), ("video", (2, 2, 3), second), own])
        check(one, [("video", (1, 1, 4), list(range(pad + 2, pad + 6)))])
        ahead = {"video": [torch.zeros(6, 4)] * 5 + [torch.zeros(4, 4)], "image": [torch.zeros(4, 4)]}
        two, one = layouts_of(MiniCPMV46(), self.config, rows, **encoded(**ahead))
        own = ("image", (1, 1, 4), list(range(image, image + 4)))
        check(two, [("video", (3, 1, 6), first), ("video", (2, 1, 6), second), own])
        check(one, [("video", (1, 1, 4), list(range(pad + 2, pad + 6)))])

    def test_a_frame_holds_its_slices(self) -> None:
        frame = self.picture(VIDEO, 2, 4, 3)
        rows = [[20, *frame * 2, 21, *self.picture(IMAGE, 2, 2, 3)]]
        columns = [column for column, token in enumerate(rows[0]) if token == VIDEO]
        image = [column for column, token in enumerate(rows[0]) if token == IMAGE]
        sizes = {
            "target_sizes_videos": torch.tensor(([[2, 4]] + [[2, 6]] * 4) * 2),
            "target_sizes": torch.tensor([[2, 4], [2, 6], [2, 6]]),
            "pixel_values_videos": torch.zeros(1),
            "pixel_values": torch.zeros(1),
        }
        [layout] = layouts_of(MiniCPMV46(), self.config, rows, **sizes)
        check(layout, [("video", (2, 1, 14), columns), ("image", (1, 1, 8), image)])

    def test_frames_of_another_size_are_another_video(self) -> None:
        rows = [[20, *self.picture(VIDEO, 6) * 2, *self.picture(VIDEO, 4) * 2]]
        sizes = {
            "target_sizes_videos": torch.tensor([[8, 12]] * 2 + [[8, 8]] * 2),
            "pixel_values_videos": torch.zeros(1),
        }
        [layout] = layouts_of(MiniCPMV46(), self.config, rows, **sizes)
        assert layout.grids == ((2, 2, 3), (2, 2, 2))

    @pytest.mark.parametrize(("sizes", "said"), [([[8, 8]], r"\(8, 8\)"), ([], "none is left")])
    def test_broken_runs(self, sizes: list[list[int]], said: str) -> None:
        given = {"target_sizes_videos": torch.tensor(sizes).view(-1, 2), "pixel_values_videos": torch.zeros(1)}
        with pytest.raises(ValueError, match=rf"input_ids\[0\] has a run of 6 video tokens, .* slice \({said}\); pass"):
            layouts_of(MiniCPMV46(), self.config, [[20, *self.picture(VIDEO, 6)]], **given)
