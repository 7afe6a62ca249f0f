"""Claims: measured from result files, met or missed by their own bounds, and undefined where nothing was evaluated."""

from pathlib import Path

import pandas as pd
import pytest
from result_folders import fidelity_table, write_run

from textreg.book import claims
from textreg.errors import InputError
from textreg.figures.tables import load_results

ROOT = Path(__file__).parents[2]
FILE = ROOT / "book" / "claims.yml"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return load_results(write_run(tmp_path_factory.mktemp("run")))


def claim(**keys):
    return claims.Claim(claim="c", origin="ours", **keys)


def test_the_projects_claims_can_be_read_and_speak_of_its_systems():
    read = claims.load(FILE)
    systems = {point[0] for item in read for point in (item.of, item.minus) if point}
    assert systems == {"BM", "EN", "TR", "TR+M"}


def test_a_difference_is_taken_between_the_means_of_the_files(results):
    table = fidelity_table().query("language != 'en'").groupby(["system", "arm"])["lf"].mean()
    value = claims.measure(results, claim(of=("BM", "text", "lf"), minus=("BM", "image", "lf"), at_least=0))
    assert value == pytest.approx(table["BM", "text"] - table["BM", "image"])


@pytest.mark.parametrize(("bound", "met"), [({"at_least": 0.95}, True), ({"at_least": 0.951}, False)])
def test_a_claim_is_met_at_its_bound_and_missed_beyond_it(results, bound, met):
    item = claim(of=("TR", "image", "visual"), **bound)
    assert item.met(claims.measure(results, item)) is met


def test_a_claim_about_a_system_that_was_not_evaluated_is_undefined(results):
    item = claim(of=("XX", "image", "lf"), at_least=0.0)
    assert item.met(claims.measure(results, item)) is None
    assert claims.check(results, (item,))["met"].tolist() == [None]


def test_a_claim_can_be_about_questions_and_says_when_it_was_written(results):
    item = claim(of=("TR", "image", "questions"), at_least=0.9, written="after")
    row = claims.check(results, (item, claim(of=("TR", "image", "lf"), at_least=0.9))).iloc
    assert row[0]["value"] == pytest.approx(0.95)
    assert (row[0]["written"], row[1]["written"]) == ("after", "before")


@pytest.mark.parametrize(
    "line",
    [
        "{claim: c, origin: ours, of: [BM, image, lf]}",
        "{claim: c, origin: ours, of: [BM, image, lf], at_least: 0, at_most: 1}",
        "{claim: c, origin: ours, of: [BM, image, fidelity], at_least: 0}",
        "{claim: c, origin: theirs, of: [BM, image, lf], at_least: 0}",
        "{claim: c, origin: ours, of: [BM, image, lf], at_leest: 0}",
    ],
)
def test_a_wrong_line_is_named_by_its_number(tmp_path, line):
    path = tmp_path / "claims.yml"
    path.write_text("- {claim: c, origin: ours, of: [BM, image, lf], at_least: 0}\n- " + line)
    with pytest.raises(InputError, match="claim 2"):
        claims.load(path)


@pytest.mark.parametrize("seed", sorted(path.name for path in (ROOT / "results/laptop").glob("seed-*")))
def test_what_the_mechanism_notebook_says_of_the_shipped_runs_is_what_their_files_say(seed):
    """In words there: the first-word account fails, and the probe still reads the asked language."""
    verdicts = pd.read_csv(ROOT / "results/laptop" / seed / "mechanism/verdicts.csv")
    assert verdicts["held"].tolist() == [False, False, False, True]
