"""Token merging inside towers, held to the official tower at full length, family by family.

There a row that stands for several is so many copies of their mean: as keys they weigh as much, and behind every block
they are alike again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import framefusion
from framefusion import Changed, FrameFusion, ToMe
from framefusion.hf.families import find
from framefusion.hf.towers import running, tome
from tests.hf import models
from tests.hf.case import Case
from tests.hf.towers.oracle import features
from tests.hf.towers.test_towers import FOLLOWED, TOLERANCE, videos


@pytest.fixture(params=FOLLOWED)
def case(request: pytest.FixtureRequest) -> Case:
    return models.build(request.param)


def merging(work: float) -> FrameFusion:
    """The tower alone: the decoder keeps all tokens."""
    return FrameFusion(cost=1.0, tower=ToMe(work))


def least(case: Case) -> float:
    kind = find(case.model.base_model).tower
    assert kind is not None
    blocks = len(kind.blocks(kind.module(case.model.base_model)))
    return 1 - (blocks - 1) / (2 * blocks)


@contextmanager
def noted() -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Behind each block, where each of all rows is then and which of all rows gave it its position."""
    steps: list[tuple[Tensor, Tensor]] = []
    merge = tome.Run._merge

    def noting(run: Any, hidden: Tensor, lengths: Any) -> Any:
        place, kept = merge(run, hidden, lengths)
        if len(run._places) == 1:
            steps.append((place, kept))
        else:
            before, position = steps[-1]
            steps.append((place[before], position[kept]))
        return place, kept

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tome.Run, "_merge", noting)
        yield steps


@contextmanager
def at_full_length(case: Case, steps: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Inside the block rows that merged are copies of their mean behind each block, at one position."""
    kind = find(case.model.base_model).tower
    assert kind is not None
    blocks = kind.blocks(kind.module(case.model.base_model))

    def behind(step: int) -> Any:
        def merged(module: Any, args: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            rows, place = hidden.flatten(0, -2), steps[step][0]
            copies = torch.stack([rows[place == own].mean(0) for own in place.tolist()]).view_as(hidden)
            return (copies, *output[1:]) if isinstance(output, tuple) else copies

        return merged

    def before(step: int) -> Any:
        def positioned(module: Any, args: Any, kwargs: Any) -> Any:
            tables = kwargs.get("position_embeddings")
            if tables is None:
                return None
            place, kept = steps[step]
            return args, {**kwargs, "position_embeddings": tuple(table[kept[place]] for table in tables)}

        return positioned

    hooks = []
    for index in range(len(blocks) - 1):
        hooks.append(blocks[index].register_forward_hook(behind(index), prepend=True))
        hooks.append(blocks[index + 1].register_forward_pre_hook(before(index), with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.covering(1)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_equals_the_oracle(case: Case, attention: str) -> None:
    case.model.set_attn_implementation(attention)
    inputs, work = videos(case), (1 + least(case)) / 2
    with noted() as steps, framefusion.attach(case.model, merging(work)):
        got = features(case, inputs)
    assert steps
    with at_full_length(case, steps):
        wanted = features(case, inputs)
    plain = features(case, inputs)
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        if "hidden" in name:
            continue  # Of the states between blocks it says those before they merge.
        torch.testing.assert_close(got[name], value, atol=TOLERANCE, rtol=TOLERANCE)
        assert got[name].shape == plain[name].shape
        # The oracle could notice.
        assert (plain[name] - value).abs().max() > 100 * TOLERANCE


def test_all_of_the_work_is_the_plain_tower_and_nothing_stays_behind(case: Case) -> None:
    inputs = videos(case)
    plain = features(case, inputs)
    with framefusion.attach(case.model, merging(1.0)):
        got = features(case, inputs)
    for name, value in plain.items():
        torch.testing.assert_close(got[name], value, atol=TOLERANCE, rtol=TOLERANCE)
    again = features(case, inputs)
    assert all(torch.equal(again[name], value) for name, value in plain.items())
    kind = find(case.model.base_model).tower
    assert kind is not None
    tower = kind.module(case.model.base_model)
    assert not any(isinstance(vars(module).get("config"), running.TowerConfig) for module in tower.modules())


def test_images_are_left_alone_and_the_share_is_reported(case: Case) -> None:
    work = (1 + least(case)) / 2
    with framefusion.attach(case.model, merging(work)) as run:
        case.model(**videos(case), use_cache=False)
        assert run.summary().tower_share == pytest.approx(work, abs=0.2)
        assert run.summary().tower_share < 1


def test_less_than_a_tower_can_do_is_refused(case: Case) -> None:
    with pytest.raises(ValueError, match=r"ToMe.work must be at least"):
        framefusion.attach(case.model, merging(least(case) - 0.1))


def test_flash_attention_is_refused() -> None:
    with pytest.raises(RuntimeError, match="flash attention does not take"):
        tome.Run([[4, 3]], 0, "flash_attention_2")


@pytest.mark.parametrize(("name", "warned"), [("qwen2_5_vl", True), ("qwen2_vl", False)])
def test_merging_within_windows_warns(name: str, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    model = models.build(name).model
    with framefusion.attach(model, merging(0.9)):
        assert ("lost answers" in caplog.text) == warned
    caplog.clear()
    with framefusion.attach(model, FrameFusion(tower=Changed(std=(0.5,)))):
        assert caplog.text == ""
