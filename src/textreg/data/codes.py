"""Languages by whatever people call them: any BCP 47 tag, ISO 639 code, English or native name, as one code.

``langcodes`` (CLDR and ISO 639) reads them; nothing is guessed: ``jp`` is no language, and ``ja`` is a suggestion.
Two spellings are this project's own, those of Crossmodal-3600: Quechua is ``quz``, and a data set's Bokmal is ``no``.
``code_book.yaml`` lists the languages of the scenes and of Crossmodal-3600, with the labels by which py3langid, as the
scenes' results were identified, knows them.

Try it: ``read_language("zh_TW")`` (``zh-Hant``), ``language_code("fra_Latn")``, ``check_code("jp")``.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any
from unicodedata import normalize

import yaml
from langcodes import Language, LanguageTagError, find
from langcodes.data_dicts import LIKELY_SUBTAGS, MACROLANGUAGES
from language_data.names import load_trie, normalize_name
from language_data.util import data_filename

from textreg.errors import InputError, did_you_mean, quoted

OWN = {"qu": "quz"}  # CLDR takes Cusco's for Quechua
IN_DATA = {"nb": "no", "quy": "quz"}
WHOLE = {"Hang", "Kore", "Jpan", "Hrkt", "Hani"}  # scripts in a tag that leave nothing to choose
#: Spellings that ``langcodes`` takes for something else: pattern -> what is read in its place.
SPELLED = {
    r"(?i)^(?:__label__|zh[-_](?:min[-_])?(?=nan\b))": "",  # a label of fastText; an extended language
    r"^(?:<2|>>|__|<\||[<\[(\"'])(\w+?)(?:<<|__|\|>|[>\])\"'])$": r"\1",  # the mark by which a model is told
    r"(?i)^zh[-_]ch([st])$": r"zh-Han\1",
    r"^([a-z]+)_[A-Z]{2}@(latin|cyrillic|devanagari)$": r"\1 (\2)",
    r"(?i)^(latin|cyrillic|roman|romani[sz]ed|traditional) (\w+)$": r"\2 (\1)",
    r"(?i)(\w\W+)(?:roman(?:i[sz]ed)?|romaji|pinyin)\b": r"\1Latin",
    r"(?i)^mongolian \(traditional\)$": "mn-Mong",
}
NO_TAG = {"und", "zxx", "mul", "mis"}


@dataclass(frozen=True)
class LanguageCode:
    """One entry of the code book: a language and the labels of py3langid that count as it."""

    name: str
    py3langid: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def code_book() -> dict[str, LanguageCode]:
    """Code -> languages of the scenes and of Crossmodal-3600, from ``code_book.yaml``."""
    table = yaml.safe_load(files(__package__).joinpath("code_book.yaml").read_text("utf-8"))
    return {code: LanguageCode(entry["name"], tuple(entry["py3langid"])) for code, entry in table.items()}


@lru_cache(maxsize=4096)
def read_language(value: str) -> str:
    """The language that a tag, code or name means: ``pt`` for ``pt-BR``, ``por`` and ``Portuguese``.

    The script stays where the tag asks for one (``sr-Latn``), or for one by its region (``zh-TW`` is ``zh-Hant``).
    Raises InputError, with what was probably meant, for what names no language.
    """
    text = re.split("[.@]", value.strip())[0]  # a locale such as en_US.UTF-8
    if "/" in text:  # one language by two names, never the first of two languages
        codes = {read_language(part) for part in text.split("/")}
        if len(codes) == 1:
            return codes.pop()
        raise InputError(f"unknown language code {quoted(value, 40)}: {len(codes)} languages; name one")
    try:
        tag = Language.get(text, normalize=True)
    except LanguageTagError:
        tag = None
    if tag is None or not _is_language(tag):
        try:
            tag = find(text.replace("_", " ")) if len(text) > 3 or not text.isascii() else None
        except LookupError:
            tag = None
    if tag is None or not _is_language(tag):
        raise InputError(f"unknown language code {quoted(value, 40)}{suggestion(value)}")
    plain = Language.get(tag.prefer_macrolanguage().language)
    code = OWN.get(plain.language, plain.language)
    script = None if tag.script in WHOLE else tag.script
    if not script and tag.territory and (implied := tag.maximize().script) != plain.maximize().script:
        script = implied
    elif not script and tag.territory and code == "zh":
        script = plain.maximize().script
    chosen = script and (code == "zh" or script != plain.maximize().script or code in ("sr", "uz"))
    return f"{code}-{script}" if chosen else code


@lru_cache(maxsize=4096)
def named_language(value: str) -> str:
    """As :func:`read_language`, with the script or region that stands beside a name: ``Serbian (Latin)``; two
    languages are none, nor is what only begins like the name of one (``Darija`` like ``Dari``)."""
    for pattern, read in SPELLED.items():
        value = re.sub(pattern, read, value.strip())
    if "/" in value:
        return read_language("/".join(map(named_language, value.split("/"))))
    if found := _code(value):
        return found
    words = re.findall(r"(?:[^\W_]|[\u0300-\u036f\u0900-\u1cff'’])+", value)[:9]
    heads = (" ".join(words[:size]) for size in range(len(words) - 1, 0, -1))
    name = next(filter(_code, heads), "")
    if not name:  # Meiteilon (Manipuri)
        bracketed = re.search(r"\w{4}\W*[(（](.+)[)）]$", value)
        return (bracketed and _code(bracketed[1])) or _unaccented(value)
    head = _code(name)
    beside = [word for word in words[len(name.split()) :] if _code(word) != head]
    for rest in (" ".join(beside), *beside) if beside else ():
        if subtag := _subtag(rest, head):
            return read_language(f"{head}-{subtag}")
        if narrower := _code(f"{rest} {name}"):  # Arabic (Moroccan)
            return narrower
        if (len(rest) > 3 or len(name) < 4) and _code(rest):
            raise InputError(f"unknown language code {quoted(value, 40)}: 2 languages; name one")
    return read_language(value) if beside and len(name) < 4 else head


@lru_cache(maxsize=1)
def _names() -> Any:
    """Names of languages in all languages, as ``normalize_name`` writes them -> tags."""
    return load_trie(data_filename("trie/und/name_to_language.marisa"))


@lru_cache(maxsize=4096)
def _code(name: str) -> str:
    """The code of a tag, or of what is the whole name of a language; '' for another text, and for a pair of codes."""
    parts = re.split("[-_]", name.strip())
    second, key = parts[1] if len(parts) > 1 else "", normalize_name(re.split("[.@]", name)[0].replace("_", " "))
    with suppress(InputError):
        code = read_language(name)
        if len(parts[0]) < 4 and name.isascii():
            region = second.isdecimal() or (len(second) == 2 and Language.get(f"und-{second}").is_valid())
            other = _code(second) if 1 < len(second) < 4 and not region else code
            if MACROLANGUAGES.get(other) == code:
                return other
            return "" if other not in ("", code) and base_code(code) == _code(parts[0]) else code
        if key in _names() or key == normalize_name(Language.get(code).display_name("en")):  # it has no Hindi
            return code
    return ""


def _unaccented(value: str) -> str:
    """The code of a name whose accents were left out (``Espanol``); InputError if there is none, or more than one."""
    wanted = normalize_name(value)
    like = ((name, tag) for name, tag in _names().items() if len(name) == len(wanted) > 3 and wanted.isascii())
    tags = {tag for name, tag in like if normalize("NFD", name).encode("ascii", "ignore") == wanted.encode()}
    if len(tags) == 1:
        return read_language(tags.pop().decode())
    raise InputError(f"unknown language code {quoted(value, 40)}{suggestion(value)}")


def _subtag(name: str, code: str) -> str:
    """The script or region of that name in whatever language, if a language can have it; else ''.

    What is a language's name too must be a region's in English, or a script that the language is written in.
    """
    spoken = "en" if _code(name) else None
    for kind in ("territory", "script"):
        with suppress(LookupError):
            found = Language.find_name(kind, name, spoken)
            script = found.script or ""
            own = script == "Latn" or any(tag.startswith(f"{code}-{script}-") for tag in LIKELY_SUBTAGS.values())
            han = str(Language.get(code).maximize().script).startswith("Han")
            if (own or not (spoken and script)) and (han or not script.startswith("Han")):
                return script or found.territory
    return ""


def _is_language(tag: Language) -> bool:
    return tag.language not in {None, *NO_TAG} and Language.get(tag.language).is_valid()


def suggestion(value: str, known: Iterable[str] = ()) -> str:
    """The suffix of an error about a word that is no language: the main language of a country of that code."""
    word = value.strip()
    if len(word) == 2 and word.isascii() and word.isalpha():
        spoken = Language.make(territory=word.upper()).maximize().language
        if spoken and spoken != "en":
            return f" (did you mean {OWN.get(spoken, spoken)!r}?)"
    return did_you_mean(word, known or code_book()) if len(word) < 40 else ""


def base_code(language: str) -> str:
    """The language without its script."""
    return language.partition("-")[0]


def check_code(value: object, known: Iterable[str] | None = None) -> str:
    """The code of a language that the code book (or ``known``) has, however it is written; else InputError."""
    known = set(code_book() if known is None else known)
    code = base_code(read_language(value)) if isinstance(value, str) else ""
    for spelled in (value, code, IN_DATA.get(code)):
        if isinstance(spelled, str) and spelled in known:
            return spelled
    raise InputError(f"unknown language code {quoted(value, 40)}{suggestion(str(value), known)}")


def language_code(value: str | None) -> str:
    """The project's code for what a data set writes; English if empty, and what names no language as it is."""
    if not value:
        return "en"
    try:
        code = base_code(read_language(value))
    except InputError:
        return value.strip().lower().replace("_", "-").split("-")[0]
    return IN_DATA.get(code, code)
