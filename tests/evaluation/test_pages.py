"""Tables, pictures and the leaderboard, from a summary alone."""

import json
import re
import sys
from io import StringIO

import pytest
from PIL import Image
from rich.console import Console

from framefusion.evaluation import plots
from framefusion.evaluation.cells import choose
from framefusion.evaluation.leaderboard import page
from framefusion.evaluation.summary import summarise
from framefusion.evaluation.table import headline, terminal
from tests.evaluation import made
from tests.scripts import load


@pytest.fixture(scope="module")
def summary():
    return made.summary()


def shown(part, width=120):
    console = Console(file=StringIO(), width=width)
    console.print(terminal(part))
    return console.file.getvalue()


def rows_of(text, start):
    """The cells of the line of a table that starts with a name."""
    (line,) = [line for line in text.splitlines() if line.strip(" |").startswith(start)]
    return re.split(r"\s{2,}|\s*\|\s*", line.strip(" |"))


def test_the_table_of_the_terminal(summary):
    part = summary["frames"][0]
    text = shown(part)
    accuracy = {(e["method"], e["budget"]): e for e in part["methods"]}
    value = f"{100 * accuracy['segment-dpp', 0.2]['accuracy']['value']:.1f}"
    assert rows_of(text, "Segment DPP  ") == ["Segment DPP", f"{value} ↑", "—"]
    assert rows_of(text, "FastV")[2] == "—"
    assert rows_of(text, "EVS")[1].endswith("*") or "* " in rows_of(text, "EVS")[1]
    assert "↓" in rows_of(text, "Random")[1]
    assert "All tokens" not in text
    order = [text.index(name) for name in ("Segment DPP", "FastV", "Random", "Segment DPP: single")]
    assert order == sorted(order)
    assert headline(part).startswith("16 frames, 80 questions about 20 videos, exact match. All tokens 9")
    assert "Text only" in headline(part)


def test_headline_says_how_answers_were_scored(summary):
    part = summary["frames"][0]
    assert "videos, agreement with the answer of all tokens. " in headline({**part, "labelled": 0})
    assert "exact match on 3, else agreement" in headline({**part, "labelled": 3})


def test_the_leaderboard(summary):
    text = page(summary, "make leaderboard", "Any title", images="../images", prefix="leaderboard-", linked=True)
    assert "Written by `make leaderboard`; how to read it: [evaluation.md]" in text
    for word in (
        "framefusion eval --frames 16\nframefusion eval --frames 32",
        "torch 2.6",
        "seed 0",
        "weights 01234567",
    ):
        assert word in text
    assert text.index("## 16 frames") < text.index("## 32 frames")
    assert text.count("![") == 4
    assert "(../images/leaderboard-accuracy-16.png)" in text
    sections = re.findall(r"^### (.*)$", text.split("## 32 frames")[0], re.MULTILINE)
    assert sections == [
        "Accuracy",
        "Against all tokens",
        "Against the best other published rule",
        "By kind of question, at 10 %",
        "By tag, at 10 %",
        "Cost, at 10 %",
    ]
    lengths = {}
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        widths = {line.count("|") for line in block.splitlines()}
        assert len(widths) == 1, block
        lengths[block.splitlines()[0]] = widths
    assert not re.search(r"nan|None", text)
    assert re.search(r"\| Segment DPP \| \d+\.\d \[\d+\.\d, \d+\.\d\] \| — \|", text)
    assert re.search(r"\| Segment DPP \| \+\d+\.\d \[\+\d+\.\d, \+\d+\.\d\] \(evs\) \| — \|", text)
    assert page(summary, "framefusion eval").count("![") == 0


def test_one_video_and_one_kind_have_no_brackets_and_no_split(summary):
    cells, rows = made.lines()
    one = [{**row, "video": "v", "kind": "question", "tags": []} for row in rows]
    text = page({**summary, "frames": summarise(cells, one)}, "x", images=".")
    assert "### By" not in text
    assert "[" not in re.sub(r"!\[.*", "", text)
    assert "kinds-16" not in text


def test_pictures(summary, tmp_path):
    for part in summary["frames"]:
        plots.draw(part, tmp_path, "a-")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a-accuracy-16.png", "a-accuracy-32.png", "a-kinds-16.png", "a-kinds-32.png"]
    for name in names:
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 600
            assert len(picture.convert("RGB").resize((60, 40)).getcolors(2400)) > 10


def test_a_picture_shows_stages_with_published_rules_in_them(summary):
    (part, *_) = summary["frames"]
    assert plots.compared(part) == ""
    ours = next(entry for entry in part["methods"] if entry["method"] == "segment-dpp")
    evs = next(entry for entry in part["methods"] if entry["method"] == "evs")
    staged, first = ({**entry, "method": f"{entry['method']}@stages"} for entry in (ours, evs))
    assert plots.compared({**part, "methods": [*part["methods"], staged]}) == ""
    assert plots.compared({**part, "methods": [staged, {**evs, "method": "evs@input"}]}) == "input"
    assert plots.compared({**part, "methods": [*part["methods"], staged, first]}) == "stages"
    assert plots.compared({**part, "methods": []}) == ""


def test_pictures_without_matplotlib_name_the_extra(summary, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'framefusion\[plot\]'"):
        plots.draw(summary["frames"][0], tmp_path)


@pytest.fixture
def script():
    return load("leaderboard")


def test_the_script_writes_page_and_pictures(script, summary, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "DOCS", tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "results").mkdir()
    for name in script.BOARDS:
        (tmp_path / "data" / f"{name}.json").write_text(json.dumps(summary), encoding="utf-8")
    script.main(["--pages"])
    for name, board in script.BOARDS.items():
        title = board.title
        text = (tmp_path / "results" / f"{name}.md").read_text(encoding="utf-8")
        assert text == script.text(name)
        assert text.startswith(f"# {title}\n")
        links = re.findall(r"!\[.*\]\((.*)\)", text)
        assert len(links) == 4
        assert all((tmp_path / "results" / link).is_file() for link in links)


def test_the_commands_of_the_boards_are_those_of_the_evaluation(script):
    for name in script.BOARDS:
        for command in script.commands(name):
            assert command[0] == "eval"
            assert choose(command[command.index("--methods") + 1].split(","))
            assert command[command.index("--out") + 1] == f"out/{name}"


def test_the_script_refuses_a_board_there_is_not(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--pages", "nothing"])
    assert "there is no board 'nothing'; there are leaderboard" in capsys.readouterr().err


def test_rules_in_the_same_stages_have_tables_of_their_own_and_rivals_among_themselves():
    cells, rows = made.lines()
    # the same answers once more, as those of rules in the same stages
    twins = {line["cell"]: f"{line['cell']}-twin" for line in cells if line.get("budget") and "cell" in line}
    more = [
        {
            **line,
            "cell": twins[line["cell"]],
            "method": f"{line['method']}@stages",
            "title": f"{line['title']} @ stages",
        }
        for line in cells
        if line.get("cell") in twins and line["method"] != "evs"
    ]
    again = [{**row, "cell": twins[row["cell"]]} for row in rows if row["cell"] in twins]
    (part, *_) = summarise([*cells, *more], [*rows, *again])
    rivals = {e["method"]: e["vs_rival"]["method"] for e in part["methods"] if e.get("vs_rival")}
    assert rivals["segment-dpp"] == "evs"
    assert rivals["segment-dpp@stages"].endswith("@stages")
    text = page({**made.summary(), "frames": [part]}, "x")
    assert "### Accuracy, every rule in the library's stages" in text
    assert text.index("the library's stages") < text.index("### Accuracy, every rule in its authors' stages")
    assert "italic" not in shown(part)
    assert shown(part).index("the library's stages") < shown(part).index("its authors' stages")


def test_the_committed_leaderboards_are_up_to_date(script):
    """Else: ``scripts/leaderboard.py --pages``."""
    for name in script.BOARDS:
        assert (script.DOCS / "results" / f"{name}.md").read_text(encoding="utf-8") == script.text(name)
