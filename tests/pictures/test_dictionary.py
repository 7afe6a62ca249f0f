import pandas as pd
import pytest

from textreg.pictures.dictionary import Dictionary

NAMES = [
    ("cat", "en", "cat", "cat | pet | small animal"),
    ("cat", "de", "Katze", "Haustier | Tier"),
    ("cat", "fr", "chat", "animal"),
    ("cat", "ja", "ネコ", "動物"),
    ("taxi", "en", "taxi", "car"),
    ("taxi", "de", "Taxi", "Auto"),
    ("dog", "en", "dog", "pet"),
    ("dog", "de", "Hund", "Haustier"),
]
TABLE = pd.DataFrame(NAMES, columns=["concept", "language", "name", "words"])


FOUND = {  # answer and asked language -> the language it is in, and whether it names the cat
    ("Katze", "de"): ("asked", "right"), ("katze.", "de"): ("asked", "right"), ("cat", "en"): ("asked", "right"),
    ("cat", "de"): ("english", "right"),  # the loss of language alone
    ("dog", "de"): ("english", "wrong"), ("small pet", "de"): ("english", "wrong"),
    ("Haustier Tier", "de"): ("asked", "wrong"), ("chat", "de"): ("other", "right"),
    ("small Haustier", "de"): ("mixed", "wrong"),
    ("taxi", "de"): ("either", "wrong"), ("taxi", "en"): ("asked", "wrong"),
    ("イヌ", "ja"): ("asked", "wrong"),  # nobody knows the word, its letters are of one language
    ("イヌ", "de"): ("other", "wrong"),
    ("rugpuller", "de"): ("none", "unreadable"), (" ?!", "de"): ("empty", "unreadable"),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "asked"), FOUND)
def test_an_answer_has_a_language_and_a_content(answer, asked):
    found = Dictionary(TABLE).look_up(answer, asked, "cat")
    assert (found.language, found.content) == FOUND[answer, asked]
