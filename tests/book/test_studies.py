"""The studies' page: what a table shows, and what it says where there is none."""

from pathlib import Path

import pandas as pd
import pytest
import tiny_study

from textreg.book import studies
from textreg.runs import study, study_table

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "profiles" / "studies").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_study_has_its_block_on_the_page(name, tmp_path):
    assert f"_executed/study_{name}.md" in (ROOT / "book" / "studies.md").read_text()
    block = studies.block(name, ROOT, tmp_path)
    assert "*Question.*" in block and ("has not been run" in block or "verdict" in block)


def test_means_ranges_and_verdicts_of_a_table_are_shown(tmp_path):
    root = tiny_study.build(tmp_path)
    same = {"system": "TR", "lambda": 1.0, "task": "caption", "arm": "image", "group": "foreign", "n": 4}
    same |= dict.fromkeys(study_table.MEASURES, 0.5)
    rows = [
        {"run": f"TR-text-share-{share}-seed-{seed}", "seed": seed, "TR.text_share": share}
        | same
        | {"asked": share + 0.1 * seed}
        for share in (0.1, 0.5)
        for seed in (0, 1)
    ]
    target = root / study_table.FOLDER / "tiny"
    target.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(target / "table.csv", index=False)
    block = studies.block("tiny", root, tmp_path)
    assert "4 of 6 runs" in block and "55.0 \\[50,\u00a060\\]" in block
    assert (tmp_path / studies.FIGURES / "tiny.svg").is_file() and "TR at text share 0.5 55" in block
    assert 'failed","more: within ±10","40.0' in block


def test_the_size_of_a_study_on_real_weights_counts_its_trainings():
    found = {name: len(study.points(study.load(name, ROOT), name, ROOT)) for name in NAMES}
    table = studies.hub_table(NAMES, ROOT)
    assert all(f'"{name.replace("_", chr(92) + "_")}","{count}"' in table for name, count in found.items())
