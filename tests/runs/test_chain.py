"""The real stages give the same bytes however they are run: side by side through papermill, one after the other in one
process, or ended in the middle and begun again.
"""

import itertools
import shutil
import sys
from datetime import datetime
from pathlib import Path

import forks
import pandas as pd
import pytest
import real_chain

from textreg.figures import book, tables
from textreg.runs import manifest
from textreg.runs.stages import Unit


@pytest.fixture(scope="module")
def alone(made_once):
    """A run of one unit after the other, without figures."""

    def make(folder):
        assert forks.ended(lambda: real_chain.run_here(folder, without="figures")) == 0

    return made_once("alone", make) / "run"


def test_the_same_seed_gives_the_same_bytes_whatever_ran_side_by_side(chain, alone):
    began = {arm: manifest.read(chain / "tune" / arm) for arm in ("BM", "TR")}
    starts = [datetime.fromisoformat(record["started"]).timestamp() for record in began.values()]
    assert abs(starts[0] - starts[1]) < 1 + min(record["seconds"] for record in began.values())  # side by side
    expected = {path: value for path, value in real_chain.results(chain).items() if not path.startswith("figures/")}
    found = real_chain.results(alone)
    assert found.keys() == expected.keys()
    assert [path for path, value in found.items() if expected[path] != value] == []
    weights = [(alone / "tune" / arm / "adapter/adapter_model.safetensors").read_bytes() for arm in ("BM", "TR")]
    assert weights[0] != weights[1]  # or the comparison would say little
    assert sorted(set(pd.read_csv(alone / "evaluate" / "fidelity.csv")["system"])) == ["BM", "TR", "TR+M"]


@pytest.mark.parametrize("name", ["fidelity", "losses"])
def test_the_same_results_give_the_same_bytes_of_a_figure(chain, alone, tmp_path, name):
    getattr(book, name)(tables.load_results(alone), tmp_path)
    drawn = [path for path in sorted(tmp_path.iterdir()) if path.suffix in (".svg", ".csv", ".json")]
    assert drawn and all(path.read_bytes() == (chain / "figures" / path.name).read_bytes() for path in drawn)


def test_no_manifest_and_no_notebook_of_the_chain_tells_of_the_machine(chain):
    for path in [*chain.rglob("manifest.json"), *chain.glob("notebooks/*.ipynb")]:
        told = [str(chain), str(real_chain.ROOT), sys.prefix, f"{Path.home()}/", "tfevents"]
        assert [word for word in told if word in path.read_text()] == [], path


@pytest.mark.slow
def test_answers_do_not_depend_on_how_many_processes_give_them(alone, tmp_path):
    shutil.copytree(alone, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "evaluate")
    chosen = {"only": "evaluate", "without": "figures", "overrides": ["evaluate.workers=2"]}
    assert forks.ended(lambda: real_chain.run_here(tmp_path, **chosen)) == 0
    assert real_chain.results(tmp_path / "run") == real_chain.results(alone)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("unit", [Unit("align"), Unit("tune", "TR"), Unit("merge", "TR"), Unit("evaluate"),
                                  Unit("mechanism")], ids=lambda unit: unit.name)  # fmt: skip
def test_a_stage_that_ends_between_two_changes_of_a_file_ends_as_if_it_had_not(alone, tmp_path, unit):
    """At every seventh of them, of which each leaves another state."""
    expected = real_chain.results(alone)
    for number in itertools.count(2, 7):
        folder = tmp_path / str(number)
        shutil.copytree(alone, folder / "run")
        shutil.rmtree(folder / "run" / unit.folder)

        def run_here(folder=folder):
            real_chain.run_here(folder, only=unit.stage, without="figures")

        if (code := forks.ended_at(number, folder / "run" / unit.folder, run_here)) == 0:
            break
        assert code == forks.KILLED and forks.ended(run_here) == 0, number
        found = real_chain.results(folder / "run")
        assert [path for path, value in expected.items() if found.get(path) != value] == [], number
    assert number > 10
