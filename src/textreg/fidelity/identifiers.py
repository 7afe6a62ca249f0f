"""The identifiers by name: py3langid, which is always there, and two that need an extra package.

Use: ``open_identifier("py3langid").identify(["un cercle rouge au-dessus d'un carré"])``.
"""

from collections.abc import Iterable

from textreg.data.codes import check_code, code_book
from textreg.errors import InputError, did_you_mean
from textreg.fidelity import optional
from textreg.fidelity.labels import Identifier
from textreg.fidelity.py3langid import Py3Langid

NAMES = ("py3langid", "lingua", "glotlid")


def open_identifier(
    name: str = "py3langid", *, candidates: Iterable[str] | None = None, model: str = "", max_chars: int = 2000
) -> Identifier:
    """An identifier by name.

    ``candidates``: language codes (default: the whole code book); ``zxx`` is added where the library knows it.
    Languages the library has no label for are left out of its ``candidates``.  ``model`` is for GlotLID: a ``.bin``
    file or a hub id.  ``max_chars`` bounds the work per text.  Raises InputError on an unknown name or code, a missing
    package or model.
    """
    if name not in NAMES:
        raise InputError(f"unknown identifier {name!r}{did_you_mean(name, NAMES)}")
    if name == "py3langid":
        return Py3Langid(candidates, max_chars)
    codes = tuple(check_code(code) for code in (code_book() if candidates is None else candidates))
    return optional.Lingua(codes, max_chars) if name == "lingua" else optional.GlotLID(codes, max_chars, model)
