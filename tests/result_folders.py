"""Synthetic result tables and run folders for the tests of figures and of the book."""

import json
import random

import numpy as np
import pandas as pd
from PIL import Image

from textreg.fidelity.annotation import annotate
from textreg.fidelity.identifiers import open_identifier
from textreg.scenes import instructions
from textreg.scenes import rows as prepare

LANGUAGES = ("en", "de", "el", "eu", "fr", "it", "pl", "sv", "uk")
LEVELS = {"BM": 0.35, "TR": 0.95, "TR+M": 0.98, "BM+M": 0.7, "EN": 0.36, "backbone": 0.99}
PAPER = {"pt": 0.021, "it": 0.007, "pl": 0.0047, "sv": 0.0042}


def fidelity_table(seeds=1, systems=LEVELS, arms=("image", "blank", "text")):
    """A synthetic ``fidelity.csv``: LF+ below LF, GF below LF+, the text arm above the image arm."""
    random, rows = np.random.default_rng(0), []
    for seed in range(seeds):
        for system in systems:
            for language in LANGUAGES:
                for arm, gain in zip(arms, (0.0, 0.1, 0.3), strict=False):
                    level = LEVELS[system] + gain + random.normal(0, 0.04)
                    lf = 1.0 if language == "en" else float(np.clip(level, 0, 1))
                    plus = lf * 0.9 if arm == "text" else lf * (0.5 if system in ("BM", "EN") else 0.93)
                    rows.append({
                        "seed": seed, "system": system, "lambda": 0.6 if system.endswith("+M") else 1.0,
                        "language": language, "arm": arm, "n": 200, "n_scored": 200, "lf": lf,
                        "lf_low": max(lf - 0.05, 0), "lf_high": min(lf + 0.05, 1), "english_rate": 1 - lf,
                        "other_rate": 0.0, "lf_plus": plus, "grounded": plus * 0.9,
                    })  # fmt: skip
    return pd.DataFrame(rows)


def sweep_table(seeds=1):
    rows = []
    for seed in range(seeds):
        for system, floor in (("TR", 0.9), ("BM", 0.2)):
            for lam in (0.25, 0.5, 0.75, 1.0):
                fidelity = floor + (1 - floor) * (1 - lam) + 0.01 * seed
                rows.append((seed, system, lam, "validation", fidelity, fidelity * 0.95, min(1, 0.4 + 0.8 * lam)))
    return pd.DataFrame(rows, columns=["seed", "system", "lambda", "split", "lf", "lf_plus", "visual"])


def has_white_edges(picture):
    """Whether the outermost pixels are white, so that nothing runs over the edge."""
    pixels = np.asarray(Image.open(picture).convert("L"))
    return all((edge > 250).all() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))


def mixture_table():
    shares = {"es": 0.3, "ca": 0.2, "fr": 0.2, "de": 0.15, "eu": 0.1, "pt": 0.021, "it": 0.02, "pl": 0.009}
    return pd.DataFrame({"source": "scenes", "language": list(shares), "rows": 1, "share": list(shares.values())})


def loss_table(seeds=2):
    rows = [
        (seed, arm, step, 3 * np.exp(-step / 80) + 0.1 + 0.02 * seed + 0.05 * number)
        for seed in range(seeds)
        for number, arm in enumerate(("BM", "TR", "EN"))
        for step in range(0, 500, 10)
    ]
    return pd.DataFrame(rows, columns=["seed", "arm", "step", "loss"])


def confusion_tables():
    asked = list(LANGUAGES)
    english = pd.DataFrame(10.0, index=asked, columns=[*asked, "nl", "und"])
    english["en"] = 200.0
    own = pd.DataFrame(np.eye(len(asked)) * 190 + 1, index=asked, columns=asked)
    return {"BM": english, "TR": own}


def visual_table(seed=0, systems=LEVELS):
    """A synthetic ``visual.csv``: two tasks, every system right in 95 of 100 images."""
    rows = [(seed, system, 1.0, task, "en", 100, 0.95) for system in systems for task in ("caption", "colour")]
    return pd.DataFrame(rows, columns=["seed", "system", "lambda", "task", "language", "n", "accuracy"])


def answers_table(seed=0, images=6):
    """Answers to the first test images: BM in English under pictures and English text, the others in the asked
    language; every English question is answered right but by the backbone.
    """
    scenes, rows = prepare.draw_scenes(seed, "test", images), []
    for system in ("backbone", "BM", "TR", "TR+M"):
        lam = 0.6 if system == "TR+M" else 1.0
        for number, scene in enumerate(scenes):
            for code in LANGUAGES:
                asked = instructions.description(scene, code, random.Random(number))
                english = instructions.description(scene, "en", random.Random(number))
                reference = json.dumps([asked.meaning, asked.answer])
                for arm, context in (("image", "<image>"), ("text_en", english.answer), ("text", asked.answer)):
                    told = english if system == "BM" and arm != "text" else asked
                    prompt, item = f"{context}\n{asked.prompt}", f"test-{number:05d}:caption"
                    rows.append((seed, system, lam, code, arm, item, "caption", prompt, told.answer, reference))
            question = instructions.question(scene, "en", random.Random(number), "count")
            said = "none" if system == "backbone" else question.answer
            told = (f"<image>\n{question.prompt}", said, json.dumps([question.meaning, question.answer]))
            rows.append((seed, system, lam, "en", "image", f"test-{number:05d}:count", "count", *told))
    columns = ["seed", "system", "lambda", "language", "arm", "item_id", "task", "prompt", "answer", "reference"]
    return pd.DataFrame(rows, columns=columns)


def write_run(folder, seed=0):
    """A run folder with the files that figures and the book read, as the stages leave them."""
    for name in ("evaluate", "prepare_data", "tune/BM", "merge/TR+M", "align"):
        (folder / name).mkdir(parents=True)
    table = fidelity_table().assign(seed=seed)
    table.to_csv(folder / "evaluate/fidelity.csv", index=False)
    visual_table(seed).to_csv(folder / "evaluate/visual.csv", index=False)
    annotate(answers_table(seed), open_identifier()).to_parquet(folder / "evaluate/answers.parquet")
    (folder / "align/base.json").write_text(json.dumps({"llm": "shipped"}))
    mixture_table().to_csv(folder / "prepare_data/mixture.csv", index=False)
    loss_table(1)[["step", "loss"]].to_csv(folder / "tune/BM/log.csv", index=False)
    sweep = sweep_table().query("system == 'TR'").assign(system="TR+M", seed=seed)
    sweep.to_csv(folder / "merge/TR+M/sweep.csv", index=False)
    (folder / "merge/TR+M/choice.json").write_text(json.dumps({"lambda": 0.75}))
    return folder
