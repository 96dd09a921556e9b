"""lmms-eval itself runs a local task with the bundled checkpoint, offline."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from framefusion.asking.ask import ask
from framefusion.asking.loading import load
from framefusion.asking.video import read_video
from framefusion.assets import BUNDLED_FRAMES, DEMO_QUESTIONS, DEMO_VIDEO, REAL_VIDEO
from framefusion.hf import Run
from framefusion.lmms.arguments import Generation
from framefusion.reduction.settings import FrameFusion
from framefusion.reduction.settings_file import save_settings

TASKS = Path(__file__).parent / "tasks"
SETTINGS = FrameFusion(keep=0.2)
BENCHMARKS = ("videomme", "mvbench", "mlvu", "longvideobench", "egoschema")


@pytest.fixture(scope="module")
def answers():
    """By question the answer of ``framefusion ask --keep 0.2``; ``tests/test_assets.py`` holds it to the right one."""
    loaded, video = load(device="cpu"), read_video(DEMO_VIDEO, frames=BUNDLED_FRAMES)
    rows = json.loads(DEMO_QUESTIONS.read_text(encoding="utf-8"))
    common = {"model": loaded.model, "processor": loaded.processor, "settings": SETTINGS}
    return {row["question"]: (ask(video, row["question"], **common).text, row["answer"]) for row in rows}


@pytest.fixture(scope="module")
def directory(tmp_path_factory, answers):
    """Where lmms-eval is started: with the data of the tasks."""
    directory = tmp_path_factory.mktemp("lmms")
    rows = [{"video": str(DEMO_VIDEO), "question": text, "answer": right} for text, (_, right) in answers.items()]
    # the model's own answer is the likeliest; two more that it never gives
    likely = [
        {"video": str(DEMO_VIDEO), "question": text, "answer": own, "choices": ["the the the", own, "in of"]}
        for text, (own, _) in list(answers.items())[:3]
    ]
    for name, content in (("scenes", rows), ("scenes_choice", likely)):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return directory


@pytest.fixture
def offline(directory, monkeypatch):
    monkeypatch.chdir(directory)
    # what it reads at import is set for the processes it starts as well
    for name, value in offline_variables(directory).items():
        monkeypatch.setenv(name, value)


def offline_variables(directory):
    return {"HF_HOME": str(directory / "cache"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


@pytest.fixture
def evaluate(offline):
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    def run(arguments, tasks=("framefusion_scenes",), **options):
        manager = TaskManager(include_path=str(TASKS), include_defaults=False, model_name="framefusion")
        options = {"batch_size": 4, "log_samples": True, "bootstrap_iters": 0} | options
        return simple_evaluate("framefusion", arguments, tasks=list(tasks), task_manager=manager, **options)

    return run


@pytest.fixture(scope="module")
def model():
    from lmms_eval.models import get_model

    return get_model("framefusion")


def test_the_command_line_answers_the_bundled_questions(directory, answers):
    """As in the docs: found by its entry point, and every answer that of ``framefusion ask``."""
    command = [sys.executable, "-m", "lmms_eval", "--model", "framefusion", "--model_args", "keep=0.2"]
    command += ["--tasks", "framefusion_scenes", "--include_path", str(TASKS), "--batch_size", "4"]
    command += ["--output_path", "out", "--log_samples"]
    environment = os.environ | offline_variables(directory)
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (samples,) = (directory / "out").rglob("*_samples_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    assert {row["input"]: row["filtered_resps"] for row in rows} == {text: own for text, (own, _) in answers.items()}
    (written,) = (directory / "out").rglob("*_results.json")
    results = json.loads(written.read_text(encoding="utf-8"))
    right = sum(own == right for own, right in answers.values())
    assert results["results"]["framefusion_scenes"]["exact_match,none"] == pytest.approx(right / len(answers))
    assert right > 0


def test_the_tasks_of_the_docs_exist(offline):
    """And what they ask of a generation is supported."""
    from lmms_eval.tasks import TaskManager
    from lmms_eval.utils import load_yaml_config

    text = (Path(__file__).parents[2] / "docs" / "guides" / "lmms-eval.md").read_text(encoding="utf-8")
    named = set(re.findall(r"--tasks (\S+)", text)) | {"egoschema_subset_mcppl"}
    assert all(any(name.startswith(start) for name in named) for start in BENCHMARKS)
    index = TaskManager(include_path=str(TASKS)).task_index
    assert named <= set(index)
    for name in named | {name for name in index if name.startswith("mvbench_")}:
        config = load_yaml_config(index[name]["yaml_path"], mode="simple")
        template = Path(index[name]["yaml_path"]).parent / str(config.get("include"))
        kwargs = load_yaml_config(str(template), mode="simple") if template.is_file() else {}
        Generation.of((kwargs | config).get("generation_kwargs") or {})


def test_settings_reach_the_model(evaluate):
    """All tokens, and stages that leave less than a tenth: told by the share of visual tokens."""
    results = evaluate("keep=1.0", limit=2)
    assert results["throughput"]["avg_visual_token_share"] == 1.0
    assert results["throughput"]["avg_kv_byte_share"] == 1.0
    reduced = evaluate("keep=0:0.1+2:0.02,selector=uniform,relevance=none,frames=4", limit=2)
    assert reduced["throughput"]["avg_visual_token_share"] < 0.1
    assert reduced["throughput"]["avg_kv_byte_share"] < 1.0
    assert reduced["throughput"]["avg_latency"] > 0


def test_the_most_likely_choice_is_taken(evaluate):
    results = evaluate("keep=0.2", ["framefusion_scenes_choice"])
    assert results["results"]["framefusion_scenes_choice"]["acc,none"] == 1.0


def test_a_settings_file_says_it_all(evaluate, directory):
    save_settings(directory / "mine.json", FrameFusion(keep=0.25))
    assert 0.25 <= evaluate("settings=mine.json", limit=1)["throughput"]["avg_visual_token_share"] < 0.5


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("keeep=0.2", r"unknown model argument 'keeep'. Did you mean 'keep'\? There are pretrained, frames, .*seed"),
        ("max_num_frames=8", "unknown model argument 'max_num_frames'"),
        ("cost=0.2,keep=0.2", "cost=0.2 and keep=0.2 exclude each other"),
        ("cost=0.001,merge=true", "cost=0.001 cannot be reached on"),
        ("selector=best", "selector must be one of 'dpp'"),
        ("frames=8,fps=1", "frames=8 and fps=1 exclude each other"),
        ("frames=0", "frames must be a whole number, at least 1, got 0"),
        ("fps=-1", "fps must be a number above 0, got -1"),
        ("dtype=int8", "dtype must be one of auto"),
        ("trust_remote_code=maybe", "trust_remote_code must be True or False, got 'maybe'"),
        ("share=maybe", "share must be True or False, got 'maybe'"),
        ("pretrained=./nowhere", "there is no directory ./nowhere"),
        ("settings=nowhere.json", "cannot read nowhere.json"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(model, offline, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        model.create_from_arg_string(arguments, {"batch_size": 1, "device": "cpu"})


@pytest.mark.parametrize("size", ["auto", "auto:4", 0, "-1", 1.5])
def test_there_is_no_automatic_batch_size(model, size):
    with pytest.raises(ValueError, match=r"batch_size must be a whole number, at least 1, got .*no automatic"):
        model(batch_size=size)
    with pytest.raises(ValueError, match="with max_batch_size=8; there is no automatic"):
        model(max_batch_size=8)


def request(kind, arguments):
    from lmms_eval.api.instance import Instance

    return Instance(kind, arguments, 0, {"task": "made", "doc_id": 3, "repeats": 1})


@pytest.fixture(scope="module")
def ready(model):
    ready = model(device="cpu", batch_size=2, keep=0.2)
    ready.task_dict = {"made": {"test": {3: {"video": str(DEMO_VIDEO)}, 4: {"video": "gone.mp4"}}}}
    return ready


def visual(document):
    return [document["video"]]


def test_answers_come_in_the_order_of_the_requests(ready, answers):
    """Though neither batches nor generations fit together."""
    texts = list(answers)[:5]
    kwargs = [{"max_new_tokens": 8}] * 3 + [{"max_new_tokens": 8, "until": ["\n\n", "e"]}, {"max_new_tokens": 1}]
    requests = [
        request("generate_until", (text, options, visual, 3, "made", "test"))
        for text, options in zip(texts, kwargs, strict=True)
    ]
    results = ready.generate_until(requests)
    expected = [answers[text][0] for text in texts]
    expected[3] = expected[3].split("e")[0].strip()
    expected[4] = expected[4].split(" ")[0]
    assert [result.text for result in results] == expected
    assert [result.token_counts.output_tokens for result in results[:3]] == [len(text.split()) for text in expected[:3]]
    assert all(result.token_counts.input_tokens > 100 for result in results)


def test_what_cannot_be_answered_names_task_and_document(ready):
    for document, kwargs, reason in [
        (4, {}, "no such file: gone.mp4"),
        (3, {"temperature": 0.7}, "temperature=0.7 asks for samples"),
        (3, {"num_beams": 5}, "num_beams=5 is not supported"),
        (3, {"repetition_penalty": 1.2}, "the task asks for repetition_penalty=1.2"),
    ]:
        asked = request("generate_until", ("what?", kwargs, visual, document, "made", "test"))
        with pytest.raises(ValueError, match=f"^made document 3: {reason}"):
            ready.generate_until([asked])


def test_likelihoods(ready, answers):
    text, (own, _) = next(iter(answers.items()))

    def asked(continuation):
        return request("loglikelihood", (text, continuation, visual, 3, "made", "test"))

    requests = [asked(f" {own}"), asked("the the"), asked(lambda document: own)]
    likely, unlikely, computed = (result.text for result in ready.loglikelihood(requests))
    assert likely == computed
    assert likely[1]
    assert not unlikely[1]
    assert likely[0] < unlikely[0]
    with pytest.raises(ValueError, match=r"^made document 3: the continuation ' ' has no tokens"):
        ready.loglikelihood([asked(" ")])
    with pytest.raises(
        ValueError, match=r"^made document 3: it asks for the likelihood of a text without its document"
    ):
        ready.loglikelihood([request("loglikelihood", ("", "blue"))])


@pytest.fixture
def begun(monkeypatch):
    """How often the beginning of prompts was prefilled."""
    calls, extend = [], Run.extend
    monkeypatch.setattr(Run, "extend", lambda run, *a, **k: calls.append(k) or extend(run, *a, **k))
    return calls


@pytest.fixture(scope="module")
def whole(model, ready):
    """As ``ready``, but every prompt is prefilled as a whole."""
    whole = model(device="cpu", batch_size=2, keep=0.2, share=False)
    whole.task_dict = ready.task_dict = {
        **ready.task_dict,
        "more": {"test": {0: {"video": str(DEMO_VIDEO)}, 1: {"video": str(REAL_VIDEO)}, 2: {"video": str(DEMO_VIDEO)}}},
        "pictures": {"test": {0: {"level": 40}, 1: {"level": 200}}},
    }
    return whole


def picture(document):
    return [Image.new("RGB", (64, 48), (document["level"],) * 3)]


def test_requests_about_one_video_share_in_any_order(ready, whole, answers, begun):
    """By the path of the video, whatever the document and the task; pictures have none, and share by document."""
    texts = list(answers)
    asked = [
        ("more", 0, texts[0], {}, visual),
        ("more", 1, texts[0], {}, visual),
        ("pictures", 0, texts[1], {}, picture),
        ("more", 2, texts[1], {"max_new_tokens": 2}, visual),
        ("made", 3, texts[2], {}, visual),
        ("pictures", 1, texts[2], {}, picture),
        ("more", 0, "what?", {}, None),
        ("pictures", 0, texts[0], {}, picture),
    ]
    requests = [
        request("generate_until", (text, {"max_new_tokens": 8, **more}, shown, document, task, "test"))
        for task, document, text, more, shown in asked
    ]
    results = ready.generate_until(requests)
    # The demo video and the first picture; one question about anything else is asked as a whole.
    assert len(begun) == 2
    expected = whole.generate_until(requests)
    assert len(begun) == 2
    assert [one.text for one in results] == [one.text for one in expected]
    assert [one.token_counts for one in results] == [one.token_counts for one in expected]
    assert results[0].text == answers[texts[0]][0]


def test_continuations_of_one_prompt_share(ready, whole, answers, begun):
    text, (own, _) = next(iter(answers.items()))
    requests = [
        request("loglikelihood", (text, said, visual, document, "more", "test"))
        for said, document in ((own, 0), (own, 1), ("the the", 0), ("in of", 2))
    ]
    results = ready.loglikelihood(requests)
    assert len(begun) == 1
    expected = whole.loglikelihood(requests)
    assert len(begun) == 1
    for one, other in zip(results, expected, strict=True):
        assert one.text[0] == pytest.approx(other.text[0], abs=1e-4)
        assert one.text[1] == other.text[1]


def test_rounds_are_refused(ready):
    with pytest.raises(NotImplementedError, match="the task 'made' asks in several rounds"):
        ready.generate_until_multi_round([SimpleNamespace(task_name="made")])
