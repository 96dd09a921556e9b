"""What the tests of the commands ask, and how they read what is said."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

QUESTION = "what colour is the circle"
LONG = "what is the person doing " * 20


def parse(result) -> dict:
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def refuse(result, message):
    assert result.exit_code == 2
    assert result.stdout == ""
    assert re.search(message, result.stderr), result.stderr
    assert result.stderr.startswith("framefusion: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


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
