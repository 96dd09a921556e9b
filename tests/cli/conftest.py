"""A checkpoint, a clip, and the commands in a directory of their own, without a network."""

from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from framefusion import cli
from tests import tiny_checkpoints
from tests.cli.said import QUESTION


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return tiny_checkpoints.save_llava_onevision(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
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
