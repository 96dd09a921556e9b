"""The bundled model behind a desk, and files as visitors bring them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from framefusion.app.desk import Asked, Desk
from framefusion.app.limits import Limits
from framefusion.asking.loading import LoadedModel, load
from framefusion.assets import DEMO_VIDEO, REAL_VIDEO
from framefusion.reduction.settings import FrameFusion

FRAMES = 8
LIMITS = Limits(upload=2**21, seconds=30, frames=16)


@pytest.fixture(scope="session")
def bundled() -> LoadedModel:
    return load(device="cpu")


@pytest.fixture(autouse=True)
def one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are compared, not timed."""
    monkeypatch.setattr("framefusion.asking.ask._ROUNDS", 1)


class Clock:
    """Seconds that a test moves on."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def command(asked: Asked) -> str:
    return f"{asked.shown.name} {asked.question} {asked.cost} {asked.frames}"


@pytest.fixture
def make(bundled: LoadedModel, clock: Clock) -> Any:
    made: list[Desk] = []

    def desk(limits: Limits = LIMITS, **more: Any) -> Desk:
        examples = {path.name: path for path in (DEMO_VIDEO, REAL_VIDEO)}
        options: dict[str, Any] = {"max_new_tokens": 8, "clock": clock, **more}
        made.append(Desk(bundled, lambda cost: FrameFusion(cost=cost), command, limits, examples, **options))
        return made[-1]

    yield desk
    for one in made:
        one.close()


@pytest.fixture
def desk(make: Any) -> Desk:
    return make()


@pytest.fixture
def upload(tmp_path: Path) -> Any:
    """A copy of a file, or a file of some bytes, where an upload would lie."""

    def at(name: str, source: Path | bytes = DEMO_VIDEO) -> str:
        path = tmp_path / "uploads" / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(source, bytes):
            path.write_bytes(source)
        else:
            shutil.copy(source, path)
        return str(path)

    return at


def clip(path: Path, *, seconds: float = 1, size: tuple[int, int] = (64, 48), codec: str = "mpeg4") -> Path:
    """A grey clip that becomes brighter, 25 frames a second."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        count = int(25 * seconds)
        for number in range(count):
            shade = np.full((size[1], size[0], 3), 255 * number // count, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
        out.mux(stream.encode(None))
    return path
