"""Phase 2: train the decoder behind the frozen vision side: ``python training/train_decoder.py``; resumes by itself.

``--export DIRECTORY`` writes the checkpoint as it stands, in bfloat16, which is what its accuracies are measured in.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bank import Bank
from batches import Batch, Texts
from decoder import Passed, Readouts, compiled_step, forward, layer_step, losses
from families import FAMILIES
from footage import training_clips
from lessons import make_batch, plan
from model import TOKENS_PER_FRAME, Family, start_words
from runs import FILMS, RUNS, ahead, build_optimizer, learning_rate, log, save
from torch import Tensor, nn
from train_vision import HALF, half_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from vision import Directions


def load_vision(family: Family, run: Path, tokenizer: Any) -> nn.Module:
    """The model with the vision side of phase 1."""
    model = family.build(tokenizer)
    state = torch.load(run / "vision.pt", weights_only=True)
    model.load_state_dict(state["model"])
    directions = Directions(model.config.text_config.hidden_size)
    directions.load_state_dict(state["directions"])
    start_words(model, tokenizer, directions)
    return model


@torch.no_grad()
def start_like(model: nn.Module, family: Family, state: dict[str, Tensor], other: Family) -> None:
    """Begin with the decoder of another family's model ``state``: all layers, and the rows of the words both know."""
    model.model.language_model.layers.load_state_dict(
        {name.removeprefix(_LAYERS): value for name, value in state.items() if name.startswith(_LAYERS)}
    )
    model.model.language_model.norm.weight.copy_(state["model.language_model.norm.weight"])
    mine, theirs = family.tokenizer().get_vocab(), other.tokenizer().get_vocab()
    shared = sorted(mine.keys() & theirs.keys())
    rows = torch.tensor([mine[word] for word in shared])
    same = torch.tensor([theirs[word] for word in shared])
    for weight, name in (
        (model.get_input_embeddings().weight, "model.language_model.embed_tokens.weight"),
        (model.lm_head.weight, "lm_head.weight"),
    ):
        weight[rows] = state[name][same]


_LAYERS = "model.language_model.layers."


class Steps:
    """Batches by step, for the worker process: it holds the bank and renews it a little with every step."""

    def __init__(self, args: argparse.Namespace, family: Family, run: Path, texts: Texts) -> None:
        self.args, self.family, self.run, self.texts = args, family, run, texts
        self.bank: Bank | None = None

    def __call__(self, step: int) -> Batch:
        if self.bank is None:
            model = load_vision(self.family, self.run, self.texts.tokenizer)
            self.family.set_attention(model, HALF)
            encode = partial(self.family.encode, model)
            together = self.family.frames_per_slot
            self.bank = Bank(encode, training_clips(FILMS), self.args.bank, self.args.seed + step, together)
        self.bank.refresh(self.args.refresh)
        spec = plan(self.args.seed, step, self.args.steps, self.family.frames_per_slot)
        return make_batch(step, spec, self.bank, self.texts, self.args.seed)


def run_batch(family: Family, model: nn.Module, texts: Texts, batch: Batch, *, compiled: bool = False) -> Passed:
    """The decoder's pass over one batch, through the class's own embeddings and rotary positions."""
    core, count = model.model, len(batch.features)
    embed = core.get_input_embeddings()
    start = texts.encode(family.opening)
    first = len(start)
    opening = embed(torch.tensor(start)).expand(count, -1, -1)
    closing = family.closing(model).expand(count, 1, -1)
    prefix = torch.cat([opening, batch.features, closing], dim=1)
    questions = embed(batch.ids)
    slots = torch.arange(questions.shape[2])
    seen, end = family.positions(batch.places, batch.visual // TOKENS_PER_FRAME, first)
    text = [
        torch.arange(first).expand(count, -1),
        torch.full((count, 1), end),
        (slots - batch.padding[..., None] + end + 1).flatten(1),
    ]
    before, *behind = (part.expand(*seen.shape[:-1], -1) for part in text)
    positions = torch.cat([before, seen, *behind], dim=-1)
    cos, sin = core.language_model.rotary_emb(questions, positions)
    step = compiled_step if compiled else layer_step
    parts = (prefix, questions, cos, sin, batch.padding, first, batch.evidence.float())
    return forward(core.language_model, model.lm_head, *parts, step=step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="llava")
    parser.add_argument("--run", default=None, help="name of the run under training/runs (default: that of the family)")
    parser.add_argument("--like", default=None, help="a finished run of the family llava, with whose decoder to begin")
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--bank", type=int, default=500, help="scenes held")
    parser.add_argument("--refresh", type=int, default=8, help="scenes replaced at every step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=None, help="stop, resumable, after so long")
    parser.add_argument("--export", type=Path, default=None, help="only write the checkpoint to this directory")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("medium")
    torch.manual_seed(args.seed)
    ALL_ATTENTION_FUNCTIONS.register(HALF, half_attention)
    family, run = FAMILIES[args.family], RUNS / (args.run or args.family)
    processor = family.processor()
    texts = Texts(processor.tokenizer)
    model = load_vision(family, run, processor.tokenizer)
    readouts = Readouts(model.config.text_config.hidden_size)
    model.requires_grad_(False)
    trained = [*model.model.language_model.parameters(), *model.lm_head.parameters(), *family.own(model)]
    for parameter in trained:
        parameter.requires_grad_(True)
    trained += readouts.parameters()
    optimizer = build_optimizer(trained)
    step, minutes, state_file = 0, 0.0, run / "decoder.pt"
    if args.like is not None and not state_file.exists():
        other = torch.load(RUNS / args.like / "decoder.pt", weights_only=True)
        start_like(model, family, other["model"], FAMILIES["llava"])
        readouts.load_state_dict(other["readouts"])
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        readouts.load_state_dict(state["readouts"])
        optimizer.load_state_dict(state["optimizer"])
        step, minutes = state["step"], state["minutes"]
        print(f"resuming at step {step}")
    if args.export is not None:
        halves = {name: value.bfloat16() for name, value in model.state_dict().items()}
        model.save_pretrained(args.export, state_dict=halves)
        processor.save_pretrained(args.export)
        (args.export / "model.safetensors").chmod(0o644)
        return
    started, before, recent = time.monotonic(), minutes, []
    for batch in ahead(Steps(args, family, run, texts), step, args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        loss, values = losses(run_batch(family, model, texts, batch, compiled=True), readouts, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step += 1
        minutes = before + (time.monotonic() - started) / 60
        recent.append(values)
        if step % 50 == 0 or step == args.steps:
            means = {name: round(float(np.nanmean([row[name] for row in recent])), 3) for name in values}
            log(run / "decoder.jsonl", {"step": step, "minutes": round(minutes, 2)} | means)
            recent = []
            state = {"model": model.state_dict(), "readouts": readouts.state_dict(), "step": step, "minutes": minutes}
            save(state_file, state | {"optimizer": optimizer.state_dict()})
            if args.minutes is not None and minutes - before >= args.minutes:
                return


if __name__ == "__main__":
    main()
