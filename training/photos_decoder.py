"""The decoder of photographs: ``python training/photos_decoder.py``; resumes by itself.

It begins with the layers of the bundled checkpoint, behind the projector of ``photos_vision.py``. ``--export`` writes
what was trained, as it stands; the tower is fetched.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batches import Batch, Texts
from decoder import Passed, compiled_step, forward, layer_step, lookup_loss
from llava import Llava
from photos_bank import BANK
from photos_lessons import DENSE_SIZES, PARSE_SIZES, SeenScene, make_batch, plan
from photos_model import add_windows, build, pool, processor, run_of, tower
from photos_vision import labels_of
from runs import build_optimizer, learning_rate, log, save
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, rms_norm
from transformers import LlavaOnevisionForConditionalGeneration
from vision import IGNORE

from framefusion.assets import BUNDLED
from framefusion.evaluation.needle.objects import KINDS
from framefusion.evaluation.needle.photo_questions import PHOTO_KINDS
from framefusion.evaluation.needle.photos import NAMES
from framefusion.evaluation.photos import WEIGHTS

# (decoder layers passed, label, weight)
TARGETS = (
    (2, "scene_name", 0.3),
    (3, "scene_name", 0.3),
    (3, "ordinal", 0.3),
    (3, "direction", 0.3),
    (4, "previous_name", 0.5),
    (4, "ordinal", 0.3),
    (4, "direction", 0.4),
)
PARSE_DEPTHS = (3, 4)
OPENING = Llava().opening


class Readouts(nn.Module):
    """Readouts of hidden states; used in training, not part of the checkpoint."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.ModuleDict(
            {f"{name}_{depth}": nn.Linear(width, DENSE_SIZES[name]) for depth, name, _ in TARGETS}
        )
        self.parse = nn.ModuleList(nn.Linear(width, sum(PARSE_SIZES)) for _ in PARSE_DEPTHS)

    def forward(self, passed: Passed, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Weighted loss of the labels of visual tokens and questions, and the shares read right."""
        total, right = passed.logits.new_zeros(()), {}
        for depth, name, weight in TARGETS:
            states = passed.visual[depth]
            logits = self.dense[f"{name}_{depth}"](rms_norm(states, states.shape[-1:], eps=1e-6)).flatten(0, 1)
            target = batch.dense[name].flatten()
            total = total + weight * cross_entropy(logits, target, ignore_index=IGNORE)
            known = target != IGNORE
            right[f"{name}_{depth}"] = float((logits.detach().argmax(-1) == target)[known].float().mean())
        for depth, head in zip(PARSE_DEPTHS, self.parse, strict=True):
            states = passed.asking[depth]
            logits = head(rms_norm(states, states.shape[-1:], eps=1e-6))
            for column, scores in enumerate(logits.split(PARSE_SIZES, dim=-1)):
                target = batch.parse[..., column].flatten()
                total = total + 0.25 * cross_entropy(scores.flatten(0, 1), target, ignore_index=IGNORE)
        return total, right


@torch.no_grad()
def start_like_bundled(model: nn.Module, interface: dict[str, Tensor]) -> None:
    """The bundled checkpoint's decoder; words both know keep their rows, photographs take those of the kinds.

    What neither has begins small, and the names beyond the kinds along their own directions.
    """
    other = LlavaOnevisionForConditionalGeneration.from_pretrained(BUNDLED["bundled"])
    core, old = model.model.language_model, other.model.language_model
    core.layers.load_state_dict(old.layers.state_dict())
    core.norm.load_state_dict(old.norm.state_dict())
    model.model.image_newline.copy_(other.model.image_newline)
    mine, theirs = processor().tokenizer.get_vocab(), Llava().tokenizer().get_vocab()
    for new, known in (
        (model.get_input_embeddings().weight, other.get_input_embeddings().weight),
        (model.lm_head.weight, other.lm_head.weight),
    ):
        new.normal_(std=float(known.std()) * 0.5)
        for word in mine.keys() & theirs.keys():
            new[mine[word]] = known[theirs[word]]
        kinds = known[[theirs[kind] for kind in KINDS]]
        size = (kinds - kinds.mean(0)).norm(dim=1).mean()
        for index, name in enumerate(NAMES):
            own = interface["names"][index]
            new[mine[name]] = kinds[index] if index < len(KINDS) else kinds.mean(0) + size * own / own.norm()


@torch.no_grad()
def scenes(projector: nn.Module, bank: Path) -> list[SeenScene]:
    """The bank behind the projector."""
    held = []
    for path in sorted(bank.glob("*.pt")):
        part = torch.load(path, weights_only=False)
        tokens = torch.cat([pool(projector(one.float())).half() for one in part["features"]])
        tokens = tokens.unflatten(0, part["features"].shape[:2])
        for scene, coverage, features in zip(part["scenes"], part["coverage"], tokens, strict=True):
            name, _ = labels_of(scene, coverage)
            flat = coverage.reshape(*coverage.shape[:2], -1)
            owner = np.where(name == IGNORE, -2, np.where(name == len(NAMES), -1, flat.argmax(0)))
            held.append(SeenScene(scene, features, owner.astype(np.int8)))
    return held


def run_batch(model: nn.Module, texts: Texts, batch: Batch, step: Any = layer_step) -> Passed:
    """The decoder's pass over one batch, through the class's own embeddings and rotary positions."""
    core, count = model.model, len(batch.features)
    embed = core.get_input_embeddings()
    start = texts.encode(OPENING)
    first, end = len(start), len(start) + batch.visual
    opening = embed(torch.tensor(start)).expand(count, -1, -1)
    closing = core.image_newline.expand(count, 1, -1)
    prefix = torch.cat([opening, batch.features, closing], dim=1)
    questions = embed(batch.ids)
    slots = torch.arange(questions.shape[2])
    behind = (slots - batch.padding[..., None] + end + 1).flatten(1)
    positions = torch.cat(
        [torch.arange(first).expand(count, -1), batch.places + first, torch.full((count, 1), end), behind], dim=-1
    )
    cos, sin = core.language_model.rotary_emb(questions, positions)
    parts = (prefix, questions, cos, sin, batch.padding, first, batch.evidence.float())
    return forward(core.language_model, model.lm_head, *parts, step=step)


def losses(passed: Passed, readouts: Readouts, batch: Batch, guide: float) -> tuple[Tensor, dict[str, float]]:
    """The whole loss of one step, and what to log. ``guide`` weighs everything but the answers."""
    answer = cross_entropy(passed.logits.flatten(0, 2), batch.answers.flatten(), ignore_index=IGNORE)
    dense, logged = readouts(passed, batch)
    lookup, looked = lookup_loss(passed.paid, batch.answers, batch.evidence, torch.zeros_like(batch.parse[..., 0]))
    right = ((passed.logits.detach().argmax(-1) == batch.answers) | (batch.answers == IGNORE)).all(-1).numpy()
    said = batch.kinds != ""
    values = {"answer": float(answer.detach()), "right": float(right[said].mean()), "lookup": looked}
    for kind in PHOTO_KINDS:
        asked = right[batch.kinds == kind]
        values[kind] = float(asked.mean()) if len(asked) else float("nan")
    return 2 * answer + guide * (dense + lookup), values | logged


def export(model: nn.Module, directory: Path) -> None:
    """Write a checkpoint in half precision that lacks the weights of its tower."""
    trained = {name: value.half() for name, value in model.state_dict().items() if ".vision_tower." not in name}
    whole = build(tower())
    whole.save_pretrained(directory, state_dict=trained)
    processor().save_pretrained(directory)
    (directory / WEIGHTS).chmod(0o644)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--guide", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--eager", action="store_true", help="do not compile the layers")
    parser.add_argument("--stop", type=int, default=None, help="stop, resumable, at this step")
    parser.add_argument("--export", type=Path, default=None, help="only write the checkpoint to this directory")
    add_windows(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("medium")
    torch.manual_seed(args.seed)
    run = run_of(args.windows)
    texts, state_file = Texts(processor().tokenizer), run / "decoder.pt"
    model, seen = build(None), torch.load(run / "vision.pt", weights_only=True)
    start_like_bundled(model, seen["interface"])
    model.model.multi_modal_projector.load_state_dict(seen["projector"])
    model.requires_grad_(False)
    readouts = Readouts(model.config.text_config.hidden_size)
    trained = [*model.model.language_model.parameters(), *model.lm_head.parameters(), model.model.image_newline]
    for parameter in trained:
        parameter.requires_grad_(True)
    trained += readouts.parameters()
    optimizer, step, minutes = build_optimizer(trained), 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        readouts.load_state_dict(state["readouts"])
        optimizer.load_state_dict(state["optimizer"])
        step, minutes = state["step"], state["minutes"]
        print(f"resuming at step {step}")
    if args.export is not None:
        export(model, args.export)
        return
    held = scenes(model.model.multi_modal_projector, run / BANK)
    print(len(held), "scenes")
    started, recent = time.process_time() - 60 * minutes, []
    how = layer_step if args.eager else compiled_step
    while step < (args.stop or args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr, warm_up=50)
        batch = make_batch(step, plan(args.seed, step, args.steps, args.questions), held, texts, args.seed)
        loss, values = losses(run_batch(model, texts, batch, how), readouts, batch, args.guide)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step += 1
        recent.append(values)
        if step % 25 == 0 or step == args.steps:
            minutes = (time.process_time() - started) / 60
            means = {name: round(float(np.nanmean([row[name] for row in recent])), 3) for name in values}
            log(run / "decoder.jsonl", {"step": step, "minutes": round(minutes, 2)} | means)
            recent = []
        if step % 50 == 0 or step == args.steps:
            state = {"model": model.state_dict(), "readouts": readouts.state_dict(), "step": step, "minutes": minutes}
            save(state_file, state | {"optimizer": optimizer.state_dict()})


if __name__ == "__main__":
    main()
