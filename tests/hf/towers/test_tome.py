"""Token merging inside towers, held to the official tower at full length, family by family.

There a row that stands for several is so many copies of their mean: as keys they weigh as much, and behind every block
they are alike again. In blocks with windows all of them attend in the window of the row that the others merged into.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import framefusion
from framefusion import FrameFusion, ToMe
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
def at_full_length(case: Case, steps: list[tuple[Tensor, Tensor]]) -> Iterator[list[int]]:
    """Inside the block rows that merged are copies of their mean behind each block, at one position and in one window;
    gives how many rows of each such block attend in another window than their own."""
    kind = find(case.model.base_model).tower
    assert kind is not None
    blocks = kind.blocks(kind.module(case.model.base_model))
    moved: list[int] = []
    order: list[Tensor] = []

    def behind(step: int) -> Any:
        def merged(module: Any, args: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            rows, place = hidden.flatten(0, -2), steps[step][0]
            copies = torch.stack([rows[place == own].mean(0) for own in place.tolist()]).view_as(hidden)
            return (copies, *output[1:]) if isinstance(output, tuple) else copies

        return merged

    def before(step: int) -> Any:
        def positioned(module: Any, args: Any, kwargs: Any) -> Any:
            place, kept = steps[step]
            position = kept[place]
            if kwargs.get("position_embeddings") is not None:
                kwargs = {**kwargs, "position_embeddings": tuple(t[position] for t in kwargs["position_embeddings"])}
            if kwargs.get("cu_seqlens") is not None:
                args, kwargs = window_by_window(position, args, kwargs)
            return args, kwargs

        return positioned

    def window_by_window(position: Tensor, args: Any, kwargs: Any) -> Any:
        """The rows in the order of the windows that ``position`` lies in, and where those begin."""
        bounds = kwargs["cu_seqlens"].tolist()
        window = [sum(first <= own for first in bounds[:-1]) for own in position.tolist()]
        moved.append(sum(own != sum(first <= row for first in bounds[:-1]) for row, own in enumerate(window)))
        order[:] = [torch.tensor(sorted(range(len(window)), key=lambda row: window[row]))]
        firsts = [sum(own < number for own in window) for number in sorted(set(window))]
        given = {"cu_seqlens": kwargs["cu_seqlens"].new_tensor([*firsts, len(window)])}
        if kwargs.get("position_embeddings") is not None:
            given["position_embeddings"] = tuple(table[order[0]] for table in kwargs["position_embeddings"])
        if args:
            return (args[0][order[0]], *args[1:]), {**kwargs, **given}
        return args, {**kwargs, **given, "hidden_states": kwargs["hidden_states"][order[0]]}

    def back(module: Any, args: Any, output: Any) -> Any:
        """The rows in their own order again."""
        return output[order.pop().argsort()] if order else None

    hooks = []
    for index in range(len(blocks) - 1):
        hooks.append(blocks[index].register_forward_hook(behind(index), prepend=True))
        hooks.append(blocks[index + 1].register_forward_pre_hook(before(index), with_kwargs=True))
    hooks.extend(block.register_forward_hook(back, prepend=True) for block in blocks)
    try:
        yield moved
    finally:
        for hook in hooks:
            hook.remove()


def hold_to_the_oracle(case: Case) -> list[int]:
    """Gives how many rows attend in another window than their own, per block with windows or frames."""
    inputs, work = videos(case), (1 + least(case)) / 2
    with noted() as steps, framefusion.attach(case.model, merging(work)):
        got = features(case, inputs)
    assert steps
    with at_full_length(case, steps) as moved:
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
    return moved


@pytest.mark.covering(1)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_equals_the_oracle(case: Case, attention: str) -> None:
    case.model.set_attn_implementation(attention)
    hold_to_the_oracle(case)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["qwen2_5_vl", "exaone4_5"])
def test_patches_merge_across_windows(name: str, attention: str) -> None:
    case = models.build(name, attention)
    # Windows behind what merges, which the tiny towers have before it.
    case.model.base_model.visual.fullatt_block_indexes = [0]
    assert any(hold_to_the_oracle(case))


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
