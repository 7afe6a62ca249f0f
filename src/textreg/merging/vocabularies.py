"""Does row 4711 of both embeddings mean the same token?

A merge adds rows of the same number, so two vocabularies of equal size but another order would merge into noise that
loads without complaint.  Choices: a token that has another number in the backbone is an error, and so is a vocabulary
with little in common; a row that only changed its name (a spare token that became ``<image>``) is a note; further
tokens at the end are nobody's business here; where a tokenizer cannot be read the report says that nothing was
compared.
"""

from collections.abc import Sequence
from filecmp import cmp
from pathlib import Path

from textreg.errors import InputError

TOKENIZER, PIECES = "tokenizer.json", "tokenizer.model"
MOST_RENAMED = 0.1  # share of rows with another name above which it is another vocabulary
SHOWN = 3


def compare_vocabularies(
    tuned: Sequence[Path], base: Sequence[Path], rows: int, tuned_source: str, base_source: str
) -> tuple[str, ...]:
    """Notes on the first ``rows`` token numbers; ``tuned`` and ``base`` are the folders where a tokenizer may lie, the
    first with one counts.

    Raises :class:`InputError` when the numbers of tokens differ, or a tokenizer is damaged.
    """
    files = [first_file(folders, TOKENIZER) for folders in (tuned, base)]
    pieces = [first_file(folders, PIECES) for folders in (tuned, base)]
    if files[0] == files[1] and tuned[-1] == base[-1]:
        return ()  # one model with itself
    for pair in (files, pieces):
        if all(pair) and cmp(*pair, shallow=False):
            return ()
    if not all(files):
        lacking = tuned_source if files[0] is None else base_source
        return (f"vocabularies were not compared: {lacking} has no {TOKENIZER}",)
    one, other = (read_vocabulary(file) for file in files)
    moved = [token for token, row in one.items() if other.get(token, row) != row and min(row, other[token]) < rows]
    names = {row: token for token, row in other.items() if row < rows}
    renamed = [(token, names[row]) for token, row in one.items() if names.get(row, token) != token]
    if moved or len(renamed) > MOST_RENAMED * rows:
        if moved:
            moved.sort(key=one.__getitem__)
            shown = ", ".join(f"{token!r} is {one[token]} and {other[token]}" for token in moved[:SHOWN])
            what = f"{len(moved)} token(s) have another number in {base_source} than in {tuned_source} ({shown})"
        else:
            what = f"{len(renamed)} of {rows} tokens of {tuned_source} are others in {base_source}"
        raise InputError(
            f"{what}, so rows of unlike tokens would be merged; give the backbone that the model was tuned from, or "
            f"leave the vocabulary as tuned with --keep embed_tokens.weight --keep lm_head.weight"
        )
    if not renamed:
        return ()
    shown = ", ".join(f"{old!r} is now {new!r}" for new, old in renamed[:SHOWN])
    return (f"{len(renamed)} row(s) of the vocabulary changed their name and are merged all the same: {shown}",)


def first_file(folders: Sequence[Path], name: str) -> Path | None:
    """The file ``name`` in the first folder that has it."""
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def read_vocabulary(file: Path) -> dict[str, int]:
    """Token -> number, added tokens included."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the library raises nothing narrower
        raise InputError(f"{file} is not a readable tokenizer ({error}); download or save it again") from error
