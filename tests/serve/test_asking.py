"""``textreg ask``: every shipped system about the shipped picture, and what can be said of each answer."""

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from textreg.cli import app
from textreg.serve import asking


@pytest.fixture(scope="module")
def told():
    return asking.compare(asking.asked_about(None), "Beschreibe das Bild.", asking.SYSTEMS).set_index("system")


def test_every_shipped_system_answers_and_each_answer_is_judged(told):
    assert {"backbone", "BM", "TR", "EN", "BM+M", "TR+M"} <= set(told.index)
    assert told["answer"].str.len().min() > 0 and told["class"].notna().all() and told["content"].notna().all()
    assert set(told["language"]) == {"de"}


def test_foreign_words_are_named_by_the_closed_word_list():
    assert asking.foreign_words("Das Bild zeigt a red Kreuz.", "de") == ["a", "red"]
    assert asking.foreign_words("Kuvassa on risti.", "fi") == []


def test_a_foreign_word_is_marked_as_a_word_and_not_inside_another(monkeypatch):
    row = {"system": "BM", "answer": "Das Bild zeigt a Kreuz.", "class": "mixed", "lf_plus": False, "content": None}
    console = Console(record=True, width=200, force_terminal=True)
    monkeypatch.setattr(asking, "Console", lambda: console)
    asking.show(pd.DataFrame([row | {"foreign": "a"}]))
    said = console.export_text(styles=True)
    assert "Das Bild zeigt \x1b[1;4ma\x1b[0m Kreuz." in said


@pytest.mark.parametrize(
    ("prompt", "code"), [("Περιέγραψε την εικόνα.", "el"), ("Kuvaile mitä tässä kuvassa on.", "fi")]
)
def test_the_language_asked_for_is_that_of_the_prompt(prompt, code):
    assert asking.prompt_language(prompt) == code


def test_a_language_that_the_model_has_never_read_is_said_so():
    assert "Finnish" in asking.unread("fi", asking.SYSTEMS) and asking.unread("uk", asking.SYSTEMS) == ""


def test_the_command_shows_the_systems_side_by_side_without_a_model_named():
    shown = CliRunner().invoke(app, ["ask"])
    assert shown.exit_code == 0, shown.output
    assert "BM+M" in shown.output and "class" in shown.output
