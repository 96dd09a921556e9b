"""Phase 2: train the decoder behind the frozen vision side: ``python training/train_decoder.py``; resumes by itself.

``--export DIRECTORY`` writes the checkpoint as it stands.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bank import Bank
from checkpoint import START
from decoder import Passed, Readouts, compiled_step, forward, layer_step, losses
from footage import training_clips
from lessons import SORTS, Batch, Texts, make_batch, plan
from model import build_model, build_processor, start_words
from runs import FILMS, RUNS, ahead, build_optimizer, learning_rate, log, save
from torch import Tensor, nn
from train_vision import half_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from vision import Directions


def load_vision(run: Path, processor: Any) -> nn.Module:
    """The model with the vision side of phase 1."""
    model = build_model(processor.tokenizer)
    state = torch.load(run / "vision.pt", weights_only=True)
    model.load_state_dict(state["model"])
    directions = Directions(model.config.text_config.hidden_size)
    directions.load_state_dict(state["directions"])
    start_words(model, processor.tokenizer, directions)
    return model


def encoder(model: nn.Module) -> Any:
    """From pixels ``(F, 3, 96, 96)`` to the visual tokens ``(F, 64, D)``, as the class computes them."""
    core = model.model

    def encode(pixels: Tensor) -> Tensor:
        # The class takes the last layer's output without the norm behind it.
        states = core.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
        return core.apply_pooling(core.multi_modal_projector(states))

    return encode


class Steps:
    """Batches by step, for the worker process: it holds the bank and renews it a little with every step."""

    def __init__(self, args: argparse.Namespace, run: Path, texts: Texts) -> None:
        self.args, self.run, self.texts = args, run, texts
        self.bank: Bank | None = None

    def __call__(self, step: int) -> Batch:
        if self.bank is None:
            model = load_vision(self.run, build_processor())
            model.model.vision_tower.config._attn_implementation = "half"
            seed = self.args.seed + step
            self.bank = Bank(encoder(model), training_clips(FILMS), self.args.bank, seed)
        self.bank.refresh(self.args.refresh)
        spec = plan(self.args.seed, step, self.args.steps)
        return make_batch(step, spec, self.bank, self.texts, self.args.seed)


def run_batch(model: nn.Module, texts: Texts, batch: Batch, *, compiled: bool = False) -> Passed:
    """The decoder's pass over one batch, through the class's own embeddings and rotary positions."""
    core, count = model.model, len(batch.features)
    embed = core.get_input_embeddings()
    start = texts.encode(f"{START}user")
    first, end = len(start), len(start) + batch.visual
    opening = embed(torch.tensor(start)).expand(count, -1, -1)
    newline = core.image_newline.expand(count, 1, -1)
    prefix = torch.cat([opening, batch.features, newline], dim=1)
    questions = embed(batch.ids)
    slots = torch.arange(questions.shape[2])
    positions = torch.cat(
        [
            torch.arange(first).expand(count, -1),
            batch.places + first,
            torch.full((count, 1), end),
            (slots - batch.padding[..., None] + end + 1).flatten(1),
        ],
        dim=1,
    )
    cos, sin = core.language_model.rotary_emb(questions, positions)
    step = compiled_step if compiled else layer_step
    parts = (prefix, questions, cos, sin, batch.padding, first, batch.evidence.float())
    return forward(core.language_model, model.lm_head, *parts, step=step)


@torch.no_grad()
def held_out(model: nn.Module, texts: Texts, batches: list[Batch]) -> dict[str, float]:
    """Share of right answers by what is asked."""
    right: dict[str, list[float]] = {}
    for batch in batches:
        logits = run_batch(model, texts, batch).logits
        wrong = ((logits.argmax(-1) != batch.answers) & (batch.answers >= 0)).any(-1)
        for sort, asked, bad in zip(
            batch.parse[..., 0].flatten(), (batch.answers >= 0).any(-1).flatten(), wrong.flatten(), strict=True
        ):
            if asked:
                right.setdefault(SORTS[int(sort)], []).append(float(~bad))
    return {"all": float(np.mean([v for row in right.values() for v in row]))} | {
        name: round(float(np.mean(row)), 3) for name, row in sorted(right.items())
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="needle", help="name of the run under training/runs (default: needle)")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--bank", type=int, default=1500, help="scenes held")
    parser.add_argument("--refresh", type=int, default=12, help="scenes replaced at every step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=None, help="stop, resumable, after so long")
    parser.add_argument("--export", type=Path, default=None, help="only write the checkpoint to this directory")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("medium")
    torch.manual_seed(args.seed)
    ALL_ATTENTION_FUNCTIONS.register("half", half_attention)
    run = RUNS / args.run
    processor = build_processor()
    texts = Texts(processor.tokenizer)
    model = load_vision(run, processor)
    readouts = Readouts(model.config.text_config.hidden_size)
    model.requires_grad_(False)
    trained = [*model.model.language_model.parameters(), *model.lm_head.parameters(), model.model.image_newline]
    for parameter in trained:
        parameter.requires_grad_(True)
    trained += readouts.parameters()
    optimizer = build_optimizer(trained)
    step, minutes, state_file = 0, 0.0, run / "decoder.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        readouts.load_state_dict(state["readouts"])
        optimizer.load_state_dict(state["optimizer"])
        step, minutes = state["step"], state["minutes"]
        print(f"resuming at step {step}")
    if args.export is not None:
        model.save_pretrained(args.export)
        processor.save_pretrained(args.export)
        (args.export / "model.safetensors").chmod(0o644)
        return
    started, before, recent = time.monotonic(), minutes, []
    for batch in ahead(Steps(args, run, texts), step, args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        loss, values = losses(run_batch(model, texts, batch, compiled=True), readouts, batch)
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
