"""Data sets and checkpoints by name."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from framefusion.evaluation import SETS
from framefusion.evaluation.checkpoints import CHECKPOINTS, open_model


@pytest.mark.parametrize("name", SETS)
def test_every_named_set_is_made_of_a_number_of_videos_a_seed_and_kinds(name: str) -> None:
    known = SETS[name]
    data = known(3, 1, known.known_kinds[:1])
    assert known.usual_videos > 0
    assert known.usual_model is None or known.usual_model in CHECKPOINTS
    assert pickle.loads(pickle.dumps(data)) == data
    assert len({made.name for made in (data, known(3, 2, known.known_kinds[:1]), known(3, 1))}) == 3
    assert known(4, 1, known.known_kinds[:1]).name == data.name


def test_a_checkpoint_is_opened_by_its_name(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHECKPOINTS, "made", lambda: checkpoints["llava-onevision"])
    assert open_model({"model": "made", "device": "cpu"}).name == "made"
    plain = open_model({"model": str(checkpoints["llava-onevision"]), "device": "cpu"})
    assert plain.name == str(checkpoints["llava-onevision"])
