"""Controls of the oracle, and rows of a batch; what is said in every way is in the matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import framefusion
from framefusion.hf import inputs as inputs_module
from tests.hf import models, oracle
from tests.hf.case import Case, Image, Part, Video
from tests.hf.prompts import PROMPTS
from tests.hf.ways import PLANS, TOLERANCE, generate


def test_merge_and_prune_does_both() -> None:
    case = models.build("qwen2_5_vl")
    with framefusion.attach(case.model, PLANS["merge, then prune"]) as run:
        case.model(**case.inputs(PROMPTS["single"](case)))
    stages = run.stages
    assert [stage.layer for stage in stages] == [0, 1]
    assert stages[0].merged_into is not None
    assert -1 not in stages[0].merged_into[0]
    assert (stages[1].merged_into[0] == -1).any()


# The decoder of Nemotron-H-Omni has no positions.
@pytest.mark.parametrize("name", [name for name in models.BUILDERS if name != "nemotron_h_omni"])
def test_renumbered_positions_fail_the_oracle(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a plausible mistake is far outside the tolerance."""

    def renumber(embeddings: tuple[Tensor, ...], columns: Tensor) -> tuple[Tensor, ...]:
        return tuple(table[..., : columns.shape[1], :] for table in embeddings)

    case = models.build(name)
    inputs = case.inputs(PROMPTS["single"](case))
    monkeypatch.setattr(inputs_module, "gather_positions", renumber)
    with framefusion.attach(case.model, PLANS["two stages"]) as run:
        out = generate(case, inputs)
    expected = oracle.logits(case.model, inputs, run.stages, out.sequences)
    assert (torch.stack(out.logits, 1) - expected).abs().max() > 100 * TOLERANCE


def mixed(case: Case) -> list[list[list[Part]]]:
    """Batches of any mix that the family takes: videos, text alone, images alone, images beside a video."""
    ragged, video, image = PROMPTS["ragged"](case), (6, *case.frame), Image(*case.frame)
    alone: list[list[Part]] = [[3, image, 4, image, 2], [7, image, 1], [6]]
    if "image" not in case.takes:
        return [ragged]
    if not case.mixes or "pixel_values_videos" not in case.encode([Video(*video)], []):
        # One stream of pixels, which the tiny models' inputs only fill in order for one kind.
        return [ragged, alone]
    return [[*ragged, *alone, [2, image, 3, video, 1, image, 5]]]


@pytest.mark.covering(1)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("plan", ["merge, then prune", "before layer 0"])
@pytest.mark.parametrize("name", models.apart())
def test_a_row_of_a_batch_equals_the_row_alone(name: str, plan: str, side: str) -> None:
    """Any mix of lengths, videos, images and text; each row in turn comes first, where its pixels are known."""
    case = models.build(name)
    for order in [rows[first:] + rows[:first] for rows in mixed(case) for first in range(len(rows))]:
        batch = case.inputs(order, side)
        real = batch["attention_mask"][0].bool()
        parts = [part for part in order[0] if not isinstance(part, int)]
        videos = [Video(*part) for part in parts if not isinstance(part, Image)]
        images = [part for part in parts if isinstance(part, Image)]
        ids = batch["input_ids"][:1, real]
        alone = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **case.types(ids)}
        alone |= case.encode(videos, images) if parts else {}
        with framefusion.attach(case.model, PLANS[plan]) as run, torch.no_grad():
            expected = case.model(**alone, **oracle.positions(case.model, alone["attention_mask"])).logits[0, -1]
            single = {stage.layer: stage for stage in run.stages}
            got = case.model(**batch, **oracle.positions(case.model, batch["attention_mask"])).logits[0, -1]
            together = {stage.layer: stage for stage in run.stages}
        torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=0)
        assert bool(single) == bool(parts)
        column = real.nonzero().squeeze(-1)
        for layer, stage in single.items():
            assert torch.equal(column[stage.kept[0]], together[layer].kept[0])
