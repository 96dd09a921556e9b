"""Phase 1: train the vision side on crowded single frames: ``python training/train_vision.py``; resumes by itself.

The tower and the projector learn what lies under each visual token (``vision.py``); the decoder is not run.
"""

from __future__ import annotations

import argparse
import time

import torch
from families import FAMILIES
from footage import training_clips
from runs import FILMS, RUNS, ahead, build_optimizer, learning_rate, log, save
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from vision import Crowds, Directions

HALF = "half_flash"
"""Name of :func:`half_attention`: classes hand all rows of a packed batch at once to what is called flash."""


def half_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, cu_seq_lens_q=None, **_):
    """Attention with bfloat16 products, for training: the flash kernel is slow for heads this narrow.

    Packed rows, ``(1, heads, rows, D)`` with ``cu_seq_lens_q``, are of one length here.
    """
    query, key, value = (part.bfloat16() for part in (query, key, value))
    if cu_seq_lens_q is not None:
        count = len(cu_seq_lens_q) - 1
        query, key, value = (part[0].unflatten(1, (count, -1)).transpose(0, 1) for part in (query, key, value))
    paid = ((query * scaling) @ key.transpose(-1, -2)).softmax(-1)
    seen = (paid @ value).float().transpose(1, 2)
    return (seen if cu_seq_lens_q is None else seen.flatten(0, 1)[None]), None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="llava")
    parser.add_argument("--run", default=None, help="name of the run under training/runs (default: that of the family)")
    parser.add_argument("--like", default=None, help="another run, whose directions this one shares")
    parser.add_argument("--steps", type=int, default=5600)
    parser.add_argument("--frames", type=int, default=48, help="frames of a step")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("medium")
    torch.manual_seed(args.seed)
    family, run = FAMILIES[args.family], RUNS / (args.run or args.family)
    run.mkdir(parents=True, exist_ok=True)
    clips = training_clips(FILMS)
    model = family.build(family.tokenizer())
    ALL_ATTENTION_FUNCTIONS.register(HALF, half_attention)
    family.set_attention(model, HALF)
    for block in family.blocks(model):
        block.compile(dynamic=False)
    directions = Directions(model.config.text_config.hidden_size)
    if args.like is not None:
        directions.load_state_dict(torch.load(RUNS / args.like / "vision.pt", weights_only=True)["directions"])
    parameters = family.seeing(model)
    optimizer = build_optimizer(parameters)
    step, state_file = 0, run / "vision.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        directions.load_state_dict(state["directions"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        print(f"resuming at step {step}")
    batches = ahead(Crowds(args.seed, clips, args.frames, family.frames_per_slot), step, args.steps)
    started, recent = time.monotonic(), []
    for pixels, labels in batches:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        loss, right = directions(family.encode(model, pixels.flatten(0, 1)), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        recent.append(right | {"loss": float(loss.detach())})
        if step % 50 == 0 or step == args.steps:
            means = {name: round(sum(row[name] for row in recent) / len(recent), 3) for name in right | {"loss": 0}}
            minutes = round((time.monotonic() - started) / 60, 2)
            log(run / "vision.jsonl", {"step": step, "minutes": minutes} | means)
            recent = []
            state = {"model": model.state_dict(), "directions": directions.state_dict()}
            save(state_file, state | {"optimizer": optimizer.state_dict(), "step": step})


if __name__ == "__main__":
    main()
