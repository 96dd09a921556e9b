"""Facts: what is generated, and that words handed in as visual tokens are what the decoder would read as text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from framefusion import log
from framefusion.asking.encodings import collate
from framefusion.asking.loading import LoadedModel
from framefusion.evaluation import DataError, EvaluationError, Generating, MethodError, Plan, evaluate
from framefusion.evaluation.answering import best_choice
from framefusion.evaluation.checkpoints import CHECKPOINTS
from framefusion.evaluation.data import middles, spread
from framefusion.evaluation.decoders import DECODERS
from framefusion.evaluation.facts import CONTROLS, Facts
from framefusion.evaluation.facts.scenes import FactVideo, fact_video
from framefusion.evaluation.facts.spelling import ASKED, BEFORE, LABEL, embedded, frame_tokens, spelled, tokens_of
from framefusion.evaluation.facts.wordings import WORDINGS
from framefusion.evaluation.run import too_hard
from framefusion.hf import attach
from framefusion.reduction.settings import FrameFusion
from tests.evaluation.fake import Noise
from tests.evaluation.tiny_decoders import TINY, tokenizer

FRAMES = 16


@pytest.fixture(scope="session", params=TINY)
def decoder(request: pytest.FixtureRequest) -> tuple[Any, LoadedModel]:
    """A language model, and the vision-language model around it."""
    plain = TINY[request.param]()
    model, processor = DECODERS[request.param].build(plain, tokenizer())
    return plain, LoadedModel(model, processor, request.param, "float32", "cpu", "sdpa")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_seed_asks_enough_of_every_kind(seed: int) -> None:
    data = Facts(Facts.usual_videos, seed)
    questions = data.questions(FRAMES)
    counts = Counter(question.kind for question in questions)
    assert len(questions) >= 300
    assert set(counts) == set(Facts.known_kinds)
    assert min(counts.values()) >= 75
    assert questions == Facts(Facts.usual_videos, seed).questions(FRAMES)
    assert len({question.id for question in questions}) == len(questions)
    assert {tag for question in questions for tag in question.tags} == set(CONTROLS)
    assert all(f" {question.answer}" in question.choices for question in questions)
    assert {len(question.choices) for question in questions} == {20}


def test_seeds_and_kinds_ask_other_questions() -> None:
    def asked(data: Facts) -> set[tuple[str, str | None]]:
        return {(question.text, question.answer) for question in data.questions(FRAMES)}

    assert len(asked(Facts(40, 0)) & asked(Facts(40, 1))) < 0.2 * len(asked(Facts(40, 0)))
    assert {q.kind for q in Facts(40, 0, ("order",)).questions(FRAMES)} == {"order"}
    assert asked(Facts(40, 0, ("order",))) < asked(Facts(40, 0))
    with pytest.raises(DataError, match="1 videos ask nothing of the kinds order"):
        Facts(1, 0, ("order",)).questions(FRAMES)
    with pytest.raises(DataError, match="facts need at least 10 frames a video, got 9"):
        Facts(4).questions(9)


@pytest.mark.parametrize("frames", [10, 16, 33])
def test_scenes_share_the_frames_and_no_answer_is_ambiguous(frames: int) -> None:
    starts = []
    for number in range(60):
        video = fact_video(number, 3, frames)
        assert all(end - first >= 2 for first, end in video.scenes)
        assert [video.scene_of(frame) for frame in range(frames)] == [
            scene for scene, (first, end) in enumerate(video.scenes) for _ in range(first, end)
        ]
        answers = [
            answer for answer in video.wording.answers if any(f" {answer} " in f"{t[:-1]} " for t, _ in video.texts)
        ]
        assert len(answers) == len(video.texts)
        starts += video.starts[1:]
        for text, lead, answer in video.questions:
            key = next(key for key in video.wording.keys or answers if f" {key}" in f" {text}")
            scene = next(i for i, (sentence, _) in enumerate(video.texts) if f" {key}" in f" {sentence}")
            offset = 1 if " follows " in text else 0
            assert f" {answer}" in video.texts[scene + offset][0]
            assert key in lead
    assert any(start % 4 for start in starts)


def test_control_of_redundancy(decoder: tuple[Any, LoadedModel]) -> None:
    embed = decoder[1].model.get_input_embeddings()
    for number in range(0, 12):
        video = fact_video(number, 1, FRAMES)
        tokens = frame_tokens(video, tokenizer(), 16)
        shown = embedded(video, range(FRAMES), embed, tokens)
        clean = embed(tokens)[[video.scene_of(frame) for frame in range(FRAMES)]]
        shared = (tokens == tokens[0]).all(0)[-5:].all()
        changed = (shown != clean).any(-1).float().mean(1)
        assert bool(shared) == (video.control == "background")
        if video.control != "noise":
            assert torch.equal(shown, clean)
            continue
        assert not changed[list(video.starts)].any()
        assert 0.3 < changed[changed > 0].mean() < 0.7
        error = (shown - clean).pow(2).mean(-1).sqrt() / clean.pow(2).mean(-1).sqrt()
        assert 0.05 < error[error > 0].mean() < 0.4
        some = embedded(video, [3, 9], embed, tokens)
        assert torch.equal(some, shown[[3, 9]])


def as_text(video: FactVideo, frames: list[int], question: str, lead: str, label: list[int]) -> Tensor:
    """The prompt as token ids of words, frame after frame."""
    words = tokenizer()
    scenes = frame_tokens(video, words, 16)
    ids = tokens_of(BEFORE, words)
    for frame in frames:
        ids += [*label, *scenes[video.scene_of(frame)].tolist()]
    # What stands behind a video and not behind pictures.
    ids += [] if label else tokens_of("\n", words)
    return torch.tensor([[*ids, *tokens_of(ASKED.format(question=question, lead=lead), words)]])


@pytest.mark.parametrize("frames", [list(range(FRAMES)), [2, 7, 13]])
def test_words_as_visual_tokens_are_words_to_the_decoder(decoder: tuple[Any, LoadedModel], frames: list[int]) -> None:
    plain, loaded = decoder
    pictures = loaded.name == "gemma3-270m"
    label = tokens_of(LABEL, tokenizer()) if pictures else []
    video = fact_video(0, 1, FRAMES)
    for question, lead, _ in video.questions:
        (prompt,) = spelled(loaded, video, frames, False, [(question, lead)])
        ids = as_text(video, frames, question, lead, label)
        assert prompt.length == ids.shape[1]
        with torch.inference_mode():
            seen = loaded.model(**prompt.inputs, mm_encoder_outputs=dict(prompt.encoded)).logits
            read = plain(input_ids=ids).logits
        torch.testing.assert_close(seen, read, rtol=1e-4, atol=1e-4)
    (blank,) = spelled(loaded, video, frames, True, [(question, lead)])
    (features,) = (value.pooler_output for value in blank.encoded.values())
    assert len(features.flatten(0, -2).unique(dim=0)) == 1


def test_pictures_are_the_frames_of_one_video(decoder: tuple[Any, LoadedModel]) -> None:
    loaded = decoder[1]
    (prompt,) = spelled(loaded, fact_video(0, 1, FRAMES), range(FRAMES), False, [("q", "a")])
    arguments = {**collate([prompt], 0), "max_new_tokens": 1}
    with attach(loaded.model, FrameFusion(keep=0.5)) as run, torch.inference_mode():
        loaded.model.generate(**arguments)
    (layout,) = run.layout
    assert layout.grids == ((FRAMES, 4, 4),)


def test_other_models_and_long_words_are_refused(models: dict[str, LoadedModel]) -> None:
    video = fact_video(0, 1, FRAMES)
    with pytest.raises(DataError, match="facts cannot be handed to Qwen2VLForConditionalGeneration; take --model"):
        spelled(models["qwen2-vl"], video, [0], False, [("q", "a")])
    with pytest.raises(DataError, match=r"takes 8 tokens of this model, but a frame has 4"):
        frame_tokens(video, tokenizer(), 4)


def test_the_best_choice_is_the_one_with_the_largest_logit() -> None:
    words, choices = tokenizer(), [f" {answer}" for answer in WORDINGS["who"].answers]
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        logits = torch.randn(len(words), generator=generator)
        best = max(choices, key=lambda choice: float(logits[words(choice)["input_ids"][0]]))
        assert best_choice(choices, logits, words) == best.strip()
    with pytest.raises(DataError, match="the choice 'wolf' begins with the token of another one"):
        best_choice([" bear", " wolf near", " wolf"], logits, words)


def test_kinds_that_are_too_hard() -> None:
    questions = Facts(8).questions(FRAMES)
    rows = [
        {"cell": cell, "question": q.id, "correct": cell == "full" and (q.kind != "who" or q.id.endswith("/0"))}
        for q in questions
        for cell in ("full", "other")
    ]
    who = sum(q.kind == "who" for q in questions)
    videos = len({q.video for q in questions if q.kind == "who"})
    assert too_hard("full", questions, rows, 0.6) == {"who": videos / who}
    assert too_hard("full", questions, rows, videos / who) == {}


@dataclass(frozen=True)
class Easy(Facts):
    """Whatever the model says is good enough."""

    least: ClassVar[float] = 0.0


@dataclass(frozen=True)
class Mixed(Facts):
    """Good enough are kinds that a random model guesses."""

    least: ClassVar[float] = 0.04


@pytest.fixture
def named(decoder: tuple[Any, LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    loaded = decoder[1]
    loaded.model.save_pretrained(tmp_path / "checkpoint")
    loaded.processor.save_pretrained(tmp_path / "checkpoint")
    monkeypatch.setitem(CHECKPOINTS, loaded.name, lambda: tmp_path / "checkpoint")
    return loaded.name


def test_an_evaluation_of_facts(named: str, tmp_path: Path) -> None:
    plan = Plan(FRAMES, ["fewer-frames", "one-frame-a-scene", "text-only", "uniform"], [0.5], timed=1)
    plan = replace(plan, generating=Generating(batch=3))
    data = Easy(4)
    summary = evaluate(data, tmp_path / "out", plan, model={"model": named, "device": "cpu"})
    (part,) = summary["frames"]
    assert part["questions"] == len(data.questions(FRAMES))
    assert part["left_out"] == {}
    entries = {entry["method"]: entry for entry in part["methods"]}
    assert set(entries) == {"full", "fewer-frames", "one-frame-a-scene", "text-only", "uniform"}
    share = sum(len(data.scenes(q.video, FRAMES)) for q in data.questions(FRAMES)) / FRAMES / part["questions"]
    assert entries["one-frame-a-scene"]["share"] == pytest.approx(share, rel=1e-3)
    assert entries["fewer-frames"]["share"] == entries["uniform"]["share"] == pytest.approx(0.5)
    choices = {q.id: q.choices for q in data.questions(FRAMES)}
    rows = log.read(tmp_path / "out" / "questions.jsonl")
    assert all(f" {row['prediction']}" in choices[row["question"]] for row in rows)
    assert evaluate(data, tmp_path / "out", plan, model={"model": named, "device": "cpu"})["frames"] == [part]


def test_kinds_that_are_too_hard_are_asked_with_all_tokens_only(named: str, tmp_path: Path) -> None:
    plan = Plan(FRAMES, ["uniform"], [0.5], timed=0)
    with pytest.raises(EvaluationError, match=r"answers no kind of question in 60 % with all tokens \(who .* %, what"):
        evaluate(Facts(4), tmp_path / "none", plan, model={"model": named, "device": "cpu"})
    data = Mixed(12)
    (part,) = evaluate(data, tmp_path / "some", plan, model={"model": named, "device": "cpu"})["frames"]
    rows = log.read(tmp_path / "some" / "questions.jsonl")
    asked = {row["kind"] for row in rows if row["cell"].startswith("uniform")}
    assert part["left_out"]
    assert asked == set(part["kinds"]) == set(data.known_kinds) - set(part["left_out"])


def test_one_frame_a_scene_needs_scenes(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = {"model": str(checkpoints["llava-onevision"]), "device": "cpu"}
    with pytest.raises(MethodError, match="one-frame-a-scene needs data that knows its scenes, noise does not"):
        evaluate(Noise(1), tmp_path, Plan(4, ["one-frame-a-scene"], timed=0), model=model)
    (part,) = evaluate(Noise(1), tmp_path, Plan(4, ["controls"], [0.5], 1, timed=0), model=model)["frames"]
    assert "one-frame-a-scene" not in {entry["method"] for entry in part["methods"]}


@dataclass(frozen=True)
class NoiseInScenes(Noise):
    """Noise with a cut behind its first frame."""

    def scenes(self, video: str, frames: int) -> list[tuple[int, int]]:
        return [(0, 1), (1, frames)]


def test_one_frame_a_scene_of_pictures(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = {"model": str(checkpoints["llava-onevision"]), "device": "cpu"}
    plan = Plan(8, ["one-frame-a-scene"], timed=0)
    (part,) = evaluate(NoiseInScenes(1), tmp_path, plan, model=model)["frames"]
    assert [entry["share"] for entry in part["methods"]] == [1, pytest.approx(2 / 8)]


def test_frames_to_show() -> None:
    assert spread(16, 4) == [2, 6, 10, 14]
    assert spread(5, 5) == [0, 1, 2, 3, 4]
    assert middles([(0, 1), (1, 5), (5, 16)]) == [0, 3, 10]
