"""Is a text that an identifier calls X in the language that was asked for?

Two rules, both from published tables and not of our making.  *Near languages*: ISO 639-3 puts some under one
macrolanguage (Bokmal and Nynorsk under Norwegian; Indonesian under Malay; Bosnian, Croatian and Serbian; Mandarin,
Cantonese and Wu; spoken Arabic; the Quechuas), and identifiers mix them up.  By default (``together``) they count as
each other, as long as the text is in a script that the asked language is written in; with ``apart`` only the same code
counts, or the wider one where an identifier has no narrower.  *Script*: who asks for ``zh-Hant`` or ``sr-Latn`` gets
the right language in the other script counted as another language; ``zh`` alone accepts both.

Use: ``in_language("hr", "bs", "Na slici je crveni krug.")``.
"""

from collections import Counter
from collections.abc import Collection
from functools import lru_cache

from fontTools.unicodedata import script
from langcodes import Language
from langcodes.data_dicts import LIKELY_SUBTAGS, MACROLANGUAGES

from textreg.data.codes import base_code, read_language
from textreg.errors import InputError

TOGETHER, APART = "together", "apart"
NEAR = (TOGETHER, APART)
FEW_HAN = 20  # letters: shorter text in Han alone may be Japanese names as well as Chinese


@lru_cache(maxsize=4096)
def label_code(label: str) -> str:
    """An identifier's label (``cmn_Hani``, ``zh-Hant``, ``tgl``) as a code without script; as it is if it is none."""
    try:
        return base_code(read_language(label))
    except InputError:
        return label


@lru_cache(maxsize=4096)
def wider(code: str) -> str:
    """The macrolanguage of a code, or the code itself."""
    return MACROLANGUAGES.get(code, code)


def same_language(asked: str, found: str, near: str = TOGETHER, known: Collection[str] = ()) -> bool:
    """Whether two codes count as one language; ``known`` are those the identifier could have said."""
    if asked == found:
        return True
    if wider(asked) != wider(found):
        return False
    return near == TOGETHER or (found == wider(asked) and asked not in known)


@lru_cache(maxsize=4096)
def can_tell(asked: str, candidates: tuple[str, ...], near: str = TOGETHER) -> bool:
    """Whether an identifier with these candidates can ever say the asked language."""
    return any(same_language(base_code(asked), code, near, candidates) for code in candidates)


def in_language(asked: str, found: str, text: str, near: str = TOGETHER, known: Collection[str] = ()) -> bool | None:
    """Whether ``text``, called ``found``, is in the ``asked`` language and script; None where that cannot be said."""
    code = base_code(asked)
    if {code, found} == {"ja", "zh"} and _either(text):
        return None
    if not same_language(code, found, near, known):
        return False
    wanted = asked[len(code) + 1 :]
    if not wanted and code == found:
        return True
    return script_of(text) in ({wanted} if wanted else _scripts(code) | {""})


@lru_cache(maxsize=512)
def _scripts(code: str) -> frozenset[str]:
    """Scripts in which CLDR knows a language to be written."""
    tags = [value.split("-") for value in LIKELY_SUBTAGS.values()]
    likely = {tag[1] for tag in tags if tag[0] == code and len(tag) > 1}
    return frozenset(likely | {Language.get(code).maximize().script or ""})


def script_of(text: str) -> str:
    """ISO 15924 code of the script that most letters are in, '' without letters; Han as ``Hans`` or ``Hant``.

    A Chinese text is simplified if more of its characters are in GB 2312 alone than in Big5 alone.
    """
    counts = Counter(map(script, filter(str.isalpha, text[:2000])))
    most = counts.most_common(1)[0][0] if counts else ""
    if most != "Hani":
        return most
    simplified, traditional = (_beyond(text, own, other) for own, other in (("gb2312", "big5"), ("big5", "gb2312")))
    return "Hans" if simplified >= traditional else "Hant"


def _beyond(text: str, own: str, other: str) -> int:
    """How many characters one code page has and the other lacks."""
    return sum(_in(letter, own) and not _in(letter, other) for letter in text[:2000] if ord(letter) > 0x3000)


@lru_cache(maxsize=65536)
def _in(letter: str, page: str) -> bool:
    return bool(letter.encode(page, "ignore"))


def _either(text: str) -> bool:
    """Whether a short text in Han alone holds nothing that tells Chinese from Japanese."""
    letters = [letter for letter in text[:1000] if letter.isalpha()]
    return len(letters) < FEW_HAN and all(script(letter) == "Hani" and _in(letter, "shift_jis") for letter in letters)
