import json

import pandas as pd
import pytest

from textreg.book import pictures


def results(folder):
    """Verdicts on twenty concepts in two languages, all of them right."""
    rows = []
    for system in ("backbone", "BM", "TR", "EN", "BM+M"):
        for number in range(20):
            for language, arm in (("en", "image"), ("de", "image"), ("de", "text"), ("de", "text_en")):
                english = system in ("BM", "EN") and arm != "text" and language == "de"
                told = {"class": "english" if english else "asked", "content": True}
                where = {"seed": 0, "backbone": "b", "system": system, "arm": arm, "task": "caption"}
                rows.append({**where, "language": language, "item_id": f"c{number}", **told})
    table = pd.DataFrame(rows)
    table["right_in_english"] = table["content"] & (table["class"] == "english")
    (folder / "pictures").mkdir(parents=True)
    table.to_parquet(folder / "pictures" / "verdicts.parquet")
    example = dict(
        concept="1f42c", language="de", name="Delfin", backbone="Wurf", BM="dolphin", TR="Haar", en="dolphin"
    )
    pd.DataFrame([example]).to_csv(folder / "pictures" / "examples.csv", index=False)
    (folder / "pictures" / "about.json").write_text(json.dumps({"hardware": "a laptop"}))
    return folder


def test_without_a_shipped_run_the_page_says_so(tmp_path):
    assert pictures.page(tmp_path, tmp_path) == pictures.NOTHING and pictures.line(tmp_path) == ""


def test_what_the_tower_alone_sees_is_shown_before_there_is_a_run(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "seeing.csv").write_text(
        "found,concepts,chance,share,low,high\nnearest,9,0.1,0.5,0.2,0.8\n"
    )
    (tmp_path / "pictures" / "seeing.json").write_text('{"hardware": "a laptop"}')
    shown = pictures.page(tmp_path, tmp_path)
    assert '"nearest","50.0' in shown and "hardware: a laptop" in shown and pictures.NOTHING in shown


@pytest.mark.parametrize(
    ("word", "said"), [("met", "The gate is passed"), ("missed", "**not** passed"), ("undecided", "**undecided**")]
)
def test_the_gate_is_told_in_words(word, said):
    assert said in pictures.gate(pd.DataFrame([{"verdict": word, "value": 0.5, "low": 0.4, "high": 0.6}]))


def test_tables_and_predictions_are_made_of_the_verdicts_after_the_gate(tmp_path):
    shown = pictures.page(results(tmp_path), tmp_path)
    assert "The gate is passed" in shown.partition("csv-table")[0]
    assert "hardware: a laptop" in shown and f"_executed/{pictures.FIGURES}/classes.svg" in shown
    assert "in **100 %** of all cases before tuning, in **0 %** after" in pictures.line(tmp_path)
    assert '"🐬","dolphin","German","Delfin","Wurf","dolphin","Haar"' in shown
    rows = [line for line in shown.splitlines() if '"English-only tuning takes' in line]
    assert len(rows) == 1 and "held" in rows[0] and "100.0" in rows[0]
    assert '"German","100 (0)","0 (100)","100 (0)","0 (100)","100 (0)"' in shown


def test_runs_without_questions_stand_beside_those_with_them(tmp_path):
    folder = results(tmp_path) / "pictures"
    assert "No run without questions" in pictures.web(folder)
    bare = pd.read_parquet(folder / "verdicts.parquet").query("system in ['BM', 'TR']")
    bare.assign(system=bare["system"] + "-web").to_parquet(folder / "web.parquet")
    (folder / "about_web.json").write_text(json.dumps({"command": "textreg run --profile pictures-web"}))
    shown = pictures.web(folder)
    rows = [line for line in shown.splitlines() if '"Multilingual text keeps' in line]
    assert len(rows) == 1 and "held" in rows[0] and "100.0" in rows[0]
    assert "pictures-web" in shown and '"TR-web","picture"' in shown
