"""The command as a process: on a terminal, piped, and asked for its help."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import framefusion
from framefusion import cli
from tests.cli.said import QUESTION, command


def test_version(run):
    assert run("--version").stdout == f"framefusion {framefusion.__version__}\n"


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
        "heavy = {'torch', 'transformers', 'av', 'numba', 'numpy', 'PIL', 'jinja2', 'scipy', 'rich.progress'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for option in ("--model", "--frames", "--fps", "--cost", "--keep", "--compare", "--report", "--trust-remote-code"):
        assert option in done.stdout
    assert "0.3" in done.stdout


def test_a_first_answer_imports_only_what_it_needs(tmp_path):
    """Of the bundled model, on a machine where nothing was compiled. What torch and transformers import is theirs."""
    script = (
        "import gc, sys; from framefusion import cli\n"
        "from framefusion.assets import DEMO_VIDEO\n"
        "try: cli.app(['ask', str(DEMO_VIDEO), 'which large thing came after the red circle?'])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'numba', 'llvmlite', 'matplotlib', 'pandas', 'sklearn', 'rich.progress', 'ray', 'vllm'}\n"
        "heavy |= {'framefusion.evaluation', 'framefusion.batch', 'framefusion.bench', 'framefusion.asking.sessions'}\n"
        "heavy |= {'framefusion.asking.streams', 'transformers.models.llava_next.modeling_llava_next'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert gc.isenabled() and gc.get_freeze_count()\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Answer           red diamond\n")
    assert not list(tmp_path.rglob("*"))


def test_a_shell_completes_options():
    """What a shell asks for while somebody types, and the script that has it ask."""
    asked = {"_FRAMEFUSION_COMPLETE": "complete_bash", "COMP_WORDS": "framefusion ask --max-n", "COMP_CWORD": "2"}
    completed = CliRunner().invoke(cli.app, [], prog_name="framefusion", env=asked)
    assert completed.stdout.split() == ["--max-new-tokens"]
    script = CliRunner().invoke(cli.app, [], prog_name="framefusion", env={"_FRAMEFUSION_COMPLETE": "source_bash"})
    assert "_FRAMEFUSION_COMPLETE=complete_bash" in script.stdout


def test_verbose_may_stand_before_the_command(run):
    assert run("--verbose", "ask", "gone.mp4", QUESTION).stderr.startswith("Traceback")
    assert run("ask", "gone.mp4", QUESTION).stderr.count("\n") == 1
