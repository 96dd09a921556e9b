"""Which cells an evaluation has."""

import dataclasses

import pytest

from framefusion.evaluation.cells import GROUPS, MethodError, Unreachable, choose, plan
from framefusion.evaluation.methods import METHODS
from framefusion.reduction.settings import FrameFusion


@pytest.fixture
def model(models):
    return models["llava-onevision"].model


def names(methods):
    return [method.name for method in methods]


def test_methods_are_chosen_by_name_and_group():
    assert names(choose(["evs", "fastv", "evs"])) == ["full", "evs", "fastv"]
    assert names(choose(["all"])) == list(METHODS)
    for group, kind in GROUPS.items():
        found = choose([group])
        assert {method.kind for method in found} - {"control"} <= {kind}
        assert len(found) > 1
    assert set(names(choose(GROUPS))) == set(METHODS)


def test_unknown_methods_are_named_with_those_there_are():
    with pytest.raises(MethodError, match=r"no method 'fastvv'; there are full, .*fastv, .* all, controls, published"):
        choose(["evs", "fastvv"])
    with pytest.raises(MethodError) as caught:
        choose(["segment-dpp:windws"])
    assert "segment-dpp:windows" in str(caught.value)
    assert "fastv:text" not in str(caught.value)


def test_cells_of_each_kind_of_method(model):
    methods = choose(["text-only", "random", "fewer-frames", "uniform"])
    cells, missing = plan(model, methods, [0.5, 0.25], frames=8, seeds=3)
    found = [(cell.method, cell.budget, cell.seed, cell.shown, cell.blank) for cell in cells]
    assert found == [
        ("full", None, 0, 8, False),
        ("text-only", None, 0, 8, True),
        *(("random", 0.5, seed, 8, False) for seed in range(3)),
        *(("random", 0.25, seed, 8, False) for seed in range(3)),
        ("fewer-frames", 0.5, 0, 4, False),
        ("fewer-frames", 0.25, 0, 2, False),
        ("uniform", 0.5, 0, 8, False),
        ("uniform", 0.25, 0, 8, False),
    ]
    assert missing == []
    assert [cell.settings.seed for cell in cells if cell.method == "random"] == [0, 1, 2] * 2
    assert len({cell.key for cell in cells}) == len(cells)
    assert all(cell.settings.keeps_all for cell in cells if cell.method in ("full", "text-only", "fewer-frames"))


def test_the_key_changes_with_the_settings(model):
    (full, cell), _ = plan(model, choose(["uniform"]), [0.5], frames=8, seeds=1)
    assert full.key != cell.key
    # Stored answers are found by the key: another one for the same settings asks every question again.
    assert dataclasses.replace(full, settings=FrameFusion(cost=0.3)).key.endswith("/41b251e9")
    assert cell.key == plan(model, choose(["uniform"]), [0.5], frames=8, seeds=1)[0][1].key
    changes = {"settings": FrameFusion(keep=0.5), "shown": 7, "blank": True, "frames": 9, "seed": 1, "budget": 0.4}
    keys = {dataclasses.replace(cell, **{name: value}).key for name, value in changes.items()}
    assert len(keys | {cell.key}) == len(changes) + 1


def test_budgets_out_of_reach_are_told(model):
    cells, missing = plan(model, choose(["fastv", "fewer-frames"]), [0.5, 0.05], frames=8, seeds=1)
    assert [(cell.method, cell.budget) for cell in cells] == [("full", None), ("fastv", 0.5), ("fewer-frames", 0.5)]
    assert [(lost.method, lost.budget, lost.frames) for lost in missing] == [
        ("fastv", 0.05, 8),
        ("fewer-frames", 0.05, 8),
    ]
    assert "the first layer of 4" in missing[0].reason


def test_what_a_model_cannot_do_is_told(model, caplog):
    method = dataclasses.replace(METHODS["uniform"], build=lambda budget, layers: FrameFusion(keep={9: budget}))
    cells, missing = plan(model, [method], [0.5], frames=8, seeds=1)
    assert cells == []
    assert isinstance(missing[0], Unreachable)
    assert "before layer 9, but the model has 4" in missing[0].reason
    assert "does not run on this model" in caplog.text


def test_a_defect_of_a_method_is_not_hidden(model):
    def broken(budget, layers):
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        plan(model, [dataclasses.replace(METHODS["uniform"], build=broken)], [0.5], frames=8, seeds=1)
