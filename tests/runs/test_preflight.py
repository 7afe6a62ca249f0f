"""Before a run starts: packages that are not there, and disks that are too small."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from textreg.data import hub
from textreg.errors import InputError
from textreg.runs import budget, profiles, runner
from textreg.runs import plan as preflight
from textreg.runs.budget import Budget
from textreg.runs.report import Report
from textreg.runs.sizes import Size
from textreg.settings import Evaluate, Merge, Tune

REPOSITORY = Path(__file__).parents[2]
MIB = 2**20


@pytest.fixture
def nothing_optional(monkeypatch):
    found = preflight.importlib.util.find_spec
    absent = {module for module, _ in preflight.PACKAGES.values()}
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: None if name in absent else found(name))


def test_a_missing_package_is_one_line_with_the_unit_and_what_to_install(nothing_optional):
    settings = {
        "tune[TR]": Tune(precision="4bit"),
        "merge[TR]": Merge(precision="4bit"),
        "evaluate": Evaluate(identifier="glotlid"),
    }
    assert preflight.missing_packages(settings) == [
        "tune[TR]: precision = 4bit needs a package: pip install 'textreg[gpu]', or change precision",
        "evaluate: identifier = glotlid needs a package: pip install 'textreg[glotlid]', or change identifier",
    ]
    assert preflight.missing_packages({"evaluate": Evaluate()}) == []


def test_a_run_without_its_package_ends_before_its_first_stage_and_a_dry_run_says_so(
    nothing_optional, tmp_path, capsys
):
    chosen = {"overrides": ["evaluate.identifier=lingua"], "root": REPOSITORY}
    runner.run("smoke", tmp_path, dry_run=True, **chosen)
    assert "not yet: evaluate: identifier = lingua needs a package" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(InputError, match=r"evaluate: identifier = lingua needs a package: pip install"):
        runner.run("smoke", tmp_path, **chosen)
    assert not (tmp_path / "prepare_data").exists()


@pytest.fixture
def disks(tmp_path, monkeypatch):
    """A run folder and a hub cache with 100 MiB free each; what ``require_room`` was asked for."""
    free = shutil.disk_usage(tmp_path)._replace(free=100 * MIB)
    monkeypatch.setattr("textreg.files.shutil.disk_usage", lambda place: free)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "run", tmp_path / "cache"


def planned(pictures=0, merged=0, data=0, model=0):
    downloads = (
        Size("o/data", data * MIB, "", "prepare_data", "datasets/o/data"),
        Size("o/llm", model * MIB, "", "align", "models/o/llm"),
    )
    disk = (Size("pictures", pictures * MIB, "", "prepare_data"), Size("merged", merged * MIB, "", "merge"))
    return Budget("p", (), downloads, disk, (), (), (), ())


def test_a_small_hub_run_asks_for_what_its_plan_counts_and_no_more(disks):
    run, _ = disks
    preflight.require_disk(planned(20, 20, 20, 20), run, ["prepare_data", "merge"], 10 * MIB)
    with pytest.raises(InputError, match=r"100 MiB free, this run needs about 110 MiB; .*--run, or set HF_HOME"):
        preflight.require_disk(planned(40, 20, 20, 20), run, ["prepare_data", "merge"], 10 * MIB)
    preflight.require_disk(planned(40, 90, 20, 90), run, ["prepare_data"], 10 * MIB)


def test_the_disk_of_the_hub_cache_is_checked_where_it_is_another_one(disks, monkeypatch):
    run, _ = disks
    monkeypatch.setattr(preflight, "_device", hash)
    preflight.require_disk(planned(90, 0, 90, 0), run, ["prepare_data"], 0)
    with pytest.raises(InputError, match=r"cache: 100 MiB free, this run needs about 110 MiB; .*set HF_HOME"):
        preflight.require_disk(planned(90, 0, 90, 20), run, ["prepare_data", "align"], 0)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    preflight.require_disk(planned(90, 0, 90, 20), run, ["prepare_data", "align"], 0)


def test_what_is_stored_already_is_not_asked_for_again(disks):
    run, cache = disks
    for place in (run / "prepare_data" / "images.parquet", cache / "models--o--llm" / "blobs" / "weights"):
        place.parent.mkdir(parents=True)
        place.write_bytes(b"")
        os.truncate(place, 50 * MIB)
    preflight.require_disk(planned(60, 40, 0, 60), run, ["prepare_data", "merge"], 0)
    with pytest.raises(InputError, match="needs about 110 MiB"):
        preflight.require_disk(planned(60, 40, 50, 60), run, ["prepare_data", "merge"], 0)


def test_a_hub_run_holds_its_plan_against_the_disk(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(preflight, "require_disk", lambda *given: asked.append(given) or pytest.skip)
    monkeypatch.setattr(runner, "_sole", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        runner.run("gpu", tmp_path, only=["merge"], root=REPOSITORY, report=Report())
    plan, folder, stages, _ = asked[0]
    assert plan == budget.estimate(profiles.load("gpu", REPOSITORY)) and (folder, stages) == (tmp_path, {"merge"})


def test_a_profile_of_some_stages_is_planned_too():
    whole = profiles.load("gpu", REPOSITORY)
    units = [item.unit for item in budget.estimate(replace(whole, stages=("prepare_data", "tune"))).work]
    assert units == ["tune[BM]", "tune[TR]", "tune[EN]"]


@pytest.mark.parametrize(("code", "said"), [(errno.ENOSPC, "No space left"), (errno.EACCES, "Permission denied")])
def test_a_disk_that_a_download_fills_is_one_line_naming_the_cache(monkeypatch, code, said):
    def fail(*names, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(InputError, match=rf"o/name: cannot be stored in .*{said}.*set HF_HOME"):
        hub.resolve("o/name")
