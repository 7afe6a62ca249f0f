"""Runs of a miniature chain: what is executed, what is kept and why, and what each kind of failure leaves behind."""

import errno
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time

import pytest
import tiny_chain
from tiny_chain import quiet

from textreg.errors import InputError, RunError
from textreg.files import HashCache
from textreg.runs import children, execution, manifest, notebooks, plan, profiles, report, runner, shipping
from textreg.runs.stages import Unit

KEY = "fake-key-0123456789abcdef"
UNITS = ["prepare_data", "align", "tune[BM]", "tune[TR]", "figures"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A repository whose run has finished, made with a secret in the environment."""
    root = tiny_chain.build(tmp_path_factory.mktemp("chain"))
    tiny_chain.write(root, "align", "import os\nprint('key', os.environ.get('FAKE_API_KEY'))", tiny_chain.ALIGN)
    os.environ["FAKE_API_KEY"] = KEY
    try:
        result = runner.run("tiny", root=root, jobs=2, report=quiet())
    finally:
        del os.environ["FAKE_API_KEY"]
    assert sorted(result.units("ran")) == sorted(UNITS)
    return root


@pytest.fixture
def repository(finished, tmp_path):
    """A copy of the finished repository, to be spoilt."""
    return shutil.copytree(finished, tmp_path / "copy")


def place_of(root, *overrides):
    return plan.Place(root / "runs" / "tiny", root / "notebooks", overrides)


def states(root, *overrides):
    found = plan.survey(profiles.load("tiny", root), place_of(root, *overrides), HashCache())
    return {unit.name: state for unit, state in found.items() if state.state != "done"}


def edit(root, stage, old, new):
    path = root / "notebooks" / Unit(stage).notebook
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_finished_run_is_kept_in_under_two_seconds(finished):
    clock = time.process_time()  # what else the machine does is not the run's
    result = runner.run("tiny", root=finished, report=quiet())
    assert list(result.units("kept")) == UNITS
    assert result.units("ran") == ()
    assert time.process_time() - clock < 2


UNCHANGED = {
    "prose": lambda root: edit(root, "tune", "# tune", "# Tuning, told better"),
    "a comment": lambda root: edit(root, "tune", "folder = Path(run)", "# where\\nfolder = Path(run)"),
    "a value of the parameters cell": lambda root: edit(root, "tune", "log_steps = 20", "log_steps = 10"),
    "modification times": lambda root: [os.utime(path) for path in root.rglob("*") if path.is_file()],
    "a log": lambda root: (root / "runs/tiny/logs/02_align.log").write_text("other"),
    "the profile's comments": lambda root: (root / "profiles/tiny.yaml").write_text("# said\n" + tiny_chain.PROFILE),
}


@pytest.mark.parametrize("case", UNCHANGED)
def test_what_changes_no_result_reruns_nothing(repository, case):
    UNCHANGED[case](repository)
    assert states(repository) == {}


def tear(path):
    path.write_bytes(path.read_bytes()[:-100])


ALL_AFTER_ALIGN = ["align", "tune[BM]", "tune[TR]", "figures"]
CHANGED = {
    "code of the first stage": (lambda root: edit(root, "prepare_data", "share", "part"), UNITS),
    "code of align": (lambda root: edit(root, "align", "aligned", "joined"), ALL_AFTER_ALIGN),
    "code of tune": (lambda root: edit(root, "tune", "7919", "7907"), ["tune[BM]", "tune[TR]", "figures"]),
    "code of figures": (lambda root: edit(root, "figures", "<svg>", "<svg >"), ["figures"]),
    "a changed artefact": (lambda root: (root / "runs/tiny/tune/TR/log.csv").write_text("x"), ["tune[TR]", "figures"]),
    "a lost artefact": (lambda root: (root / "runs/tiny/figures/figure.svg").unlink(), ["figures"]),
    "a lost notebook": (lambda root: (root / "runs/tiny/notebooks/02_align.ipynb").unlink(), ALL_AFTER_ALIGN),
    "a torn notebook": (lambda root: tear(root / "runs/tiny/notebooks/03_tune-TR.ipynb"), ["tune[TR]", "figures"]),
    "a lost manifest": (lambda root: (root / "runs/tiny/tune/BM/manifest.json").unlink(), ["tune[BM]", "figures"]),
    "a torn manifest": (lambda root: (root / "runs/tiny/align/manifest.json").write_text("{"), ALL_AFTER_ALIGN),
    "a lost folder": (lambda root: shutil.rmtree(root / "runs/tiny/tune/TR"), ["tune[TR]", "figures"]),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_change_reruns_what_depends_on_it_and_nothing_else(repository, case):
    spoil, expected = CHANGED[case]
    spoil(repository)
    found = states(repository)
    assert list(found) == expected
    assert all(state.reasons for state in found.values())


@pytest.mark.parametrize(
    ("override", "expected", "reason"),
    [
        ("tune.steps=7", ["tune[BM]", "tune[TR]", "figures"], "parameter steps: 6 -> 7"),
        ("TR.rank=4", ["tune[TR]", "figures"], "parameter rank: 16 -> 4"),
        ("prepare_data.align_rows=9", UNITS, "parameter align_rows: 3 -> 9"),
        ("seed=1", UNITS, "parameter seed: 0 -> 1"),
        ("threads=2", [], ""),
        ("tune.log_steps=1", [], ""),
        ("workers=3", [], ""),
    ],
)
def test_a_parameter_reruns_only_what_depends_on_it(finished, override, expected, reason):
    found = states(finished, override)
    assert list(found) == expected
    if expected:
        assert reason in next(iter(found.values())).reasons


def test_what_follows_a_rerun_that_left_the_same_bytes_is_kept_after_all(repository):
    edit(repository, "align", "folder.mkdir", "assert folder\\nfolder.mkdir")
    result = runner.run("tiny", root=repository, jobs=2, report=quiet(), overrides=())
    assert result.units("ran") == ("align",)
    assert result.states[Unit("figures")].reasons[0].startswith("follows")


@pytest.mark.parametrize("spoil", [lambda path: path.write_text("another"), lambda path: path.unlink()])
@pytest.mark.parametrize("options", [{"only": ["figures"], "force": True}, {"start": "figures"}])
def test_nothing_is_computed_from_files_that_differ_from_what_was_recorded(repository, spoil, options):
    spoil(repository / "runs/tiny/tune/TR/adapter/adapter.safetensors")
    before = (repository / "runs/tiny/figures/figure.svg").read_bytes()
    with pytest.raises(InputError, match=r"figures reads tune\[TR\], of which adapter/adapter.safetensors (was|is) "):
        runner.run("tiny", root=repository, report=quiet(), **options)
    assert (repository / "runs/tiny/figures/figure.svg").read_bytes() == before


def test_an_upstream_result_of_other_code_is_told_and_used_and_what_a_killed_removal_left_goes(repository):
    edit(repository, "tune", "7919", "7907")
    left = repository / "runs" / "tiny" / "tune" / ".TR.removed-x"
    left.mkdir()
    result = runner.run("tiny", root=repository, only=["figures"], force=True, report=quiet())
    assert result.units("ran") == ("figures",) and not left.exists()


def test_a_dry_run_tells_and_touches_nothing_and_another_seed_has_another_folder(repository):
    edit(repository, "figures", "<svg>", "<svg >")
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*")}
    result = runner.run("tiny", root=repository, dry_run=True, report=quiet())
    assert result.states[Unit("figures")].reasons == ("code 06_figures.ipynb changed",)
    other = runner.run("tiny", root=repository, dry_run=True, report=quiet(), overrides=["seed=4"])
    assert other.run.name == "tiny-seed-4"
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*")} == before


def test_status_asks_with_the_overrides_of_the_run(repository):
    run = repository / "runs" / "tiny"
    profile = profiles.load("tiny", repository)
    plan.claim(profile, plan.Place(run, repository / "notebooks", ("tune.steps=7",)), repository)
    found = report.collect(run, repository)
    assert {unit.name for unit, state in found.items() if state.state == "stale"} == {
        "tune[BM]",
        "tune[TR]",
        "figures",
    }
    with pytest.raises(InputError, match="holds no run"):
        report.collect(repository / "runs" / "never", repository)


def test_no_file_of_a_run_holds_a_secret_of_its_environment(finished):
    texts = [path.read_bytes() for path in (finished / "runs").rglob("*") if path.is_file()]
    assert not any(KEY.encode() in text for text in texts)
    assert b"key [secret]" in (finished / "runs/tiny/logs/02_align.log").read_bytes()


def test_the_kernel_is_the_running_interpreter_and_says_nothing_about_tcp(finished):
    content = notebooks.read(finished / "runs/tiny/notebooks/02_align.ipynb")
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert content["metadata"]["language_info"]["version"] == ".".join(map(str, sys.version_info[:3]))
    assert "TCP" not in (finished / "runs/tiny/logs/02_align.log").read_text()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"only": ["merge"], "arms": ["TR"]}, "nothing to run"),
        ({"only": ["tune"], "start": "align"}, "--only cannot be combined"),
        ({"run_dir": "runs/elsewhere", "only": ["figures"]}, "figures needs prepare_data, which has not run"),
        ({"overrides": ["seed=3"], "run_dir": "runs/tiny"}, "is the run folder of profile tiny, scale scenes, seed 0"),
        ({"run_dir": "file", "dry_run": True}, "file cannot be a run folder"),
    ],
)
def test_a_wrong_request_is_refused_before_a_kernel_starts(repository, monkeypatch, options, expected):
    monkeypatch.chdir(repository)
    (repository / "file").write_text("")
    monkeypatch.setattr(children, "launch", lambda *given, **named: pytest.fail("a kernel was started"))
    with pytest.raises(InputError) as caught:
        runner.run("tiny", root=repository, report=quiet(), **options)
    assert expected in str(caught.value)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("folder", [".", "..", "notebooks", "results/x", "src/runs", "book", "profiles/x", "foreign"])
def test_a_run_folder_that_is_the_repositorys_or_somebody_elses_is_refused_and_left_as_it_is(
    repository, monkeypatch, folder, dry_run
):
    for name in ("results/x", "foreign/prepare_data"):
        (repository / name).mkdir(parents=True)
        (repository / name / "thesis.txt").write_text("years of work")
    monkeypatch.chdir(repository)
    before = contents(repository)
    why = r"holds prepare_data but no run\.json" if folder == "foreign" else "belongs to the repository"
    with pytest.raises(InputError, match=f"{why}.* with --run"):
        runner.run("tiny", folder, root=repository, dry_run=dry_run, report=quiet())
    assert contents(repository) == before


def test_an_empty_folder_and_one_that_an_early_kill_left_are_accepted(repository, tmp_path):
    (tmp_path / "early" / ".runner").mkdir(parents=True)
    (tmp_path / "early" / ".run.json.abc.part").write_text("{")
    profile = profiles.load("tiny", repository)
    for name in ("early", "new"):
        plan.claim(profile, plan.Place(tmp_path / name, repository / "notebooks"), repository)
        assert json.loads((tmp_path / name / "run.json").read_text())["profile"] == "tiny"


NOTE = {"profile": "tiny", "scale": "scenes", "seed": 0, "file": "profiles/tiny.yaml", "overrides": ["seed=1"]}


@pytest.mark.parametrize("note", ["[1]", '{"profile": ', json.dumps(NOTE | {"overrides": [1]}), None])
def test_a_damaged_note_of_a_run_is_named_by_every_command(repository, note):
    run = repository / "runs" / "tiny"
    (run / "run.json").unlink()
    (run / "run.json").write_text(note) if note else (run / "run.json").mkdir()
    said = r"run\.json is not as it should be .*choose another folder with --run"
    with pytest.raises(InputError, match=said):
        runner.run("tiny", root=repository, report=quiet())
    with pytest.raises(InputError, match=said):
        report.collect(run, repository)


def test_a_run_of_a_profile_outside_the_repository_is_found_from_everywhere(repository, tmp_path, monkeypatch):
    away = tmp_path / "away"
    away.mkdir()
    (away / "mine.yaml").write_text(tiny_chain.PROFILE)
    monkeypatch.chdir(away)
    run = shutil.copytree(repository / "runs" / "tiny", away / "r")
    runner.run("mine.yaml", "r", root=repository, report=quiet())
    monkeypatch.chdir(repository)
    assert {state.state for state in report.collect(run, repository).values()} == {"done"}
    shipping.ship(run, tmp_path / "shipped", repository)
    assert str(tmp_path) not in (tmp_path / "shipped" / "run.json").read_text()
    (away / "mine.yaml").unlink()
    assert {state.state for state in report.collect(run, repository).values()} == {"done"}
    assert plan.remembered(tmp_path / "shipped", repository)[0].name == "tiny"


def test_what_cannot_work_is_said_before_anything_starts(repository, monkeypatch):
    edit(repository, "tune", "rank = 16", "rang = 16")
    with pytest.raises(InputError, match=r"03_tune\.ipynb: the parameters cell lacks rank and has unknown rang"):
        runner.run("tiny", root=repository, report=quiet())
    (repository / "notebooks" / "03_tune.ipynb").unlink()
    with pytest.raises(InputError, match=r"03_tune\.ipynb does not exist"):
        runner.run("tiny", root=repository, report=quiet())
    monkeypatch.setattr(runner, "ROOM", 2**62)
    with pytest.raises(InputError, match="MiB free"):
        runner.run("tiny", root=repository, report=quiet())


def test_what_another_attempt_left_is_removed_and_told_and_what_the_same_left_is_kept(tmp_path, capsys):
    folder = tmp_path / "tune" / "TR"
    one, two = (manifest.Identity({"seed": seed}, {}, {}) for seed in (0, 1))
    assert execution.prepare(folder, one, fresh=False) is False
    checkpoint = folder / "checkpoints" / "checkpoint-4"
    checkpoint.mkdir(parents=True)
    assert execution.prepare(folder, one, fresh=False) is True
    assert checkpoint.exists() and capsys.readouterr().out == ""
    assert execution.prepare(folder, two, fresh=False) is False
    assert not checkpoint.exists()
    assert "TR/checkpoints: of an attempt with other settings" in capsys.readouterr().out
    checkpoint.mkdir(parents=True)
    assert execution.prepare(folder, two, fresh=True) is False
    assert not checkpoint.exists()
    assert "asked to begin anew, discarded" in capsys.readouterr().out


def test_a_finished_unit_is_resumed_from_whole_files_and_made_anew_from_edited_ones(repository):
    run = repository / "runs" / "tiny"
    journal = run / "tune" / "TR" / "checkpoint.txt"
    (run / "notebooks" / "03_tune-TR.ipynb").unlink()
    result = runner.run("tiny", root=repository, report=quiet())
    assert result.states[Unit("tune", "TR")].reasons == ("its executed notebook is missing",)
    assert result.units("ran") == ("tune[TR]",) and manifest.read(run / "tune" / "TR")["resumed"]
    expected = (run / "tune" / "TR" / "adapter" / "adapter.safetensors").read_bytes()
    (run / "tune" / "TR" / "shown.csv").write_text("other")
    journal.write_text(journal.read_text().replace("step 1", "step 9"))
    runner.run("tiny", root=repository, report=quiet())
    assert not manifest.read(run / "tune" / "TR")["resumed"]
    assert (run / "tune" / "TR" / "adapter" / "adapter.safetensors").read_bytes() == expected


def test_shipped_results_stand_until_a_file_or_their_code_changes_and_the_cure_is_named(repository):
    target = repository / "results" / "tiny" / "seed-0"
    copies = shipping.ship(repository / "runs/tiny", target, repository)
    assert all(path.is_file() for path in copies)
    assert target / "prepare_data/mixture.csv" in copies
    assert shipping.stale(repository / "results", repository) == []
    (target / "prepare_data/mixture.csv").write_text("better,numbers")
    assert shipping.stale(repository / "results", repository)[0].reasons == ("mixture.csv was changed",)
    (target / "old.csv").write_text("of another time")
    shipping.ship(repository / "runs/tiny", target, repository)
    assert not (target / "old.csv").exists()  # a shipment is replaced as a whole
    edit(repository, "tune", "7919", "7907")
    found = shipping.stale(repository / "results", repository)
    assert [item.unit for item in found] == ["tune[BM]", "tune[TR]"]
    assert found[0].reasons == ("code 03_tune.ipynb changed",)
    assert found[0].cure.startswith("textreg run --profile tiny --run runs/tiny-seed-0 && ")


@pytest.mark.parametrize("target", ["foreign", "runs/other", "runs/tiny", "runs/tiny/shipped", "runs", "file"])
def test_a_shipment_replaces_nothing_but_an_earlier_one(repository, target):
    (repository / "foreign").mkdir()
    (repository / "foreign" / "thesis.txt").write_text("years of work")
    (repository / "file").write_text("")
    shutil.copytree(repository / "runs/tiny", repository / "runs/other")
    before = contents(repository)
    with pytest.raises(InputError, match="ship to"):
        shipping.ship(repository / "runs/tiny", repository / target, repository)
    assert contents(repository) == before


def test_a_stale_run_is_not_shipped(repository):
    edit(repository, "figures", "<svg>", "<svg >")
    with pytest.raises(RunError, match="figures is stale"):
        shipping.ship(repository / "runs/tiny", repository / "results" / "x", repository)


def full(*given, **named):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


FULL = "no space left on the disk; free some and run the same command again"


@pytest.mark.parametrize("place", [(plan, "write_json"), (children, "launch"), (runner.reporting.Report, "start")])
def test_a_disk_that_fills_during_a_run_is_one_line(repository, monkeypatch, place):
    edit(repository, "figures", "<svg>", "<svg >")
    monkeypatch.setattr(*place, full)
    with pytest.raises(RunError) as caught:
        runner.run("tiny", root=repository, report=quiet())
    assert str(caught.value).endswith(FULL) and "\n" not in str(caught.value)


def test_a_cache_of_hashes_that_finds_no_room_fails_no_run(repository, monkeypatch):
    monkeypatch.setattr(HashCache, "save", full)
    assert list(runner.run("tiny", root=repository, report=quiet()).units("kept")) == UNITS


def test_a_unit_whose_notebook_finds_no_room_fails_with_that_reason(repository, monkeypatch):
    profile, unit = profiles.load("tiny", repository), Unit("figures")
    state = plan.assess(profile, place_of(repository), unit, {}, HashCache())
    monkeypatch.setattr(execution.notebooks, "publish", full)
    monkeypatch.setattr(execution, "_papermill", lambda *given: None)
    job = children.job_of(profile, place_of(repository), state, fresh=False)
    assert execution.execute(job).message.endswith(FULL)
    assert not (repository / "runs/tiny" / unit.folder / "manifest.json").exists()


@pytest.mark.parametrize("evidence", ["whole", "half"])
def test_a_killed_unit_whose_evidence_finds_no_room_is_still_told(repository, monkeypatch, evidence):
    run, unit = repository / "runs" / "tiny", Unit("figures")
    part = run / "notebooks" / ".06_figures.part-.ipynb"
    text = (run / "notebooks" / "06_figures.ipynb").read_bytes()
    part.write_bytes(text if evidence == "whole" else text[:100])
    if evidence == "whole":
        monkeypatch.setattr(notebooks, "write_json", full)
    state = plan.assess(profiles.load("tiny", repository), place_of(repository), unit, {}, HashCache())
    reader, writer = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    writer.close()
    process.kill()
    child = children.Child(state, process, reader, 0.0, 1)
    assert children.verdict(child, run).message.startswith("its process was ended by SIGKILL")


FAULTS = """
import os, sys
from pathlib import Path
from textreg.errors import InputError
folder = Path(run) / "tune" / arm
if arm == "raises":
    raise ValueError("the loss is not a number")
if arm == "input":
    raise InputError("rows.parquet lacks a column")
if arm == "exits":
    sys.exit(0)
if arm == "dies":
    os._exit(1)
if arm == "lacks":
    print("and writes nothing")
if arm == "executor":
    os.kill(os.getppid(), 9)
"""
EXPECTED = {
    "raises": "cell 2 raised ValueError: the loss is not a number",
    "input": "rows.parquet lacks a column (cell 2)",
    "exits": "cell 2 left the notebook by sys.exit(0); the rest did not run",
    "dies": "the kernel died in cell 2: it was killed (often for memory) or it crashed",
    "lacks": "every cell ran, but tune/lacks lacks adapter/*.safetensors, log.csv, shown.csv",
    "executor": "its process was ended by SIGKILL, often for want of memory",
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """A run in which every arm fails in its own way, and what it raised."""
    arms = "\n".join(f"  - {{arm: {name}}}" for name in EXPECTED)
    text = tiny_chain.PROFILE.partition("arms:")[0] + "arms:\n" + arms + "\n"
    root = tiny_chain.build(tmp_path_factory.mktemp("faulty"), text)
    tiny_chain.write(root, "tune", FAULTS, "print('the next cell')")
    with pytest.raises(RunError) as caught:
        runner.run("tiny", root=root, jobs=2, report=quiet())
    return root, str(caught.value)


@pytest.mark.parametrize("arm", EXPECTED)
def test_each_kind_of_failure_has_its_own_message_and_leaves_its_notebook(faulty, arm):
    root, message = faulty
    run = root / "runs" / "tiny"
    assert f"tune[{arm}]: {EXPECTED[arm]}" in message
    found = {unit.name: state for unit, state in report.collect(run, root).items()}
    assert found[f"tune[{arm}]"].state == "failed"
    assert found[f"tune[{arm}]"].reasons[0].startswith(EXPECTED[arm])
    record = json.loads((run / f"notebooks/03_tune-{arm}.failed.ipynb").read_text())["metadata"]["textreg"]
    assert record["failure"].startswith(EXPECTED[arm])
    assert not (run / f"notebooks/03_tune-{arm}.ipynb").exists()
    assert not (run / f"tune/{arm}/manifest.json").exists()


def test_what_follows_a_failure_is_not_run_and_what_came_before_is_kept(faulty):
    root, _ = faulty
    found = {unit.name: state.state for unit, state in report.collect(root / "runs/tiny", root).items()}
    assert found["align"] == "done"
    assert found["figures"] == "missing"
    assert list((root / "runs/tiny/notebooks").glob(".*")) == []


def test_the_runner_is_imported_without_torch_or_papermill():
    heavy = "{'torch', 'papermill', 'pandas'}"
    code = f"import sys; from textreg.runs import report, runner; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(("scale", "lines"), [("scenes", 2), ("pictures", 1)])
def test_a_run_ends_in_what_it_found_and_tells_the_claims_of_scenes_to_scenes_alone(tmp_path, scale, lines):
    folder = tmp_path / "evaluate"
    folder.mkdir()
    rows = ["system,arm,language,class_asked", "BM,image,de,0.2", "BM,image,fr,0.4", "BM,image,en,1", "BM,text,de,1"]
    (folder / "fidelity.csv").write_text("\n".join(rows))
    (folder / "claims.csv").write_text("verdict\nmet\nmet\nmissed")
    (folder / manifest.NAME).write_text(json.dumps({"parameters": {"scale": scale}}))
    told = ["asked language under pictures: BM 30 %", "claims: 2 met, 1 missed (evaluate/claims.csv)"]
    assert report.headline(tmp_path) == told[:lines]
