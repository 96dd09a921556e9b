"""One clear sentence with exit code 2 for what users get wrong, whatever the command."""

import logging
import os

import av
import numpy as np
import pytest

from framefusion.cli import reduction
from tests.cli.said import LONG, QUESTION, refuse


def test_videos_that_cannot_be_asked(run, tmp_path):
    (tmp_path / "notes.txt").write_text("not a video " * 99)
    refuse(run("ask", "gone.mp4", QUESTION), r"no such file: gone\.mp4")
    refuse(run("ask", ".", QUESTION), "is a directory")
    refuse(run("ask", "notes.txt", QUESTION), "not a video")
    with av.open(str(tmp_path / "empty.avi"), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        out.start_encoding()
    refuse(run("inspect", "empty.avi"), "contains no frames|no video stream")


@pytest.mark.parametrize(
    ("word", "missing"),
    [
        ("street.mp4", "the question is missing; first the videos, then the question: "),
        ("https://example.org/street", "the question is missing"),
        ("notes", "the question is missing"),
        ("what is shown?", "there is nothing to ask about; first the videos, then the question: "),
        ("colours", "there is nothing to ask about"),
    ],
)
def test_a_word_alone(run, tmp_path, word, missing):
    (tmp_path / "notes").write_text("a file")
    refuse(run("ask", word), missing)


def test_models_that_cannot_be_loaded(run, clip, tmp_path):
    refuse(run("ask", clip, QUESTION, "--model", "nobody/nothing"), "could not be fetched from the Hugging Face hub")
    refuse(run("ask", clip, QUESTION, "--model", "bundled-quen"), "did you mean 'bundled-qwen'")
    refuse(run("ask", clip, QUESTION, "--model", "./gone"), r"there is no directory \./gone")
    refuse(run("ask", clip, QUESTION, "--model", tmp_path), r"has no config\.json")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    refuse(run("ask", clip, QUESTION, "--model", tmp_path), "'bert', which is not supported; supported: LLaVA-One")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep", "1.5"], r"keep must be in \(0, 1\], got 1\.5"),
        (["--keep", "0"], r"keep must be in \(0, 1\], got 0"),
        (["--keep", "nan"], r"keep must be in \(0, 1\], got nan"),
        (["--keep", "half"], "--keep must be a share such as 0.2 .* got 'half'"),
        (["--keep", "1:0.5,2"], "--keep must be a share"),
        (["--keep", "9:0.5"], "stage before layer 9, but the model has 4"),
        (["--cost", "0"], r"cost must be in \(0, 1\], got 0"),
        (["--stages", "0.5"], "stages must be auto or DEPTH:SHARE pairs .* got '0.5'"),
        (["--tower", "some"], "--tower must be None .*'changed:LEVELS'.* got 'some'"),
        (["--tower", "changed:-1"], "--tower='changed:-1': Changed.levels must be in"),
        (["--stages", "0:1", "--keep", "0.2"], "stages say where a cost is spent, but keep=0.2 is given"),
        (["--stages", "0.5:1"], "cost=0.3 cannot be reached: stages begin behind 2 of 4 decoder layers"),
        (["--cost", "0.3", "--keep", "0.2"], "--keep and --cost exclude each other"),
        (["--segmentation", "scenes"], "segmentation must be one of 'frame-similarity', "),
        (
            ["--segmentation", "frame-similarity", "--similarity", "2"],
            r"similarity_lower_bound must be in \[-1, 1\], got 2",
        ),
        (["--similarity", "0.5"], "--similarity is of --segmentation frame-similarity; give both, or leave it out"),
        (["--frames", "4", "--fps", "1"], "--frames and --fps exclude each other"),
        (["--frames", "0"], "frames must be at least 1, got 0"),
        (["--fps", "-1"], r"fps must be a number above 0, got -1"),
        (["--max-new-tokens", "0"], "--max-new-tokens must be at least 1, got 0"),
        (["--dtype", "int8"], "dtype must be one of"),
        (["--device", "toaster"], "device 'toaster' cannot be used here"),
        (["--attn", "nonsense"], "cannot be loaded: .*nonsense"),
        (["--report", "gone/report.html"], "cannot write gone/report.html: there is no directory"),
        (["--report", "."], r"cannot write \.: it is a directory"),
    ],
)
def test_options_that_make_no_sense(asked, options, message):
    refuse(asked(*options), message)


def test_empty_question_and_unknown_picture(run, clip, model):
    refuse(run("ask", clip, " ", "--model", model), "the question is empty")
    refuse(run("inspect", clip, "--model", model, "--overlay", "strip.doc"), "--overlay must end in .png")


def test_wrong_paths_are_refused_before_the_slow_work(run, clip, monkeypatch):
    monkeypatch.setattr("framefusion.asking.video.read_video", lambda *a, **k: pytest.fail("decoded first"))
    refuse(run("ask", clip, QUESTION, "--report", "gone/report.html"), "cannot write")
    refuse(run("inspect", clip, "--overlay", "gone/strip.png"), "cannot write")
    refuse(run("bench", "--json", "gone/b.json"), "cannot write")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_directory(asked, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    refuse(asked("--report", "locked/report.html"), "permission denied")


def test_errors_of_our_own_making_are_not_hidden(run, clip, model, monkeypatch):
    def broken(*args, **kwargs):
        raise KeyError("a defect")

    monkeypatch.setattr("framefusion.asking.report.render", broken)
    words = ("inspect", clip, "--model", model, "--frames", 2, "--keep", 0.5)
    short, long = run(*words), run(*words, "--verbose")
    for result in (short, long):
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.splitlines()[-1].startswith(
            "framefusion: unexpected KeyError: 'a defect'; this is a defect"
        )
        assert "--verbose" in result.stderr
    assert short.stderr.count("\n") == 1
    assert "Traceback" in long.stderr
    assert "in broken" in long.stderr


def test_verbose_shows_the_traceback_and_what_is_logged_of_one_command(run, clip, model, monkeypatch):
    words = ("ask", clip, QUESTION, "--model", model, "--max-new-tokens", 1, "--frames", 2)
    logged, stored = logging.getLogger("framefusion.asking.ask"), reduction.stored_settings
    monkeypatch.setattr("framefusion.cli.ask.stored_settings", lambda given: logged.info("said") or stored(given))
    assert "INFO framefusion.asking.ask: said\n" in run(*words, "--verbose").stderr
    assert run(*words).stderr == ""
    refused = run("ask", "gone.mp4", QUESTION, "--verbose").stderr
    assert refused.startswith("Traceback")
    assert refused.endswith("VideoError: no such file: gone.mp4\nframefusion: no such file: gone.mp4\n")


@pytest.mark.parametrize(
    "words",
    [
        ("ask", LONG, "q"),
        ("ask", "CLIP", "q", "--report", f"{LONG}.html"),
        ("ask", "CLIP", "q", "--settings", f"{LONG}.json"),
        ("ask", "CLIP", "q", "--model", f"./{LONG}"),
        ("ask", "CLIP/b.mp4", "q"),
        ("ask", "CLIP", "q", "--report", "CLIP/b.html"),
        ("ask", "loop.mp4", "q"),
        ("ask", "CLIP", "q", "--report", "loop.html"),
        ("ask", "CLIP", "q", "--settings", "loop.json"),
        ("inspect", "CLIP", "--overlay", f"{LONG}.png"),
        ("batch", f"{LONG}.jsonl"),
        ("batch", "loop.jsonl"),
        ("batch", "CLIP/b.jsonl"),
        ("batch", "CLIP", "--out", f"{LONG}.jsonl"),
        ("batch", "CLIP", "--settings", f"{LONG}.json"),
        ("eval", "--data", f"{LONG}.jsonl", "--no-plots"),
        ("eval", "--data", "loop.jsonl", "--no-plots"),
        ("eval", "--data", "CLIP/b.jsonl", "--no-plots"),
        ("eval", "--out", LONG, "--no-plots", "--videos", 1),
        ("calibrate", "--data", "needle", "--settings", f"{LONG}.json"),
        ("calibrate", "--data", f"{LONG}.jsonl", "--out", "here"),
        ("bench", "--json", f"{LONG}.json"),
        ("plan", "--settings", f"{LONG}.json"),
        ("demo", "--out", f"CLIP/{LONG}"),
        ("demo", "--out", LONG),
    ],
)
def test_paths_that_no_system_takes(run, tmp_path, clip, words):
    """Too long, through a file, and links that lead to themselves: for every option that names a file."""
    for suffix in (".mp4", ".html", ".json", ".jsonl"):
        (tmp_path / f"loop{suffix}").symlink_to(f"loop{suffix}")
    refuse(run(*(str(word).replace("CLIP", str(clip)) for word in words)), ".")


def test_question_and_video_in_the_wrong_order(run, clip):
    refuse(run("ask", LONG, clip), "two scenes.mp4 stands where the question belongs; the question comes last: frame")
    refuse(run("ask", clip, clip), "stands where the question belongs")
    refuse(run("ask", "what is it?", "https://example.org/a.mp4"), "stands where the question belongs")


def test_a_video_that_the_processor_refuses(run, tmp_path):
    with av.open(str(tmp_path / "wide.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 1200, 5, "yuv444p"
        for i in range(4):
            picture = np.full((5, 1200, 3), 20 * i, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))
    refuse(
        run("inspect", "wide.mkv", "--model", "bundled-qwen"),
        "Qwen2_5_VLProcessor cannot take the video: absolute aspect ratio must be smaller than 200",
    )
