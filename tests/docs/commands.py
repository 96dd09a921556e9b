"""The shell blocks of the pages: our commands are run in this process, what others need is held to what there is."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from string import Template

import typer
from typer.testing import CliRunner

from framefusion import cli
from framefusion.lmms.arguments import settings_from
from framefusion.vllm.settings import ServingSettings
from tests.docs.pages import ROOT

PARSED = {
    r"app\b": "it answers until it is ended; tests/cli/test_page.py runs it",
    r"watch (rtsp:|/dev/)": "it wants a camera",
    r"batch .*--engine ray": "it starts processes that load models, on other machines too",
    r"eval .*--data (facts|photos|footage)": "it fetches networks and films",
    r"eval (?!.*--data mine\.jsonl)": "it asks for hours",
    r"calibrate ": "a proof takes 149 videos",
    r"bench\b": "it measures for minutes",
    r"demo\b": "tests/cli/test_other_commands.py runs it",
}
"""Commands of ours, as patterns, that are parsed and not run, each with the reason."""


def statements(text: str) -> list[str]:
    """The commands of a block, each in one line, without comments."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def run(text: str) -> list[str]:
    """Run or check the commands of a block in the current folder.

    Returns:
        What those that were run printed.

    Raises:
        AssertionError: one is unknown, refused or fails.
    """
    variables: dict[str, str] = {}
    said = []
    for statement in statements(text):
        if assigned := re.fullmatch(r"([A-Z]+)=(\S+)", statement):
            variables[assigned[1]] = assigned[2]
        else:
            said.append(run_one(Template(statement).safe_substitute(variables)))
    return said


def run_one(statement: str, typed: str = "") -> str:
    """Run one command, with ``typed`` on its standard input."""
    stages = _stages(statement)
    if any(set(words) & {"&&", ">"} for words in stages):
        assert all(words[0] != "framefusion" for words in stages), (
            "spell it without && and >, so that it can be run here"
        )
        if statement.startswith("git "):
            return ""  # a checkout may have no history
        return subprocess.run(["bash", "-ec", statement], capture_output=True, text=True, check=True).stdout
    for words in stages:
        assert words[0] in KNOWN, f"tests/docs/commands.py does not know {words[0]!r}"
        typed = KNOWN[words[0]](words[1:], typed)
    return typed


def _stages(statement: str) -> list[list[str]]:
    """The words of a command, of each command of a pipe."""
    lexer = shlex.shlex(statement, posix=True, punctuation_chars="|&>")
    lexer.whitespace_split = True
    stages: list[list[str]] = [[]]
    for word in lexer:
        if word == "|":
            stages.append([])
        else:
            stages[-1].append(word)
    return stages


def framefusion(words: list[str], typed: str) -> str:
    """A command of ours: run, or parsed if it is one of :data:`PARSED`."""
    if any(re.match(pattern, " ".join(words) + " ") for pattern in PARSED):
        group = typer.main.get_command(cli.app)
        own = group.commands[words[0]]  # type: ignore[attr-defined]
        own.make_context(words[0], words[1:])
        return ""
    result = CliRunner().invoke(cli.app, words, input=typed, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.output


def make(words: list[str], typed: str) -> str:
    """``make`` has what is made."""
    targets = re.findall(r"^([a-z% -]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    known = {name for line in targets for name in line.split()}
    assert {word for word in words if "=" not in word} <= known
    return ""


def pip(words: list[str], typed: str) -> str:
    """``pip install`` names extras that there are; nothing is installed."""
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = declared.split("[project.optional-dependencies]")[1].split("[project.urls]")[0]
    for word in words[1:]:
        if own := re.fullmatch(r"(?:framefusion|\.)\[(.*)\]", word):
            assert set(own[1].split(",")) <= set(re.findall(r"^([a-z]+) = ", extras, re.MULTILINE)), word
    return ""


def python(words: list[str], typed: str) -> str:
    """A module or script is there and has the options that it is given; measurements take hours and are not run."""
    path = Path(words[1].replace(".", "/")) if words[0] == "-m" else Path(words[0])
    if str(path) == "pytest":
        assert all((ROOT / word).exists() for word in words[2:] if not word.startswith("-"))
        return ""
    places = [ROOT / path, ROOT / f"{path}.py", Path.cwd() / path]
    (source,) = [place for place in places if place.is_file()]
    for word in words:
        if word.startswith("--") and source.is_relative_to(ROOT):
            assert f'"{word.partition("=")[0]}"' in source.read_text(encoding="utf-8"), word
    return ""


def lmms_eval(words: list[str], typed: str) -> str:
    """The settings in the model arguments are settings; ``tests/lmms`` has the rest."""
    given = dict(pair.split("=", 1) for pair in words[words.index("--model_args") + 1].split(","))
    settings_from({key: float(value) for key, value in given.items() if key in ("keep", "cost")})
    assert set(given) <= {"pretrained", "dtype", "attn", "frames", "fps", "keep", "cost"}
    return ""


def vllm(words: list[str], typed: str) -> str:
    """The settings in the configuration are settings; ``tests/vllm`` has the rest."""
    if "--additional-config" in words:
        ServingSettings.parse(json.loads(words[words.index("--additional-config") + 1])["framefusion"])
    return ""


def jq(words: list[str], typed: str) -> str:
    """One key of an object."""
    return json.dumps(json.loads(typed)[words[0].removeprefix(".")])


KNOWN: dict[str, Callable[[list[str], str], str]] = {
    "framefusion": framefusion,
    "make": make,
    "pip": pip,
    "python": python,
    "lmms-eval": lmms_eval,
    "vllm": vllm,
    "jq": jq,
    "echo": lambda words, typed: " ".join(words) + "\n",
    ".ci/run": lambda words, typed: "",
}
"""What a page may call, by the first word."""
