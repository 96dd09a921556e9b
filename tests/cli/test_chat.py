"""``framefusion chat``: piped, as JSON, and on a terminal."""

import json
import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from framefusion import assets, cli
from framefusion.asking.prompts import AskError
from framefusion.asking.sessions import Session
from tests.cli.said import QUESTION, parse, refuse
from tests.cli.terminal import END, INTERRUPT, Terminal

OTHER = "describe the video"


@pytest.fixture
def talk(run, clip, model):
    """Lines through a pipe, and the options."""

    def talked(lines, *words, media=None):
        media = [clip] if media is None else media
        given = ["chat", *media, "--model", model, "--max-new-tokens", 4, "--frames", 4, *words]
        text = "".join(f"{line}\n" for line in lines)
        return CliRunner().invoke(cli.app, [str(word) for word in given], input=text, catch_exceptions=False)

    return talked


def test_a_question_a_line_and_an_answer_a_line(talk, asked):
    result = talk([QUESTION, "", f"  {OTHER}  ", QUESTION])
    assert (result.exit_code, result.stderr) == (0, "")
    alone = [parse(asked("--frames", 4, "--json"))["answer"]]
    assert result.stdout.splitlines()[0] == alone[0] == result.stdout.splitlines()[2]
    assert len(result.stdout.splitlines()) == 3


def test_the_bundled_model_answers_about_its_video(run):
    pairs = json.loads(assets.DEMO_QUESTIONS.read_text(encoding="utf-8"))[1:4]
    text = "".join(f"{pair['question']}\n" for pair in pairs)
    result = CliRunner().invoke(cli.app, ["chat", str(assets.DEMO_VIDEO)], input=text)
    assert result.exit_code == 0, result.stderr
    alone = [parse(run("ask", assets.DEMO_VIDEO, pair["question"], "--json"))["answer"] for pair in pairs[:1]]
    assert result.stdout.splitlines()[:1] == alone
    assert len(result.stdout.splitlines()) == 3


def test_the_last_line_needs_no_end(talk, clip, model):
    words = ["chat", str(clip), "--model", str(model), "--max-new-tokens", "2", "--frames", "4"]
    result = CliRunner().invoke(cli.app, words, input=QUESTION)
    assert len(result.stdout.splitlines()) == 1


def test_json_is_one_object_for_each_answer(talk):
    result = talk([QUESTION, "/summary", OTHER], "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["question"] for row in rows] == [QUESTION, OTHER]
    assert set(rows[0]) == {
        *("question", "answer", "seconds_to_first_token", "seconds", "new_tokens", "prefilled", "visual_tokens"),
        *("tower_share", "times"),
    }
    times = rows[0]["times"]
    assert times["first_token"] == rows[0]["seconds_to_first_token"]
    assert times["tower"] is None
    assert min(times[name] for name in ("processor", "prefill", "other", "per_token")) > 0
    assert rows[0]["visual_tokens"]["before"] == 64
    assert rows[0]["visual_tokens"]["forgotten"] == 0
    assert rows[0]["new_tokens"] == 4
    assert "64 visual tokens held" in result.stderr


def test_with_history_a_question_sees_the_earlier_ones(talk):
    def prefilled(*words, lines=(QUESTION, OTHER)):
        return [json.loads(line)["prefilled"] for line in talk(lines, "--json", *words).stdout.splitlines()]

    apart, together = prefilled(), prefilled("--history")
    assert apart[0] == together[0]
    assert together[1] > apart[1]
    switched = ["/history on", QUESTION, OTHER, "/history off", OTHER]
    assert prefilled(lines=switched) == [*together, apart[1]]


def test_what_goes_wrong_with_a_line_does_not_end_it(talk, tmp_path, monkeypatch):
    ask = Session.ask

    def failing(self, question, **options):
        if question == "refused":
            raise AskError("there is not enough memory for answering")
        if question == "broken":
            raise KeyError("a")
        return ask(self, question, **options)

    monkeypatch.setattr(Session, "ask", failing)
    wrong = [
        ("refused", "there is not enough memory for answering$"),
        ("broken", "unexpected KeyError: 'a'; this is a defect of framefusion"),
        ("/nope", "there is no /nope; /help lists what there is"),
        ("/report", "/report is for: an HTML report of the last question; say /report FILE"),
        ("/report x.html", "nothing was asked yet"),
        ("/summary now", "/summary is for: what is held, and what took how long; say /summary$"),
        ("/add gone.mp4", r"no such file: gone\.mp4"),
        ("/add -", "standard input is where the questions come from"),
        ("/budget much", r"a budget is a share in \(0, 1\], such as 0.2, got 'much'"),
        ("/budget 7", r"cost must be in \(0, 1\], got 7"),
        ("/history maybe", "say /history on or /history off, got 'maybe'"),
        ("/save ..", "save a session into a directory of its own"),
    ]
    (tmp_path / ".." / "stranger").touch()
    result = talk([*(line for line, _ in wrong), QUESTION, "/report .", "/report gone/x.html"])
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 1
    said = result.stderr.splitlines()
    for (_, message), sentence in zip(wrong, said, strict=False):
        assert sentence.startswith("framefusion: ")
        assert re.search(message, sentence), sentence
    assert "it is a directory" in said[-2]
    assert "cannot write gone/x.html: there is no directory" in said[-1]
    assert len(said) == len(wrong) + 2


def test_what_cannot_begin_ends_as_ask_does(talk, clip, tmp_path):
    (tmp_path / "notes.txt").write_text("not a video " * 99)
    refuse(talk([QUESTION], media=["gone.mp4"]), r"no such file: gone\.mp4")
    refuse(talk([QUESTION], media=[clip, "notes.txt"]), "not a video|neither a picture nor a video")
    refuse(talk([QUESTION], media=["-"]), "standard input is where the questions come from")
    refuse(talk([QUESTION], media=[]), "there is nothing to talk about; name a video or a photograph, or a session")
    refuse(talk([QUESTION], "--cost", "0.2", "--keep", "0.2"), "--keep and --cost exclude each other")
    refuse(talk([QUESTION], "--cost", "2"), r"cost must be in \(0, 1\], got 2")
    refuse(talk([QUESTION], "--memory", "much"), "memory must be a number of visual tokens, or bytes such as '2GiB'")
    refuse(talk([QUESTION], "--memory", "8"), "memory=8 visual tokens is less than what was just added takes")
    refuse(talk([QUESTION], "--chunk", "0"), "--chunk must be at least 1, got 0")
    refuse(talk([QUESTION], "--load", "gone"), "there is no directory gone, so there is no session in it")
    refuse(talk([QUESTION], "--load", tmp_path), r"holds no session \(session\.json is missing\)")
    refuse(talk([QUESTION], "--load", tmp_path, "--memory", "9"), "--load and --memory exclude each other")


def test_more_media_and_another_budget(talk, clip):
    result = talk([f"/add {clip}", QUESTION, "/budget 0.1", "/summary", QUESTION])
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 2
    added, new, again, summary, shown = result.stderr.splitlines()
    assert added.startswith(f"{clip.name} (4 frames), {clip.name} (4 frames): 48 of 128 visual tokens held, ")
    assert new == "A new session at a cost of 0.1; it does not know the earlier questions."
    assert again == summary
    held = int(re.search(r"(\d+) of 128 visual tokens held", again)[1])
    assert held < 48
    assert again.endswith("0 questions")
    parts = ("decoding the file", "processor", "vision tower", "projector", "decoder", "the rest")
    assert re.fullmatch("Shown: " + ", ".join(rf"{part} [\d.]+ m?s" for part in parts) + r"\.", shown)


def test_a_summary_tells_the_parts_of_the_last_question(talk):
    result = talk([QUESTION, "/summary"])
    *_, asked = result.stderr.splitlines()
    assert re.fullmatch(
        r"The last question: processor [\d.]+ m?s, decoder [\d.]+ m?s, the rest [\d.]+ m?s; "
        r"[\d.]+ m?s for each further token\.",
        asked,
    )


def test_another_budget_needs_options_and_not_a_file(talk, tmp_path):
    import framefusion

    framefusion.save_settings(tmp_path / "mine.json", framefusion.FrameFusion(cost=0.4))
    result = talk([QUESTION, "/budget 0.1", QUESTION], "--settings", "mine.json")
    assert result.stderr == "framefusion: the reduction is that of mine.json; start again without it\n"
    assert len(result.stdout.splitlines()) == 2


def test_a_report_is_that_of_ask(talk, asked, clip, tmp_path):
    alone = parse(asked("--frames", 4, "--cost", 0.5, "--report", "alone.html", "--json"))
    result = talk([OTHER, QUESTION, "/report chat.html"], "--cost", "0.5")
    assert result.stderr == "Written to chat.html\n"
    assert result.stdout.splitlines()[1] == alone["answer"]

    def lasting(name):
        page = (tmp_path / name).read_text(encoding="utf-8").replace(name, "x.html")
        # What took how long, and which parts were measured: a session does not decode again.
        page = re.sub(r'<section aria-labelledby="times">.*?</section>', "", page, flags=re.S)
        return re.sub(r"[\d.]+\s*(ms|s)\b", "", page)

    assert lasting("chat.html") == lasting("alone.html")


def test_a_report_of_another_budget_repeats_that(talk, tmp_path):
    talk(["/budget 0.1", QUESTION, "/report chat.html"], "--keep", "0.5")
    page = (tmp_path / "chat.html").read_text(encoding="utf-8")
    assert "<span>--cost</span> 0.1" in page
    assert "--keep" not in page


def test_why_there_is_no_report(talk, clip):
    parts = talk([QUESTION, "/report x.html"], "--chunk", "2").stderr
    assert "was shown in parts of 2 frames, of which the frames are no longer held" in parts
    assert "--chunk" in parts
    forgotten = talk([f"/add {clip}", QUESTION, "/report x.html"], "--memory", "40").stderr.splitlines()[-1]
    assert "visual tokens were forgotten to stay within --memory" in forgotten
    assert not Path("x.html").exists()


def test_a_session_is_saved_and_goes_on(talk, clip):
    first = talk([QUESTION, "/save kept"], "--history", "--json")
    assert first.stderr == "Written to kept\n"
    both = talk([QUESTION, OTHER], "--history", "--json").stdout.splitlines()
    lines = [OTHER, "/report x.html", "/budget 0.1", f"/add {clip}"]
    second = talk(lines, "--load", "kept", "--json", media=[])
    assert second.exit_code == 0
    for name in ("answer", "prefilled", "visual_tokens"):
        assert json.loads(second.stdout)[name] == json.loads(both[1])[name]
    report, budget, added = second.stderr.splitlines()
    assert "of what a loaded session was shown the frames are no longer held" in report
    assert "what a loaded session was shown cannot be shown again" in budget
    assert added.count("(4 frames)") == 2
    alone = json.loads(talk([OTHER], "--load", "kept", "--no-history", "--json", media=[]).stdout)
    assert alone["prefilled"] < json.loads(both[1])["prefilled"]


def test_quit_ends_and_an_interrupt_is_one(talk, monkeypatch):
    result = talk(["/help", "/quit", QUESTION])
    assert (result.exit_code, result.stdout) == (0, "")
    for name in ("/help", "/add FILE", "/budget COST", "/history on|off", "/summary", "/save DIR", "/report", "/quit"):
        assert name in result.stderr

    def interrupted(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "ask", interrupted)
    result = talk([QUESTION, QUESTION])
    assert (result.exit_code, result.stderr) == (130, "framefusion: interrupted\n")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_on_a_terminal(clip, model, tmp_path):
    """Progress, an answer that is stopped, one that is told as it comes, keys, and the end."""
    words = ["chat", clip, "--model", model, "--frames", 4, "--max-new-tokens", 100_000]
    with Terminal(words, tmp_path) as terminal:
        begin = terminal.until("> ")
        assert f"Loading {model}" in begin
        assert "Showing" in begin
        assert f"{clip.name} (4 frames): " in begin
        assert "/help for help" in begin
        for _ in range(2):
            terminal.type(f"{QUESTION}\n")
            terminal.until(f"{QUESTION}\r\n")
            terminal.until(" ")  # its first word
            terminal.type(INTERRUPT)
            terminal.until("stopped; the session is as it was\r\n> ")
        terminal.type("/sum\t\n")
        terminal.until("/summary ")
        assert "; 0 questions\r\n" in terminal.until("> ")
        terminal.type("half a line")
        terminal.until("half a line")
        terminal.idle()
        terminal.type(INTERRUPT)
        terminal.until("\r\n> ")
        terminal.type("/nope\n")
        terminal.until("framefusion: there is no /nope; /help lists what there is\r\n> ")
        terminal.type(END)
        rest, code = terminal.rest()
    assert code == 0
    assert "Traceback" not in rest


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_what_an_answer_took_is_said_behind_it(clip, model, tmp_path):
    with Terminal(["chat", clip, "--model", model, "--frames", 4, "--max-new-tokens", 3], tmp_path) as terminal:
        terminal.until("> ")
        terminal.type(f"{QUESTION}\n")
        terminal.until(f"{QUESTION}\r\n")
        answer, cost, _ = terminal.until("\r\n> ").split("\r\n")
        assert answer.strip()
        assert re.search(r"^[\d.]+ m?s to the first of 3 tokens, [\d.]+ m?s in all; \d+ tokens of text read, ", cost)
        terminal.type("\x1b[A\n")  # the line before, by its key
        assert QUESTION in terminal.until("\r\n")
        assert terminal.until("\r\n").strip() == answer.strip()
        terminal.until("> ")
        terminal.type("/quit\n")
        assert terminal.rest()[1] == 0
