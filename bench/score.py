"""Time and memory of scoring: 100,000 distinct fourteen-word answers, identified, counted and given intervals.

Targets: at most 4 s to score on two cores (one process is enough), at most 3 s more for metrics and intervals, memory
flat in the number of answers.  Each measurement is a fresh process, so that peaks do not mix; files are written
outside the clock. Run: ``python bench/score.py [--answers 100000]``.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LANGUAGES = ("en", "de", "fr", "it", "pl", "el", "uk", "eu", "es", "sv")
WORDS_EACH = 14


def write_answers(path: Path, count: int, items: bool) -> None:
    """Distinct answers of fourteen words, drawn from the scene vocabulary of each language."""
    from textreg.scenes.grammar import words

    rng = random.Random(0)
    vocabulary = {code: sorted(words(code)) for code in LANGUAGES}
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            code = LANGUAGES[i % len(LANGUAGES)]
            row = {"answer": " ".join(rng.choices(vocabulary[code], k=WORDS_EACH)), "language": code}
            if items:
                row |= {"item_id": str(i // 20), "arm": ("image", "text")[i // 10 % 2], "system": "model"}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def measure(path: Path, what: str) -> dict:
    """Run one measurement in this process: ``tables`` (functions on a frame) or ``file`` (the command)."""
    import pandas as pd

    from textreg.fidelity import annotation, measures
    from textreg.fidelity.identifiers import open_identifier

    wall = time.perf_counter()
    if what == "file":
        from textreg.serve.score import score_file

        start = time.process_time()
        score_file(path)
        seconds = {"score_file": time.process_time() - start}
    else:
        table = pd.read_json(path, lines=True)
        start = time.process_time()
        identifier = open_identifier()
        opened = time.process_time()
        identifier.identify(table["answer"].tolist())
        identified = time.process_time()
        annotated = annotation.annotate(table, identifier)
        done = time.process_time()
        measures.summarise(annotated)
        if "item_id" in annotated:
            measures.ifl(annotated)
            groups = measures.language_groups(LANGUAGES[:5], LANGUAGES[5:7], LANGUAGES)
            measures.macro_means(annotated, groups)
        seconds = {
            "open": opened - start,
            "identify": identified - opened,
            "annotate (identify, LPR, WPR)": done - identified,
            "metrics and intervals": time.process_time() - done,
        }
    seconds["wall"] = time.perf_counter() - wall
    return seconds | {"peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=int, default=100_000)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(Path(options.child[0]), options.child[1])))
        return
    print(f"{os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}")
    with tempfile.TemporaryDirectory() as folder:
        for count, items, what in (
            (options.answers, True, "tables"),
            (options.answers, False, "file"),
            (4 * options.answers, False, "file"),
            (options.answers, True, "file"),
            (4 * options.answers, True, "file"),
        ):
            path = Path(folder) / "answers.jsonl"
            write_answers(path, count, items)
            child = subprocess.run(
                [sys.executable, __file__, "--child", str(path), what], check=True, capture_output=True, text=True
            )
            numbers = "  ".join(f"{k} {v:.2f}" for k, v in json.loads(child.stdout).items())
            print(f"{count:>7} answers{', with items and arms' if items else ''}, {what}: {numbers}", flush=True)


if __name__ == "__main__":
    main()
