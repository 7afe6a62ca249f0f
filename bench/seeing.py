"""Why do English captions of the micro world miss their gate? By how many groups a picture shows, and whether any
training showed such a scene.

Two things are asked of fresh drawings of the splits ``train`` and ``validation``: whether the shipped BM describes
them rightly in English, and whether a linear probe reads the shape of the first group from the token of the frozen
tower that holds it (:func:`textreg.micro.tower.tokens`; fitted on other drawings of the split ``train``).  Prints
Markdown for ``bench/results``.

    python bench/seeing.py > bench/results/seeing.md
"""

import random
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import typer
from sklearn.linear_model import LogisticRegression

from textreg.data.images import ImageTable, encode_png
from textreg.data.requests import IMAGE_TURN
from textreg.fidelity.intervals import share_bounds
from textreg.micro.tower import pixels, tokens
from textreg.runs.manifest import processor
from textreg.scenes.grammar import parse
from textreg.scenes.instructions import description
from textreg.scenes.scene import Scene, canonical, render
from textreg.scenes.splits import draw
from textreg.serve.asking import SYSTEMS
from textreg.vlm import adapters, assembly
from textreg.vlm.features import open_features
from textreg.vlm.generation import Request, answer
from textreg.vlm.loading import load_tower, source

SPLITS = {"train": "scenes that training shows", "validation": "scenes that no training shows"}
GROUPS = {1: "one group", 2: "two groups", 3: "three groups"}


def drawn(split: str, groups: int, count: int, seed: int) -> list[tuple[Scene, object]]:
    """Scenes of a split and a drawing of each."""
    rng = random.Random(f"{split} {groups} {seed}")
    scenes = [draw(rng, split, canonical=True, groups=groups) for _ in range(count)]
    return [(scene, render(scene, rng)) for scene in scenes]


def described(rows: list[tuple[Scene, object]]) -> np.ndarray:
    """Whether the shipped BM's English caption means the scene, for each."""
    images = ImageTable({str(place): encode_png(each) for place, (_, each) in enumerate(rows)}, {}, Path())
    aligned, words = assembly.load_aligned(SYSTEMS / "align")
    seen, rng = open_features(aligned, words, images), random.Random(0)
    model = adapters.load_adapter(aligned, SYSTEMS / "tune" / "BM" / "adapter")
    asked = [Request(IMAGE_TURN + description(scene, "en", rng).prompt, str(n)) for n, (scene, _) in enumerate(rows)]
    said = [parse(each.text, "en") for each in answer(model, words, asked, seen, max_new_tokens=40)]
    pairs = zip(said, rows, strict=True)
    return np.array([found is not None and canonical(found) == canonical(scene) for found, (scene, _) in pairs])


def features(rows: list[tuple[Scene, object]]) -> np.ndarray:
    """The tower's token of the first group's shape, (n, hidden)."""
    tower, _ = load_tower(source("shipped", "tower"), "fp32", "cpu")
    with torch.inference_mode():
        states = tower(pixels([each for _, each in rows]), output_hidden_states=True).hidden_states[-1]
    return states[:, tokens()["shape0"]].numpy()


def main(count: int = 300, fitted: int = 1000) -> None:
    """Print both shares, by number of groups and split."""
    torch.set_num_threads(1)
    cells = {}
    for groups, column in GROUPS.items():
        known = drawn("train", groups, fitted, seed=1)
        probe = LogisticRegression(max_iter=1000).fit(features(known), [scene.groups[0].shape for scene, _ in known])
        for split, words in SPLITS.items():
            rows = drawn(split, groups, count, seed=2)
            right = probe.predict(features(rows)) == [scene.groups[0].shape for scene, _ in rows]
            for what, hits in (("BM's English caption", described(rows)), ("shape, read from the tower", right)):
                low, high = (100 * float(bound) for bound in share_bounds(hits.sum(), len(hits)))
                cells[f"{what}, {words}", column] = f"{100 * hits.mean():.0f} [{low:.0f}, {high:.0f}]"
    table = pd.Series(cells).unstack(sort=False)
    print(f"In per cent, with 95 per cent intervals over {count} drawings a cell; {processor()}, one thread, seed 0.")
    print("`python bench/seeing.py`\n")
    print(table.rename_axis("right").to_markdown())


if __name__ == "__main__":
    typer.run(main)
