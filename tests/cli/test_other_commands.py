"""The commands that need few words: models, demo, bench."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from framefusion import assets
from framefusion.cli import demo
from framefusion.hf.families import refused, table
from tests.asking.report import samples
from tests.cli.said import refuse


def test_models_lists_the_registry(run):
    text = run("models").stdout
    lines = text.splitlines()
    assert [line.split("  ")[0] for line in lines[: len(table())]] == [row["name"] for row in table()]
    assert [line.split()[-1] for line in lines[: len(table())]] == [row["model_class"] for row in table()]
    assert max(map(len, lines)) <= 80
    assert json.loads(run("models", "--json").stdout) == table()
    assert text.endswith(
        f"--json\n{len(refused())} other classes of transformers are not supported: framefusion models --refused\n"
    )


def test_models_tells_what_is_not_supported_and_why(run):
    text = run("models", "--refused").stdout
    for row in refused():
        assert f"{row['model_class']}\n  {row['reason']}\n" in text
    assert json.loads(run("models", "--refused", "--json").stdout) == refused()


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
    last = result.stdout.splitlines()[-1]
    count = len(kinds)
    assert last.startswith(f"{count} of {count} questions have the same answer with all tokens and with 20 %")
    path = Path(last.split("Look first at ")[1])
    assert path == Path("made/here/large.html")
    assert path.exists()
    (tmp_path / "file").touch()
    refuse(run("demo", "--out", "file/here"), "cannot make the directory file/here")


def test_demo_ends_with_the_report_to_open_first():
    same = samples.data()
    other = dataclasses.replace(same, full_answer="blue square")
    told = demo.ending({Path("a.html"): same, Path("b.html"): other})
    assert told == ("1 of 2 questions have the same answer with all tokens and with 20 %. Look first at b.html")


def test_demo_says_so_where_fewer_tokens_took_longer():
    quicker = samples.data()
    slower = dataclasses.replace(quicker, times=quicker.full_times, full_times=quicker.times)
    told = demo.ending({Path("a.html"): quicker, Path("b.html"): slower})
    assert told == (
        "2 of 2 questions have the same answer with all tokens and with 20 %; 1 took longer with 20 %: the bundled "
        "model is too small for its times to mean much. Look first at a.html"
    )
    inside = dataclasses.replace(quicker, seconds_to_first_token=0.4)
    assert "; 1 took longer" in demo.ending({Path("a.html"): inside})


def test_bench_passes_its_options_on(run, monkeypatch):
    import framefusion.bench

    calls = []

    class Report:
        def table(self):
            return "the table"

    monkeypatch.setattr(framefusion.bench, "run", lambda **options: calls.append(options) or Report())
    result = run("bench", "--iterations", 2, "--json", "b.json", "--threads", 1)
    assert result.stdout == "the table\n"
    (options,) = calls
    assert (options["iterations"], options["threads"], options["device"]) == (2, 1, "cpu")
    assert (str(options["json_path"]), options["dtype"]) == ("b.json", "float32")
