"""The server over HTTP: answers about a real file, bad requests, starts that must fail, a little traffic."""

from __future__ import annotations

import io
import json
import random
import re
import runpy
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks.vllm_server import running
from framefusion.assets import BUNDLED, DEMO_QUESTIONS, DEMO_VIDEO, REAL_VIDEO

QWEN = BUNDLED["bundled-qwen"]
OPTIONS = [
    "--enforce-eager",
    *("--dtype", "float32"),
    *("--max-model-len", "4096"),
    *("--max-num-seqs", "8"),
    *("--kv-cache-memory-bytes", str(1 << 28)),
    *("--limit-mm-per-prompt", '{"video": 2, "image": 2}'),
    *("--media-io-kwargs", '{"video": {"num_frames": 32}}'),
]
PRUNED = ["--additional-config", '{"framefusion": {"rate": 0.8}}']


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("server"), QWEN, OPTIONS + PRUNED) as started:
        yield started


@pytest.fixture(scope="module")
def video() -> bytes:
    return DEMO_VIDEO.read_bytes()


def without_frames() -> bytes:
    """A container that announces a video and has none."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        container.start_encoding()
    return buffer.getvalue()


def undecodable() -> bytes:
    """A container whose packets are none of its codec's."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        container.start_encoding()
        for time in range(8):
            packet = av.Packet(random.Random(time).randbytes(300))
            packet.stream, packet.pts, packet.dts = stream, time, time
            packet.time_base = stream.time_base
            packet.is_keyframe = True
            container.mux(packet)
    return buffer.getvalue()


def sound() -> bytes:
    """A second of silence, and no video."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


BROKEN = {
    "noise": b"no video",
    "empty": b"",
    "frameless": without_frames(),
    "undecodable": undecodable(),
    "sound": sound(),
}


def test_it_says_which_rule_is_active(server) -> None:
    log = server.log.read_text(errors="replace")
    rule = "segmentation=DynamicProgramming(threshold=0.8, sudden=4.0)"
    assert f"framefusion selects video tokens: rate 0.8, {rule}" in log
    assert "framefusion prunes Qwen2_5_VLForConditionalGeneration in this worker" in log


def test_it_answers_about_a_file_with_a_fifth_of_its_tokens(server, video) -> None:
    rows = json.loads(DEMO_QUESTIONS.read_text(encoding="utf-8"))
    right = 0
    for row in rows:
        status, answer = server.ask(row["question"], video)
        assert status == 200, answer
        right += answer["choices"][0]["message"]["content"].strip() == row["answer"]
        # 1,024 tokens of video would not fit below this.
        assert answer["usage"]["prompt_tokens"] < 240
    # The server decodes and samples frames in its own way.
    assert right >= len(rows) - 2


def test_the_example_is_a_client_of_the_server_that_it_names(server, monkeypatch, capsys) -> None:
    """Two videos at once, and a server with the options in the docstring."""
    script = Path(__file__).resolve().parents[2] / "examples" / "serve_vllm.py"
    (command,) = re.findall(r"^ +(vllm serve .*)$", script.read_text(encoding="utf-8"), re.MULTILINE)
    assert shlex.split(command)[3:] == PRUNED
    videos = [str(DEMO_VIDEO), str(REAL_VIDEO)]
    monkeypatch.setattr("sys.argv", [script.name, *videos, "what colour is the star?", "--url", f"{server.url}/v1"])
    runpy.run_path(str(script), run_name="__main__")
    demo, real = capsys.readouterr().out.splitlines()
    assert demo.startswith(f"{DEMO_VIDEO}: green  (")
    assert real.startswith(f"{REAL_VIDEO}: ")


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_bad_video_is_the_client_s_error_and_the_server_lives_on(server, video, broken: bytes) -> None:
    status, answer = server.ask("what colour is the star?", broken)
    assert 400 <= status < 500, answer
    status, answer = server.ask("what colour is the star?", video)
    assert status == 200, answer
    assert answer["choices"][0]["message"]["content"].strip() == "green"


def test_mixed_traffic_loses_nothing(server, video) -> None:
    """Text alone, one and two videos, and broken ones at once: each gets what it gets alone."""
    real = REAL_VIDEO.read_bytes()
    kinds = [(), (video,), (real,), (video, real), (real, video), (video[: len(video) // 3],)]
    question = "which way does the red circle move?"
    alone = [server.ask(question, *kind) for kind in kinds]
    asked = [random.Random(0).randrange(len(kinds)) for _ in range(2)] + list(range(len(kinds))) * 6
    random.Random(1).shuffle(asked)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda kind: server.ask(question, *kinds[kind]), asked))

    def said(reply):
        status, answer = reply
        return status, answer["choices"][0]["message"]["content"] if status == 200 else None

    assert [said(reply) for reply in together] == [said(alone[kind]) for kind in asked]
    assert sum(status == 200 for status, _ in together) >= len(asked) * 2 // 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--video-pruning-rate", "1.0", "--additional-config", '{"framefusion": {}}'], "video_pruning_rate"),
        (["--additional-config", '{"framefusion": {}}'], "but not how much: add"),
        (
            ["--video-pruning-rate", "0.8", "--additional-config", '{"framefusion": {"segmentation": "scenes"}}'],
            "segmentation must be one of",
        ),
    ],
)
def test_a_server_that_cannot_do_as_told_does_not_start(tmp_path, options: list[str], said: str) -> None:
    with pytest.raises(RuntimeError, match="no server") as error, running(tmp_path, QWEN, OPTIONS + options):
        pass
    assert said in str(error.value)
