"""Answers as people's models write them, made ready for what ``fidelity`` says of each.

Rules by the names of :mod:`textreg.fidelity.parts`, and two more (``metadata`` in front of a page, ``pictures``), take
away what the scenes' answers never hold; that happens before ``annotate``, so that their scores stay as they are.  Not
obvious: vowel points of Hebrew and Arabic, stretched Arabic words, breathings of Greek and stress marks on Cyrillic
letters are in no text that identifiers learned from (points make Hebrew the Bible's), so nobody is shown them, unless
the language that is asked for is written with them; Yiddish, which has a point here and there, keeps its own.

Use: ``annotated(answers, open_identifier())``, with the columns of ``annotate``.
"""

import json
import re
from collections.abc import Callable, Collection
from html import unescape
from importlib.resources import files
from itertools import chain
from unicodedata import normalize

import numpy as np
import pandas as pd
import yaml
from langcodes import Language

from textreg.data.codes import base_code
from textreg.display import well_formed
from textreg.errors import InputError, did_you_mean
from textreg.fidelity.annotation import Judge, Rules, annotate
from textreg.fidelity.asked import TOGETHER, can_tell, same_language
from textreg.fidelity.labels import Identifier
from textreg.fidelity.linewise import words
from textreg.fidelity.parts import RULES

_TABLE = files(__package__).joinpath("written.yaml").read_text("utf-8")
_IN = {name: re.compile("".join(pieces)) for name, pieces in yaml.safe_load(_TABLE).items()}
#: What nobody reads of a page: the tags around it.
_TAGS = ("head", "style", "script", "svg", "template", "function", "tool_call", "tool_response")
HIDDEN = (("<!--", "-->"), *((rf"<{tag}\b[^<>]*>", f"</{tag}>") for tag in _TAGS))
MODELS = {"assistant", "model", "chatbot_token", "/inst", "response"}  # whose turns are answers
POINTED = 1 / 3  # points per letter and point from which a text is Hebrew with vowels
POINTED_LANGUAGES = ("hbo", "yi", "grc", "cu")


def _turn(text: str) -> str:
    """The first turn of the model, up to the mark that ends it."""
    marks = list(_IN["speaker"].finditer(text))
    names = ["model", *(next(filter(None, mark.groups())).lower() for mark in marks)]
    if set(names) - MODELS:
        ends = [*(mark.start() for mark in marks), len(text)]
        turns = zip(names, [0, *(mark.end() for mark in marks)], ends, strict=True)
        said = (text[start:end] for name, start, end in turns if name in MODELS)
        text = next((turn for turn in said if words(re.sub("<[^<>]*>", "", turn))), text)
    stop = _IN["stop"].search(text)
    whole = not stop or "<|channel|>" in text or (stop[0] == "</s>" and "<s>" in text)
    return text if whole or not words(text[: stop.start()]) else text[: stop.start()]


def _reasoning(text: str) -> str:
    for name in ("channels", "tagged", "tag", "thoughts"):
        text = _IN[name].sub("", text)
    return text


def _markup(text: str) -> str:
    text = _IN["entity"].sub(lambda found: unescape(found[0]), text.replace("▁", " "))
    text = _IN["escaped"].sub(lambda found: well_formed(json.loads(f'"{found[0]}"')), text)
    for beginning, ending in HIDDEN:
        head, found, rest = text.rpartition(ending)  # so that no beginning without an end is looked through
        text = re.sub(f"(?s){beginning}.*?{ending}", " ", head + found) + rest
    return text


def _quotations(text: str) -> str:
    opening = {"»": "german", "”": "swedish"}.get(next(iter(re.findall("[«»“„”]", text)), ""))
    text = _IN["quote"].sub(" ", _IN[opening].sub(" ", text) if opening else text)
    return text if _IN["literal"].search(text) else _IN["single"].sub(" ", text)


#: Name -> marks, one of which a text holds that the rule may change, and the rule.
OUTER: dict[str, tuple[tuple[str, ...], Callable[[str], str]]] = {
    "turns": (("<", "[INST", "##"), _turn),
    "reasoning": (("analysis", "assistantfinal", "<", "swer", "ponse", "SWER", "PONSE"), _reasoning),
    "metadata": (("---", "+++"), lambda text: _IN["metadata"].sub(r"\1\n", text, count=1)),
    "markup": (("<!", "</", "&", "▁", "\\u"), _markup),
    "asides": (("[",), lambda text: _IN["note"].sub(" ", text)),
    "pictures": (("![",), lambda text: _IN["picture"].sub(" ", text)),
    "quotations": (("'", "‘", "‹", "”", "»"), _quotations),
}
#: In a text that a rule or the mending of line breaks may change; words alone, which are searched for the fastest.
_TOUCHED = re.compile("|".join(map(re.escape, chain("\r\x85\u2028\u2029", *(marks for marks, _ in OUTER.values())))))


def read_rules(names: str = "all", near: str = TOGETHER) -> Rules:
    """What is set aside: ``all``, ``none`` or names separated by commas; InputError for another name."""
    known = tuple(dict.fromkeys((*OUTER, *RULES)))
    words = {"all": known, "none": ()}.get(names, names.split(","))
    chosen = tuple(word.strip() for word in words if word.strip())
    for name in chosen:
        if name not in known:
            raise InputError(f"--set-aside {name!r}: no such part of an answer{did_you_mean(name, known)}")
    return Rules(set_aside=chosen, near=near)


def outer_part(answer: str, rules: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """As :func:`textreg.fidelity.parts.judged_part`, by the rules of :data:`OUTER`."""
    if not _TOUCHED.search(answer):
        return answer, ()
    text, applied = re.sub("\r\n?|[\x85\u2028\u2029]", "\n", answer), []
    for name, (marks, rule) in OUTER.items():
        left = rule(text) if name in rules and any(mark in text for mark in marks) else text
        if left != text and (name == "reasoning" or words(left) > 1):
            text = left
            applied.append(name)
    return text, tuple(applied)


def without_points(text: str, asked: str = "") -> str:
    """The text without vowel points, breathings, stretched letters and stress marks, unless ``asked`` has them."""
    if text.isascii() or base_code(asked) in POINTED_LANGUAGES:
        return text
    if _IN["points"].search(text):
        bare, points = _IN["points"].subn("", normalize("NFKC", text))
        text = bare if points >= POINTED * (points + sum(map(str.isalpha, bare))) else text
    if _IN["breathings"].search(text):
        plain = re.sub("[\u0313\u0314\u0345]", "", normalize("NFD", text))
        text = normalize("NFC", re.sub("[\u0300\u0342]", "\u0301", plain))
    return _IN["marks"].sub("", normalize("NFC", text)) or text if _IN["marks"].search(text) else text


def can_say(identifier: Identifier, asked: str, near: str = TOGETHER) -> bool:
    """Whether an identifier can ever say the asked language.  None but GlotLID knows Hindi in Latin letters and the
    like: what no candidate near it is written in."""
    kin = [code for code in identifier.candidates if same_language(base_code(asked), code)]
    latin = "glotlid" in identifier.name or any(Language.get(code).maximize().script == "Latn" for code in kin)
    return can_tell(asked, identifier.candidates, near) and (latin or not asked.endswith("-Latn"))


def annotated(
    answers: pd.DataFrame, identifier: Identifier, judge: Judge | str | None = "exact", rules: Rules | None = None
) -> pd.DataFrame:
    """``annotate`` of anyone's answers, with :data:`OUTER` among the rules (by default all of them)."""
    rules = rules or read_rules()
    found = [outer_part(text, rules.set_aside) for text in answers["answer"].fillna("").astype(str).tolist()]
    asked = answers["language"].astype(str).tolist()
    ready = [without_points(text, language) for (text, _), language in zip(found, asked, strict=True)]
    table = annotate(answers.assign(answer=ready), identifier, judge, rules)
    said = {language: can_say(identifier, language, rules.near) for language in set(asked)}
    unsaid = np.array([not said[language] for language in asked], bool)
    table.loc[unsaid, ["lf", "english", "other", "answered", "lf_plus", "lpr", "wpr"]] = None
    table.loc[unsaid & table["class"].isin(["asked", "other", "mixed"]), "class"] = None
    names = [
        " ".join(dict.fromkeys((*taken, *inner.split()))) if taken else inner
        for (_, taken), inner in zip(found, table["set_aside"].tolist(), strict=True)
    ]
    return table.assign(answer=answers["answer"], set_aside=names)
