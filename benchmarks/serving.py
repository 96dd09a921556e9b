"""vLLM's server with all tokens and with framefusion: throughput, time to the first token, and a soak.

    scripts/vllm_environment.sh python3 .venv-vllm
    .venv-vllm/bin/python -m benchmarks.serving --json docs/data/serving.json

The model is a Qwen2.5-VL with random weights and about 100 million decoder parameters: the answers mean nothing, the
times do. Both servers run all the time and are asked in turns; every request brings a video that no server has seen.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import platform
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import transformers
import vllm
from transformers import AutoProcessor, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

import framefusion
from benchmarks.vllm_server import Server, running
from framefusion.asking.video import read_video
from framefusion.assets import BUNDLED, DEMO_VIDEO, REAL_VIDEO

FRAMES, SIDE, PATCH = 16, 280, 14
NEW_TOKENS = 8
REQUESTS = {1: 8, 4: 16, 16: 32}
"""Requests of one round by how many are under way at once."""
PRUNED = ["--additional-config", '{"framefusion": {"rate": 0.8}}']
COMMON = [
    "--enforce-eager",
    *("--max-num-seqs", "16"),
    *("--max-model-len", "4096"),
    *("--limit-mm-per-prompt", '{"video": 2, "image": 2}'),
]


def save_model(directory: Path) -> int:
    """A checkpoint for the times; returns the parameters of its decoder."""
    config = Qwen2_5_VLConfig.from_pretrained(BUNDLED["bundled-qwen"])
    for name, value in {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
    }.items():
        setattr(config.text_config, name, value)
    config.text_config.rope_parameters = {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": [8, 12, 12],
    }
    config.vision_config.patch_size, config.vision_config.window_size = PATCH, 4 * 2 * PATCH
    config.vision_config.out_hidden_size = 768
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config).to(torch.bfloat16)
    model.save_pretrained(directory)
    processor = AutoProcessor.from_pretrained(BUNDLED["bundled-qwen"])
    for part in (processor.video_processor, processor.image_processor):
        part.patch_size = PATCH
        part.size = {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE}
    processor.save_pretrained(directory)
    return sum(parameter.numel() for parameter in model.model.language_model.parameters())


def videos(count: int) -> list[bytes]:
    """Distinct real clips as mp4 files: the bundled ones, each cut out elsewhere."""
    sources = [read_video(path, FRAMES).frames for path in (REAL_VIDEO, DEMO_VIDEO)]
    made = []
    for index in range(count):
        frames = sources[index % 2]
        top, left = index // 2 % 24, index // 48 % 24
        frames = frames[:, top : top + frames.shape[1] - 24, left : left + frames.shape[2] - 24]
        made.append(_encoded(np.ascontiguousarray(frames)))
    return made


def _encoded(frames: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.height, stream.width = (side - side % 2 for side in frames.shape[1:3])
        stream.bit_rate = 2_000_000
        for picture in frames[:, : stream.height, : stream.width]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def timed(server: Server, video: bytes) -> tuple[float, float]:
    """Seconds to the first token and to the last of one request."""
    url = f"data:video/mp4;base64,{base64.b64encode(video).decode()}"
    parts = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": "what colour is the star?"}]
    body = {"messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": NEW_TOKENS}
    data = json.dumps(body | {"stream": True, "ignore_eos": True}).encode()
    request = urllib.request.Request(server.url + "/v1/chat/completions", data, {"Content-Type": "application/json"})
    start, first = time.perf_counter(), None
    with urllib.request.urlopen(request, timeout=600) as response:
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            choices = json.loads(line[6:])["choices"]
            # The first event names the role only; an answer may decode to nothing.
            if first is None and choices and "role" not in choices[0]["delta"]:
                first = time.perf_counter() - start
    assert first is not None
    return first, time.perf_counter() - start


def one_round(server: Server, level: int, clips: Sequence[bytes]) -> dict[str, float]:
    """Requests per second and the median time to the first token, with ``level`` requests under way."""
    start = time.perf_counter()
    with ThreadPoolExecutor(level) as pool:
        times = list(pool.map(lambda clip: timed(server, clip), clips))
    return {
        "requests_per_second": len(clips) / (time.perf_counter() - start),
        "first_token_seconds": statistics.median(first for first, _ in times),
    }


def traffic(directory: Path, rounds: int) -> dict[str, Any]:
    """Both servers in turns at every level."""
    model = directory / "model"
    parameters = save_model(model)
    clips = iter(videos(rounds * sum(REQUESTS.values()) + 2))
    with ExitStack() as stack:
        options = [*COMMON, "--dtype", "bfloat16", "--kv-cache-memory-bytes", str(2 << 30)]
        servers = {}
        for name, more in (("all tokens", []), ("framefusion", PRUNED)):
            (directory / name).mkdir()
            servers[name] = stack.enter_context(running(directory / name, model, options + more))
        first = [next(clips), next(clips)]
        for server in servers.values():
            one_round(server, 2, first)
        levels = []
        for level, count in REQUESTS.items():
            measured: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
            for turn in range(rounds):
                batch = [next(clips) for _ in range(count)]
                for name in list(servers)[:: 1 if turn % 2 else -1]:
                    measured[name].append(one_round(servers[name], level, batch))
            levels.append({"concurrency": level, "requests": count, **_summary(measured)})
            print(json.dumps(levels[-1]), file=sys.stderr)
    tokens = FRAMES // 2 * (SIDE // (2 * PATCH)) ** 2
    return {"decoder_parameters": parameters, "visual_tokens": tokens, "rounds": rounds, "levels": levels}


def _summary(measured: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    whole, pruned = measured["all tokens"], measured["framefusion"]

    def ratio(name: str, upside_down: bool) -> float:
        pairs = zip(whole, pruned, strict=True)
        return statistics.median(a[name] / b[name] if upside_down else b[name] / a[name] for a, b in pairs)

    return {
        "measured": measured,
        "throughput_ratio": ratio("requests_per_second", False),
        "first_token_ratio": ratio("first_token_seconds", True),
    }


def soak(directory: Path, requests: int) -> dict[str, Any]:
    """Mixed requests on the bundled checkpoint, and the server's memory after each tenth of them."""
    directory = directory / "soak"
    directory.mkdir()
    clips = iter(videos(2 * requests))
    kinds: list[tuple[Callable[[], Sequence[bytes]], bool]] = [
        (lambda: [], True),
        (lambda: [next(clips)], True),
        (lambda: [next(clips), next(clips)], True),
        (lambda: [next(clips)[:2000]], False),
        (lambda: [b"no video"], False),
    ]
    options = [*COMMON, "--dtype", "float32", "--kv-cache-memory-bytes", str(1 << 28)]
    # Every video is a new one; the cache of processed ones is full soon, so that what still grows is a leak.
    options += ["--mm-processor-cache-gb", "0.1"]
    memory, wrong = [], 0
    with running(directory, BUNDLED["bundled-qwen"], options + PRUNED) as server:
        order = np.random.default_rng(0).integers(0, len(kinds), requests).tolist()
        for part in np.array_split(order, 10):
            asked = [kinds[kind][0]() for kind in part]
            with ThreadPoolExecutor(8) as pool:
                statuses = list(pool.map(lambda clips: server.ask("where does it move?", *clips)[0], asked))
            wrong += sum((s == 200) != kinds[k][1] or s >= 500 for s, k in zip(statuses, part, strict=True))
            memory.append(round(server.resident_bytes() / 2**20, 1))
    return {"requests": requests, "unexpected_answers": wrong, "resident_mebibytes": memory}


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of the traffic; 0 for none")
    parser.add_argument("--soak", type=int, default=1500, help="requests of the soak; 0 for none")
    parser.add_argument("--json", type=Path, help="what is not measured keeps what this file says")
    arguments = parser.parse_args()
    result: dict[str, Any] = {}
    if arguments.json and arguments.json.exists():
        result = json.loads(arguments.json.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as directory:
        result["versions"] = {
            "framefusion": framefusion.__version__,
            "vllm": vllm.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        }
        result["options"] = PRUNED
        if arguments.rounds:
            result |= traffic(Path(directory), arguments.rounds)
        if arguments.soak:
            result["soak"] = soak(Path(directory), arguments.soak)
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
