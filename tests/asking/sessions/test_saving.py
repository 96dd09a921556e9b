"""Sessions that are saved and restored."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from framefusion import FrameFusion, assets, restore_session, session
from framefusion.asking.sessions import saving
from framefusion.asking.sessions.saving import SessionFileError
from framefusion.hf.timing import Times

SETTINGS = {
    "default": FrameFusion(),
    "all": FrameFusion(keep=1.0),
    "diversity": FrameFusion(cost=0.3, relevance="none"),
    "merging": FrameFusion(cost=0.5, merging=True, relevance="last"),
}


def talk(loaded, settings=None, **options):
    return session(loaded.model, loaded.processor, settings, max_new_tokens=5, **options)


def told(reply):
    return reply.text, reply.prefilled, reply.summary.tokens_per_layer


NAMES = ("llava_onevision", "qwen2_vl", "qwen3_vl", "gemma3", "qwen3_5", "internvl")
# In this hybrid decoder tokens merge no earlier than behind the third layer, which is all of the cost.
SAVED = [pair for pair in product(NAMES, SETTINGS) if pair != ("qwen3_5", "merging")]


@pytest.mark.covering(1)
@pytest.mark.parametrize(("name", "settings"), SAVED)
def test_a_restored_session_goes_on(family, video, tmp_path, name, settings):
    loaded = family(name)
    s = talk(loaded, SETTINGS[settings], history=True, memory=None if settings == "merging" else 90, chunk=4)
    s.add(video.frames[:5])
    s.ask("what?")
    s.save(tmp_path / "saved")
    other = restore_session(tmp_path / "saved", loaded.model, loaded.processor)
    assert (other.settings, other.history, other.chunk, other.memory) == (s.settings, True, 4, s.memory)
    assert other.turns == s.turns
    # Times are of what this process did.
    assert other.summary() == replace(s.summary(), times_adding=Times(), times_asking=None)
    assert told(other.ask("where?")) == told(s.ask("where?"))
    for each in (s, other):
        each.add(video.frames[5:])
        if name != "qwen3_5":
            each.add(Image.fromarray(video.frames[0]))
    assert told(other.ask("and now?")) == told(s.ask("and now?"))


def test_a_session_replaces_an_earlier_one(bundled, video, tmp_path):
    s = talk(bundled)
    s.save(tmp_path)
    assert restore_session(tmp_path, bundled.model, bundled.processor).summary().items == ()
    s.add(video)
    s.save(tmp_path)
    assert restore_session(tmp_path, bundled.model, bundled.processor).summary().frames == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == [saving.VALUES, saving.TENSORS]


def test_a_name_of_any_bytes_is_saved(bundled, tmp_path):
    """Names of files need not be text."""
    name = os.fsdecode(b"clip \xff\xc3\xbc.mp4")
    shutil.copy(assets.DEMO_VIDEO, tmp_path / name)
    s = talk(bundled)
    s.add(tmp_path / name, frames=2)
    s.save(tmp_path / "saved")
    assert restore_session(tmp_path / "saved", bundled.model, bundled.processor).summary().items == ((name, 2),)


def test_a_full_disk_leaves_the_session_that_was_there(bundled, video, tmp_path, monkeypatch):
    s = talk(bundled)
    s.add(video)
    s.save(tmp_path)

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    s.add(video)
    with pytest.raises(SessionFileError, match=r"cannot write .*: No space left on device"):
        s.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [saving.VALUES, saving.TENSORS]
    assert restore_session(tmp_path, bundled.model, bundled.processor).summary().frames == 8


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("counts", "forgotten"), "x"),
        (("counts", "adding"), None),
        (("items", 0, "frames"), 1.5),
        (("items", 0, "last"), float("nan")),
        (("items", 0, "stand_in", "duration"), []),
        (("prefix", "length"), -1),
        (("prefix", "layers", 0, "length"), 1.5),
        (("prefix", "end"), {}),
    ],
)
def test_a_number_that_was_edited_is_refused_at_once(bundled, video, tmp_path, place, value):
    """Not when it is counted on."""
    s = talk(bundled)
    s.add(video)
    s.save(tmp_path)
    values = json.loads((tmp_path / saving.VALUES).read_text())
    owner = values
    for name in place[:-1]:
        owner = owner[name]
    assert place[-1] in owner
    owner[place[-1]] = value
    (tmp_path / saving.VALUES).write_text(json.dumps(values))
    with pytest.raises(SessionFileError, match=f"is damaged .*{place[-1]} is "):
        restore_session(tmp_path, bundled.model, bundled.processor)


def test_what_is_no_session_is_refused(bundled, family, video, tmp_path):
    def restored(path):
        return restore_session(path, bundled.model, bundled.processor)

    with pytest.raises(SessionFileError, match="holds no session"):
        restored(tmp_path / "none")
    s = talk(bundled)
    s.add(video)
    folder = tmp_path / "saved"
    s.save(folder)
    other = family("llava_onevision")
    with pytest.raises(SessionFileError, match="was saved with LlavaOnevisionForConditionalGeneration"):
        restore_session(folder, other.model, other.processor)
    values = json.loads((folder / saving.VALUES).read_text())

    def write(**changes):
        (folder / saving.VALUES).write_text(json.dumps({**values, **changes}))

    write(id="another")
    with pytest.raises(SessionFileError, match="was not saved to its end"):
        restored(folder)
    write(schema=7)
    with pytest.raises(SessionFileError, match="no session of schema 1"):
        restored(folder)
    write(prefix={**values["prefix"], "grids": []})
    with pytest.raises(SessionFileError, match="is damaged"):
        restored(folder)
    write(items=[{}])
    with pytest.raises(SessionFileError, match="is damaged"):
        restored(folder)
    edited = load_file(folder / saving.TENSORS)
    edited["prefix.positions"] = edited["prefix.positions"][:, :-1].contiguous()
    write()
    whole = (folder / saving.TENSORS).read_bytes()
    save_file(edited, folder / saving.TENSORS, metadata={"id": values["id"]})
    with pytest.raises(SessionFileError, match=r"its tensors are not those that session\.json lists"):
        restored(folder)
    (folder / saving.TENSORS).write_bytes(whole)
    (folder / saving.VALUES).write_text("{")
    with pytest.raises(SessionFileError, match="is damaged"):
        restored(folder)
    write()
    tensors = (folder / saving.TENSORS).read_bytes()
    (folder / saving.TENSORS).write_bytes(tensors[: len(tensors) // 2])
    with pytest.raises(SessionFileError, match="is damaged"):
        restored(folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(SessionFileError, match=r"holds thesis.txt; save a session into a directory of its own"):
        s.save(tmp_path / "mine")
    (tmp_path / "file").write_text("")
    with pytest.raises(SessionFileError, match="cannot write"):
        s.save(tmp_path / "file")
