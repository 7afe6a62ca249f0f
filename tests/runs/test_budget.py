"""What a run on real weights needs, told before it starts: against models that are really built."""

import errno
import io
import os
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from textreg.data import hub
from textreg.errors import InputError
from textreg.runs import budget, plan, profiles, runner
from textreg.runs.budget import Budget, Need
from textreg.runs.stages import Unit
from textreg.settings import Evaluate, Merge, Tune

ROOT, MIB = Path(__file__).parents[2], 2**20


@pytest.fixture
def parts(tiny_llm, tiny_tower):
    """Overrides that name tiny models on the disk, and nothing of the hub but data."""
    return [f"align.llm={tiny_llm}", f"align.tower={tiny_tower}", "identifier=py3langid"]


@pytest.fixture
def reached(monkeypatch):
    """A hub that has two files of every repository still to send."""
    monkeypatch.setattr(hub, "to_fetch", lambda name, kind, files: {"a": 3 * MIB, "b": MIB})


def sizes(needs):
    return {need.what: need.size for need in needs}


def test_models_are_counted_to_the_last_weight_and_adapters_as_peft_makes_them(parts, reached, tiny_llm, tiny_vlm):
    found = budget.estimate(profiles.load("gpu", ROOT), [*parts, "tune.rank=5", "precision=fp32"])
    added = 32  # the picture's own token, of which this language model has no row
    assert sizes(found.memory)["weights"] == 4 * (sum(p.numel() for p in tiny_vlm[0].parameters()) - added)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_llm), LoraConfig(r=5, target_modules="all-linear")
    )
    projector = sum(p.numel() for p in tiny_vlm[0].model.multi_modal_projector.parameters())
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad) + projector
    assert sizes(found.memory)["training state"] == 16 * trained
    assert sizes(found.disk)["merged checkpoints"] == 2 * sizes(found.memory)["weights"] / 2


def test_a_published_model_is_counted_and_has_no_data_to_align_on_and_one_that_cannot_be_tuned_ends_the_dry_run(
    reached, tmp_path, tiny_vlm
):
    tiny_vlm[0].config.save_pretrained(tmp_path / "vlm")
    overrides = [f"align.vlm={tmp_path / 'vlm'}", "identifier=py3langid"]
    found = budget.estimate(profiles.load("cure", ROOT), overrides)
    model = AutoModelForImageTextToText.from_config(tiny_vlm[0].config)
    assert sizes(found.memory)["weights"] == 2 * sum(p.numel() for p in model.parameters())
    assert "liuhaotian/LLaVA-Pretrain" not in sizes(found.downloads) and "lmms-lab/POPE" in sizes(found.downloads)
    assert sizes(found.disk)["pictures"] == sizes(found.disk)["pictures, mapped"]
    (tmp_path / "vlm" / "config.json").write_text('{"model_type": "paligemma"}')
    with pytest.raises(InputError, match="'paligemma' is not supported"):
        runner.run("cure", tmp_path / "run", dry_run=True, root=ROOT, overrides=overrides)


def test_what_the_hub_would_send_is_listed_and_adds_up(parts, reached):
    found = budget.estimate(profiles.load("gpu", ROOT), parts)
    assert {need.size for need in found.downloads} == {4 * MIB} and len(found.downloads) == 10
    assert "cis-lmu/glotlid" in sizes(budget.estimate(profiles.load("gpu", ROOT), parts[:2]).downloads)
    shown = Console(width=200, record=True, file=io.StringIO())
    shown.print(*budget.tables(found))
    text = shown.export_text()
    assert "To fetch (gpu): 0.0 GB" in text and "floschne/xm3600" in text and "EFLOP" in text


def test_without_a_hub_nothing_is_guessed_and_it_is_asked_once(monkeypatch):
    asked = []

    def unreached(name, kind, files):
        asked.append(name)
        raise InputError(f"{name}: not stored here and the hub was not reached; connect")

    monkeypatch.setattr(hub, "to_fetch", unreached)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = budget.estimate(profiles.load("gpu", ROOT))
    assert len(asked) == 1 and found.work == ""
    assert {need.size for need in (*found.downloads, *found.memory)} == {None}
    assert "not counted" in found.memory[0].why


def test_a_repository_that_is_refused_is_told_beside_the_others(parts, monkeypatch):
    def gated(name, kind, files):
        if "xm3600" in name:
            raise InputError(f"{name}: the repository is gated; accept its terms")
        return {}

    monkeypatch.setattr(hub, "to_fetch", gated)
    told = {need.what: need.why for need in budget.estimate(profiles.load("gpu", ROOT), parts).downloads}
    assert "gated" in told["floschne/xm3600"] and told["CohereLabs/aya_dataset"] == "0 files to fetch"


@pytest.fixture
def disks(tmp_path, monkeypatch):
    """A run folder and a hub cache with 100 MiB free each."""
    free = shutil.disk_usage(tmp_path)._replace(free=100 * MIB)
    monkeypatch.setattr("textreg.files.shutil.disk_usage", lambda place: free)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "run", tmp_path / "cache"


def planned(pictures=0, merged=0, data=0, model=0):
    downloads = (Need("o/data", data * MIB, "", "prepare_data"), Need("o/llm", model * MIB, "", "align"))
    disk = (Need("pictures", pictures * MIB, "", "prepare_data"), Need("merged", merged * MIB, "", "merge"))
    return Budget("p", downloads, (), disk, "")


def test_a_run_asks_for_what_its_budget_counts_and_no_more(disks):
    run, _ = disks
    budget.require_disk(planned(20, 20, 20, 20), run, ["prepare_data", "merge"], 10 * MIB)
    with pytest.raises(InputError, match=r"100 MiB free, this run needs about 110 MiB; .*--run, or set HF_HOME"):
        budget.require_disk(planned(40, 20, 20, 20), run, ["prepare_data", "merge"], 10 * MIB)
    budget.require_disk(planned(40, 90, 20, 90), run, ["prepare_data"], 10 * MIB)


def test_the_disk_of_the_hub_cache_is_checked_where_it_is_another_one(disks, monkeypatch):
    run, _ = disks
    monkeypatch.setattr(budget, "_device", hash)
    budget.require_disk(planned(90, 0, 90, 0), run, ["prepare_data"], 0)
    with pytest.raises(InputError, match=r"cache: 100 MiB free, this run needs about 110 MiB; .*set HF_HOME"):
        budget.require_disk(planned(90, 0, 90, 20), run, ["prepare_data", "align"], 0)


def test_what_an_earlier_attempt_has_written_is_not_asked_for_again(disks):
    run, _ = disks
    place = run / "prepare_data" / "images.parquet"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"")
    os.truncate(place, 50 * MIB)
    budget.require_disk(planned(60, 40, 0, 40), run, ["prepare_data", "merge"], 0)
    with pytest.raises(InputError, match="needs about 110 MiB"):
        budget.require_disk(planned(60, 40, 20, 40), run, ["prepare_data", "merge"], 0)


def test_a_run_on_real_weights_holds_its_budget_against_the_disk(tmp_path, monkeypatch, parts, reached):
    monkeypatch.setattr(budget, "require_disk", lambda *given: (_ for _ in ()).throw(InputError(str(given[1:]))))
    with pytest.raises(InputError, match=r"\{'merge'\}"):
        runner.run("gpu", tmp_path, only=["merge"], root=ROOT, overrides=parts)


@pytest.mark.parametrize(("code", "said"), [(errno.ENOSPC, "No space left"), (errno.EACCES, "Permission denied")])
def test_a_disk_that_a_download_fills_is_one_line_naming_the_cache(monkeypatch, code, said):
    def fail(*names, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(InputError, match=rf"o/name: cannot be stored in .*{said}.*set HF_HOME"):
        hub.resolve("o/name")


@pytest.fixture
def nothing_optional(monkeypatch):
    found = plan.importlib.util.find_spec
    absent = {module for module, _ in plan.PACKAGES.values()}
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None if name in absent else found(name))


def test_a_missing_package_is_one_line_with_the_unit_and_what_to_install(nothing_optional):
    settings = {
        Unit("tune", "TR"): Tune(precision="4bit"),
        Unit("merge", "TR"): Merge(precision="4bit"),
        Unit("evaluate"): Evaluate(identifier="glotlid"),
    }
    assert plan.missing_packages(settings) == [
        "tune[TR]: precision = 4bit needs a package: pip install 'textreg[gpu]', or change precision",
        "evaluate: identifier = glotlid needs a package: pip install 'textreg[glotlid]', or change identifier",
    ]
    assert plan.missing_packages({Unit("evaluate"): Evaluate()}) == []


def test_a_run_without_its_package_ends_before_its_first_stage_and_a_dry_run_says_so(
    nothing_optional, tmp_path, capsys
):
    chosen = {"overrides": ["evaluate.identifier=lingua"], "root": ROOT}
    runner.run("smoke", tmp_path, dry_run=True, **chosen)
    assert "not yet: evaluate: identifier = lingua needs a package" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(InputError, match=r"evaluate: identifier = lingua needs a package: pip install"):
        runner.run("smoke", tmp_path, **chosen)
    assert not (tmp_path / "prepare_data").exists()
