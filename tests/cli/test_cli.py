"""The command line: answers, JSON, files, and one clear sentence with exit code 2 for what users get wrong."""

import html
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import framefusion
from framefusion import assets, cli
from framefusion.hf.families import table
from tests import family_checkpoints, tiny_checkpoints
from tests.asking.media.corpus import ENTRIES

QUESTION = "what colour is the circle"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_checkpoints.save_llava_onevision(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Three seconds in two scenes, ten frames a second."""
    path = tmp_path_factory.mktemp("clips") / "two scenes.mp4"
    rng = np.random.default_rng(0)
    scenes = [rng.integers(0, 255, (64, 96, 3), dtype=np.uint8) for _ in range(2)]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(30):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(scenes[i >= 15], format="rgb24")))
        out.mux(stream.encode(None))
    return path


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Invoke the command in a directory of its own, without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def invoke(*words):
        return CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)

    return invoke


@pytest.fixture
def asked(run, clip, model):
    return lambda *words: run("ask", clip, QUESTION, "--model", model, "--max-new-tokens", 4, *words)


def parse(result) -> dict:
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


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
        "First token",
        "Timing",
    ]
    assert rows["Visual tokens"].startswith("24 of 96 kept (25.0 %)")
    assert rows["Per layer"] == "96, 24 × 3"
    assert result.stderr == ""


def test_compare_shows_both_answers_and_both_times(asked):
    result = asked("--frames", 4, "--keep", 0.25, "--compare")
    assert result.stdout.splitlines()[0].startswith("All tokens ")
    assert result.stdout.splitlines()[1].startswith("Reduced ")
    assert re.search(r"First token +[−+][\d.]+ % \(.* → .*\)", result.stdout)
    assert "after a warm-up" in result.stdout


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


def test_models_lists_the_registry(run):
    text = run("models").stdout
    for row in table():
        assert row["name"] in text
        assert row["model_class"] in text
    assert json.loads(run("models", "--json").stdout) == table()


def test_demo_answers_every_kind_of_question_and_reduces_the_real_clip(run, tmp_path):
    kinds = {pair["kind"] for pair in json.loads(assets.DEMO_QUESTIONS.read_text(encoding="utf-8"))}
    result = run("demo", "--out", "made/here")
    assert result.exit_code == 0, result.stderr
    told = re.findall(r"\(right: (.+)\)\nAll tokens +(.+)\nReduced +(.+)\n", result.stdout)
    assert len(told) == len(kinds)
    assert all(right == whole == reduced for right, whole, reduced in told)
    shares = re.findall(r"mean over layers (.+) %", result.stdout)
    assert [float(share) for share in shares[:-1]] == pytest.approx([20.0] * len(kinds), abs=0.1)
    names = {path.name for path in (tmp_path / "made/here").iterdir()}
    assert names == {f"{kind}.html" for kind in kinds} | {"real-clip.html", "real-clip.png"}
    (tmp_path / "file").touch()
    refuse(run("demo", "--out", "file/here"), "cannot make the directory file/here")


def test_version(run):
    assert run("--version").stdout == f"framefusion {framefusion.__version__}\n"


def test_bench_passes_its_options_on(run, monkeypatch):
    import framefusion.bench

    calls = []

    class Report:
        def table(self):
            return "the table"

    monkeypatch.setattr(framefusion.bench, "run", lambda **options: calls.append(options) or Report())
    result = run("bench", "--no-sweep", "--iterations", 2, "--json", "b.json", "--plot", "b.png", "--threads", 1)
    assert result.stdout == "the table\n"
    (options,) = calls
    assert options["sweep"] is False
    assert (options["iterations"], options["threads"], options["device"]) == (2, 1, "cpu")
    assert (str(options["json_path"]), str(options["plot_path"])) == ("b.json", "b.png")
    assert (options["dtype"], options["peers"]) == ("float32", False)


def refuse(result, message):
    assert result.exit_code == 2
    assert result.stdout == ""
    assert re.search(message, result.stderr), result.stderr
    assert result.stderr.startswith("framefusion: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


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


def test_models_that_cannot_be_loaded(run, clip, tmp_path):
    refuse(run("ask", clip, QUESTION, "--model", "nobody/nothing"), "could not be fetched from the Hugging Face hub")
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
    logged = logging.getLogger("framefusion.asking.ask")
    monkeypatch.setattr("framefusion.asking.ask.warm_up", lambda dtype: logged.info("compiling"))
    assert "INFO framefusion.asking.ask: compiling\n" in run(*words, "--verbose").stderr
    assert run(*words).stderr == ""
    refused = run("ask", "gone.mp4", QUESTION, "--verbose").stderr
    assert refused.startswith("Traceback")
    assert refused.endswith("VideoError: no such file: gone.mp4\nframefusion: no such file: gone.mp4\n")


LONG = "what is the person doing " * 20


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
        ("bench", "--plot", f"{LONG}.png"),
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


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_text(run, clip, model, tmp_path):
    name = os.fsdecode(b"clip \xff.mp4")
    (tmp_path / name).write_bytes(clip.read_bytes())
    words = ("ask", name, QUESTION, "--model", model, "--frames", 2, "--max-new-tokens", 1)
    assert parse(run(*words, "--json", "--report", "kept.html"))["video"]["name"] == "clip ?.mp4"
    assert "clip ?.mp4" in (tmp_path / "kept.html").read_text(encoding="utf-8")


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
    assert page.count('class="mask"') == 2
    assert "a.png, two scenes.mp4, b.png · 3.0 s · 2 frames · 2 photographs" in page
    assert html.escape(f"framefusion ask a.png '{clip}' b.png") in re.sub("</?span>", "", page)
    found = parse(run("inspect", "a.png", "--overlay", "a.jpg", *words[:4], "--json"))
    assert (found["video"], found["media"][0]["kind"], found["media"][0]["duration"]) == (None, "image", None)
    assert (tmp_path / "a.jpg").exists()


def command(*words, **options):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "framefusion", *map(str, words)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        **options,
    )


def test_piped_command_prints_plain_text_only(clip, model, tmp_path):
    done = command(
        *("ask", clip, QUESTION, "--model", model, "--frames", 4, "--keep", 0.25, "--max-new-tokens", 3), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "16 of 64 kept" in done.stdout
    assert "\x1b" not in done.stdout
    assert "it/s" not in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_terminal_sees_progress_and_styles(clip, model):
    import pty

    ours, theirs = pty.openpty()
    words = ["ask", str(clip), QUESTION, "--model", str(model), "--frames", "4", "--max-new-tokens", "3"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(
        [sys.executable, "-m", "framefusion", *words], stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
    os.close(ours)
    assert process.returncode == 0
    text = shown.decode(errors="replace")
    assert "Starting" in text
    assert f"Loading {model}" in text
    assert "\x1b[36mAnswer" in text
    assert "it/s" not in text


def _read(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux reports a closed terminal as an error
        return b""


def test_piped_command_fails_in_one_sentence(tmp_path):
    done = command("ask", "gone.mp4", QUESTION, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "framefusion: no such file: gone.mp4\n")


def test_help_needs_no_heavy_imports(tmp_path):
    script = (
        "import sys; from framefusion import cli\n"
        "try: cli.app(['ask', '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'av', 'numba', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for option in ("--model", "--frames", "--fps", "--cost", "--keep", "--compare", "--report", "--trust-remote-code"):
        assert option in done.stdout
    assert "0.3" in done.stdout


@pytest.fixture
def questions(tmp_path, clip):
    """Two videos, one question without an answer."""
    rows = [
        {"video": str(clip), "question": QUESTION, "answer": "red", "kind": "colour"},
        {"video": str(clip), "question": "is it a circle", "answer": "is", "kind": "shape"},
        {"video": str(assets.REAL_VIDEO), "question": "describe the video"},
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path / "mine.jsonl"


@pytest.fixture
def evaluated(run, questions, model):
    words = ("eval", "--data", questions, "--model", model, "--frames", 4, "--methods", "random,segment-dpp")
    return lambda *more: run(*words, "--budgets", "0.5,0.1", "--seeds", 2, "--timed", 1, "--max-new-tokens", 3, *more)


def test_eval_prints_a_table_and_writes_the_results(evaluated, tmp_path):
    result = evaluated("--out", "made/here")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("4 frames, 3 questions about 2 videos, exact match on 2, else agreement")
    assert re.search(r"Random +[\d.]+ +[\d.]+", result.stdout)
    assert re.search(r"Segment DPP +[\d.]+ +—", result.stdout)
    assert "the budget cannot be reached" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("Results in made/here: leaderboard.md")
    names = {path.name for path in (tmp_path / "made/here").iterdir()}
    results = {"cells.jsonl", "questions.jsonl", "run.json", "summary.json", "leaderboard.md"}
    assert names == results | {"accuracy-4.png", "kinds-4.png"}
    page = (tmp_path / "made/here/leaderboard.md").read_text(encoding="utf-8")
    assert "![Accuracy over budget, a line for each method](./accuracy-4.png)" in page


def test_eval_goes_on_and_prints_json(evaluated, monkeypatch, model):
    monkeypatch.setattr(sys, "argv", ["/some/where/framefusion", "eval", "--data", "my file.jsonl"])
    first = json.loads(evaluated("--json", "--no-plots").stdout)
    monkeypatch.setattr("framefusion.evaluation.answering.Chunk._answers", lambda *a: pytest.fail("asked again"))
    second = parse(evaluated("--json", "--no-plots"))
    assert first == second
    assert second["commands"] == ["framefusion eval --data 'my file.jsonl'"]
    assert second["data"] == "mine.jsonl"
    assert second["model"].startswith(str(model))
    cells = [(m["method"], m["budget"], m["reached"]) for m in second["frames"][0]["methods"]]
    assert cells == [
        ("full", None, True),
        ("random", 0.5, True),
        ("random", 0.1, True),
        ("segment-dpp", 0.5, True),
        ("segment-dpp", 0.1, False),
    ]
    refuse(evaluated("--max-new-tokens", 2), r"out/eval holds results of another new tokens \(3, now 2\)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "fastvv"], "there is no method 'fastvv'; there are full, .*, and the groups all, controls"),
        (["--methods", ","], "--methods is empty; name at least one"),
        (["--budgets", "0.5,half"], "--budgets must be shares such as 0.2,0.1, got 'half'"),
        (["--budgets", "20"], r"a budget must be in \(0, 1\], got 20"),
        (["--budgets", ""], "--budgets is empty"),
        (["--frames", "0"], "frames must be at least 1, got 0"),
        (["--videos", "0"], "--videos must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--kinds", "large"], "--kinds chooses from the generated questions; leave it out with --data .*mine.jsonl"),
        (["--data", "needle", "--kinds", "large,hue"], "--kinds must be some of large, .*, scene, .*, got 'hue'"),
        (["--data", "needle", "--kinds", ""], "--kinds must be some of large, .*, got ''"),
        (["--seeds", "0"], "seeds must be at least 1, got 0"),
        (["--jobs", "0"], "jobs must be at least 1, got 0"),
        (["--batch", "0"], "batch must be at least 1, got 0"),
        (["--timed", "-1"], "timed must be at least 0, got -1"),
        (["--max-new-tokens", "0"], "new_tokens must be at least 1, got 0"),
        (["--data", "gone.jsonl"], "no such file: gone.jsonl"),
        (["--data", "bad.jsonl"], "bad.jsonl line 1 has no question"),
        (["--data", "movie.jsonl"], "movie.jsonl: .*movie.jsonl is a text file|not a video"),
        (["--out", "bad.jsonl"], "--out must be a directory, but bad.jsonl is a file"),
        (["--out", "bad.jsonl/deeper"], "cannot make the directory bad.jsonl/deeper: "),
        (["--out", "torn"], r"torn/questions\.jsonl line 1 is damaged; delete the line"),
        (["--model", "./gone"], r"there is no directory \./gone"),
        (["--dtype", "int8"], "dtype must be one of"),
    ],
)
def test_evaluations_that_make_no_sense(evaluated, tmp_path, options, message):
    (tmp_path / "bad.jsonl").write_text('{"video": "a.mp4"}\n')
    (tmp_path / "movie.jsonl").write_text('{"video": "movie.jsonl", "question": "what"}\n')
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "questions.jsonl").write_text("{\n{}\n")
    refuse(evaluated(*options), message)


def test_plots_need_matplotlib_before_the_slow_work(evaluated, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refuse(evaluated(), r"pip install 'framefusion\[plot\]', or leave them out with --no-plots")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_evaluation_says_how_to_go_on(evaluated, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("framefusion.evaluation.answering.Chunk._answers", interrupted)
    result = evaluated()
    assert result.exit_code == 130
    assert result.stderr == "framefusion: interrupted; the same command goes on with what is in out/eval\n"
