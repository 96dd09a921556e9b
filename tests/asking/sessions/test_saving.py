"""Sessions that are saved and restored."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import pytest
from PIL import Image

from framefusion import FrameFusion, restore_session, session
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
