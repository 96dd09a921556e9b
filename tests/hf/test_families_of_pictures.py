"""The same as ``test_families.py`` for families whose processors know images only, and for Gemma 4 and Video-LLaVA."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from framefusion.hf.families import Call, Family
from framefusion.hf.families.aria import Aria
from framefusion.hf.families.cohere2_vision import Cohere2Vision
from framefusion.hf.families.gemma4 import Gemma4
from framefusion.hf.families.llama4 import Llama4
from framefusion.hf.families.llava import Llava
from framefusion.hf.families.mistral3 import Mistral3
from framefusion.hf.families.ovis2 import Ovis2
from framefusion.hf.families.video_llava import VideoLlava
from framefusion.reduction.layout import VisualLayout
from tests.hf.case import END, IMAGE, START, VIDEO
from tests.hf.layouts import check, encoded, kinds_and_frames, layouts_of

CONFIG = {"image_token_id": IMAGE, "video_token_id": VIDEO, "boi_token_id": START}
BREAK, ACROSS, DOWN, WHOLE = 5, 6, 7, 8
LABEL = [11, 12, 13, 14, 20, 15]


def label(number: int) -> list[int]:
    """A newline, four words, a number and a colon."""
    return [*LABEL, 30 + number, 15]


def frames(picture: list[int], count: int, first: int = 0) -> list[int]:
    return [token for number in range(first, first + count) for token in [*label(number), *picture]]


VIEWS: dict[str, tuple[Family, list[int], list[int]]] = {
    "cohere2_vision": (Cohere2Vision(), [START, *[IMAGE] * 4, BREAK, END], [START, *[*[IMAGE] * 4, BREAK] * 3, END]),
    "ovis2": (Ovis2(), [START, *[IMAGE] * 4, WHOLE, END], [START, *[*[IMAGE] * 4, WHOLE] * 2, *[IMAGE] * 4, END]),
    "llama4": (
        Llama4(),
        [START, WHOLE, *[IMAGE] * 4, END],
        [START, *[IMAGE] * 4, ACROSS, *[IMAGE] * 4, DOWN, WHOLE, *[IMAGE] * 4, END],
    ),
}
"""The family, a picture of one view, and one of three."""


def features(row: list[int], size: int) -> dict[str, Any]:
    return encoded(image=[torch.zeros(size, 8)] * (row.count(IMAGE) // size))


@pytest.mark.parametrize("name", VIEWS)
def test_frames_and_tiles(name: str) -> None:
    family, view, tiles = VIEWS[name]
    row = [50, *frames(view, 2), 51, *tiles, 52, *view, *view, *tiles, 53]
    [layout] = layouts_of(family, CONFIG, [row], **features(row, 4))
    places = [index for index, token in enumerate(row) if token == IMAGE]
    items = [("video", (2, 2, 2), places[:8]), ("image", (1, 1, 12), places[8:20])]
    items += [("image", (1, 2, 2), places[20:24]), ("image", (1, 2, 2), places[24:28])]
    check(layout, [*items, ("image", (1, 1, 12), places[28:])])


@pytest.mark.parametrize("name", VIEWS)
def test_words_between_make_images(name: str) -> None:
    family, view, _ = VIEWS[name]
    row = [50, *view, 51, 52, 53, *view, 54, *label(3), *view, 55]
    [layout] = layouts_of(family, CONFIG, [row], **features(row, 4))
    assert kinds_and_frames(layout) == [("image", 1)] * 3


class TestMistral3:
    """Rows with breaks between; what closes an image is one token, as a break is."""

    wide = (*[IMAGE] * 3, BREAK, *[IMAGE] * 3, END)
    tall = (*[IMAGE] * 2, BREAK, *[IMAGE] * 2, BREAK, *[IMAGE] * 2, END)

    def layouts(self, family: Family, row: list[int], call: Any) -> VisualLayout:
        tower = SimpleNamespace(config=SimpleNamespace(patch_size=4))
        config = SimpleNamespace(**CONFIG, spatial_merge_size=2)
        model = SimpleNamespace(config=config, vision_tower=tower)
        [layout] = family.layouts(model, Call(torch.tensor([row]), None, call))
        return layout

    @pytest.mark.parametrize("family", [Mistral3(), Llava()])
    @pytest.mark.parametrize("raw", [True, False])
    def test_neighbours(self, family: Family, raw: bool) -> None:
        row = [50, *self.wide, *self.tall, *frames(list(self.wide), 2), 51]
        cell = 4 if isinstance(family, Llava) else 8
        sizes = [[2 * cell, 3 * cell], [3 * cell, 2 * cell], *[[2 * cell, 3 * cell]] * 2]
        pixels = {"pixel_values": torch.zeros(4, 3, 24, 24), "image_sizes": torch.tensor(sizes)}
        layout = self.layouts(family, row, pixels if raw else encoded(image=[torch.zeros(6, 8)] * 4))
        places = [index for index, token in enumerate(row) if token == IMAGE]
        check(
            layout,
            [
                ("image", (1, 2, 3), places[:6]),
                ("image", (1, 3, 2), places[6:12]),
                ("video", (2, 2, 3), places[12:]),
            ],
        )

    def test_tokens_that_belong_to_no_image(self) -> None:
        with pytest.raises(ValueError, match=r"input_ids\[0\] has 6 image tokens; 2 of them belong to no image"):
            self.layouts(Mistral3(), [50, *self.wide, 51], encoded(image=[torch.zeros(4, 8)]))


@pytest.mark.parametrize("raw", [True, False])
def test_llava_next_to_each_other(raw: bool) -> None:
    """Nothing closes an image, so two without a word between are one run."""
    row = [50, *[IMAGE] * 8, 51, *frames([IMAGE] * 4, 3), 52]
    call = {"pixel_values": torch.zeros(5, 3, 24, 24)} if raw else encoded(image=[torch.zeros(4, 8)] * 5)
    [layout] = layouts_of(Llava(), CONFIG, [row], **call)
    assert kinds_and_frames(layout) == [("image", 1), ("image", 1), ("video", 3)]
    assert layout.grids[-1] == (3, 2, 2)


def test_aria_has_no_grid() -> None:
    row = [50, *frames([START, *[IMAGE] * 4, END], 2), START, *[IMAGE] * 8, END, 51]
    [layout] = layouts_of(Aria(), CONFIG, [row], **features(row, 4))
    assert layout.grids == ((2, 1, 4), (1, 1, 8))


class TestVideoLlava:
    config: ClassVar = {**CONFIG, "vision_config": SimpleNamespace(image_size=16, patch_size=8)}

    @pytest.mark.parametrize("pixels", ["pixel_values", "pixel_values_images"])
    def test_a_class_token_with_every_frame(self, pixels: str) -> None:
        row = [50, *[VIDEO] * 15, 51, *[IMAGE] * 4, 52]
        call = {"pixel_values_videos": torch.zeros(1, 3, 3, 16, 16), pixels: torch.zeros(1, 3, 16, 16)}
        [layout] = layouts_of(VideoLlava(), self.config, [row], **call)
        check(layout, [("video", (3, 1, 5), [*range(1, 16)]), ("image", (1, 2, 2), [17, 18, 19, 20])])

    def test_no_whole_frames(self) -> None:
        with pytest.raises(ValueError, match=r"a run of 7 video tokens, which is no multiple of the 5 tokens"):
            layouts_of(VideoLlava(), self.config, [[*[VIDEO] * 7]], pixel_values_videos=torch.zeros(1, 3, 3, 16, 16))


class TestGemma4:
    """One run a frame, of grids of their own; padded patches tell how large they are."""

    config: ClassVar = {**CONFIG, "vision_config": SimpleNamespace(pooling_kernel_size=3)}
    rows: ClassVar = (
        [50, START, *[VIDEO] * 6, END, 51, START, *[VIDEO] * 6, END, 52],
        [60, START, *[IMAGE] * 4, END, 61, START, *[VIDEO] * 2, END, 62],
    )

    def places(self, *sizes: tuple[int, int]) -> torch.Tensor:
        """``(F, P, 2)`` of frames of so many rows and columns of tokens."""
        found = torch.full((len(sizes), 60, 2), -1)
        for own, (h, w) in zip(found, sizes, strict=True):
            rows, columns = torch.meshgrid(torch.arange(3 * h), torch.arange(3 * w), indexing="ij")
            own[: 9 * h * w] = torch.stack([columns, rows], -1).flatten(0, 1)
        return found

    def check(self, layouts: list[VisualLayout], *grids: tuple[int, int]) -> None:
        check(layouts[0], [("video", (2, *grids[0]), [*range(2, 8), *range(11, 17)])])
        pad = len(self.rows[0]) - len(self.rows[1])
        image = ("image", (1, *grids[1]), [pad + 2, pad + 3, pad + 4, pad + 5])
        check(layouts[1], [image, ("video", (1, *grids[2]), [pad + 9, pad + 10])])

    def test_with_pixels(self) -> None:
        call = {
            "pixel_values_videos": torch.zeros(3, 60, 27),
            "video_position_ids": self.places((2, 3), (2, 3), (1, 2)),
            "num_frames_per_video": torch.tensor([2, 1]),
            "pixel_values": torch.zeros(1, 60, 27),
            "image_position_ids": self.places((4, 1)),
        }
        self.check(layouts_of(Gemma4(), self.config, list(self.rows), **call), (2, 3), (4, 1), (1, 2))

    def test_in_generate(self) -> None:
        call = encoded(video=(torch.zeros(12, 8), torch.zeros(2, 8)), image=(torch.zeros(4, 8),))
        self.check(layouts_of(Gemma4(), self.config, list(self.rows), **call), (1, 6), (1, 4), (1, 2))
