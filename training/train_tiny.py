"""Train the bundled checkpoint: ``python training/train_tiny.py`` (about 90 minutes on two cores).

A run lives in ``training/runs/<name>`` and continues by itself when started again. At the end the
checkpoint is written to the package's assets, the learning curve beside this file, and the held-out
accuracy is printed. ``--evaluate`` only measures the checkpoint in the assets.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from pathlib import Path

import torch
from batches import make_batch, plan
from checkpoint import build_model, build_processor
from curve import write_curve
from evaluation import evaluate_model, held_out_batches, measure, print_table
from objective import AuxiliaryHeads, training_losses
from packing import PromptIds
from torch.utils.data import DataLoader, Dataset

HERE = Path(__file__).resolve().parent
ASSETS = HERE.parent / "src" / "framefusion" / "assets" / "tiny"


class _Steps(Dataset):
    """Map from a step's number to its batch, so that a worker process can render ahead."""

    def __init__(self, args: argparse.Namespace, prompts: PromptIds, pad_id: int) -> None:
        self.args, self.prompts, self.pad_id = args, prompts, pad_id

    def __len__(self) -> int:
        return self.args.steps

    def __getitem__(self, step: int):
        torch.set_num_threads(1)
        spec = plan(step, self.args.vision_steps, self.args.question_steps, self.args.steps, self.args.seed)
        return make_batch(step, spec, self.prompts, self.pad_id, self.args.seed)


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def learning_rates(step: int, args: argparse.Namespace) -> tuple[float, float]:
    """Learning rates of the vision side and of the decoder at this step.

    Every phase has its own warm-up and cosine decay: the vision side over the vision steps, then from a quarter
    of its peak until the question steps; the decoder twice, before the question steps and over them.
    """
    asking = args.steps - args.question_steps
    if step < args.vision_steps:
        warm_up = min(1.0, (step + 1) / 100)
        return args.vision_lr * warm_up * (0.25 + 0.75 * _cosine(step / args.vision_steps)), 0.0
    first, last = (args.vision_steps, asking) if step < asking else (asking, args.steps)
    decay = 0.02 + 0.98 * _cosine((step - first) / max(1, last - first))
    warm_up = min(1.0, (step - first + 1) / 100)
    vision_lr = 0.25 * args.vision_lr * decay if step < asking else 0.0
    return vision_lr, (args.lr if step < asking else args.question_lr) * warm_up * decay


def build_optimizer(model: torch.nn.Module, heads: torch.nn.Module) -> torch.optim.AdamW:
    """AdamW with two groups for the vision side and two for the decoder; the even ones decay weights."""
    vision, decoder = [], []
    for name, parameter in [*model.named_parameters(), *heads.named_parameters()]:
        seen = name.startswith(("model.vision_tower", "model.multi_modal_projector"))
        (vision if seen else decoder).append(parameter)
    groups = [
        {"params": [p for p in side if (p.ndim >= 2) == decayed], "weight_decay": 0.05 if decayed else 0.0}
        for side in (vision, decoder)
        for decayed in (True, False)
    ]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98))


def train(args: argparse.Namespace) -> bool:
    """Train until the last step or the time budget; True if the last step was reached."""
    torch.manual_seed(args.seed)
    run = HERE / "runs" / args.run
    run.mkdir(parents=True, exist_ok=True)
    processor = build_processor()
    prompts = PromptIds(processor.tokenizer)
    model = build_model(processor.tokenizer)
    heads = AuxiliaryHeads(model.config.text_config.hidden_size)
    optimizer = build_optimizer(model, heads)
    state_file, curve_file = run / "state.pt", run / "curve.jsonl"
    step, seconds = 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds = state["step"], state["seconds"]
        print(f"resuming at step {step}")
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    held_out = held_out_batches(prompts, processor.tokenizer.pad_token_id, videos=48, seed=args.seed)

    def save() -> None:
        state = {"model": model.state_dict(), "heads": heads.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state | {"step": step, "seconds": seconds}, state_file.with_suffix(".tmp"))
        state_file.with_suffix(".tmp").replace(state_file)

    def export(directory: Path) -> None:
        model.save_pretrained(directory)
        processor.save_pretrained(directory)
        (directory / "model.safetensors").chmod(0o644)

    loader = DataLoader(
        _Steps(args, prompts, processor.tokenizer.pad_token_id),
        batch_size=None,
        sampler=range(step, args.steps),
        num_workers=1,
        prefetch_factor=12,
    )
    model.train()
    started, before, recent = time.monotonic(), seconds, []
    for batch in loader:
        vision_lr, decoder_lr = learning_rates(step, args)
        for group, lr in zip(optimizer.param_groups, (vision_lr, vision_lr, decoder_lr, decoder_lr), strict=True):
            group["lr"] = lr
        losses = training_losses(model, heads, prompts, batch)
        optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step += 1
        seconds = before + time.monotonic() - started
        recent.append(losses)
        if step % args.log_every == 0 or step == args.steps:
            entry = {"step": step, "minutes": round(seconds / 60, 2), "lr": round(decoder_lr, 7)}
            entry |= _averages(recent)
            recent = []
            if step > args.vision_steps and (step % args.eval_every == 0 or step == args.steps):
                entry["held_out"] = evaluate_model(model, prompts, held_out).rounded()
                export(run / "checkpoint")
            with curve_file.open("a") as stream:
                stream.write(json.dumps(entry) + "\n")
            print(json.dumps(entry), flush=True)
            save()
            if args.minutes is not None and seconds / 60 >= args.minutes and step < args.steps:
                print(f"time budget used up at step {step}; start again to continue")
                return False
    save()
    export(run / "checkpoint")
    return True


def _averages(recent: list) -> dict:
    answers = [item.answer for item in recent if item.answer is not None]
    result = {"loss": round(sum(float(item.total.detach()) for item in recent) / len(recent), 4)}
    if answers:
        result["answer"] = round(sum(float(value) for value in answers) / len(answers), 4)
    names = dict.fromkeys(name for item in recent for name in item.readouts)
    result["readouts"] = {
        name: round(sum(values) / len(values), 3)
        for name in names
        if (values := [float(item.readouts[name][1]) for item in recent if name in item.readouts])
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="tiny", help="name of the run under training/runs (default: tiny)")
    parser.add_argument("--steps", type=int, default=5500, help="all steps (default: 5500)")
    parser.add_argument("--vision-steps", type=int, default=1200, help="of them on single frames (default: 1200)")
    parser.add_argument(
        "--question-steps", type=int, default=1000, help="last of them on many questions a video (default: 1000)"
    )
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--question-lr", type=float, default=2e-3)
    parser.add_argument("--vision-lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=None, help="stop, resumable, after this much training")
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--eval-every", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--evaluate", action="store_true", help="only measure the checkpoint in the assets")
    parser.add_argument("--videos", type=int, default=400, help="held-out videos of the final measure")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.evaluate:
        print_table(measure(ASSETS, videos=args.videos, seed=args.seed))
        return
    if not train(args):
        return
    run = HERE / "runs" / args.run
    shutil.copytree(run / "checkpoint", ASSETS, dirs_exist_ok=True)
    results = measure(ASSETS, videos=args.videos, seed=args.seed)
    write_curve(run / "curve.jsonl", HERE / "curve.json", HERE / "curve.png", results)
    print_table(results)


if __name__ == "__main__":
    main()
