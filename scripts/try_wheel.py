"""What must work wherever the wheel is installed: run by ``scripts/test_wheel.sh``, away from the source tree.

``framefusion demo``, ``attach`` and ``generate()`` on a model with random weights, sessions, ``select_tokens``,
and ``read_video`` on three containers. Prints what ran; the first thing that is wrong ends it with an exit code.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

import av
import numpy as np
import torch
import transformers

import framefusion
from framefusion.asking import ask as asking
from framefusion.asking.loading import load
from framefusion.asking.video import read_video
from framefusion.assets import BUNDLED, DEMO_VIDEO
from framefusion.evaluation.photos import trained

QUESTION = "which large thing came after the red circle?"
CONTAINERS = {"clip.mp4": "libx264", "clip.webm": "libvpx-vp9", "clip.ts": "mpeg2video"}


class WrongError(Exception):
    """Something that does not work in this environment."""


def check(right: bool, what: str) -> None:
    """Go on only if it is right."""
    if not right:
        raise WrongError(what)


def say(text: str) -> None:
    """One line, at once: the next check may take a while."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def dependencies() -> dict[str, str]:
    """Lower bounds of the package's own dependencies, extras aside, as its wheel declares them."""
    own = [line.replace(" ", "") for line in requires("framefusion") or [] if "extra==" not in line.replace(" ", "")]
    found = (re.match(r"([\w.-]+).*?>=([\d.]+)", line) for line in own)
    bounds = {match[1]: match[2] for match in found if match}
    check(len(bounds) == len(own), f"a dependency without a lower bound: {own}")
    return bounds


def installed(floors: bool) -> None:
    """The wheel itself is imported; with ``floors``, beside every dependency at its lower bound."""
    origin = Path(framefusion.__file__).resolve()
    check(origin.is_relative_to(Path(sys.prefix).resolve()), f"framefusion was imported from {origin}")
    bounds = dependencies()
    versions = {name: version(name) for name in bounds}
    say(f"Python {sys.version.split()[0]}: " + ", ".join(f"{name} {versions[name]}" for name in versions))
    if not floors:
        return
    above = {name for name in bounds if _numbers(versions[name]) != _numbers(bounds[name])}
    if above and sys.version_info[:2] > (3, 10):
        say(f"above the lower bound, which has no wheel for this Python: {', '.join(sorted(above))}")
    else:
        check(not above, f"not at the lower bound: {', '.join(sorted(above))}")


def _numbers(text: str) -> list[int]:
    """``"0.61"`` and ``"0.61.0"`` alike, without a local label."""
    numbers = [int(part) for part in text.split("+")[0].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers


def demo() -> None:
    """The command line's main jobs, as somebody starts them who has only just installed it."""
    program = [str(Path(sys.executable).parent / "framefusion")]
    # More threads than one are slower beside other work.
    calm = {**os.environ, "OMP_NUM_THREADS": "1"}
    for arguments in (["ask", "--help"], ["demo"]):
        done = subprocess.run([*program, *arguments], env=calm, capture_output=True, text=True, check=False)
        check(done.returncode == 0, f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    asked = re.findall(r"\(right: (.*)\)\nAll tokens +(.*)\nReduced +(.*)\n", done.stdout)
    check(len(asked) == 6, f"demo asked {len(asked)} questions, not 6: {done.stdout}")
    check(("red diamond",) * 3 in asked, f"demo answered: {asked}")
    check(all(right == full for right, full, _ in asked), f"demo answered with all tokens: {asked}")
    made = {path.suffix: path.stat().st_size for path in Path("out").iterdir()}
    check(set(made) == {".html", ".png"} and min(made.values()) > 10_000, f"demo wrote {made}")


def photos() -> None:
    """The package of the other weights fits this one."""
    check(trained().is_relative_to(Path(sys.prefix).resolve()), f"the weights of photos are in {trained()}")


def generate() -> None:
    """A reduced model says something, keeps its share, and is itself again afterwards."""
    directory = BUNDLED["bundled-qwen"]
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(directory)
    model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    processor = transformers.AutoProcessor.from_pretrained(directory)
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    frames = np.random.default_rng(0).integers(0, 255, (8, 96, 96, 3), dtype=np.uint8)
    inputs = processor(text=[text], videos=[frames], do_sample_frames=False, return_tensors="pt")
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    before = model.generate(**inputs, **options)
    with framefusion.attach(model, framefusion.FrameFusion(keep=0.25)) as run:
        reduced = model.generate(**inputs, **options)
        summary = run.summary()
    check(reduced.shape == before.shape, f"generate() gave {tuple(reduced.shape)}, not {tuple(before.shape)}")
    shares = summary.visual_tokens_after / summary.visual_tokens_before
    check(shares == 0.25, f"a share of {shares} of the visual tokens was kept, not 0.25")
    check(torch.equal(model.generate(**inputs, **options), before), "the model says something else after attach()")


def talk() -> None:
    """A session answers as one asks afresh, goes on with a video, and comes back from a file."""
    for name in BUNDLED:
        loaded = load(name, device="cpu")
        video = read_video(DEMO_VIDEO, frames=8)
        common = {"model": loaded.model, "processor": loaded.processor, "max_new_tokens": 6}
        with framefusion.session(loaded.model, loaded.processor, max_new_tokens=6) as session:
            session.add(video)
            for _ in range(2):
                said, afresh = session.ask(QUESTION), asking.ask(video, QUESTION, **common)
                check(said.text == afresh.text, f"{name}: a session answered {said.text}, not {afresh.text}")
            session.add(video.frames[:2])
            session.save("session")
            again = framefusion.restore_session("session", loaded.model, loaded.processor)
            check(again.ask(QUESTION).text == session.ask(QUESTION).text, f"{name}: a restored session differs")


def select() -> None:
    """The compiled selection picks what the textbook picks."""
    features = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    segments = torch.arange(256) // 64
    kept = framefusion.select_tokens(features, None, segments, 64)
    expected = framefusion.select_tokens(features, None, segments, 64, backend="reference")
    check(torch.equal(kept, expected), "select_tokens differs from its reference")


def containers() -> None:
    """The right frames of a clip that becomes brighter with each, in three containers and codecs."""
    for name, codec in CONTAINERS.items():
        with av.open(name, "w") as target:
            stream = target.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            for shade in range(0, 240, 6):
                picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), shade, np.uint8), format="rgb24")
                target.mux(stream.encode(picture))
            target.mux(stream.encode())
        video = read_video(name, frames=8)
        check(video.total_frames == 40, f"{name}: {video.total_frames} frames, not 40")
        check(video.indices.tolist() == list(range(2, 40, 5)), f"{name}: frames {video.indices.tolist()}")
        off = np.abs(video.frames.mean((1, 2, 3)) - 6 * video.indices).max()
        check(off < 3, f"{name}: a shade is off by {off:.1f}, another frame is shown")


def main() -> None:
    """Run all checks in the current directory, which is written to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--floors", action="store_true", help="every dependency has to be at its lower bound")
    floors = parser.parse_args().floors
    try:
        installed(floors)
        for part in (demo, photos, generate, talk, select, containers):
            part()
            say(f"  {part.__name__}: right")
    except WrongError as error:
        raise SystemExit(f"wrong in this environment: {error}") from error


if __name__ == "__main__":
    main()
