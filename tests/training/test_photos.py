"""The training of the decoder of photographs: batches, and that it computes what the class computes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from batches import BatchPlan, Texts
from decoder import layer_step
from photos_decoder import OPENING, Readouts, losses, run_batch
from photos_lessons import CELLS, DENSE_SIZES, PhotoShown, SeenScene, compose, cut_out, make_batch
from photos_model import GRID, build, pool, processor, see
from photos_vision import Interface, labels_of
from transformers import Dinov2Config, Dinov2Model
from vision import IGNORE

from framefusion.asking.ask import model_inputs
from framefusion.asking.video import Video
from framefusion.evaluation.needle.photo_scenes import PHOTO_SIZE, sample_roles, sample_scene
from framefusion.evaluation.needle.photos import NAMES


@pytest.fixture(scope="module")
def seen() -> list[SeenScene]:
    """Scenes whose features are noise and whose things cover what their coverage says by chance."""
    rng, held = np.random.default_rng(0), []
    for _ in range(60):
        roles = sample_roles(rng)
        names = [NAMES[i] for i in rng.permutation(len(NAMES))[: len(roles)]]
        scene = sample_scene(rng, roles, names, "static", "train")
        owner = rng.integers(-2, len(scene.things), size=(6, CELLS)).astype(np.int8)
        held.append(SeenScene(scene, torch.randn(6, CELLS, 128).half(), owner))
    return held


@pytest.fixture(scope="module")
def texts() -> Texts:
    return Texts(processor().tokenizer)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=48, num_attention_heads=3, num_hidden_layers=2, image_size=PHOTO_SIZE, use_mask_token=False
    )
    return build(Dinov2Model(config)).eval()


@torch.no_grad()
def test_tokens_are_those_of_the_class(model: torch.nn.Module) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (8, PHOTO_SIZE, PHOTO_SIZE, 3)).astype(np.uint8)
    chosen = np.arange(8)
    video = Video(frames, chosen / 2, chosen, 4.0, 2.0, 8, Path("noise"))
    made = model_inputs(video, "which way does the cow move?", model, processor())
    features = model.model.get_video_features(made["pixel_values_videos"], return_dict=True).pooler_output[0]
    pixels = torch.from_numpy(frames).movedim(-1, 1).float() / 127.5 - 1
    mine = pool(model.model.multi_modal_projector(see(model.model.vision_tower, pixels))).flatten(0, 1)
    assert (mine - features[:-1]).abs().max() < 1e-4 * mine.abs().max()
    assert torch.equal(features[-1], model.model.image_newline)
    (ids,) = made["input_ids"].tolist()
    texts = Texts(processor().tokenizer)
    opening, question = texts.encode(OPENING), texts.prompt("which way does the cow move?")
    assert ids[: len(opening)] == opening
    assert ids[-len(question) :] == question
    assert len(ids) == len(opening) + 8 * CELLS + 1 + len(question)
    assert texts.unknown not in ids


def test_labels_are_read_off_the_coverage_cell_by_cell(seen: list[SeenScene]) -> None:
    rng = np.random.default_rng(1)
    scene = max((item.scene for item in seen), key=lambda one: len(one.things))
    coverage = rng.choice([0.0, 0.01, 0.08, 0.5, 0.6], size=(len(scene.things), 6, GRID, GRID)).astype(np.float16)
    name, role = labels_of(scene, coverage)
    for frame in range(6):
        for cell in range(CELLS):
            shares = coverage[:, frame, cell // GRID, cell % GRID]
            expected = (IGNORE, IGNORE)
            if shares.max() >= 0.15:
                thing = scene.things[int(shares.argmax())]
                expected = (NAMES.index(thing.kind), {"large": 1, "small": 2}.get(thing.role, 3))
            elif shares.max() < 0.03:
                expected = (len(NAMES), 0)
            assert (int(name[frame, cell]), int(role[frame, cell])) == expected


def test_a_target_is_the_sum_of_its_effects() -> None:
    made = Interface(*(torch.randn(n, 128) for n in (1, 24, 4, GRID, GRID)))
    made = Interface(made.base[0], made.names, made.roles, made.columns, made.rows)
    name, role = torch.randint(25, (3, CELLS)), torch.randint(4, (3, CELLS))
    name[0, :3] = 24
    targets = made.targets(name, role)
    for frame in range(3):
        for cell in range(CELLS):
            expected = made.base + made.roles[role[frame, cell]] + made.columns[cell % GRID] + made.rows[cell // GRID]
            if name[frame, cell] < 24:
                expected = expected + made.names[name[frame, cell]]
            assert torch.allclose(targets[frame, cell], expected, atol=1e-5)


@pytest.mark.parametrize("length", [2, 3, 4, 5, 6])
def test_a_shorter_scene_is_evenly_spaced_and_shows_its_needle(seen: list[SeenScene], length: int) -> None:
    rng = np.random.default_rng(length)
    for item in seen:
        numbered = SeenScene(item.scene, torch.arange(6.0)[:, None, None].expand(6, CELLS, 128), item.owner)
        short = cut_out(rng, numbered, length)
        chosen = short.features[:, 0, 0].int().tolist()
        assert len(chosen) == length
        assert len(set(np.diff(chosen).tolist())) == 1
        assert np.array_equal(short.owner, item.owner[chosen])
        for thing in item.scene.things:
            if thing.role == "needle":
                assert int(thing.moment * 6) in chosen


def test_evidence_lies_on_what_the_question_is_about(seen: list[SeenScene], texts: Texts) -> None:
    batch = make_batch(3, BatchPlan(3, 16, 200, 12), seen, texts, 0)
    assert batch.features.shape == (3, 200, 128)
    assert (batch.places.diff() > 0).all()
    assert batch.places.max() < batch.visual == 16 * CELLS
    asked = batch.kinds != ""
    assert asked.any()
    assert (batch.evidence.any(-1).numpy() == asked).all()
    assert ((batch.answers != IGNORE).any(-1).numpy() == asked).all()
    assert {name: tuple(part.shape) for name, part in batch.dense.items()} == dict.fromkeys(DENSE_SIZES, (3, 200))
    for name, size in DENSE_SIZES.items():
        assert batch.dense[name].max() < size


def test_dense_labels_tell_nothing_before_it_was_seen(seen: list[SeenScene]) -> None:
    rng = np.random.default_rng(5)
    for _ in range(5):
        video, scenes = compose(rng, seen, 16)
        shown = PhotoShown(rng, video, scenes, 150)
        labels, known = shown.dense(), set()
        for index in range(150):
            s = int(shown.scene[index])
            if shown.owner[index] == 0:
                known.add(s)
            expected = NAMES.index(video.scenes[s].large.kind) if s in known else IGNORE
            assert labels["scene_name"][index] == expected
            assert labels["ordinal"][index] == (s if s in known else IGNORE)


@torch.no_grad()
def test_packed_questions_compute_what_each_computes_alone(
    seen: list[SeenScene], texts: Texts, model: torch.nn.Module
) -> None:
    batch = make_batch(2, BatchPlan(2, 8, 90, 4), seen, texts, 0)
    packed = run_batch(model, texts, batch, partial(layer_step, half=torch.float32)).logits
    embed, start = model.get_input_embeddings(), texts.encode(OPENING)
    for video in range(2):
        for number in range(4):
            ids = batch.ids[video, number, int(batch.padding[video, number]) :]
            middle = torch.cat([batch.features[video], model.model.image_newline[None]])
            states = torch.cat([embed(torch.tensor(start)), middle, embed(ids)])[None]
            first = len(start)
            end = first + batch.visual
            places = torch.cat(
                [torch.arange(first), batch.places[video] + first, torch.arange(end, end + 1 + len(ids))]
            )
            mask = torch.ones(1, states.shape[1], dtype=torch.long)
            output = model.model.language_model(
                inputs_embeds=states, use_cache=False, position_ids=places[None], attention_mask=mask
            )
            expected = model.lm_head(output.last_hidden_state)[0, -3:]
            assert (packed[video, number] - expected).abs().max() < 1e-4 * expected.abs().max()


def test_every_trained_weight_gets_a_gradient(seen: list[SeenScene], texts: Texts, model: torch.nn.Module) -> None:
    batch = make_batch(4, BatchPlan(2, 16, 160, 8), seen, texts, 0)
    readouts = Readouts(128)
    total, logged = losses(run_batch(model, texts, batch), readouts, batch, 0.5)
    total.backward()
    assert torch.isfinite(total)
    assert {"answer", "right", "lookup", "needle"} < set(logged)
    for name, parameter in [*model.model.language_model.named_parameters(), *readouts.named_parameters()]:
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    model.zero_grad()
