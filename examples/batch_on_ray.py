"""The same questions about every video of a folder, on several processes or machines.

    pip install 'framefusion[ray]'
    python examples/batch_on_ray.py videos --ask "Is anyone at the door?" --ask "What is the weather like?" --actors 2

Killed at any moment, the same command goes on where it was. On a cluster of which this machine is one:
``--address auto --actors 8 --gpus 1 --model Qwen/Qwen2.5-VL-7B-Instruct``. Without ``--model`` the small bundled one
answers, which knows coloured shapes alone.
"""

import argparse
import json
from pathlib import Path

from framefusion import FrameFusion
from framefusion.batch import Plan, RayEngine, run

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path)
parser.add_argument("--ask", action="append", required=True, metavar="QUESTION", help="again for each question")
parser.add_argument("--out", type=Path, default=Path("answers.jsonl"))
parser.add_argument("--model")
parser.add_argument("--cost", type=float, default=0.3, help="share of the visual tokens, mean over the layers")
parser.add_argument("--actors", type=int, default=1, help="processes, each with a model of its own")
parser.add_argument("--cpus", type=float, default=1.0, help="of each actor")
parser.add_argument("--gpus", type=float, default=0.0, help="of each actor; 0.5 lets two have one")
parser.add_argument("--address", help="of a Ray cluster; without it, this machine alone")
args = parser.parse_args()

# One row for each question; those about one video follow each other, and so share its prefill.
videos = sorted(path.resolve() for path in args.folder.iterdir() if path.suffix in (".mp4", ".mkv", ".mov", ".webm"))
rows = [{"video": str(video), "question": question, "id": video.name} for video in videos for question in args.ask]
questions = args.out.with_suffix(".questions.jsonl")
questions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

summary = run(
    questions,
    args.out,
    Plan(FrameFusion(cost=args.cost), model={"model": args.model}),
    engine=RayEngine(args.actors, cpus=args.cpus, gpus=args.gpus, address=args.address),
)

for line, row in zip(args.out.read_text(encoding="utf-8").splitlines(), rows, strict=True):
    result = json.loads(line)
    print(f"{row['id']}  {row['question']}  {result.get('answer') or result['error']}")
print(f"{summary.answered} answered in {summary.seconds:.0f} s, {summary.found} before, {summary.errors} errors")
