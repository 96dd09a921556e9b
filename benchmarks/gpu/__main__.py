"""Run the parts one after the other, each in a process of its own.

    python -m benchmarks.gpu out/gpu
    python -m benchmarks.gpu out/gpu --rehearse --parts kernels oracle

The folder gets one JSON file for each part and ``summary.json``. A part that fails says so in its file, and the others
go on; the exit code is 1 if one failed, and 2 if there is no GPU. Triton's kernels are compiled on a GPU, and
interpreted in a rehearsal, which needs none and shrinks everything.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.record import Absent, Record, write

ROOT = Path(__file__).resolve().parents[2]


def run_part(name: str, folder: Path, rehearsal: bool) -> None:
    """What the process of one part does."""
    import torch

    from benchmarks.gpu.bench import Bench

    if rehearsal:
        torch.set_num_threads(1)
    bench = Bench("cpu" if rehearsal else "cuda", rehearsal)
    record = Record(folder / f"{name}.json", {"part": name, **bench.facts()})
    try:
        import_module(f"benchmarks.gpu.{name}").run(record, bench)
    except Absent as reason:
        record.absent(str(reason))
        return
    except Exception as error:
        record.fail(name, f"{type(error).__name__}: {error}", traceback.format_exc())
    record.finish()


def watch_part(part: Part, folder: Path, seconds: float, rehearsal: bool, command: str) -> dict[str, Any]:
    """Run a part in a process of its own, and return what it wrote; how it ended too, where it did not end itself."""
    path = folder / f"{part.name}.json"
    path.unlink(missing_ok=True)
    options = ["--rehearse"] if rehearsal else []
    environment = {**os.environ, "TRITON_INTERPRET": "1" if rehearsal else "0"}
    begun = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu", str(folder), "--only", part.name, *options],
        cwd=ROOT,
        env=environment,
        start_new_session=True,
    )
    ended = ""
    try:
        code = child.wait(timeout=max(seconds, 1))
        ended = f"the process ended with exit code {code}"
    except subprocess.TimeoutExpired:
        ended = f"not through after {seconds:.0f} s"
    finally:
        end_group(child)
    data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"part": part.name, "rows": []}
    if data.setdefault("status", "running") == "running":
        data.setdefault("errors", []).append({"step": part.name, "error": ended, "traceback": ""})
        data["status"] = "failed"
    data.update(title=part.title, seconds=round(time.monotonic() - begun, 1), command=command)
    write(path, data)
    return data


def end_group(child: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def line(data: dict[str, Any]) -> str:
    """A part in one line."""
    errors = data.get("errors")
    said = data.get("reason") or ((errors[0]["error"].splitlines() or [""])[0] if errors else "")
    return f"{data['part']:10} {data['status']:8} {data['seconds']:6.1f} s {len(data['rows']):5} rows  {said[:120]}"


def run(folder: Path, parts: list[Part], seconds: float, rehearsal: bool, command: str) -> int:
    """Run parts within ``seconds``, a rehearsal without hurry; the number of those that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    end, found = time.monotonic() + seconds, []
    for part in parts:
        print(f"── {part.name}: {part.title}", flush=True)
        left = end - time.monotonic()
        # A rehearsal may share its core with others, and its times mean nothing.
        limit = 20 * part.seconds if rehearsal else min(part.seconds, left)
        found.append(watch_part(part, folder, limit, rehearsal, command))
        summary = {data["part"]: {key: data[key] for key in ("status", "seconds")} for data in found}
        write(folder / "summary.json", {"command": command, "rehearsal": rehearsal, "parts": summary})
        print(line(found[-1]), flush=True)
    from benchmarks.gpu.page import sections

    print("\n" + sections(found) + "\n\n" + "\n".join(map(line, found)), flush=True)
    return sum(data["status"] == "failed" for data in found)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.name for part in PARTS]
    parser.add_argument("folder", type=Path, help="where the JSON files go")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU with everything shrunk")
    parser.add_argument("--parts", nargs="+", choices=names, default=names, metavar="PART", help=", ".join(names))
    parser.add_argument(
        "--seconds", type=float, default=530.0, help="of the whole run, if it is no rehearsal; default 530"
    )
    parser.add_argument("--only", choices=names, help=argparse.SUPPRESS)
    args = parser.parse_args()
    folder = args.folder.resolve()
    if args.only:
        run_part(args.only, folder, args.rehearse)
        return
    if not args.rehearse:
        import torch

        if not torch.cuda.is_available():
            print("benchmarks.gpu needs a CUDA device, and torch sees none; --rehearse runs without.", file=sys.stderr)
            sys.exit(2)
    command = shlex.join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]])
    failed = run(folder, [part for part in PARTS if part.name in args.parts], args.seconds, args.rehearse, command)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
