"""An answer looked at word by word: whose words these are, and what the sentence says in English.

Not obvious: a word that the asked language shares with English ("a", "no") is the asked language's, as in the
exclusive share; so nothing is marked foreign that a native answer could hold.

    words("Das Bild zeigt einen red Kreis.", "de"), gloss("Das Bild zeigt einen roten Kreis.", "de")
"""

from functools import cache

from textreg.scenes import grammar, languages

OWN, ENGLISH, FOREIGN = "own", "english", "foreign"


def words(answer: str, code: str) -> list[tuple[str, str]]:
    """(word with its punctuation, whose it is): ``own``, ``english`` or ``foreign`` (neither), in reading order.

    ``code`` is the asked language; one that has no grammar here owns every word.
    """
    if code not in languages.codes():
        return [(piece, OWN) for piece in answer.split()]
    own, english = grammar.words(code), grammar.words("en")
    found = []
    for piece in answer.split():
        parts = grammar.split_words(piece)
        kind = OWN if all(part in own for part in parts) else ENGLISH if all(p in english for p in parts) else FOREIGN
        found.append((piece, kind))
    return found


@cache
def gloss(answer: str, code: str) -> str:
    """What the answer says, in English; empty where it is no sentence of any language known here."""
    first = [known for known in (code, "en") if known in languages.codes()]
    scene = next((read for known in first if (read := grammar.parse(answer, known)) is not None), None)
    if scene is None:
        scene = next(iter(grammar.parse_any(answer).values()), None)
    return "" if scene is None else grammar.caption(scene, "en", frame=0)


def question(prompt: str, code: str) -> str:
    """The English prompt of the same meaning as one of the micro world's prompts; empty for any other."""
    own = languages.load(code).prompts if code in languages.codes() else ()
    return languages.load("en").prompts[own.index(prompt)] if prompt in own else ""
