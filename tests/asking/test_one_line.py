"""Python in one line: a file, a question, an answer; models that are named, loaded or bare."""

import functools
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import framefusion
from framefusion import FrameFusion, assets
from framefusion.asking import loading
from framefusion.asking.ask import AskError, inspect
from framefusion.asking.loading import ModelError
from framefusion.asking.video import VideoError
from framefusion.showing import units

QUESTION = "what colour is the circle"


@pytest.fixture(scope="module")
def loaded(models):
    return models["llava-onevision"]


@pytest.fixture(scope="module")
def qwen():
    """One whose chat template shows photographs."""
    return framefusion.load("bundled-qwen")


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 255, (4, 60, 80, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def answer(loaded, frames):
    return framefusion.ask(frames, QUESTION, model=loaded, keep=0.25, max_new_tokens=3)


def test_importing_the_package_loads_nothing(tmp_path):
    script = (
        "import framefusion, sys; dir(framefusion)\n"
        "assert not {'torch', 'transformers', 'numpy', 'PIL', 'jinja2', 'av'} & set(sys.modules)\n"
        "for name in ('ask', 'load', 'report', 'Answer', 'LoadedModel'): assert callable(getattr(framefusion, name))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


def test_the_answer_is_its_text(answer):
    assert str(answer) == answer.text
    assert repr(answer) == f"<Answer {answer.text!r}, with {units.percent(answer.kept)} of 64 visual tokens>"
    assert repr(replace(answer, text="x" * 99)).startswith(f"<Answer '{'x' * 80}…', with ")
    assert repr(replace(answer, text="", question=None)).startswith("<Answer without a question, with ")
    assert answer.names == ("frames",)
    assert answer.settings == FrameFusion(keep=0.25)


def test_what_was_kept_and_saved_are_shares_of_the_summary(answer, loaded, frames):
    summary = answer.summary
    assert answer.kept == summary.mean_share < 1
    assert answer.saved.kv_cache == pytest.approx(1 - summary.kv_bytes_after / summary.kv_bytes_before)
    before, after = summary.first_token_flops
    assert answer.saved.compute == pytest.approx(1 - after / before)
    assert answer.saved.time is None
    compared = framefusion.ask(frames, QUESTION, model=loaded, keep=0.25, max_new_tokens=1, compare=True)
    assert compared.saved.time == pytest.approx(1 - compared.times.first_token / compared.full.times.first_token)


def test_a_bare_model_takes_its_processor_along(answer, loaded, frames):
    bare = {"model": loaded.model, "processor": loaded.processor}
    again = framefusion.ask(frames, QUESTION, settings=FrameFusion(keep=0.25), max_new_tokens=3, **bare)
    assert again.text == answer.text
    assert again.provenance["model"]["class"] == type(loaded.model).__name__


def test_a_name_is_loaded_and_a_loaded_model_is_not(checkpoints, loaded, frames, monkeypatch):
    calls = []
    noted = functools.wraps(loading.load)(lambda *args, **options: calls.append((args, options)) or loaded)
    monkeypatch.setattr(loading, "load", noted)
    framefusion.ask(frames, QUESTION, model=loaded, max_new_tokens=1)
    assert calls == []
    path = checkpoints["llava-onevision"]
    framefusion.ask(frames, QUESTION, model=path, dtype="float32", max_new_tokens=1)
    assert calls == [((path,), {"dtype": "float32"})]
    inspect(frames)
    assert calls[1:] == [((None,), {})]


@pytest.mark.parametrize(("count", "expected"), [(None, 32), (3, 3)])
def test_frames_of_a_file(loaded, count, expected):
    found = inspect(assets.DEMO_VIDEO, model=loaded, frames=count)
    assert (len(found.video), found.names) == (expected, (assets.DEMO_VIDEO.name,))
    assert found.times.decode > 0


def test_photographs_have_the_names_of_their_files(qwen, frames, tmp_path):
    Image.fromarray(frames[0]).save(tmp_path / "before.png")
    found = inspect([tmp_path / "before.png", Image.fromarray(frames[1])], model=qwen)
    assert found.names == ("before.png", "photograph")


NO_MODEL = {"model": object()}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"settings": FrameFusion(), "cost": 0.2}, AskError, "settings excludes cost and keep"),
        ({"settings": FrameFusion(), "keep": 0.2}, AskError, "settings excludes cost and keep"),
        ({"cost": 0.2, "keep": 0.2}, ValueError, "exclude each other"),
        ({"frames": 3}, AskError, "frames and fps are for files that are read here"),
        ({"media": "gone.mp4", **NO_MODEL}, VideoError, "no such file"),
        ({"media": "gone.mp4", "frames": 0, **NO_MODEL}, VideoError, "frames must be at least 1"),
        ({"media": [np.zeros((2, 2, 3), np.uint8)]}, AskError, r"arrays of frames \(T, H, W, 3\), got ndarray \(2, 2,"),
        ({"media": np.zeros((1, 2, 2, 3))}, AskError, "of uint8, got"),
        ({"model": 3}, ModelError, "model must be a model or the name of one, got int"),
        ({"processor": object()}, ModelError, "processor is of a bare model"),
        ({"model": "bundled", "processor": object()}, ModelError, "one that is named brings its own"),
        ({"dtype": "float32"}, ModelError, "dtype: the model is loaded already"),
        ({"modle": "bundled"}, TypeError, "there is no argument modle; a model is loaded with dtype, device"),
    ],
)
def test_what_cannot_be_right_is_refused_in_words(loaded, frames, changes, error, message):
    given = {"media": frames, "model": loaded, **changes}
    with pytest.raises(error, match=message):
        framefusion.ask(given.pop("media"), QUESTION, **given)


def test_a_bare_model_without_its_processor_is_refused(loaded, frames):
    with pytest.raises(ModelError, match="a loaded model needs its processor"):
        framefusion.ask(frames, QUESTION, model=loaded.model)


def test_the_report_of_an_answer(answer, tmp_path):
    made = answer.report(tmp_path / "out.html")
    assert made.path == tmp_path / "out.html"
    assert made.path.read_text(encoding="utf-8") == str(made) == made.html
    assert QUESTION in made.html
    assert re.fullmatch(r"<Report of \d+ KiB, written to .*/out.html>", repr(made))
    assert "save('report.html') writes it>" in repr(answer.report())
    with pytest.raises(OSError, match="No such file"):
        answer.report(tmp_path / "gone" / "out.html")


def prefilled(loaded, media, **options):
    inputs = framefusion.asking.ask.model_inputs(media, QUESTION, loaded.model, loaded.processor)
    with framefusion.attach(loaded.model, FrameFusion(keep=0.25), **options) as run:
        loaded.model.generate(**inputs, max_new_tokens=1)
    return run


@pytest.mark.parametrize("family", ["llava-onevision", "qwen2.5-vl"])
def test_the_report_of_a_run_is_that_of_the_answer(models, frames, family):
    loaded = models[family]
    shown = framefusion.ask(frames, QUESTION, model=loaded, keep=0.25, max_new_tokens=1)
    run = prefilled(loaded, shown.video)
    # Without the times, which nobody measured, and what tells how to repeat it.
    masks = [part for part in str(shown.report()).split('"') if part.startswith("data:")]
    assert masks
    for given in (frames, list(frames), [Image.fromarray(frame) for frame in frames], shown.video):
        page = str(framefusion.report(run, given, question=QUESTION, answer=shown.text))
        assert [part for part in page.split('"') if part.startswith("data:")] == masks
        assert QUESTION in page
        assert "first token after" not in page


def test_the_report_of_a_run_over_a_file_and_photographs(qwen, frames, tmp_path):
    video = framefusion.asking.ask.read_media(assets.DEMO_VIDEO, 4)
    run = prefilled(qwen, video, timed=True)
    made = framefusion.report(run, assets.DEMO_VIDEO, tmp_path / "kept.html")
    assert "What was kept of scenes.mp4" in made.path.read_text(encoding="utf-8")
    pictures = [Image.fromarray(frame) for frame in frames[:2]]
    answer = framefusion.ask(pictures, QUESTION, model=qwen, keep=0.25, max_new_tokens=1)
    for shown in (framefusion.report(prefilled(qwen, pictures), pictures), answer.report()):
        assert str(shown).count("Photograph ") == 2
        assert str(shown).count('class="mask of0"') == 2


def test_a_report_of_what_was_not_shown_is_refused(loaded, frames):
    run = framefusion.attach(loaded.model, FrameFusion(keep=0.25))
    run.detach()
    with pytest.raises(RuntimeError, match="prefill"):
        framefusion.report(run, frames)
    with pytest.raises(TypeError, match="run must be what attach"):
        framefusion.report(object(), frames)
    run = prefilled(loaded, framefusion.asking.ask.frames_of(frames, None, 0.0))
    with pytest.raises(ValueError, match="media has 3 frames, but the tokens are of 4"):
        framefusion.report(run, frames[:3])
    with pytest.raises(ValueError, match="media has 2 entries, but the prefill was of 1 videos"):
        framefusion.report(run, [frames, frames])
    with pytest.raises(TypeError, match="media must be frames, videos"):
        framefusion.report(run, 3)
    with pytest.raises(ValueError, match="answer is given without question"):
        framefusion.report(run, frames, answer="blue")


def test_a_report_is_of_one_sample(loaded, frames):
    video = framefusion.asking.ask.frames_of(frames, None, 0.0)
    inputs = framefusion.asking.ask.model_inputs(video, QUESTION, loaded.model, loaded.processor)
    with framefusion.attach(loaded.model, FrameFusion(keep=0.25)) as run:
        loaded.model.generate(**inputs, max_new_tokens=1, num_beams=2)
    with pytest.raises(ValueError, match="the latest prefill was of 2 samples"):
        framefusion.report(run, frames)


def test_a_notebook_shows_answers_and_runs(answer, loaded, frames):
    shown = answer._repr_html_()
    assert QUESTION in shown
    assert shown.count("<img") == 1
    assert "Decoder" not in shown
    run = prefilled(loaded, answer.video, timed=True)
    card = run._repr_html_()
    assert card.count('title="layer ') == len(answer.summary.tokens_per_layer)
    for words in ("KV cache", "vision tower", "Visual tokens"):
        assert words in card
    fresh = framefusion.attach(loaded.model)
    assert "no prefill to tell of" in fresh._repr_html_()
    fresh.detach()


def test_a_notebook_is_given_no_megabytes(answer, loaded):
    rng = np.random.default_rng(1)
    sizes = []
    for count in (24, 48):
        noise = rng.integers(0, 255, (count, 120, 160, 3), dtype=np.uint8)
        sizes.append(len(inspect(noise, model=loaded)._repr_html_()))
    assert max(sizes) < 400_000
    assert sizes[1] < 1.2 * sizes[0]
