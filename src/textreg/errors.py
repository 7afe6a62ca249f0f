"""The two failures the package knows, and the suggestion that follows a mistyped word.

An :class:`InputError` is the user's to cure (exit code 2): one line that says what was wrong, where, and what to do.
A :class:`RunError` is a run that started well and failed (exit code 1).  Everything else is a bug and keeps its
traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(Exception):
    """Wrong input: an option, a file, a parameter.  The message is one line and names the cure."""

    exit_code = 2


class RunError(Exception):
    """A stage, a training or a merge that failed after its input was accepted."""

    exit_code = 1


def quoted(value: object, most: int = 60) -> str:
    """``repr`` of a wrong value for a message: at most ``most`` characters, whatever a file or an option holds."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write a whole number of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def did_you_mean(word: object, options: Iterable[str]) -> str:
    """The suffix of an error about an unknown word.

    Returns ``" (did you mean 'laptop'?)"`` when one option is close, else ``" (known: a, b, c)"``; the list is cut
    after twelve.
    """
    known = sorted({str(option) for option in options})
    close = get_close_matches(str(word), known, n=1, cutoff=0.6)
    if close:
        return f" (did you mean {close[0]!r}?)"
    some = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f" (known: {some})" if known else ""
