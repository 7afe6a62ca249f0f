"""Answers as people's models write them, made ready for what ``fidelity`` says of each.

Rules by the names of :mod:`textreg.fidelity.parts`, and two more (``metadata`` in front of a page, ``pictures``), take
away what the scenes' answers never hold; that happens before ``annotate``, so that their scores stay as they are.  Not
obvious: vowel points of Hebrew and Arabic, stretched Arabic words, breathings of Greek and stress marks on Cyrillic
letters are in no text that identifiers learned from (points make Hebrew the Bible's), so nobody is shown them, unless
the language that is asked for is written with them; Yiddish, which has a point here and there, keeps its own.

Use: ``annotated(answers, open_identifier())``, with the columns of ``annotate``.
"""

import re
from collections.abc import Callable, Collection
from html import unescape
from unicodedata import normalize

import pandas as pd

from textreg.data.codes import base_code
from textreg.errors import InputError, did_you_mean
from textreg.fidelity.annotation import Judge, Rules, annotate
from textreg.fidelity.asked import TOGETHER
from textreg.fidelity.labels import Identifier
from textreg.fidelity.linewise import words
from textreg.fidelity.parts import RULES

_LINE_END = re.compile("\r\n?|[\x85\u2028\u2029]")
_METADATA = re.compile(  # in front of a page of Markdown, or behind the reasoning in front of it
    r"(\A|[>\]▷])\s*(-{3}|\+{3})[ \t]*\n[\w\"'][^\n:=]{0,60}[:=](?:[ \t][^\n]*)?\n"
    r"(?:(?:[\w\"'][^\n:=]{0,60}[:=]|[ \t#\[\]{}-])[^\n]*\n|\n)*?(?:\2|\.{3})[ \t]*(?:\n|\Z)"
)
_SPEAKER = re.compile(  # before each turn of a conversation that was decoded with the marks of its template
    r"(?im)<\|im_start\|>(\w+)|<\|start_header_id\|>(\w+)<\|end_header_id\|>|<start_of_turn>(\w+)|\[(/?INST)\]"
    r"|<[|｜](user|assistant|system|user_token|system_token|chatbot_token)[|｜]>"
    r"|^#{2,3} (instruction|human|user|input|response|assistant):|(?:\A|<end_of_utterance>)\s*(user|assistant):"
)
_MODELS = {"assistant", "model", "chatbot_token", "/inst", "response"}
_STOP = re.compile(
    r"<\|(?:im_end|endoftext|eot_id|end_of_text|end|eos|eot|return|end_of_turn_token)\|>|<end_of_turn>|<eos>"
    r"|<end_of_utterance>|<｜end▁of▁sentence｜>|</s>", re.IGNORECASE
)  # fmt: skip
_CHANNELS = re.compile(r"(?s)\A\s*(?:analysis(?![a-z_\d])(?=\w).*?)?assistantfinal|\A\s*analysis(?![a-z_\d])\w.*")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[\da-f]{1,6}|\w{2,31});", re.IGNORECASE)
_HIDDEN = {"-->": "<!--"} | {  # what ends a part of a page that nobody reads -> what begins it
    f"</{tag}>": rf"<{tag}\b[^<>]*>"
    for tag in ("style", "script", "svg", "template", "function", "tool_call", "tool_response")
}
_PICTURE = re.compile(r"!\[(?:[^\[\]\n]|\[[^\[\]\n]*\])*\](?:\((?:[^()\n]|\([^()\n]*\))*\)|\[[^\]\n]*\])")
_QUOTE = re.compile(r"‘(?:[^‘’\n]|’(?=\w))*’|‹[^‹›\n]*›")
_SINGLE = re.compile(r"(?<!\w)'(?=[^'\n]* )[^'\n]*'(?!\w)")
_LITERAL = re.compile(r"[\[{(=,]\s*'|':")  # of a program, in which single quotes hold the answer
_QUOTE_OF = {"»": re.compile("»[^«»\n]*«"), "”": re.compile("”[^“”\n]*”")}  # where the first such mark opens
_HEBREW = re.compile("[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]")
_GREEK = re.compile("[\u1f00-\u1fff]")
_FORMS = re.compile("[\ufb1d-\ufb4e]")  # Hebrew letters with their point as one character
_MARKS = re.compile(
    "[\u0335-\u0338\u0640\u064b-\u0652\u0670\u06d6-\u06dc\u06df-\u06ed]|[\u0300\u0301](?<=[\u0400-\u052f].)"
)
POINTED = 1 / 3  # points per letter and point from which a text is Hebrew with vowels
POINTED_LANGUAGES = ("hbo", "yi", "grc", "cu")


def _turn(text: str) -> str:
    """The first turn of the model, up to the mark that ends it."""
    marks = list(_SPEAKER.finditer(text))
    names = ["model", *(next(filter(None, mark.groups())).lower() for mark in marks)]
    if set(names) - _MODELS:
        ends = [*(mark.start() for mark in marks), len(text)]
        turns = zip(names, [0, *(mark.end() for mark in marks)], ends, strict=True)
        said = (text[start:end] for name, start, end in turns if name in _MODELS)
        text = next((turn for turn in said if words(re.sub("<[^<>]*>", "", turn))), text)
    stop = _STOP.search(text)
    whole = not stop or "<|channel|>" in text or (stop[0] == "</s>" and "<s>" in text)
    return text if whole or not words(text[: stop.start()]) else text[: stop.start()]


def _markup(text: str) -> str:
    text = _ENTITY.sub(lambda found: unescape(found[0]), text)
    for ending, beginning in _HIDDEN.items():
        head, found, rest = text.rpartition(ending)
        text = re.sub(f"(?s){beginning}.*?{ending}", " ", head + found) + rest
    return text


def _quotations(text: str) -> str:
    first = next(iter(re.findall("[«»“„”]", text)), "")
    text = _QUOTE.sub(" ", _QUOTE_OF[first].sub(" ", text) if first in _QUOTE_OF else text)
    return text if _LITERAL.search(text) else _SINGLE.sub(" ", text)


#: Name -> marks, one of which a text holds that the rule may change, and the rule.
OUTER: dict[str, tuple[str, Callable[[str], str]]] = {
    "turns": ("< [INST ##", _turn),
    "reasoning": ("analysis assistantfinal", lambda text: _CHANNELS.sub("", text)),
    "metadata": ("--- +++", lambda text: _METADATA.sub(r"\1\n", text, count=1)),
    "markup": ("<! </ &", _markup),
    "pictures": ("![", lambda text: _PICTURE.sub(" ", text)),
    "quotations": ("' ‘ ‹ ” »", _quotations),
}


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
    text, applied = _LINE_END.sub("\n", answer), []
    for name, (marks, rule) in OUTER.items():
        left = rule(text) if name in rules and any(mark in text for mark in marks.split()) else text
        if left != text and (name == "reasoning" or words(left) > 1):
            text = left
            applied.append(name)
    return text, tuple(applied)


def without_points(text: str) -> str:
    """The text without vowel points, breathings, stretched letters and stress marks."""
    if text.isascii():
        return text
    if _FORMS.search(text):
        text = normalize("NFKC", text)
    if (points := len(_HEBREW.findall(text))) and points >= POINTED * (points + sum(map(str.isalpha, text))):
        text = _HEBREW.sub("", text)
    if _GREEK.search(text):
        plain = re.sub("[\u0313\u0314\u0345]", "", normalize("NFD", text))
        text = normalize("NFC", re.sub("[\u0300\u0342]", "\u0301", plain))
    return _MARKS.sub("", normalize("NFC", text)) if _MARKS.search(text) else text


def annotated(
    answers: pd.DataFrame, identifier: Identifier, judge: Judge | str | None = "exact", rules: Rules | None = None
) -> pd.DataFrame:
    """``annotate`` of anyone's answers, with :data:`OUTER` among the rules (by default all of them)."""
    rules = rules or read_rules()
    found = [outer_part(text, rules.set_aside) for text in answers["answer"].fillna("").astype(str)]
    ready = [
        text if base_code(str(language)) in POINTED_LANGUAGES else without_points(text)
        for (text, _), language in zip(found, answers["language"], strict=True)
    ]
    table = annotate(answers.assign(answer=ready), identifier, judge, rules)
    names = [
        " ".join(dict.fromkeys((*taken, *said.split())))
        for (_, taken), said in zip(found, table["set_aside"], strict=True)
    ]
    return table.assign(answer=answers["answer"], set_aside=names)
