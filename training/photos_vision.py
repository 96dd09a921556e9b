"""The projector of photographs: ``python training/photos_vision.py``, a few minutes on one core.

The decoder comes from the bundled checkpoint, which reads what lies under a token along directions of its own. So the
projector learns to put a photograph where that checkpoint puts a kind of shape or digit, and the photograph's word
begins as the word for that kind. Names beyond the eighteen kinds get directions of their own.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from footage import training_clips
from llava import Llava
from photos_bank import BANK
from photos_model import GRID, PROJECTED, add_windows, build, pool, run_of
from runs import FILMS, build_optimizer, learning_rate, log, save
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlavaOnevisionForConditionalGeneration
from vision import IGNORE, NOTHING, SEEN, crowd, to_pixels

from framefusion.assets import BUNDLED
from framefusion.evaluation.needle.objects import COLOR_NAMES, KINDS
from framefusion.evaluation.needle.photos import NAMES
from framefusion.evaluation.needle.scenes import TOKEN_GRID

ROLES = ("none", "large", "small", "other")


@dataclass(frozen=True)
class Interface:
    """Where the decoder expects what: effects on a visual token, each ``(classes, D)``, about ``base`` ``(D,)``."""

    base: Tensor
    names: Tensor
    roles: Tensor
    columns: Tensor
    rows: Tensor

    def targets(self, name: Tensor, role: Tensor) -> Tensor:
        """Tokens as the decoder would like them, ``(…, 36, D)``, from labels ``(…, 36)``; no name is the last one."""
        cell = torch.arange(GRID * GRID)
        names = torch.cat([self.names, torch.zeros_like(self.names[:1])])
        place = self.columns[cell % GRID] + self.rows[cell // GRID]
        return self.base + names[name] + self.roles[role] + place


@torch.no_grad()
def interface(frames: int = 600, seed: int = 0) -> Interface:
    """Read the directions off the bundled checkpoint: least squares over tokens of crowded frames."""
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(BUNDLED["bundled"]).eval()
    rng, clips = np.random.default_rng(seed), training_clips(FILMS)
    drawn = [crowd(rng, clips) for _ in range(frames)]
    features = torch.cat([Llava().encode(model, to_pixels(shown)) for shown, _ in drawn]).flatten(0, 1).double()
    labels = {name: np.concatenate([seen[name] for _, seen in drawn]) for name in drawn[0][1]}
    cell = np.tile(np.arange(TOKEN_GRID**2), frames)
    known = (labels["kind"] != IGNORE) & (labels["color"] != IGNORE)
    parts = [
        np.eye(len(KINDS) + 1)[labels["kind"][known]],
        np.eye(len(COLOR_NAMES) + 1)[labels["color"][known]],
        (labels["large"][known] == 1)[:, None].astype(float),
        np.eye(TOKEN_GRID)[cell[known] % TOKEN_GRID],
        np.eye(TOKEN_GRID)[cell[known] // TOKEN_GRID],
    ]
    design = torch.from_numpy(np.concatenate(parts, axis=1))
    target = features[torch.from_numpy(known)]
    small = 1e-3 * len(design) * torch.eye(design.shape[1], dtype=torch.float64)
    effects = torch.linalg.solve(design.T @ design + small, design.T @ target)
    rest = (target - design @ effects).square().sum() / (target - target.mean(0)).square().sum()
    kinds, colors, large, columns, rows = effects.float().split([part.shape[1] for part in parts])
    # A thing has a colour; a photograph has the middle of all.
    thing = kinds[:-1] + colors[:-1].mean(0)
    nothing = kinds[-1] + colors[-1]
    directions = thing - thing.mean(0)
    extra = len(NAMES) - len(KINDS) + 1
    spanned = torch.linalg.svd(effects.float(), full_matrices=False)[2][:40]
    free = torch.randn(extra, features.shape[1], generator=torch.Generator().manual_seed(seed))
    free = torch.linalg.qr((free - free @ spanned.T @ spanned).T)[0].T
    free = free * directions.norm(dim=1).mean()
    names = torch.cat([directions, free[:-1]])
    is_thing = thing.mean(0) - nothing
    roles = torch.stack([torch.zeros_like(nothing), is_thing + large[0], is_thing + free[-1], is_thing])
    means = [nn.functional.interpolate(part.T[None], size=GRID, mode="linear")[0].T for part in (columns, rows)]
    print(
        f"{float(rest):.3f} of the variance is left; norms: token {float(target.norm(dim=1).mean()):.2f}, "
        f"name {float(directions.norm(dim=1).mean()):.2f}, thing {float(is_thing.norm()):.2f}, "
        f"large {float(large.norm()):.2f}, column {float(columns.std(0).norm()):.2f}"
    )
    return Interface(nothing, names, roles, *means)


def labels_of(scene, coverage: np.ndarray) -> tuple[Tensor, Tensor]:
    """Name and role under each token, int64 ``(F, 36)``; -100 where unclear."""
    coverage = coverage.astype(np.float32).reshape(*coverage.shape[:2], -1)
    owner, most = coverage.argmax(0), coverage.max(0)
    name = np.asarray([NAMES.index(thing.kind) for thing in scene.things])[owner]
    role = np.asarray([{"large": 1, "small": 2}.get(thing.role, 3) for thing in scene.things])[owner]
    unclear = (most >= NOTHING) & (most < SEEN)
    name = np.where(unclear, IGNORE, np.where(most >= SEEN, name, len(NAMES)))
    role = np.where(unclear, IGNORE, np.where(most >= SEEN, role, 0))
    return torch.from_numpy(name.astype(np.int64)), torch.from_numpy(role.astype(np.int64))


def read(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """A file of the bank: hidden states ``(N, 144, 384)`` of its frames, and their labels ``(N, 36)``."""
    held = torch.load(path, weights_only=False, mmap=True)
    pairs = [labels_of(*pair) for pair in zip(held["scenes"], held["coverage"], strict=True)]
    name, role = (torch.cat(part) for part in zip(*pairs, strict=True))
    return held["features"].flatten(0, 1), name, role


def judge(projector: nn.Module, wanted: Interface, hidden: Tensor, name: Tensor, role: Tensor) -> tuple[Tensor, dict]:
    """Loss of a batch of frames, and the shares read right."""
    tokens = pool(projector(hidden.float()))
    clear = name != IGNORE
    aim = wanted.targets(name.clamp(min=0), role.clamp(min=0))
    error = (tokens - aim).square().sum(-1) / wanted.names.norm(dim=1).mean().square()
    shown = clear & (name < len(NAMES))
    empty = clear & (name == len(NAMES))
    centred = tokens - wanted.base - wanted.roles[3]
    unit = wanted.names / wanted.names.norm(dim=1).mean().square()
    scores = 8 * centred[shown] @ unit.T
    sizes = cross_entropy(
        4 * centred[shown] @ _unit(wanted.roles[1:3] - wanted.roles[3]).T, _which(role[shown]), ignore_index=IGNORE
    )
    loss = error[shown].mean() + 0.5 * error[empty].mean() + cross_entropy(scores, name[shown]) + 0.3 * sizes
    thing = (tokens - wanted.base) @ wanted.roles[3] / wanted.roles[3].square().sum() > 0.5
    right = {
        "name": float((scores.argmax(-1) == name[shown]).float().mean()),
        "thing": float(thing[shown].float().mean()),
        "nothing": float((~thing[empty]).float().mean()),
        "error": float(error[shown].mean().detach()),
    }
    for index, wide in ((1, "large"), (2, "small"), (3, "other")):
        right[f"{wide} name"] = float((scores.argmax(-1) == name[shown])[role[shown] == index].float().mean())
    return loss, right


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).square()


def _which(role: Tensor) -> Tensor:
    return torch.where(role < 3, role - 1, IGNORE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--frames", type=int, default=32, help="frames of a step")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    add_windows(parser)
    args = parser.parse_args()
    run = run_of(args.windows)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    parts = [read(path) for path in sorted((run / BANK).glob("*.pt"))]
    held, *used = parts
    wanted = interface()
    projector = build(None).model.multi_modal_projector
    sample = torch.cat([part[0][:8] for part in used]).float().flatten(0, 1)
    with torch.no_grad():
        projector.linear_1.weight /= sample.std(0) * 384**0.5 * projector.linear_1.weight.std()
        projector.linear_1.bias.copy_(-projector.linear_1.weight @ sample.mean(0))
        projector.linear_2.weight.normal_(std=PROJECTED**-0.5)
    optimizer = build_optimizer(list(projector.parameters()))
    rng, started, recent = np.random.default_rng(args.seed), time.process_time(), []
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        chosen = [(int(rng.integers(len(used))), int(rng.integers(len(used[0][0])))) for _ in range(args.frames)]
        batch = (torch.stack([used[f][i][n] for f, n in chosen]) for i in range(3))
        loss, right = judge(projector, wanted, *batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
        optimizer.step()
        recent.append(right | {"loss": float(loss.detach())})
        if (step + 1) % 100 == 0:
            means = {name: round(float(np.nanmean([row[name] for row in recent])), 3) for name in recent[0]}
            recent = []
            if (step + 1) % 500 == 0:
                with torch.no_grad():
                    means |= {
                        f"held {name}": round(value, 3) for name, value in judge(projector, wanted, *held)[1].items()
                    }
            log(
                run / "vision.jsonl",
                {"step": step + 1, "minutes": round((time.process_time() - started) / 60, 2)} | means,
            )
    save(run / "vision.pt", {"projector": projector.state_dict(), "interface": vars(wanted)})


if __name__ == "__main__":
    main()
