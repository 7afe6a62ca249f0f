"""The micro vision tower: a small SigLIP encoder that learns to see scenes by naming their attributes.

Four choices are not obvious:

* *Supervision by attributes.*  A contrastive pre-training would need millions of pairs; one linear head per attribute,
  thrown away afterwards, needs minutes.
* *One token per attribute.*  Each head reads a token of its own, in the order of the key words that the language model
  knows from its training (:func:`tokens`), so what the projector, which sees one token at a time, has to translate is
  there in one place.  A tower whose heads read all tokens together sees as well, but needs many times more pictures
  to be aligned.  The tokens of a tower trained on pairs from the web are not sorted like this.
* *Grey pictures.*  A share of them is shown in grey, and everything but the colours asked: without them the tower
  knows a shape by its colour, and is lost on a combination of both that training does not show.
* *Reading order.*  Groups are told apart by their place in reading order, the order in which a caption names them.

Rebuild what the package ships: ``papermill notebooks/00_backbone.ipynb out.ipynb``.
"""

import random
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import SiglipVisionConfig, SiglipVisionModel

from textreg.compute import set_up
from textreg.errors import InputError
from textreg.micro.llm import learning_rate_factor
from textreg.scenes.scene import COLOURS, SHAPES, SIZES, Scene, render
from textreg.scenes.splits import draw
from textreg.settings import Backbone

SLOTS = 3
GREY = 0.25  # share of the training pictures without colour
RELATIONS_SEEN = (None, "above", "left")


def attributes(scene: Scene) -> dict[str, int]:
    """Class index of every attribute of a canonical scene; index 0 of a slot's attribute means "no such group"."""
    target = {"relation": RELATIONS_SEEN.index(scene.relation)}
    for slot in range(SLOTS):
        group = scene.groups[slot] if slot < len(scene.groups) else None
        target[f"colour{slot}"] = COLOURS.index(group.colour) + 1 if group else 0
        target[f"shape{slot}"] = SHAPES.index(group.shape) + 1 if group else 0
        target[f"size{slot}"] = SIZES.index(group.size) + 1 if group else 0
        target[f"count{slot}"] = group.count if group else 0
    return target


def classes() -> dict[str, int]:
    """Number of classes of every attribute, in a fixed order."""
    per_slot = {"colour": len(COLOURS) + 1, "shape": len(SHAPES) + 1, "size": len(SIZES) + 1, "count": 4}
    return {"relation": len(RELATIONS_SEEN)} | {f"{k}{s}": n for s in range(SLOTS) for k, n in per_slot.items()}


def tokens() -> dict[str, int]:
    """The token (patch position, 0..14) that holds each attribute: group by group, the relation last.

    One token after each group is left to the tower, where key words have their semicolon.
    """
    order = ("count", "shape", "size", "colour")
    place = {f"{name}{slot}": slot * (len(order) + 1) + i for slot in range(SLOTS) for i, name in enumerate(order)}
    return place | {"relation": SLOTS * (len(order) + 1) - 1}


def build_tower(settings: Backbone) -> "SiglipVisionModel":
    """An untrained SigLIP vision model of the configured size, without its pooling head.

    Raises :class:`InputError` for patches so large that there are fewer tokens than attributes.
    """

    found, needed = (settings.image_size // settings.patch_size) ** 2, max(tokens().values()) + 1
    if found < needed:
        raise InputError(
            f"patch_size={settings.patch_size} cuts an image of {settings.image_size} pixels into {found} tokens, and "
            f"each attribute needs its own, {needed} in all: choose a smaller patch_size"
        )
    torch.manual_seed(settings.seed)
    config = SiglipVisionConfig(
        hidden_size=settings.tower_hidden,
        intermediate_size=settings.tower_hidden * 4,
        num_hidden_layers=settings.tower_layers,
        num_attention_heads=settings.tower_heads,
        image_size=settings.image_size,
        patch_size=settings.patch_size,
        vision_use_head=False,
    )
    return SiglipVisionModel(config)


def pixels(images: list) -> "torch.Tensor":
    """RGB images of the tower's size -> float32 ``(n, 3, height, width)`` in -1..1, as the processor makes them."""

    stacked = np.stack([np.asarray(image, dtype=np.float32) for image in images])  # (n, height, width, 3)
    return torch.from_numpy(stacked / 127.5 - 1).permute(0, 3, 1, 2)


def examples(rng: random.Random, size: int, count: int, split: str = "train") -> tuple["torch.Tensor", "torch.Tensor"]:
    """``count`` rendered scenes: pixels ``(count, 3, size, size)`` and targets int64 ``(count, attributes)``."""

    scenes = [draw(rng, split, canonical=True) for _ in range(count)]
    names = list(classes())
    targets = torch.tensor([[attributes(scene)[name] for name in names] for scene in scenes])
    return pixels([render(scene, rng, size) for scene in scenes]), targets


def greyed(
    images: "torch.Tensor", targets: "torch.Tensor", generator: "torch.Generator"
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """A share of the pictures ``(n, 3, height, width)`` in grey, with colour targets that no loss counts (-100).

    The weights of the three channels are drawn for each picture, so that no colour always looks like the background.
    """
    grey = torch.rand(len(images), generator=generator) < GREY
    weights = -torch.rand(len(images), 3, generator=generator).log()  # (n, 3): uniform on the simplex once divided
    channel = torch.einsum("nchw,nc->nhw", images, weights / weights.sum(1, keepdim=True))
    colours = torch.tensor([name.startswith("colour") for name in classes()])
    images = torch.where(grey[:, None, None, None], channel[:, None], images)
    return images, targets.masked_fill(grey[:, None] & colours, -100)


def train_tower(settings: Backbone, report: Callable[[dict], None]) -> tuple["SiglipVisionModel", dict[str, float]]:
    """Train the tower; returns it and the accuracy of every attribute on 2,000 held-out scenes.

    ``report`` receives ``{step, loss, seconds}`` every 100 steps; ``all`` asks for every attribute at once.
    """

    compute = set_up(settings.threads, device=settings.device)
    tower = build_tower(settings).to(compute.device)
    heads = torch.nn.ModuleDict({name: torch.nn.Linear(settings.tower_hidden, n) for name, n in classes().items()})
    heads.to(compute.device)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.tower_learning_rate, weight_decay=0.01, fused=True)

    def scores(images: "torch.Tensor") -> tuple["torch.Tensor", ...]:
        # The layer that the VLM reads, which for SigLIP lies before the final layer norm.
        features = tower(images, output_hidden_states=True).hidden_states[-1]  # (n, patches, hidden)
        return tuple(head(features[:, tokens()[name]]) for name, head in heads.items())

    losses, start = [], time.perf_counter()
    rng, generator = random.Random(settings.seed), torch.Generator().manual_seed(settings.seed)
    for step in range(settings.tower_steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.tower_learning_rate * learning_rate_factor(step, settings.tower_steps)
        batch = examples(rng, settings.image_size, settings.tower_batch)  # always fresh: a pool gets memorized
        images, targets = (tensor.to(compute.device) for tensor in greyed(*batch, generator))
        found = scores(images)
        loss = sum(cross_entropy(logits, targets[:, i]) for i, logits in enumerate(found))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        if (step + 1) % 100 == 0:
            mean = torch.stack(losses).mean().item()
            report({"step": step + 1, "loss": round(mean, 4), "seconds": round(time.perf_counter() - start, 1)})
            losses = []
    tower.half().float()  # rounded as it is shipped
    images, targets = examples(random.Random(settings.seed + 1), settings.image_size, 2000, "validation")
    with torch.inference_mode():
        found = torch.stack([logits.argmax(1).cpu() for logits in scores(images.to(compute.device))], dim=1)
    right = found == targets
    accuracy = {name: right[:, i].float().mean().item() for i, name in enumerate(classes())}
    return tower.cpu().eval(), accuracy | {"all": right.all(dim=1).float().mean().item()}
