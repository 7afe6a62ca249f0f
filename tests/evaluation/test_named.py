import json

import pandas as pd
import pytest

from textreg.errors import InputError
from textreg.evaluation.named import annotate
from textreg.fidelity.measures import summarise, visual_summary

NAMES = "concept,language,name,words\ncat,en,cat,pet\ncat,de,Katze,Tier\ntaxi,en,taxi,car\ntaxi,de,Taxi,Auto\n"


@pytest.fixture
def scored(tmp_path):
    (tmp_path / "prepare_data").mkdir()
    (tmp_path / "prepare_data" / "names.csv").write_text(NAMES)
    answers = [*(("de", answer) for answer in ("Katze", "cat", "pet", "Taxi", "blub", "")), ("en", "cat")]
    table = pd.DataFrame(answers, columns=["language", "answer"])
    table = table.assign(seed=0, system="BM", arm="image", task="caption", reference=json.dumps(["cat", "?"]))
    table = table.assign(item_id=[f"i{number}" for number in range(len(table))]).assign(**{"lambda": 1.0})
    return annotate(table, tmp_path)


def test_language_and_content_are_two_columns(scored):
    assert scored["said"].tolist() == ["asked", "english", "english", "either", "none", "empty", "asked"]
    assert scored["read"].tolist() == ["right", "right", "wrong", "wrong", "unreadable", "unreadable", "right"]


def test_what_cannot_be_told_has_no_fidelity_and_is_never_right_or_wrong_in_language(scored):
    assert scored["class"].tolist() == ["asked", "english", "english", "short", "short", "empty", "asked"]
    assert scored["lf"].isna().tolist() == [False, False, False, True, True, False, False]
    assert scored["lf_plus"].equals(scored["lf"])


def test_right_in_english_is_content_and_not_grounded(scored):
    assert scored["content"].tolist() == [True, True, False, False, False, False, True]
    assert scored["grounded"].tolist() == [True, False, False, False, False, False, True]


def test_the_tables_of_every_scale_are_made_of_them(scored):
    german = summarise(scored).set_index("language").loc["de"]
    assert (german["n"], german["n_scored"]) == (6, 4)
    assert german["lf"] == 0.25
    assert german["class_english"] == pytest.approx(2 / 6)
    seen = visual_summary(scored).set_index("language")["accuracy"]
    assert seen.to_dict() == {"de": pytest.approx(2 / 6), "en": 1.0}


def test_a_run_without_its_names_is_told_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"names\.csv is missing: run the stage prepare_data"):
        annotate(pd.DataFrame({"answer": [], "language": [], "reference": []}), tmp_path)
