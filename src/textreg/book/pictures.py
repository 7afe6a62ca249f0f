"""The page of the pictures scale: gate, figure, predictions, tables, from what ``bench/pictures.py`` wrote.

``results/pictures/verdicts.parquet`` holds what each answer is and no answer, ``about.json`` how the runs were made.
Where the gate is not passed the page says so before any other number, for what a model does not see it cannot name.

Use: ``page(Path("results"), staged)``.
"""

import json
from importlib import resources
from pathlib import Path

import pandas as pd

from textreg.book.pages import UNDEFINED, per_cent, table, verdict
from textreg.book.results import dropdown, figure
from textreg.evaluation import claims
from textreg.fidelity.estimates import Point, estimate
from textreg.figures.bars import answer_classes
from textreg.figures.style import language_names, language_order, save_figure
from textreg.figures.tables import classes, describe

PREDICTED, PREDICTED_WEB = "pictures.yaml", "pictures_web.yaml"
ARMS = {"image": "picture", "text": "key words", "text_en": "English key words"}
CLASSES = ("asked", "english", "other", "mixed", "short")
LABELS = {"english": "English", "short": "a word that nobody knows", "mixed": "mixed", "image": "the drawing",
          "text": "key words in the asked language", "text_en": "English key words"}  # fmt: skip
FIGURES = "figures-pictures"
CAPTION = (
    "What the answers are, by what stands before the question. "
    "Orange is English; light grey are words that stand in no dictionary or in several."
)
NOTHING = "No run of this scale is shipped with this commit; `textreg run --profile pictures` makes one.\n"


def write(results: Path, target: Path) -> None:
    """What the pages include: the page of this scale, its part without questions, the sentence of the introduction."""
    (target / "pictures.md").write_text(page(results, target), encoding="utf-8")
    (target / "pictures_web.md").write_text(web(results / "pictures"), encoding="utf-8")
    (target / "pictures_line.md").write_text(line(results), encoding="utf-8")


def page(results: Path, target: Path) -> str:
    """All of it in Markdown, the figure below ``target``; one sentence where no run is there."""
    folder = results / "pictures"
    seen = seeing(folder)
    if not (folder / "verdicts.parquet").is_file():
        return f"{seen}\n{NOTHING}" if seen else NOTHING
    verdicts = pd.read_parquet(folder / "verdicts.parquet")
    about = json.loads((folder / "about.json").read_text("utf-8"))
    judged = claims.judge(verdicts, predicted(PREDICTED))
    folded = [dropdown("Tables: every system and arm, every language", [arms(verdicts), languages(verdicts)])]
    folded += [dropdown("What the tower alone tells apart", [seen])] if seen else []
    told = examples(pd.read_csv(folder / "examples.csv", keep_default_na=False))
    shown = [told, predictions(judged), against(verdicts), sees(verdicts)]
    folded.append(dropdown("How it was made", [made(about)]))
    return "\n".join([gate(judged), drawing(verdicts, target), *shown, *folded])


def predicted(name: str) -> tuple[claims.Claim, ...]:
    """What was written down before the runs."""
    return claims.load(resources.files(__package__).joinpath(name).read_text("utf-8"))


def web(folder: Path) -> str:
    """The same where most pictures come without a question, beside the runs where each has one."""
    paths = [folder / "verdicts.parquet", folder / "web.parquet"]
    if not all(path.is_file() for path in paths):
        return "No run without questions is shipped with this commit.\n"
    asked, bare = map(pd.read_parquet, paths)
    both = pd.concat([asked[asked["system"].isin(["BM", "TR"])], bare], ignore_index=True)
    about = json.loads((folder / "about_web.json").read_text("utf-8"))
    folded = [dropdown("Every system and arm, and how it was made", [arms(both), made(about)])]
    return "\n".join([predictions(claims.judge(both, predicted(PREDICTED_WEB))), *folded])


def examples(found: pd.DataFrame) -> str:
    """A few answers of one seed, as they came."""
    names = language_names(found["language"])
    emoji = ["".join(chr(int(part, 16)) for part in concept.split("-")) for concept in found["concept"]]
    rows = [
        [sign, row.en, names[row.language], row.name, row.backbone, row.BM, row.TR]
        for sign, row in zip(emoji, found.itertuples(index=False), strict=True)
    ]
    head = ["", "BM, asked in English", "asked in", "right", "backbone", "BM", "TR"]
    return table(head, rows, "Answers to drawings of the style that was never shown, nobody's choice")


def drawing(verdicts: pd.DataFrame, target: Path) -> str:
    """What the answers are by system and arm, as the micro world's figure has it."""
    drawn = classes(verdicts)
    image = drawn[drawn["arm"] == "image"]
    told = {name: describe(image[image["class"] == name], "share") for name in CLASSES[:2]}
    alt = (
        "Stacked bars of the classes of answers, one bar per system, one panel per request arm. With the picture, in "
        f"the asked language: {told['asked']}; in English: {told['english']}."
    )
    fig, stem = answer_classes(drawn, LABELS), target / FIGURES / "classes"
    return figure(save_figure(fig, stem, alt=alt, data=drawn, caption=CAPTION).paths["svg"])


def line(results: Path) -> str:
    """What came out, in a few numbers; empty where no run is there."""
    path = results / "pictures" / "verdicts.parquet"
    if not path.is_file():
        return ""
    verdicts = pd.read_parquet(path)
    found = classes(verdicts).set_index(["arm", "class", "system"])["share"].sort_index()

    def shares(arm: str, name: str) -> list[str]:
        return [f"{100 * share:.0f}" for share in found[arm, name][["backbone", "BM", "TR"]]]

    asked, english, text = shares("image", "asked"), shares("image", "english"), shares("text", "asked")
    right = [estimate(verdicts, [(1.0, Point(name, "image", "content"))]).value for name in ("BM", "TR")]
    return (
        "Asked in another language what a drawing is called, in a style that was never shown, the model answers in "
        f"that language in **{asked[0]} %** of all cases before tuning, in **{asked[1]} %** after tuning on English "
        f"names alone (BM), and in **{asked[2]} %** with multilingual text beside them (TR); in English in "
        f"{english[0]}, {english[1]} and {english[2]} %.\n"
        f"Given key words in the asked language and no drawing, it keeps that language in {text[0]}, {text[1]} and "
        f"{text[2]} %.\n"
        f"Right, in whatever language, are {100 * right[0]:.0f} % of BM's answers, {100 * right[1]:.0f} % of TR's.\n"
    )


def seeing(folder: Path) -> str:
    """What the tower alone tells apart in the style that is asked about (``bench/pictures_seeing.py``)."""
    if not (folder / "seeing.csv").is_file():
        return ""
    found, how = pd.read_csv(folder / "seeing.csv"), json.loads((folder / "seeing.json").read_text("utf-8"))
    rows = [
        [row.found, per_cent(row.share, row.low, row.high), per_cent(row.chance), row.concepts]
        for row in found.itertuples()
    ]
    title = "The frozen tower alone: drawings of the held-out style by the means of the others, per cent"
    return table(["own concept is", "share", "chance", "concepts"], rows, title) + "\n" + made(how)


def gate(judged: pd.DataFrame) -> str:
    """What the first prediction came to, in a sentence."""
    row = judged.iloc[0]
    found = per_cent(row["value"], row["low"], row["high"])
    sentence = {
        "met": "The gate is passed: the English-tuned model names {} % of the concepts right in English.",
        "missed": "The gate is **not** passed: the English-tuned model names {} % right, so what follows is a null "
        "result of seeing, and says little of language.",
    }.get(row["verdict"], "The gate is **undecided**: the English-tuned model names {} % right.")
    return sentence.format(found) + "\n"


def arms(verdicts: pd.DataFrame) -> str:
    """Language and content of the answers, by system and arm of the request, over all languages but English."""
    rows = []
    for system in verdicts["system"].unique():
        for arm, words in ARMS.items():
            points = [Point(system, arm, name) for name in (*CLASSES, "content", "right_in_english")]
            rows.append([system, words, *(measured(verdicts, (1.0, point), digits=0) for point in points)])
    head = ["system", "given", "asked", "English", "other", "mixed", "nobody knows", "right", "right in English"]
    return table(head, rows, "What answers are, per cent of all, means over languages with 95 % intervals")


def measured(verdicts: pd.DataFrame, *terms: tuple[float, Point], digits: int = 1) -> str:
    """An estimate with its interval, in per cent."""
    found = estimate(verdicts, terms)
    return per_cent(found.value, found.low, found.high, digits)


def sees(verdicts: pd.DataFrame) -> str:
    """English names that are right, asked in English: of concepts shown in other styles, and of ones never shown."""
    rows = []
    for system in verdicts["system"].unique():
        points = [Point(system, "image", "content", task, "en") for task in ("caption", "new")]
        rows.append([system, *(measured(verdicts, (1.0, point)) for point in points)])
    head = ["system", "shown in other styles", "never shown"]
    return table(head, rows, "Does it still see? Drawings of the new style named right, asked in English, per cent")


def against(verdicts: pd.DataFrame) -> str:
    """What text and merging change of BM: the language, what is right in any, and seeing."""
    rows = []
    for system in ("TR", "EN", "BM+M"):
        told = [
            measured(verdicts, (1.0, Point(system, "image", *what)), (-1.0, Point("BM", "image", *what)))
            for what in (("asked",), ("content",), ("content", "caption", "en"))
        ]
        rows.append([system, *told])
    head = ["system", "asked language", "right in any language", "English names right, asked in English"]
    return table(head, rows, "Against BM on the same drawings, in points (looked at afterwards, not predicted)")


def languages(verdicts: pd.DataFrame) -> str:
    """The asked language under the picture (and English instead), by language and system."""
    shown = verdicts[(verdicts["arm"] == "image") & (verdicts["task"] == "caption") & (verdicts["language"] != "en")]
    shares = pd.crosstab([shown["system"], shown["language"]], shown["class"], normalize="index")
    codes, systems = language_order(shown["language"].unique()), list(shown["system"].unique())
    names = language_names(codes)

    def cell(system: str, code: str) -> str:
        if (system, code) not in shares.index:
            return UNDEFINED
        row = shares.loc[(system, code)]
        return f"{100 * row.get('asked', 0):.0f} ({100 * row.get('english', 0):.0f})"

    rows = [[names[code], *(cell(system, code) for system in systems)] for code in codes]
    return table(["language", *systems], rows, "The asked language under pictures, and English instead, per cent")


def predictions(judged: pd.DataFrame) -> str:
    """What the study predicts for this model, and what came."""
    rows = [
        [verdict(row.verdict), f"{row.claim}: {row.bound}", per_cent(row.value, row.low, row.high)]
        for row in judged.itertuples()
    ]
    return table(["verdict", "predicted", "measured"], rows, "In per cent or points")


def made(about: dict) -> str:
    """With what the runs were made."""
    return "\n".join(f"- {name}: {text}" for name, text in about.items()) + "\n"
