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

import yaml
from langcodes import Language, LanguageTagError, find

from textreg.errors import InputError, did_you_mean, quoted

OWN = {"qu": "quz"}  # CLDR takes Cusco's for Quechua
IN_DATA = {"nb": "no", "quy": "quz"}
WHOLE = {"Hang", "Kore", "Jpan", "Hrkt", "Hani"}  # scripts in a tag that leave nothing to choose
SCRIPT_NAMES = {"chs": "Simplified", "cht": "Traditional"}
#: Spellings that ``langcodes`` takes for something else: pattern -> what is read in its place.
SPELLED = {
    r"(?i)^(?:__label__|zh[-_](?=nan\b))": "",  # a label of fastText; an extended language
    r"(?i)^(latin|cyrillic|roman|romani[sz]ed|traditional) (\w+)$": r"\2 (\1)",
    r"(?i)\broman(?:i[sz]ed)?\b": "Latin",
    r"(?i)^mongolian \(traditional\)$": "mn-Mong",
}
APART = re.compile(r"\s*(?:[,;&+|→-]|\b(?:and|to)\b)\s*")  # what stands between the names of two languages
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
    languages are none."""
    for pattern, read in SPELLED.items():
        value = re.sub(pattern, read, value.strip())
    parts = {base_code(code): part for part in APART.split(value[:99]) if len(part) > 4 and (code := _code(part))}
    if len(parts) > 1 and not any(_subtag(part, "en") for part in list(parts.values())[1:]):
        raise InputError(f"unknown language code {quoted(value, 40)}: {len(parts)} languages; name one")
    plain, words = _code(value), re.findall(r"[^\W_]+", value)[:9]
    for size in range(1, len(words)) if "-" not in plain and "/" not in value else ():
        head = _code(" ".join(words[:size]))
        if head and plain in ("", base_code(head)):
            beside = [word for word in words[size:] if _code(word) != head]
            found = filter(None, (_subtag(name, head) for name in (" ".join(beside), *beside)))
            if (subtag := next(found, "")) or not (plain or beside):
                return read_language(f"{head}-{subtag}".strip("-"))
    return plain or read_language(value)


def _code(name: str) -> str:
    try:
        return read_language(name)
    except InputError:
        return ""


def _subtag(name: str, code: str) -> str:
    """The script or region of that name in whatever language, if a language can have it; else ''."""
    for kind in ("territory", "script"):
        with suppress(LookupError):
            found = Language.find_name(kind, SCRIPT_NAMES.get(name.lower(), name))
            if not str(found.script).startswith("Han") or str(Language.get(code).maximize().script).startswith("Han"):
                return found.script or found.territory
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
