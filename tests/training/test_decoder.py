from functools import partial

import pytest
import torch
import train_decoder
from batches import BatchPlan
from decoder import Readouts, layer_step, lookup_loss, losses
from lessons import make_batch
from train_decoder import run_batch
from vision import IGNORE

from framefusion.evaluation.needle.questions import SORTS


@torch.no_grad()
def alone(family, model, texts, batch, video, number):
    """Logits at the answering places of one question behind its video, by the class's own decoder."""
    core = model.model
    embed = core.get_input_embeddings()
    start = texts.encode(family.opening)
    skip = int(batch.padding[video, number])
    ids = batch.ids[video, number, skip:]
    features = torch.cat([batch.features[video], family.closing(model)[None]])
    states = torch.cat([embed(torch.tensor(start)), features, embed(ids)])[None]
    seen, end = family.positions(batch.places[video], batch.visual // 64, len(start))
    text = [torch.arange(len(start)), torch.arange(end, end + 1 + len(ids))]
    before, behind = (part.expand(*seen.shape[:-1], -1) for part in text)
    places = torch.cat([before, seen, behind], dim=-1)
    # Without a mask, gaps in the positions would be taken for the borders of packed sequences.
    mask = torch.ones(1, states.shape[1], dtype=torch.long)
    output = core.language_model(
        inputs_embeds=states, use_cache=False, position_ids=places.unsqueeze(-2), attention_mask=mask
    )
    return model.lm_head(output.last_hidden_state)[0, -3:]


@pytest.mark.parametrize(("half", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_packed_questions_compute_what_each_computes_alone(family, model, texts, bank, monkeypatch, half, tolerance):
    monkeypatch.setattr(train_decoder, "layer_step", partial(layer_step, half=half))
    batch = make_batch(2, BatchPlan(2, 8 * family.frames_per_slot, 90, 5), bank, texts, 0)
    # noise tells tokens apart, which the bank's features do not
    batch = batch.__class__(**(vars(batch) | {"features": torch.randn(2, 90, 128)}))
    with torch.no_grad():
        packed = run_batch(family, model, texts, batch).logits
    for video in range(2):
        for number in range(5):
            expected = alone(family, model, texts, batch, video, number)
            error = (packed[video, number] - expected).abs().max()
            assert error < tolerance * expected.abs().max()
    if half != torch.float32:
        return
    shuffled = batch.ids.clone()
    shuffled[:, 1:] = shuffled[:, :1]
    other = batch.__class__(**(vars(batch) | {"ids": shuffled, "padding": batch.padding[:, :1].expand(-1, 5).clone()}))
    with torch.no_grad():
        assert torch.equal(run_batch(family, model, texts, other).logits[:, 0], packed[:, 0])


def test_every_trained_weight_gets_a_gradient(family, model, texts, bank):
    batch = make_batch(4, BatchPlan(2, 8 * family.frames_per_slot, 120, 8), bank, texts, 0)
    readouts = Readouts(128)
    total, logged = losses(run_batch(family, model, texts, batch), readouts, batch)
    total.backward()
    assert torch.isfinite(total)
    assert {"answer", "right", "parse", "lookup"} < set(logged)
    for name, parameter in [*model.model.language_model.named_parameters(), *readouts.named_parameters()]:
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    model.zero_grad()


def test_looking_at_the_evidence_is_rewarded():
    evidence = torch.zeros(1, 2, 5, dtype=torch.bool)
    evidence[0, 0, 3] = True
    answers = torch.tensor([[[7, 3, IGNORE], [7, 3, IGNORE]]])
    low, high = (torch.full((4, 1, 2, 2, 2), share) for share in (0.1, 0.9))
    sorts = torch.full((1, 2), SORTS.index("main"))
    assert lookup_loss(high, answers, evidence, sorts)[0] < lookup_loss(low, answers, evidence, sorts)[0]
    assert lookup_loss(high, answers, evidence, sorts)[1] == pytest.approx(0.9, abs=1e-3)
    # deep layers may look elsewhere to count
    deep = torch.cat([high[:2], low[2:]])
    counts = torch.full((1, 2), SORTS.index("count"))
    assert lookup_loss(deep, answers, evidence, counts)[1] == pytest.approx(0.9, abs=1e-3)
    assert lookup_loss(deep, answers, evidence, sorts)[1] < 0.5


def test_attention_to_the_evidence_is_a_share(family, model, texts, bank):
    batch = make_batch(2, BatchPlan(1, 8 * family.frames_per_slot, 60, 3), bank, texts, 0)
    all_seen = batch.__class__(**(vars(batch) | {"evidence": torch.ones_like(batch.evidence)}))
    paid = run_batch(family, model, texts, all_seen).paid
    assert paid.shape == (4, 1, 2, 3, 2)
    assert (paid > 0).all()
    assert (paid < 1).all()
