"""Codes of languages: which the project knows, what others call them, and what was probably meant.

Two tables stand beside this file.  ``code_book.yaml`` has an entry per language of the scenes and of Crossmodal-3600:
its name, its script, and the labels under which each identifier knows it.  ``language_codes.yaml`` turns what data
sets write (``eng``, ``pt-BR``, ``fra_Latn``, ``German``) into the project's code.

Try it: ``language_code("fra_Latn")``, ``check_code("jp")``.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from importlib.resources import files

import yaml

from textreg.errors import InputError, did_you_mean


@dataclass(frozen=True)
class LanguageCode:
    """One entry of the code book: a language and the labels of each identifier that count as it."""

    name: str
    script: str
    py3langid: tuple[str, ...] = ()
    lingua: tuple[str, ...] = ()
    glotlid: tuple[str, ...] = ()
    mistaken: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def code_book() -> dict[str, LanguageCode]:
    """Code -> languages of the scenes and of Crossmodal-3600, from ``code_book.yaml``."""
    table = yaml.safe_load(files(__package__).joinpath("code_book.yaml").read_text("utf-8"))
    listed = ("py3langid", "lingua", "glotlid", "mistaken")
    return {
        code: LanguageCode(**{k: tuple(v) if k in listed else v for k, v in e.items()}) for code, e in table.items()
    }


def check_code(code: object, known: Iterable[str] | None = None) -> str:
    """The code itself if the code book (or ``known``) has it, else InputError with the likely one (``jp``: ``ja``)."""
    known = set(code_book() if known is None else known)
    if isinstance(code, str) and code in known:
        return code
    word = str(code).strip().lower()
    meant = next((c for c, entry in code_book().items() if word == entry.name.lower() or word in entry.mistaken), None)
    meant = meant or re.split("[-_]", word)[0]
    if meant in known:
        raise InputError(f"unknown language code {code!r} (did you mean {meant!r}?)")
    raise InputError(f"unknown language code {code!r}{did_you_mean(word, known)}")


@cache
def _codes() -> dict[str, dict[str, str]]:
    return yaml.safe_load(resources.files(__package__).joinpath("language_codes.yaml").read_text("utf-8"))


def language_code(value: str | None) -> str:
    """The project's code for an ISO 639 code (``eng``), a tag (``pt-BR``, ``fra_Latn``) or a name; English if
    empty.
    """
    if not value:
        return "en"
    lower = value.strip().lower()
    short = lower.replace("_", "-").split("-")[0]
    return _codes()["names"].get(lower) or _codes()["codes"].get(short, short)
