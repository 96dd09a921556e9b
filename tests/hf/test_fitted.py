"""Stages that are kept for a checkpoint: files, the nearest cost, and what happens where nothing is known."""

from __future__ import annotations

import json
import logging
import re

import pytest
import torch

import framefusion
from framefusion import FrameFusion
from framefusion.hf import fitted
from framefusion.hf.fingerprint import fingerprint
from framefusion.hf.fitted import Fitted, StagesFileError, file_of, recall, remember
from framefusion.reduction.schedule import STAGES
from tests.hf import models

EARLY, LATE, DEEP = ((0.0, 1.0), (0.25, 0.1)), ((0.0, 1.0), (0.75, 0.5)), ((0.5, 1.0),)


def entry(cost: float, stages) -> Fitted:
    return Fitted(cost=cost, stages=stages, prompts=8, divergence=0.1, default=0.2)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(fitted, "default_folder", lambda: tmp_path)
    monkeypatch.setattr(fitted, "_warned", set())
    return tmp_path


@pytest.fixture(scope="module")
def model():
    return models.build("llava_onevision").model


def test_several_costs_are_kept_in_one_file(tmp_path):
    assert recall("01234567", tmp_path) == []
    path = remember("01234567", entry(0.3, LATE), tmp_path / "new")
    remember("01234567", entry(0.1, EARLY), tmp_path / "new")
    remember("01234567", entry(0.3, STAGES), tmp_path / "new")
    assert recall("01234567", tmp_path / "new") == [entry(0.1, EARLY), entry(0.3, STAGES)]
    assert [file.name for file in path.parent.iterdir()] == ["01234567.json"]
    assert recall("76543210", tmp_path / "new") == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        '{"schema": 1}',
        '{"schema": 2, "probed": []}',
        '{"schema": 1, "probed": [{}]}',
        '{"schema": 1, "probed": 3}',
        json.dumps({"schema": 1, "probed": [{**vars(entry(0.3, LATE)), "stages": [[0, 2]]}]}),
        json.dumps({"schema": 1, "probed": [{**vars(entry(0.3, LATE)), "stages": "auto", "more": 1}]}),
        json.dumps({"schema": 1, "probed": [{**vars(entry(0.3, LATE)), "cost": 7}]}),
    ],
)
def test_a_damaged_file_is_named_and_a_new_probe_replaces_it(folder, model, text):
    checkpoint = fingerprint(model)
    path = file_of(checkpoint)
    path.write_text(text)
    with pytest.raises(StagesFileError, match=re.escape(f"{path} is damaged")) as raised:
        recall(checkpoint)
    assert "delete it, or probe the model again" in str(raised.value)
    with pytest.raises(ValueError, match="is damaged"):
        framefusion.attach(model, FrameFusion(stages="auto"))
    framefusion.attach(model).detach()
    remember(checkpoint, entry(0.3, LATE))
    assert recall(checkpoint) == [entry(0.3, LATE)]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StagesFileError, match=r"cannot write .*01234567\.json"):
        remember("01234567", entry(0.3, LATE), tmp_path / "taken")
    (tmp_path / "01234567.json").mkdir()
    with pytest.raises(StagesFileError, match=r"cannot read .*01234567\.json: Is a directory"):
        recall("01234567", tmp_path)


@pytest.mark.parametrize(
    ("cost", "stages"),
    [(0.3, LATE), (0.15, EARLY), ([0.2, 0.9], EARLY), (0.7, DEEP), (0.5, LATE), ([0.45, 0.9], LATE), (1.0, DEEP)],
)
def test_the_nearest_cost_that_can_be_reached_is_followed(folder, model, cost, stages):
    for known in (entry(0.1, EARLY), entry(0.32, LATE), entry(0.6, DEEP)):
        remember(fingerprint(model), known)
    with framefusion.attach(model, FrameFusion(cost=cost, stages="auto")) as run:
        assert run.settings == FrameFusion(cost=cost, stages=stages)
        assert run.stages_from == "probed"


def test_where_nothing_is_known_the_default_is_taken_with_one_warning(folder, model, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with framefusion.attach(model, FrameFusion(stages="auto")) as run:
                assert run.settings == FrameFusion()
                assert run.stages_from == "default"
    (record,) = caplog.records
    assert record.message.startswith("stages='auto': this LlavaOnevisionForConditionalGeneration was not probed yet")
    assert "framefusion probe --model" in record.message


def test_a_run_tells_where_its_stages_come_from(folder, model):
    for settings, origin in (
        (FrameFusion(), "default"),
        (FrameFusion(stages=LATE), "given"),
        (FrameFusion(keep=0.5), None),
        (FrameFusion(merge=True, cost=0.6), None),
    ):
        with framefusion.attach(model, settings) as run:
            assert run.stages_from == origin
            assert run.settings == settings


def test_the_fingerprint_changes_with_the_weights(model):
    other = models.build("llava_onevision").model
    assert fingerprint(other) == fingerprint(model)
    with torch.no_grad():
        other.get_input_embeddings().weight[0, 0] += 1
    assert fingerprint(other) != fingerprint(model)
    assert len(fingerprint(other.to("meta"))) == 8
