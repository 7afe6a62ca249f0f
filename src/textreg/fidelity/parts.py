"""What part of an answer is judged: echoed turns, reasoning, code, addresses, quotations are set aside by named rules.

A reader asks whether the *answer* is in the asked language; a reasoning block in English, a code fence or an address
says nothing of it.  Every rule is on by default, has a name, and is counted.  Not obvious: a rule that would leave no
word is not applied (an answer given inside a code fence is judged), save for reasoning, which is never the answer: an
answer that is reasoning alone is empty.  Two flags stand beside: degenerate repetition, of which one round is judged,
and refusals, by openings in the larger languages (a floor: what opens otherwise is not seen).

Use: ``judged_part("<think>Well, ...</think>Ein Hund.")`` gives ``("Ein Hund.", ("reasoning",))``.
"""

import json
import re
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from importlib.resources import files

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_BLOCK = r"think|thinking|thoughts?|reason|reasoning|reflection|rationale|scratchpad|analysis|seed:think"
_TOKEN = rf"<\|(?:begin_of|start)_(?:{_BLOCK})\|>"  # as Sky-T1, OpenThinker and Cohere write it
_HARMONY = r"<\|channel\|>(?:analysis|commentary)<\|message\|>"
_OPEN = re.compile(rf"(?i)<({_BLOCK})>|{_TOKEN}|{_HARMONY}|<\|channel>thought\b|\[THINK\]|◁think▷")
_CLOSED = re.compile(
    rf"(?is)<({_BLOCK})>.*?</\1>|{_TOKEN}.*?<\|end_(?:of_)?(?:{_BLOCK})\|>|{_HARMONY}.*?(?:<\|end\|>|(?=<\|channel\|>))"
    rf"|<\|channel>thought\b.*?<channel\|>|\[({_BLOCK})\].*?\[/\2\]|◁think▷.*?◁/think▷"
)
_END = re.compile(  # of a block that the template itself opens
    rf"(?is)^.*(?:</(?:{_BLOCK})>|\[/THINK\]|◁/think▷|<\|end_(?:of_)?(?:{_BLOCK})\|>|<\|channel\|>final<\|message\|>)"
)
_FINAL = re.compile(r"(?is)^(.*)<(answer|final_answer|conclusion)>(.*)</\2>")
_CODE = re.compile(r"(?is)<(pre|code)\b[^<>\n]*>.*?</\1>")
_FENCE = re.compile(r"(?ms)^[ \t]*(`{3,}|~{3,})[^\n]*\n(.*?)(?:^[ \t]*\1[`~]*[ \t]*$|\Z)")
_SPAN = re.compile(r"(?<!`)`[^`\n]+`(?!`)")
_MATHS = re.compile(
    r"(?s)\$\$.+?\$\$|\\\[.+?\\\]|\\\(.+?\\\)|\\begin\{(\w+\*?)\}.*?\\end\{\1\}"
    r"|\$(?=[^$\n]*[\\^_={}])[^$\n]+\$|\\(?:frac|sqrt|text|boxed)\{[^{}]*\}(?:\{[^{}]*\})?"
)
_ADDRESS = re.compile(r"(?i)\b(?:https?|ftp)://[^\s<>()\[\]]+|\bwww\.[^\s<>()\[\]]+|\b[\w.+-]+@[\w-]+\.[\w.]+")
_MARKUP = re.compile(r"<\|[^|<>\n]{1,40}\|>|</?[a-zA-Z!][^<>\n]{0,300}>|\[/?INST\]|&[a-z]{2,8};|&#\d+;")
_QUOTE = re.compile(
    r"“[^”\n]*”|„[^“”\n]*[“”]|«[^»\n]*»|「[^」\n]*」|『[^』\n]*』|(?<!\w)\"[^\"\n]*\"(?!\w)|(?m:^[ \t]*>[^\n]*$)"
)
_ASIDE = re.compile(r"\([^()\n]*\)|（[^（）\n]*）")
_TURNS = re.compile(  # a conversation decoded whole, as the templates of Qwen, Gemma, LLaVA and others write one
    r"(?s)^\s*(?:(?:system\n.*?\n)?user\n.*?\n\s*(?:assistant|model)\n|(?:<[^<>\n]{3,20}>)?(?:assistant|model)\n"
    r"|(?:A chat between .*?\s)?(?:US)?ER:\s.*?\bASSISTANT:|(?:User|Human|Question):\s.*?\n\s*(?:Assistant|Answer):)"
)
_NEXT = re.compile(r"(?s)\n[ \t]*(?:(?:USER|User|Human):\s|<\|im_start\|>|<start_of_turn>).*")  # a turn made up
_TURN_STARTS = ("assistant\n", "model\n", "system\n", "user\n", "user:", "er:", "human:", "question:", "a chat")
_HINT = re.compile(r"(?:USER|User|Human):|[<`~$\\\"“„«「『>{\[◁@(（&]|://|www\.|(?i:/think>)")
_REPEATED = re.compile(r"(?s)(\S.{1,120}?)\1{3,}")
REPEATED = 20_000  # characters that are searched for repetition
ECHO = 20  # characters of a prompt's line that an answer must repeat to be quoting it


def _reasoning(text: str) -> str:
    text = _CLOSED.sub("\n", text)
    text = _END.sub("", text)
    opened = _OPEN.search(text)
    text = text[: opened.start()] if opened else text
    final = _FINAL.match(text)  # an answer in a tag of its own, with what led to it in front
    return final[3] if final and _letters(final[3]) and _letters(final[1]) else text


def _json(text: str) -> str:
    """The texts of a JSON object or list without its keys; the text itself if it is none."""
    if text.strip()[:1] not in ("{", "["):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return re.sub(r'"[^"\n]*"\s*:', " ", text) if re.match(r'\s*[{\[]\s*[{"]', text) else text
    found, left = [], [value]
    while left:
        value = left.pop()
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, dict | list):
            left += reversed(list(value.values() if isinstance(value, dict) else value))
    return "\n".join(found)


RULES: dict[str, Callable[[str], str]] = {
    "turns": lambda text: _NEXT.sub("", _TURNS.sub("", text)),
    "reasoning": _reasoning,
    "code": lambda text: _SPAN.sub(" ", _CODE.sub(" ", _FENCE.sub("\n", text))),
    "mathematics": lambda text: _MATHS.sub(" ", text),
    "addresses": lambda text: _ADDRESS.sub(" ", text),
    "keys": _json,
    "markup": lambda text: _MARKUP.sub(" ", text),
    "quotations": lambda text: _QUOTE.sub(" ", text),
    "asides": lambda text: _ASIDE.sub(" ", text),
}


def judged_part(answer: str, prompt: str = "", rules: Collection[str] = tuple(RULES)) -> tuple[str, tuple[str, ...]]:
    """The text that is judged, and the names of the rules that took something away, in order."""
    text, applied = answer, []
    if prompt and "quotations" in rules and len(answer) > ECHO:
        text = _without_echo(text, prompt)
        applied += ["quotations"] * (text != answer)
    if not (_HINT.search(text) or text[:20].lstrip().lower().startswith(_TURN_STARTS)):
        return text, tuple(applied)
    for name, rule in RULES.items():
        if name not in rules:
            continue
        left = rule(text)
        if name == "code" and left != text and not _letters(left):
            left = _FENCE.sub(lambda fence: fence[2], text).replace("`", " ")
        if left != text and (name == "reasoning" or _letters(left)):
            text = left
            applied += [name] if name not in applied else []
    return text, tuple(applied)


def _letters(text: str) -> bool:
    """Whether something is left to judge: two words of letters, or three letters of a script without spaces."""
    words = [word for word in text.split() if any(map(str.isalpha, word))]
    return len(words) > 1 or (len(words) == 1 and not words[0].isascii() and len(words[0]) > 2)


def _without_echo(answer: str, prompt: str) -> str:
    left = answer
    for line in prompt.split("\n"):
        line = line.strip()
        if len(line) >= ECHO and line in left:
            left = left.replace(line, " ")
    return left if _letters(left) else answer


def without_repetition(text: str) -> tuple[str, bool]:
    """One round of a text that repeats itself four times or more over half of its length, and whether it does."""
    words = text.split()
    spaced = len(words) > len(text) / 20
    few = len(set(words)) <= len(words) / 2 if spaced else len(set(text)) <= len(text) / 2.5
    if len(text) < 40 or not few or (spaced and len(words) < 12):
        return text, False
    head = text[:REPEATED]
    once = _REPEATED.sub(r"\1", head)
    return (once + text[REPEATED:], True) if len(once) <= len(head) / 2 else (text, False)


@lru_cache(maxsize=1)
def _refusals() -> str:
    lines = files(__package__).joinpath("refusals.txt").read_text("utf-8").splitlines()
    return "|".join(re.escape(line) for line in lines if line and line[0] != "#")


def refusals(texts: Sequence[str]) -> np.ndarray:
    """Per text, whether its first 200 characters hold an opening with which models refuse (``refusals.txt``)."""
    heads = pa.array([text[:200].replace("’", "'") for text in texts], pa.string())
    return pc.match_substring_regex(pc.utf8_lower(heads), _refusals()).to_numpy(zero_copy_only=False)
