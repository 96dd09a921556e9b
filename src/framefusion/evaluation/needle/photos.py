"""Photographs to find: cut-outs with names, as the stamps of Tux Paint have them.

The pictures are no part of this package (Debian's ``tuxpaint-stamps-default``, GPL-2+): every function that needs one
gets the folder of the stamps. A name is a word of the picture's own caption. Four names have a picture that is the test
split's alone; the others show those of training in both splits, at other places over other footage
(``training/README.md`` says why they are so few).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from framefusion.errors import ArgumentError
from framefusion.evaluation.needle.objects import Split, Thing

PICTURES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "airplane": (("vehicles/flight/planes/747",), ()),
    "apple": (
        ("food/fruit/apple_fuji", "food/fruit/apple_granny_smith", "food/fruit/apple_green", "food/fruit/apple_red"),
        ("food/fruit/apple_sierra_beauty",),
    ),
    "basketball": (("sports/basketball",), ()),
    "camera": (("hobbies/camera_35mm",), ()),
    "cow": (("animals/mammals/bovines/cow",), ()),
    "elephant": (("animals/mammals/elephant",), ()),
    "flower": (
        (
            "plants/flowers/flower1",
            "plants/flowers/flower10",
            "plants/flowers/flower2",
            "plants/flowers/flower3",
            "plants/flowers/flower6",
            "plants/flowers/flower9",
            "plants/flowers/yellow-flower",
        ),
        ("plants/flowers/flower8",),
    ),
    "frog": (("animals/amphibians/frog-1",), ()),
    "giraffe": (("animals/mammals/giraffe",), ()),
    "guitar": (
        (
            "hobbies/music/string/guitar2",
            "hobbies/music/string/guitar_classical",
            "hobbies/music/string/guitar_electric_bass",
        ),
        ("hobbies/music/string/guitar_electric",),
    ),
    "koala": (("animals/marsupials/koala",), ()),
    "mailbox": (("town/usps_mailbox",), ()),
    "mushroom": (("food/vegetables/mushroom",), ()),
    "orange": (
        ("food/fruit/mandarine", "food/fruit/orange", "food/fruit/sliced_orange"),
        (),
    ),
    "owl": (("animals/birds/owl",), ()),
    "penguin": (("animals/birds/little-penguin", "animals/birds/penguin"), ()),
    "pig": (("animals/mammals/pig", "animals/mammals/pig_golden"), ("animals/mammals/pig_golden2",)),
    "pineapple": (("food/fruit/pineapple",), ()),
    "rabbit": (
        ("animals/mammals/rabbit_little", "animals/mammals/rodents/rabbit-2"),
        (),
    ),
    "strawberry": (("food/fruit/Strawberry2",), ()),
    "teapot": (("household/dishes/teapot",), ()),
    "tiger": (("animals/mammals/cats/tiger",), ()),
    "truck": (("vehicles/auto/truck", "vehicles/emergency/firetruck"), ()),
    "zebra": (("animals/mammals/equines/zebra",), ()),
}
"""Pictures of each name, without ``.png``: those of training, and those of the test split alone."""
NAMES = tuple(PICTURES)
LARGEST = 128
"""Pixels of the longer side of a picture in memory."""


def pictures(name: str, split: Split) -> tuple[str, ...]:
    """The pictures of a name in a split; those of training where the test split has none of its own."""
    train, test = PICTURES[name]
    return test if split == "test" and test else train


@dataclass(frozen=True)
class Cutout(Thing):
    """A photographed thing of a scene: ``kind`` is its name, ``color`` is empty.

    Attributes:
        picture: its file below the folder of the stamps, without ``.png``.
        mirrored: whether left and right are exchanged.
    """

    picture: str = ""
    mirrored: bool = False

    @property
    def name(self) -> str:
        return self.kind


@lru_cache(maxsize=256)
def load_picture(folder: Path, picture: str) -> Image.Image:
    """A picture as RGBA, cut to what is visible, at most :data:`LARGEST` pixels long.

    Raises:
        ArgumentError: the folder has no such picture.
    """
    path = folder / f"{picture}.png"
    if not path.is_file():
        raise ArgumentError(f"folder must hold the stamps of Tux Paint, and {folder} has no {picture}.png.")
    image = Image.open(path).convert("RGBA")
    image = image.crop(image.getchannel("A").point(lambda value: 255 * (value > 20)).getbbox())
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return image


def paste(frame: np.ndarray, thing: Cutout, u: float, folder: Path) -> np.ndarray:
    """Paint ``thing`` at share ``u`` of its path into ``frame``, float32 ``(S, S, 3)``, in place.

    Its longer side is ``thing.size`` of the frame.

    Returns:
        Its coverage of every pixel, float32 ``(S, S)`` in 0 … 1.
    """
    size = frame.shape[0]
    image = load_picture(folder, thing.picture)
    if thing.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = thing.size * size / max(image.size)
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )
    image = image.rotate(np.degrees(-thing.rotation), Image.Resampling.BICUBIC, expand=True)
    painted = np.asarray(image, dtype=np.float32)
    left, top = (round(size * at - side / 2) for at, side in zip(thing.centre(u), image.size, strict=True))
    x0, y0 = max(0, left), max(0, top)
    x1, y1 = min(size, left + image.width), min(size, top + image.height)
    crop = painted[y0 - top : y1 - top, x0 - left : x1 - left]
    share = crop[..., 3] / 255
    region = frame[y0:y1, x0:x1]
    region += (crop[..., :3] - region) * share[..., None]
    alpha = np.zeros((size, size), dtype=np.float32)
    alpha[y0:y1, x0:x1] = share
    return alpha
