"""Studies: which runs a file means, what is made once, and that whatever ends in the middle ends in the same table."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import forks
import numpy as np
import pandas as pd
import psutil
import pytest
import slurm_node
import tiny_study
import yaml
from rich.console import Console

from textreg.errors import InputError
from textreg.files import write_json
from textreg.runs import manifest, stages, study, study_run, study_table, study_unit

ROOT = Path(__file__).parents[2]
ONE_SEED = tiny_study.STUDY.replace("seeds: [0, 1]", "seeds: [0]")
SHIPPED = sorted(path.stem for path in (ROOT / "profiles" / "studies").glob("*.yaml"))


def planned(root, name="tiny"):
    found = study.points(study.load(name, root), name, root / study.RUNS / name)
    return found, study.survey(found, root / study.RUNS / name, root)


def edited(root, old, new):
    path = root / "profiles" / "studies" / "tiny.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    return root


def test_lists_are_crossed_and_every_row_comes_with_every_seed(tmp_path):
    root = edited(tiny_study.build(tmp_path), "[0.1, 0.5]", "[0.1, 0.5]\n    tune.steps: [3, 6]")
    names = [point.name for point in planned(root)[0]]
    rows = [f"TR-text-share-{share}-steps-{steps}" for share in (0.1, 0.5) for steps in (3, 6)]
    assert names == [f"{row}-seed-{seed}" for row in ["BM", *rows] for seed in (0, 1)]


def test_zipped_lists_go_side_by_side_and_reach_stage_and_arm(tmp_path):
    root = edited(tiny_study.build(tmp_path), "[0.1, 0.5]", "[0.1, 0.5]\n    tune.steps: [3, 6]\n    zip: true")
    last = planned(root)[0][-1]
    assert last.settings == {"TR.text_share": 0.5, "tune.steps": 6} and last.profile.seed == 1
    assert last.profile.arms[0]["text_share"] == 0.5 and last.profile.sections["tune"]["steps"] == 6


REFUSED = {
    "an unknown arm": ("arms: [TR]", "arms: [TX]", "unknown arm 'TX'"),
    "an unknown scope": ("TR.text_share", "TRR.text_share", "say stage.key, or ARM.key"),
    "an unknown setting": ("TR.text_share", "TR.text_shar", "did you mean 'text_share'"),
    "a value out of range": ("[0.1, 0.5]", "[0.1, 5]", "less than or equal to 1"),
    "no list": ("[0.1, 0.5]", "0.1", "needs a list of values"),
    "lists of two lengths": ("[0.1, 0.5]", "[0.1]\n    tune.steps: [1, 2]\n    zip: true", "lists of one length"),
    "a run twice": ("[0.1, 0.5]", "[0.1, 0.1]", "another run is called TR-text-share-0.1-seed-0"),
    "an unknown key": ("seeds:", "seed:", "seed"),
    "an expectation without a bound": (", within: 0.1}", "}", "give one of at_least"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_is_refused_in_one_line_for(tmp_path, case):
    old, new, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as error:
        planned(edited(tiny_study.build(tmp_path), old, new))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_study_says_its_prediction_its_runs_are_valid_profiles_and_its_tables_hold_no_others(name):
    asked = study.load(name, ROOT)
    names = {point.name for point in study.points(asked, name, ROOT / study.RUNS / name)}
    assert asked.prediction and asked.question and names
    for path in (ROOT / study_table.FOLDER / name).glob("*.csv"):
        assert set(pd.read_csv(path)["run"]) <= names


def bring_all(root, name):
    """Every unit of a study, each in a fork, as the engine would order them."""
    found, jobs = planned(root, name)
    study_run.claim(found, root / study.RUNS / name, root)
    for job in jobs:
        point, unit = job.point, job.state.unit
        assert forks.ended(_bring, root, name, point, unit) == 0, job.manifest


def _bring(root, name, point, unit):
    tiny_study.in_process()
    study_unit.bring(name, point, unit, root)


def started(root, name):
    return {path.relative_to(root / study.RUNS / name): manifest.read(path.parent)["started"]
            for path in (root / study.RUNS / name).rglob(manifest.NAME)}  # fmt: skip


def test_points_share_what_is_the_same_and_a_second_study_takes_it_from_the_first(tmp_path):
    root = tiny_study.build(tmp_path, ONE_SEED)
    jobs = planned(root)[1]
    shared = [(job.point, job.state.unit.stage) for job in jobs if job.twin]
    assert shared == [(f"TR-text-share-{x}-seed-0", stage) for x in (0.1, 0.5) for stage in ("prepare_data", "align")]
    bring_all(root, "tiny")
    assert [job.state.state for job in planned(root)[1]] == ["done"] * 12
    runs = root / study.RUNS / "tiny"
    assert (runs / "BM-seed-0/align/base.json").samefile(runs / "TR-text-share-0.1-seed-0/align/base.json")

    tiny_study.build(root, ONE_SEED, "again")
    store = root / study.RUNS / ".store"
    damaged = next(path for path in store.glob("*/files/adapter/*") if "TR" in manifest.read(path.parents[1])["unit"])
    damaged.unlink()
    bring_all(root, "again")
    first, second = started(root, "tiny"), started(root, "again")
    assert len({key for key in first if first[key] != second[key]}) <= 1
    tables = [pd.read_csv(root / study_table.FOLDER / name / "table.csv") for name in ("tiny", "again")]
    pd.testing.assert_frame_equal(*tables)
    weights = root / study.RUNS / "tiny" / "BM-seed-0" / "align" / "model"  # a backbone has a manifest of its own
    write_json(weights / manifest.NAME, {"files": {}})
    pd.testing.assert_frame_equal(pd.read_csv(study_table.write("tiny", root)), tables[0])
    assert not study_run.cost(planned(root)[1], root / study.RUNS / "tiny", root)


def test_a_run_whose_row_stands_is_made_again_only_where_that_is_asked_for(tmp_path):
    root = tiny_study.build(tmp_path, ONE_SEED)
    bring_all(root, "tiny")
    study_table.write("tiny", root)
    shutil.rmtree(root / study.RUNS)  # another machine, with the table alone

    def units(**options):
        console = Console(record=True, quiet=False, file=io.StringIO(), width=200)
        study_run.run("tiny", dry_run=True, root=root, console=console, **options)
        told = console.export_text()
        return int(next(line for line in told.splitlines() if line.startswith("all")).split()[1]), told

    count, told = units()
    assert count == 0 and "the rows of 3 runs stand" in told
    assert units(again=True)[0] == 12
    tiny_study.build(root, ONE_SEED.replace("seeds: [0]", "seeds: [0, 1]"))
    assert units()[0] == 12  # those of the new seed
    points = root / study_table.FOLDER / "tiny" / "points.csv"
    points.write_text(points.read_text().replace(pd.read_csv(points)["key"][0], "0" * 16))
    count, told = units()
    assert count == 16 and "1 runs are of other settings or code" in told


def test_a_row_is_a_mean_over_languages_of_one_group_and_undefined_stays_empty():
    answers = pd.DataFrame(
        [("TR", "caption", "image", "es", "asked", True, None)] * 3
        + [("TR", "caption", "image", "eu", "english", False, None)]
        + [("TR", "colour", "image", "en", "asked", True, True), ("TR", "count", "image", "en", "asked", True, False)],
        columns=["system", "task", "arm", "language", "class", "lf", "content"],
    ).assign(lf_plus=lambda table: table["lf"], **{"lambda": 1.0})
    table = study_table.rows(answers, {"foreign": ["es", "eu"], "en": ["en"]}).set_index(["task", "group"])
    captions, questions = table.loc[("caption", "foreign")], table.loc[("questions", "en")]
    assert captions[["asked", "english", "lf", "n"]].tolist() == [0.5, 0.5, 0.5, 4] and pd.isna(captions["content"])
    assert questions["content"] == 0.5 and questions["n"] == 2


def test_the_cost_of_a_study_comes_from_measured_seconds_and_shared_units_count_once(tmp_path):
    root = tiny_study.build(tmp_path, ONE_SEED)
    jobs = planned(root)[1]
    shipped = root / "results" / "laptop" / "seed-0"
    settings = {job.state.unit: dict(job.state.identity.parameters) for job in jobs if "TR" in job.point}
    for unit, seconds in ((stages.Unit("prepare_data"), 3.0), (stages.Unit("tune", "TR"), 8.0)):
        record = {"format": 1, "stage": unit.stage, "seconds": seconds, "parameters": settings[unit]}
        record |= {"code": {}, "inputs": {}, "outputs": {}}
        write_json(shipped / unit.folder / manifest.NAME, record)
    found = study_run.cost(jobs, root / study.RUNS / "tiny", root)
    assert found == {"prepare_data": pytest.approx(3.0), "tune": pytest.approx(24.0)}


def test_a_verdict_is_paired_by_seed_and_needs_two():
    rows = [(seed, share, share + noise + extra) for seed, noise in enumerate((0.0, 0.3, 0.1)) for share, extra in
            ((0.1, 0.0), (0.5, 0.01 * seed))]  # fmt: skip
    table = pd.DataFrame(rows, columns=["seed", "share", "asked"]).assign(task="caption", arm="image", group="foreign")
    asked = {"says": "more", "of": {"share": 0.5}, "against": {"share": 0.1}}
    found, word = study_table.verdict(table, study.Expected(**asked, at_least=0.35))
    assert (word, round(found.value, 6), found.runs) == ("met", 0.41, 3) and found.low < 0.41 < found.high
    assert study_table.verdict(table, study.Expected(**asked, within=0.1))[1] == "missed"
    assert study_table.verdict(table, study.Expected(**asked, at_least=0.41))[1] == "undecided"
    assert study_table.verdict(table[table["seed"] == 0], study.Expected(**asked, at_least=0.0))[1] == "undefined"


def test_a_rule_is_fitted_on_half_of_the_settings_with_all_their_seeds_and_predicts_the_others():
    same = {"lambda": 1.0, "task": "caption", "group": "foreign", "n": 4} | dict.fromkeys(study_table.MEASURES, 0.5)
    rows = [
        {"run": f"{pull}-{seed}", "seed": seed, "backbone.context_pull": pull, "system": system, "arm": arm}
        | same
        | {"asked": value}
        for pull in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
        for seed in (0, 1)
        for system, arm, value in (("backbone", "text_en", 1 - pull), ("BM", "image", 0.9 - 1.5 * pull))
    ]
    rule = study.Rule(of={"system": "BM"}, by={"system": "backbone", "arm": "text_en"})
    found = study_table.law(pd.DataFrame(rows), rule)
    assert np.allclose(found["predicted"], found["of"])
    assert found.groupby("backbone.context_pull")["fitted"].nunique().eq(1).all()
    assert found["fitted"].mean() == 0.5
    assert study_table.law(pd.DataFrame(rows[:20]), rule).empty


def test_a_backbone_of_a_study_is_made_before_the_alignment_that_reads_it():
    found = study.points(study.load("where_loss", ROOT), "where_loss", ROOT / study.RUNS / "where_loss")
    jobs = study.survey(found[:2], ROOT / study.RUNS / "where_loss", ROOT)
    align = next(job for job in jobs if job.state.unit.stage == "align")
    assert f"{align.point}/backbone/manifest.json" in align.after
    assert align.state.settings.llm.endswith(f"{align.point}/backbone/model/llm")


def test_without_the_engine_one_line_says_how_to_install_it(tmp_path, monkeypatch):
    root = tiny_study.build(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda *given, **named: None)
    with pytest.raises(InputError, match="uv tool install 'snakemake"):
        study_run.run("tiny", root=root)


PROGRAMS = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
needs_engine = pytest.mark.skipif(
    shutil.which("snakemake", path=PROGRAMS) is None, reason="Snakemake is not installed"
)


def start(root, name="tiny", where="local", **environment):
    words = [sys.executable, tiny_study.__file__, "study", str(root), name, where]
    return subprocess.Popen(words, env={**os.environ, **environment}, start_new_session=True,
                            stdout=(root / f"{name}.log").open("w"), stderr=subprocess.STDOUT)  # fmt: skip


def finish(root, name="tiny", where="local", **environment):
    code = start(root, name, where, **environment).wait(900)
    table = root / study_table.FOLDER / name / "table.csv"
    return code, table.read_text() if table.is_file() else "", (root / f"{name}.log").read_text()


def members(process, word):
    """Processes below one whose command holds a word."""
    found = []
    for one in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended since
            found += [one] if word in " ".join(one.cmdline()) else []
    return found


def until(found, process):
    while not (now := found()):
        assert process.poll() is None
        time.sleep(0.05)
    return now


@pytest.mark.slow
@needs_engine
def test_a_study_that_loses_its_engine_its_jobs_a_point_or_the_disk_ends_in_the_same_table(tmp_path):
    whole = tiny_study.build(tmp_path / "whole", ONE_SEED)
    code, expected, _ = finish(whole)
    assert code == 0 and expected.count("\n") == 1 + 3 * 2 * 2 * 3  # runs, tasks, arms, groups

    root = tiny_study.build(tmp_path / "spoilt", ONE_SEED)
    process = start(root, JOB_S="2")
    jobs = until(lambda: members(process, "tune"), process)
    for one in members(process, "snakemake"):
        one.kill()
    assert process.wait(60) != 0
    assert psutil.wait_procs(jobs, timeout=20)[1] == []  # no job outlives its engine

    process = start(root, JOB_S="2")
    until(lambda: members(process, "tune"), process)[0].kill()
    (root / "diverges").touch()
    assert process.wait(300) != 0
    code, _, told = finish(root)
    assert code == 1 and "1 units not made" in told
    assert "TR-text-share-0.5-seed-0 tune[TR]: the loss is not finite" in told

    (root / "diverges").rename(root / "full")
    code, _, told = finish(root)
    assert code == 1 and "tune[TR]: [Errno 28] No space left on device" in told
    (root / "full").unlink()

    process = start(root, JOB_S="2")
    until(lambda: members(process, "--engine"), process)
    words = [sys.executable, tiny_study.__file__, "study", str(root), "tiny", "local"]
    assert "is in use by process" in subprocess.run(words, capture_output=True, text=True, check=False).stdout
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    code, table, _ = finish(root)  # its lock went with it
    assert (code, table) == (0, expected)


@pytest.mark.slow
@needs_engine
def test_two_studies_side_by_side_make_every_shared_unit_once(tmp_path):
    root = tiny_study.build(tiny_study.build(tmp_path, ONE_SEED), ONE_SEED, "again")
    both = [start(root, name) for name in ("tiny", "again")]
    assert [process.wait(600) for process in both] == [0, 0]
    first, second = started(root, "tiny"), started(root, "again")
    assert first == second and len(first) == 12


@pytest.mark.slow
@needs_engine
@pytest.mark.skipif(bool(slurm_node.missing()), reason=f"SLURM needs {', '.join(slurm_node.missing())}")
def test_under_slurm_a_study_survives_a_killed_job_and_a_killed_controller(tmp_path):
    whole = tiny_study.build(tmp_path / "whole", ONE_SEED)
    code, expected, _ = finish(whole)
    assert code == 0

    root = tiny_study.build(tmp_path / "cluster", ONE_SEED)
    (root / "workflow").unlink()
    profile = yaml.safe_load((ROOT / "workflow/profiles/slurm/config.yaml").read_text())
    own = {"slurm-status-command": "squeue", "slurm-init-seconds-before-status-checks": 1, "slurm-no-account": True}
    own |= {"seconds-between-status-checks": 1, "default-resources": {"runtime": 10, "mem_mb": 100}}
    for place in ("profiles/one/config.yaml", "Snakefile"):
        (root / "workflow" / place).parent.mkdir(parents=True, exist_ok=True)
    (root / "workflow" / "Snakefile").symlink_to(ROOT / "workflow" / "Snakefile")
    (root / "workflow" / "profiles" / "one" / "config.yaml").write_text(yaml.safe_dump(profile | own))
    with slurm_node.Cluster(tmp_path / "slurm") as cluster:
        process = start(root, where="one", JOB_S="12", **cluster.environment)
        begun = root / "executed.txt"
        until(begun.exists, process)
        cluster.ask("scancel", "--signal=KILL", "--full", cluster.ask("squeue", "-h", "-o", "%i").split()[0])
        until(lambda: begun.read_text().count("\n") > 1, process)
        time.sleep(6)  # a controller writes down what it was given after five seconds
        cluster.kill_controller()
        time.sleep(2)
        cluster.start_controller()
        until(lambda: (root / "runs/studies/tiny/BM-seed-0/align/manifest.json").exists(), process)
        os.killpg(process.pid, signal.SIGKILL)  # command and engine, while jobs of the cluster go on
        process.wait()
        code, table, told = finish(root, "tiny", "one", **cluster.environment)
        assert (code, table) == (0, expected), told
