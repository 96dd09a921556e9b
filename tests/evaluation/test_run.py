"""An evaluation from beginning to end, interrupted, in several processes, and added to."""

import json
import multiprocessing
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from framefusion import log
from framefusion.asking.ask import ask
from framefusion.evaluation import (
    DataError,
    EvaluationError,
    Generating,
    LogError,
    MethodError,
    Plan,
    evaluate,
    workers,
)
from framefusion.evaluation.answering import CHUNK_BATCHES, Chunk, chunks
from framefusion.evaluation.cells import choose
from framefusion.evaluation.cells import plan as plan_cells
from framefusion.evaluation.methods import METHODS
from framefusion.evaluation.store import Store
from framefusion.hf import Run, attach
from framefusion.supervision import Answered, Died, Ready
from tests.evaluation.fake import Noise

METHODS_ASKED = ("text-only", "random", "fewer-frames", "segment-dpp", "fastv", "framefusion")
PLAN = Plan(
    frames=4, methods=METHODS_ASKED, budgets=(0.5, 0.1), seeds=2, timed=0, generating=Generating(batch=2, new_tokens=3)
)
CELLS = 2 + 4 + 1 + 3
"""All tokens, text only; random at two budgets with two seeds; fewer frames at one; the others at 50 %."""


@pytest.fixture
def model(checkpoints):
    return {"model": str(checkpoints["llava-onevision"]), "device": "cpu"}


def changed(plan=PLAN, **fields):
    return Plan(**{**vars(plan), **fields})


def answers(out):
    """What was answered, in any order."""
    return {(row["cell"], row["question"]): row for row in log.read(out / "questions.jsonl")}


class Counting:
    """Progress that is interrupted after some answers."""

    def __init__(self, stop=None):
        self.steps, self.parts, self.stop = [], 0, stop

    def step(self, name, total=None):
        self.steps.append((name, total))

    def advance(self, parts):
        self.parts += parts
        if self.stop is not None and self.parts >= self.stop:
            raise KeyboardInterrupt


def test_every_question_is_answered_in_every_cell(tmp_path, model, models):
    data, progress = Noise(videos=3), Counting()
    summary = evaluate(data, tmp_path, PLAN, model=model, command="the command", progress=progress)
    rows, cells = answers(tmp_path), log.read(tmp_path / "cells.jsonl")
    assert len(rows) == CELLS * 9
    assert ("Answering", CELLS * 9) in progress.steps
    assert progress.parts == CELLS * 9
    assert {row["cell"] for row in rows.values()} == {cell["cell"] for cell in cells if "cell" in cell}
    lost = {(cell["method"], cell["budget"]) for cell in cells if "cell" not in cell}
    assert lost == {(name, 0.1) for name in ("fewer-frames", "segment-dpp", "fastv", "framefusion")}
    for cell in cells:
        if "cell" in cell:
            mine = [row for row in rows.values() if row["cell"] == cell["cell"]]
            assert cell["questions"] == len(mine) == 9
            assert cell["accuracy"] == pytest.approx(sum(row["correct"] for row in mine) / 9)
            assert cell["settings"]["seed"] == cell["seed"]
            whole = 64 if cell["budget"] is None else cell["budget"] * 64
            assert cell["tokens"] == pytest.approx(whole, abs=1)
    # the answers are those of a plain generate with the method attached
    loaded = models["llava-onevision"]
    cell = next(cell for cell in cells if cell["method"] == "segment-dpp" and "cell" in cell)
    for question in data.questions(4):
        expected = ask(
            data.video(question.video, 4, 4),
            question.text,
            model=loaded.model,
            processor=loaded.processor,
            settings=METHODS["segment-dpp"].settings(0.5, 4),
            max_new_tokens=3,
        )
        row = rows[cell["cell"], question.id]
        assert row["prediction"] == expected.text
        assert row["kv_bytes"] <= expected.summary.kv_bytes_after * 1.2
        assert (row["kind"], row["tags"], row["video"]) == (question.kind, list(question.tags), question.video)
    (part,) = summary["frames"]
    assert (part["frames"], part["questions"], part["videos"], part["labelled"]) == (4, 9, 3, 9)
    assert summary["commands"] == ["the command"]
    assert summary["versions"]["torch"] == torch.__version__
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")) == json.loads(json.dumps(summary))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cells.jsonl",
        "questions.jsonl",
        "run.json",
        "summary.json",
    ]


@pytest.mark.parametrize("name", ["llava-onevision", "qwen2.5-vl"])
def test_sharing_changes_nothing_but_what_is_prefilled(tmp_path, checkpoints, monkeypatch, name):
    """Asked with stages that go by the question late, early, before the first layer, and not at all."""
    begun, extend = [], Run.extend
    monkeypatch.setattr(Run, "extend", lambda run, *a, **k: begun.append(run.settings) or extend(run, *a, **k))
    model, data = {"model": str(checkpoints[name]), "device": "cpu"}, Noise(videos=3)
    methods = ("segment-dpp-two-stage", "segment-dpp-input", "fastv", "cdpruner-input")
    plan = changed(methods=methods, budgets=(0.5,))
    for share in (True, False):
        generating = replace(PLAN.generating, share=share)
        begun.clear()
        evaluate(data, tmp_path / str(share), replace(plan, generating=generating), model=model)
        # Once a video of each cell but the last, whose stage goes by the question ahead of all layers.
        assert len(begun) == (4 * 3 if share else 0)
    shared, whole = answers(tmp_path / "True"), answers(tmp_path / "False")
    assert shared.keys() == whole.keys()
    assert len(whole) == 5 * 9
    for key, row in whole.items():
        # Bytes are told as the mean of a batch, and batches are others.
        assert {**shared[key], "kv_bytes": 0} == {**row, "kv_bytes": 0}
    for cell in {cell for cell, _ in whole}:
        shares = [sum(row["kv_bytes"] for (c, _), row in rows.items() if c == cell) for rows in (shared, whole)]
        assert shares[0] == pytest.approx(shares[1], abs=9)
    # The answers are the same, so a directory goes on with either.
    progress = Counting()
    evaluate(data, tmp_path / "True", replace(plan, generating=generating), model=model, progress=progress)
    assert progress.parts == 0


SMALL = changed(methods=("random", "segment-dpp"), budgets=(0.5,))
"""Four cells."""


def test_an_interrupted_evaluation_goes_on(tmp_path, model):
    data = Noise(videos=3)
    evaluate(data, tmp_path / "whole", SMALL, model=model)
    for stop in (1, 17, 36):
        out, first, second = tmp_path / str(stop), Counting(stop), Counting()
        with pytest.raises(KeyboardInterrupt):
            evaluate(data, out, SMALL, model=model, progress=first)
        with open(out / "part-0.jsonl", "ab") as part:
            part.write(b'{"cell":"half')
        evaluate(data, out, SMALL, model=model, progress=second)
        assert first.parts + second.parts == 4 * 9
        assert answers(out) == answers(tmp_path / "whole")
    third = Counting()
    evaluate(data, out, SMALL, model=model, progress=third)
    assert third.parts == 0


def test_half_a_batch_is_written_once_and_padded_the_same(tmp_path, model):
    data = Noise(videos=2)
    evaluate(data, tmp_path / "whole", SMALL, model=model)
    evaluate(data, tmp_path / "torn", SMALL, model=model)
    path = tmp_path / "torn" / "questions.jsonl"
    log.replace(path, log.read(path)[::2])
    progress = Counting()
    evaluate(data, tmp_path / "torn", SMALL, model=model, progress=progress)
    assert progress.parts == 4 * 6 // 2
    assert answers(tmp_path / "torn") == answers(tmp_path / "whole")


def test_processes_answer_the_same_and_leave_what_they_answered(tmp_path, model):
    """Two processes, ended in the middle of the answers; one goes on alone."""
    data = Noise(videos=6)
    plan = changed(methods=("segment-dpp",), budgets=(0.5,), generating=Generating(batch=1, new_tokens=3))
    evaluate(data, tmp_path / "one", plan, model=model)
    with pytest.raises(KeyboardInterrupt):
        evaluate(data, tmp_path / "two", changed(plan, jobs=2), model=model, progress=Counting(stop=3))
    assert not multiprocessing.active_children()
    before = sum(len(log.read(part)) for part in (tmp_path / "two").glob("part-*.jsonl"))
    assert before >= 3
    progress = Counting()
    evaluate(data, tmp_path / "two", plan, model=model, progress=progress)
    assert progress.parts == 2 * 18 - before
    assert answers(tmp_path / "two") == answers(tmp_path / "one")
    assert not list((tmp_path / "two").glob("part-*"))


def test_a_process_that_is_killed_is_replaced(tmp_path, model):
    """In the middle of a chunk: what it wrote stays, the chunk is answered again, and nothing counts twice."""
    data, progress = Deadly(videos=6, directory=tmp_path), Counting()
    plan = changed(methods=("segment-dpp",), budgets=(0.5,), generating=Generating(batch=1, new_tokens=3))
    evaluate(Noise(videos=6), tmp_path / "one", plan, model=model)
    evaluate(data, tmp_path / "two", changed(plan, jobs=2), model=model, progress=progress)
    assert (tmp_path / "died").exists()
    assert answers(tmp_path / "two") == answers(tmp_path / "one")
    assert progress.parts == 2 * 18
    assert not multiprocessing.active_children()


@dataclass(frozen=True)
class Deadly(Noise):
    """The first process that reads the second video is killed."""

    directory: Path = Path()

    def video(self, video, frames, shown):
        if video == "1" and not (self.directory / "died").exists():
            (self.directory / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().video(video, frames, shown)


def test_a_failure_in_a_process_is_one_sentence(tmp_path, model):
    data = Unreadable(videos=4)
    work = workers.Work(model, data, 4, [], frozenset(), PLAN.generating, fail_to_prepare)
    with pytest.raises(EvaluationError, match=r"^no such file$") as caught:
        workers.run(work, [data.questions(4)], 1, Store(tmp_path).part, Counting().advance)
    assert "fail_to_prepare" in str(caught.value.__cause__)
    assert not multiprocessing.active_children()


def fail_to_prepare():
    raise OSError("no such file")


def test_questions_over_which_processes_die_are_told(tmp_path, model, monkeypatch):
    """A pool whose processes all die over their chunk; and one whose process meets an error that is ours."""

    class Pool:
        failure, started, news = None, 0, ()

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def start(self):
            self.started += 1
            self.news = Ready("model")
            return self.started

        def submit(self, worker, job):
            self.news = Died("a process was ended by SIGKILL") if self.failure is None else Answered(self.failure)

        def wait(self):
            return self.started, self.news

        def stop(self, worker):
            pass

    monkeypatch.setattr(workers, "Processes", lambda make: Pool())
    work = workers.Work(model, Noise(), 4, [], frozenset(), PLAN.generating)
    with pytest.raises(EvaluationError, match=r"3 processes died .*SIGKILL.*perhaps for lack of memory.*fewer jobs"):
        workers.run(work, [Noise().questions(4)], 1, Store(tmp_path).part, Counting().advance)
    monkeypatch.setattr(Pool, "failure", workers.Failure("a defect of a rule", "in select"))
    with pytest.raises(EvaluationError, match=r"^a defect of a rule$") as caught:
        workers.run(work, [Noise().questions(4)], 1, Store(tmp_path).part, Counting().advance)
    assert str(caught.value.__cause__) == "in select"


def test_a_video_that_cannot_be_read_ends_the_evaluation(tmp_path, model):
    with pytest.raises(DataError, match="video 3 cannot be read"):
        evaluate(Unreadable(videos=4), tmp_path, changed(methods=("full",)), model=model)


class Unreadable(Noise):
    """A data set whose last videos cannot be read."""

    def video(self, video, frames, shown):
        if int(video) > 2:
            raise DataError(f"video {video} cannot be read")
        return super().video(video, frames, shown)


def test_methods_budgets_and_videos_can_be_added(tmp_path, model):
    small = changed(methods=("segment-dpp",), budgets=(0.5,))
    evaluate(Noise(videos=2), tmp_path, small, model=model, command="first")
    progress = Counting()
    more = changed(methods=("fastv",), budgets=(0.5,))
    summary = evaluate(Noise(videos=2), tmp_path, more, model=model, command="second", progress=progress)
    assert progress.parts == 6  # all tokens were there
    assert summary["commands"] == ["first", "second"]
    (part,) = summary["frames"]
    assert [entry["method"] for entry in part["methods"]] == ["full", "segment-dpp", "fastv"]
    # with another video, a method that was not asked about it is left out
    (part,) = evaluate(Noise(videos=3), tmp_path, more, model=model)["frames"]
    assert (part["questions"], [entry["method"] for entry in part["methods"]]) == (9, ["full", "fastv"])
    # with fewer again, all are there
    (part,) = evaluate(Noise(videos=2), tmp_path, more, model=model)["frames"]
    assert [entry["method"] for entry in part["methods"]] == ["full", "segment-dpp", "fastv"]
    # another number of frames is a table of its own, the others keep what all tokens were asked
    parts = evaluate(Noise(videos=2), tmp_path, changed(more, frames=6), model=model)["frames"]
    assert [(part["frames"], len(part["methods"])) for part in parts] == [(4, 2), (6, 2)]


def test_changed_questions_are_asked_again(tmp_path, model):
    plan = changed(methods=("segment-dpp",), budgets=(0.5,))
    evaluate(Noise(videos=2, answer="red"), tmp_path, plan, model=model)
    progress = Counting()
    evaluate(Noise(videos=2, answer="green"), tmp_path, plan, model=model, progress=progress)
    assert progress.parts == 12
    assert len(answers(tmp_path)) == 12


def test_a_directory_is_about_one_model_and_data(tmp_path, model, checkpoints):
    plan = changed(methods=("segment-dpp",), budgets=(0.5,))
    evaluate(Noise(videos=1), tmp_path, plan, model=model)
    with pytest.raises(LogError, match=r"results of another model \(.*now .*; choose another directory"):
        evaluate(Noise(videos=1), tmp_path, plan, model={"model": str(checkpoints["qwen2-vl"]), "device": "cpu"})
    with pytest.raises(LogError, match=r"results of another data \(noise, now other\)"):
        evaluate(Noise(videos=1, name="other"), tmp_path, plan, model=model)
    with pytest.raises(LogError, match=r"results of another new tokens \(3, now 4\)"):
        evaluate(Noise(videos=1), tmp_path, changed(plan, generating=Generating(new_tokens=4)), model=model)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(LogError, match=r"run\.json is damaged"):
        evaluate(Noise(videos=1), tmp_path, plan, model=model)


def test_without_labels_agreement_is_scored(tmp_path, model):
    plan = changed(methods=("text-only", "segment-dpp"), budgets=(0.5,))
    (part,) = evaluate(Noise(videos=2, answer=None), tmp_path, plan, model=model)["frames"]
    rows = answers(tmp_path)
    assert all(row["correct"] is None for row in rows.values())
    assert part["labelled"] == 0
    by_method = {entry["method"]: entry for entry in part["methods"]}
    assert by_method["full"]["accuracy"]["value"] == 1
    key = {cell["method"]: cell["cell"] for cell in log.read(tmp_path / "cells.jsonl")}
    same = [
        row["prediction"] == rows[key["full"], question]["prediction"]
        for (cell, question), row in rows.items()
        if cell == key["segment-dpp"]
    ]
    assert by_method["segment-dpp"]["accuracy"]["value"] == pytest.approx(sum(same) / 6)


def test_text_only_sees_nothing_of_the_video(tmp_path, model):
    evaluate(Noise(videos=3), tmp_path, changed(methods=("text-only",)), model=model)
    key = {cell["method"]: cell["cell"] for cell in log.read(tmp_path / "cells.jsonl")}
    rows = answers(tmp_path)
    for i in range(3):
        assert len({rows[key["text-only"], f"{video}/{i}"]["prediction"] for video in range(3)}) == 1


def test_cells_are_timed_once_in_turns_with_all_tokens(tmp_path, model):
    plan = changed(methods=("segment-dpp",), budgets=(0.5,), timed=2)
    summary = evaluate(Noise(videos=2), tmp_path, plan, model=model)
    cells = log.read(tmp_path / "cells.jsonl")
    assert all(cell["timed"] == 2 and cell["first_token_seconds"] > 0 for cell in cells)
    assert [cell["selection_milliseconds"] > 0 for cell in cells] == [False, True]
    entry = summary["frames"][0]["methods"][1]
    assert entry["first_token_ratio"] == pytest.approx(
        cells[1]["first_token_seconds"] / cells[1]["full_first_token_seconds"]
    )
    progress = Counting()
    evaluate(Noise(videos=2), tmp_path, plan, model=model, progress=progress)
    assert progress.parts == 0
    assert "Timing" not in dict(progress.steps)


def test_the_model_is_as_before(tmp_path, model, models):
    loaded, data = models["llava-onevision"], Noise(videos=1)
    cells, _ = plan_cells(loaded.model, choose(["segment-dpp"]), [0.5], 4, 1)
    rows = list(Chunk(loaded, data, 4, data.questions(4), Generating()).answer(cells))
    assert sum(map(len, rows)) == 6
    attach(loaded.model).detach()  # nothing is attached
    assert "get_video_features" not in vars(loaded.model.base_model)


def test_a_failing_method_is_named(tmp_path, model, monkeypatch):
    def broken(*args):
        raise ValueError("a defect of a rule")

    monkeypatch.setattr("framefusion.reduction.stages.selectors.select", broken)
    with pytest.raises(EvaluationError, match=r"segment-dpp@0\.5/4f.* failed on the questions 0/.*a defect of a rule"):
        evaluate(Noise(videos=1), tmp_path, changed(methods=("segment-dpp",)), model=model)


def test_chunks_are_cut_between_videos():
    questions = Noise(videos=20).questions(4)
    cut = chunks(questions, 2)
    assert [question for chunk in cut for question in chunk] == questions
    videos = [{question.video for question in chunk} for chunk in cut]
    assert sum(map(len, videos)) == 20
    assert all(CHUNK_BATCHES * 2 <= len(chunk) < CHUNK_BATCHES * 2 + 3 for chunk in cut[:-1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"budgets": (0.5, 1.5)}, r"a budget must be in \(0, 1\], got 1\.5"),
        ({"budgets": (float("nan"),)}, r"got nan"),
        ({"budgets": ()}, "there are no budgets"),
        ({"methods": ()}, "there are no methods"),
        ({"frames": 0}, "frames must be at least 1, got 0"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"jobs": 0}, "jobs must be at least 1"),
        ({"timed": -1}, "timed must be at least 0"),
        ({"generating": Generating(batch=0)}, "batch must be at least 1"),
        ({"generating": Generating(new_tokens=0)}, "new_tokens must be at least 1"),
    ],
)
def test_plans_that_make_no_sense(fields, message):
    with pytest.raises(MethodError, match=message):
        changed(**fields)
