"""``framefusion ask`` and ``inspect``: answers, JSON and files."""

import html
import json
import os
import re
import sys

import av
import numpy as np
import pytest
import torch
from PIL import Image

import framefusion
from framefusion import assets
from framefusion.asking.fitting import Fitting
from tests import family_checkpoints
from tests.asking.media.corpus import ENTRIES
from tests.cli.said import QUESTION, parse


def test_what_is_damaged_is_said_wherever_an_answer_is(run, model, tmp_path, caplog):
    path = next(entry for entry in ENTRIES if entry.name == "some-lost.mp4").make(tmp_path)
    words = ("ask", path, QUESTION, "--model", model, "--max-new-tokens", 1, "--frames", 8)
    shown = run(*words, "--report", "report.html")
    assert shown.exit_code == 0, shown.stderr
    warning = re.search(r"Warning +some-lost\.mp4: (\d of 8 frames are damaged)", shown.stdout)
    assert warning is not None
    assert warning[1] in caplog.text
    assert warning[1] in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert parse(run(*words, "--json"))["media"][0]["warning"] == warning[1]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"video": path.name, "question": QUESTION}), encoding="utf-8")
    assert run("batch", "rows.jsonl", "--model", model, "--max-new-tokens", 1, "--frames", 8).exit_code == 0
    row = json.loads((tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert row["warning"] == f"{path.name}: {warning[1]}"


def test_large_frames_are_read_at_the_size_of_the_processor(run, model, tmp_path, monkeypatch):
    words = ("ask", assets.DEMO_VIDEO, QUESTION, "--model", model, "--max-new-tokens", 2, "--frames", 6)
    own = parse(run(*words, "--json"))
    seen = []
    original = Fitting.__call__
    monkeypatch.setattr(Fitting, "__call__", lambda *given: seen.append(given[1:]) or original(*given))
    monkeypatch.setattr("framefusion.asking.decoding.pictures.DRAWN_BYTES", 0)
    fitted = parse(run(*words, "--json", "--report", "report.html"))
    assert seen == [(6, 256, 256)]
    assert (tmp_path / "report.html").exists()
    same = ("answer", "visual_tokens", "segments", "stages_from")
    assert {key: fitted[key] for key in same} == {key: own[key] for key in same}


def test_a_video_of_which_nothing_is_intact_is_not_answered(run, model, tmp_path):
    path = next(entry for entry in ENTRIES if entry.name == "encrypted.mp4").make(tmp_path)
    result = run("ask", path, QUESTION, "--model", model)
    assert result.exit_code == 2
    assert "encrypted" in result.stderr


def test_ask_prints_the_answer_what_was_kept_and_what_it_saved(asked):
    result = asked("--frames", 6, "--keep", 0.25)
    assert result.exit_code == 0, result.stderr
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in result.stdout.splitlines())
    assert list(rows) == [
        "Answer",
        "Visual tokens",
        "Per layer",
        "Segments",
        "Prefill compute",
        "KV cache",
        "In generate()",
        "End to end",
        "Parts",
        "Timing",
    ]
    assert rows["Prefill compute"].endswith("with vision tower, projector and head")
    assert re.search(r"to the first token; \d+% of it .* for each further token", rows["End to end"])
    assert "not measured" not in rows["Parts"]
    assert rows["Visual tokens"].startswith("24 of 96 kept (25.0 %)")
    assert rows["Per layer"] == "96, 24 × 3"
    assert result.stderr == ""


def test_compare_shows_both_answers_and_both_times(asked):
    result = asked("--frames", 4, "--keep", 0.25, "--compare")
    assert result.stdout.splitlines()[0].startswith("All tokens ")
    assert result.stdout.splitlines()[1].startswith("Reduced ")
    assert re.search(r"In generate\(\) +[−+][\d.]+ % \(.* → .* to the first token\)", result.stdout)
    assert "after a warm-up" in result.stdout
    assert re.search(r"End to end +[\d.]+× \(.* → .* to the first token\), [\d.]+× in the decoder", result.stdout)


def test_the_tower_encodes_what_changed_and_says_how_much(run, model, tmp_path):
    """Six frames of two flat scenes: one frame of each is encoded; by default both blocks here run over all."""
    path = tmp_path / "flat.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(30):
            picture = np.full((64, 96, 3), 40 if i < 15 else 200, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    words = ("ask", path, QUESTION, "--model", model, "--max-new-tokens", 1, "--frames", 6)
    found = parse(run(*words, "--tower", "changed:4", "--json"))
    assert found["tower_share"] == 1.0
    rule = {"rule": "changed", "levels": 4.0, "whole": 0.5, "full_blocks": 0.25, "std": None}
    assert found["settings"]["tower"] == rule
    framefusion.save_settings("all.json", framefusion.FrameFusion(tower=framefusion.Changed(full_blocks=0)))
    tower = ("--settings", "all.json")
    result = run(*words, *tower)
    assert result.exit_code == 0, result.stderr
    assert re.search(r"Vision tower +did 33\.3 % of its work on the video", result.stdout)
    assert parse(run(*words, *tower, "--json"))["tower_share"] == pytest.approx(1 / 3)
    assert parse(run(*words, "--json"))["tower_share"] is None
    # The second part shows the last frame of the first again.
    assert parse(run(*words, *tower, "--chunk", 3, "--json"))["tower_share"] == pytest.approx(3 / 7)
    assert "Tower   did 42.9% of its work on the video" in run(*words, *tower, "--chunk", 3).stdout
    (tmp_path / "rows.jsonl").write_text(json.dumps({"video": path.name, "question": QUESTION}), encoding="utf-8")
    batch = ("batch", "rows.jsonl", "--model", model, "--max-new-tokens", 1, "--frames", 6, *tower)
    assert run(*batch).exit_code == 0
    row = json.loads((tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert row["tower_share"] == pytest.approx(1 / 3, abs=1e-4)


def test_json_is_one_object(asked, clip, model):
    found = parse(asked("--frames", 6, "--keep", 0.25, "--json"))
    assert found["question"] == QUESTION
    assert isinstance(found["answer"], str)
    assert found["full_answer"] is None
    assert found["video"]["name"] == clip.name
    assert len(found["video"]["frame_seconds"]) == 6
    assert found["visual_tokens"]["before"] == 96
    assert found["visual_tokens"]["per_layer"] == [96, 24, 24, 24]
    assert found["visual_tokens"]["mean_share"] == pytest.approx((1 + 3 * 0.25) / 4)
    assert [stage["kept"] for stage in found["stages"]] == [24]
    assert sum(segment["kept"] for segment in found["segments"]) == 24
    assert found["flops"]["after"] < found["flops"]["before"]
    assert found["kv_bytes"]["after"] < found["kv_bytes"]["before"]
    assert found["seconds_to_first_token"]["reduced"] > 0
    times = found["times"]["reduced"]
    parts = [times[name] for name in ("decode", "processor", "tower", "projector", "prefill", "other")]
    assert all(seconds > 0 for seconds in parts)
    assert sum(parts) == pytest.approx(times["first_token"])
    assert times["per_token"] > 0
    assert found["times"]["full"] is None
    before, after = found["flops"]["first_token"]
    assert before - after == found["flops"]["before"] - found["flops"]["after"]
    assert found["settings"]["keep"] == 0.25
    assert found["model"]["model"] == str(model)
    assert found["versions"]["torch"] == torch.__version__
    assert found["report"] is None


def test_default_is_the_bundled_model_eight_frames_and_cost(run, clip, model, monkeypatch):
    monkeypatch.setitem(assets.BUNDLED, "bundled", model)
    found = parse(run("ask", clip, QUESTION, "--max-new-tokens", 2, "--json"))
    assert len(found["video"]["frame_seconds"]) == assets.BUNDLED_FRAMES == 16
    assert found["model"]["model"] == "bundled"
    assert (found["settings"]["cost"], found["settings"]["keep"]) == (0.3, None)
    assert found["settings"]["stages"] == [[0, 1], [2 / 3, 0.25]]
    assert found["visual_tokens"]["mean_share"] <= 0.3 + 1 / 128


def test_other_models_get_more_frames(asked):
    assert len(parse(asked("--keep", 0.25, "--json"))["video"]["frame_seconds"]) == 30  # all that there are


def test_fps_and_layer_stages(asked):
    found = parse(asked("--fps", 2, "--keep", "1:0.5,3:0.25", "--json"))
    assert len(found["video"]["frame_seconds"]) == 6
    assert found["visual_tokens"]["per_layer"] == [96, 48, 48, 24]


def test_a_cost_in_other_stages(asked):
    found = parse(asked("--frames", 6, "--cost", 0.6, "--stages", "0:1,0.5:0.2", "--json"))
    assert found["settings"]["stages"] == [[0, 1], [0.5, 0.2]]
    assert found["visual_tokens"]["per_layer"] == [96, 96, 19, 19]


def test_segmentation_and_similarity_reach_the_reduction(asked):
    settings = parse(asked("--segmentation", "frame-similarity", "--similarity", "0.9", "--json"))["settings"]
    assert settings["segmentation"] == {"rule": "frame-similarity", "threshold": 0.4, "similarity_lower_bound": 0.9}


def test_options_reach_the_model(asked):
    found = parse(asked("--frames", 4, "--dtype", "bf16", "--attn", "eager", "--device", "cpu", "--json"))
    assert found["model"]["dtype"] == "bfloat16"
    assert found["model"]["attention"] == "eager"
    assert found["model"]["device"] == "cpu"


def test_report_is_written_and_repeats_the_command(asked, tmp_path, clip, model):
    result = asked("--frames", 4, "--keep", 0.25, "--report", "report.html", "--compare")
    assert result.stdout.splitlines()[-1].split() == ["Report", "report.html"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<!doctype html>" in page
    command = re.search("<pre[^>]*>(.*?)</pre>", page, re.DOTALL)[1]
    assert html.unescape(re.sub("</?span>", "", command)) == (
        f"framefusion ask '{clip}' '{QUESTION}' --model {model} --frames 4 --keep 0.25 "
        "--report report.html --max-new-tokens 4 --compare"
    )
    for word in ("LlavaOnevisionForConditionalGeneration", "sdpa", framefusion.__version__, torch.__version__):
        assert word in page


def test_inspect_writes_its_report_and_overlay(run, tmp_path, clip, model):
    result = run("inspect", clip, "--model", model, "--frames", 5, "--keep", 0.25, "--overlay", "strip.png")
    assert result.exit_code == 0, result.stderr
    assert "Answer" not in result.stdout
    assert "What was kept of two scenes.mp4" in (tmp_path / "inspect.html").read_text(encoding="utf-8")
    with Image.open(tmp_path / "strip.png") as picture:
        assert picture.width > 5 * 240
    other = parse(run("inspect", clip, "--model", model, "--frames", 5, "--report", "other.html", "--json"))
    assert (other["question"], other["answer"], other["report"]) == (None, None, "other.html")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_text(run, clip, model, tmp_path):
    name = os.fsdecode(b"clip \xff.mp4")
    (tmp_path / name).write_bytes(clip.read_bytes())
    words = ("ask", name, QUESTION, "--model", model, "--frames", 2, "--max-new-tokens", 1)
    assert parse(run(*words, "--json", "--report", "kept.html"))["video"]["name"] == "clip ?.mp4"
    assert "clip ?.mp4" in (tmp_path / "kept.html").read_text(encoding="utf-8")


def test_photographs_are_asked_about_and_reported(run, tmp_path, clip):
    model = family_checkpoints.save("llava_onevision", tmp_path / "model")
    for name in ("a.png", "b.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(tmp_path / name)
    words = ("--model", model, "--frames", 2, "--keep", 0.5, "--max-new-tokens", 1)
    result = run("ask", "a.png", clip, "b.png", QUESTION, *words, "--report", "report.html")
    assert result.exit_code == 0, result.stderr
    assert re.search(r"Kept of each +a\.png \d+ of 37, two scenes\.mp4 \d+ of 18, b\.png \d+ of 37", result.stdout)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 4
    assert page.count('class="mask of0"') == 2
    assert "a.png, two scenes.mp4, b.png · 3.0 s · 2 frames · 2 photographs" in page
    assert f"framefusion ask a.png '{clip}' b.png" in html.unescape(re.sub("</?span>", "", page))
    found = parse(run("inspect", "a.png", "--overlay", "a.jpg", *words[:4], "--json"))
    assert (found["video"], found["media"][0]["kind"], found["media"][0]["duration"]) == (None, "image", None)
    assert (tmp_path / "a.jpg").exists()
