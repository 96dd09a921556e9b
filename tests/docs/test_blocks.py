"""Every block of code of the pages is run, in their order, in a folder with the files that they name.

Names of checkpoints on the hub are directories there, which lead to the bundled checkpoints; nothing is patched. A
block that cannot be run says why in the line before it (``<!-- not run: … -->``) and is counted here.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import framefusion
from framefusion.asking.loading import load
from framefusion.asking.prompts import model_inputs
from framefusion.asking.video import read_video
from framefusion.assets import BUNDLED, DEMO_QUESTIONS, DEMO_VIDEO
from framefusion.hf.families import FAMILIES
from framefusion.reduction.selectors import SELECTORS
from tests.docs import commands
from tests.docs.pages import ROOT, Block, blocks, name, pages, with_blocks

HUB = {
    "Qwen/Qwen2.5-VL-7B-Instruct": "bundled-qwen",
    "MODEL": "bundled-qwen",
}
"""What the pages call checkpoints, and the bundled one of the same class."""

NOT_RUN = {
    "docs/guides/adapted.md": 1,
    "docs/guides/calibration.md": 1,
    "docs/guides/vlmevalkit.md": 2,
    "docs/how-it-works/segment-dpp.md": 1,
}
"""How many blocks of a page are not run."""

GREETING = "Ctrl-D ends."
"""How a line ends that ``framefusion chat`` shows on a terminal alone."""

LANGUAGES = {"python", "sh", "console", "json", "text"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that pages name, and a home of its own, without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "src").symlink_to(ROOT / "src")
    (tmp_path / "clips").mkdir()
    for video in ("street.mp4", "video.mp4", "clips/street.mp4"):
        (tmp_path / video).symlink_to(DEMO_VIDEO)
    for shade, photo in enumerate(("before.jpg", "after.jpg", "photo.jpg")):
        Image.fromarray(np.full((64, 96, 3), 80 * shade, np.uint8)).save(tmp_path / photo)
    for checkpoint, bundled in HUB.items():
        (tmp_path / checkpoint).parent.mkdir(exist_ok=True)
        (tmp_path / checkpoint).symlink_to(BUNDLED[bundled])
    asked = json.loads(DEMO_QUESTIONS.read_text(encoding="utf-8"))[:2]
    rows = [{"video": "street.mp4", "question": row["question"], "answer": row["answer"]} for row in asked]
    for questions in ("questions.jsonl", "mine.jsonl"):
        (tmp_path / questions).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    framefusion.save_settings(tmp_path / "mine.json", framefusion.FrameFusion(cost=0.5))
    return tmp_path


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """What a page registers is gone behind it."""
    before = list(FAMILIES), dict(SELECTORS)
    yield
    FAMILIES[:] = before[0]
    SELECTORS.clear()
    SELECTORS.update(before[1])


@pytest.fixture
def names() -> dict[str, Any]:
    """What a reader of any page but the first one has."""
    loaded = load("bundled-qwen")
    video = read_video(DEMO_VIDEO, 32)
    inputs = model_inputs(video, "what colour is the star?", loaded.model, loaded.processor)
    return {
        "framefusion": framefusion,
        "FrameFusion": framefusion.FrameFusion,
        "model": loaded.model,
        "processor": loaded.processor,
        "inputs": inputs,
        "frames": video.frames[:4],
        "seconds": [8.0, 8.5, 9.0, 9.5],
    }


def run(block: Block, names: dict[str, Any]) -> None:
    if block.language == "python":
        padded = "\n" * (block.line - 1) + block.text  # a traceback names the line of the page
        exec(compile(padded, str(block.page), "exec"), names)
    elif block.language == "sh":
        commands.run(block.text)
    elif block.language == "console":
        follow(block.text)
    elif block.language == "json":
        for line in re.split(r"\n(?=\{)", block.text.strip()):
            if "schema" in json.loads(line):
                Path("written.json").write_text(line, encoding="utf-8")
                framefusion.load_settings("written.json")


def follow(text: str) -> None:
    """Run what is behind ``$``, type what is behind ``>``, and look for every other line in what is said."""
    for command in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        statement, *lines = re.sub(r"\\\n\s*", " ", command).splitlines()
        typed = "".join(f"{line[2:]}\n" for line in lines if line.startswith("> "))
        said = commands.run_one(statement, typed)
        for line in lines:
            assert line.startswith("> ") or line.endswith(GREETING) or line in said, said


@pytest.mark.parametrize("page", with_blocks(), ids=name)
def test_the_blocks_of_a_page(page: Path, folder: Path, names: dict[str, Any]) -> None:
    own = {} if page.name.startswith("README") else names
    for block in blocks(page):
        if block.reason is None:
            run(block, own)


def test_blocks_that_are_not_run_are_counted() -> None:
    counted = Counter(name(block.page) for page in pages() for block in blocks(page) if block.reason is not None)
    assert counted == NOT_RUN


def test_every_block_says_its_language() -> None:
    """Else nobody would run it."""
    for page in with_blocks():
        found = blocks(page)
        assert page.read_text(encoding="utf-8").count("```") == 2 * len(found), name(page)
        for block in found:
            assert block.language in LANGUAGES, (name(page), block.line)
