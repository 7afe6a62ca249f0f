"""One arm, tuned in two processes by the command, is the arm that a run finds done."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import forks
import pytest
import torch
from conftest import Placeholders, write_prepared
from safetensors.torch import load_file

from textreg import compute, ranks
from textreg.errors import InputError
from textreg.files import HashCache
from textreg.runs import manifest, parallel, plan, profiles, runner
from textreg.runs.stages import Unit
from textreg.training import checkpoints, probing
from textreg.training.learner import Learner
from textreg.vlm import assembly
from textreg.vlm.adapters import attach

ROOT = Path(__file__).parents[2]
PROFILE = """
name: pair
scale: scenes
seed: 0
stages: [prepare_data, align, tune]
align: {{llm: {llm}, tower: {tower}}}
tune: {{steps: 4, batch_size: 8, rank: 4, alpha: 8, log_steps: 2}}
arms:
  - {{arm: TR, text: multilingual, text_share: 0.5}}
"""


@pytest.fixture
def run(tmp_path, tiny_llm, tiny_tower):
    """A run whose data and alignment are there, with manifests."""
    file, folder = tmp_path / "pair.yaml", tmp_path / "run"
    file.write_text(PROFILE.format(llm=tiny_llm, tower=tiny_tower))
    profile, place = profiles.load(str(file)), plan.Place(folder, ROOT / "notebooks")
    plan.claim(profile, place, ROOT)
    write_prepared(folder)
    model, _ = assembly.assemble(str(tiny_llm), str(tiny_tower))
    assembly.save_aligned(model, folder / "align", assembly.Base(str(tiny_llm), str(tiny_tower)))
    for unit in (Unit("prepare_data"), Unit("align")):
        state = plan.assess(profile, place, unit, {}, HashCache())
        record = {"profile": "pair", "notebook": "", "began": datetime.now(UTC), "peak_memory_mb": 0.0}
        outputs = HashCache().folder(folder / unit.folder)
        manifest.write(folder / unit.folder, unit, state.identity, outputs, threads=1, resumed=False, **record)
    return folder


def command(folder, *words):
    """The command with which the book starts it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, "-m", "textreg.runs.parallel", str(folder), *words]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


def two_forks(folder, arm):
    """The same in forks; nothing is said."""
    code = max(forks.together(2, folder.parent, parallel.tune_arm, folder, arm))
    return subprocess.CompletedProcess([], code, "4 steps", "")


@pytest.mark.parametrize("start", [two_forks, pytest.param(command, marks=pytest.mark.slow)])
def test_two_processes_tune_an_arm_as_one_does_and_the_run_finds_it_done(run, tmp_path, start, capsys):
    settings = parallel.look(run, "TR", ROOT).settings
    alone = parallel.tune(settings, tmp_path / "alone")
    done = start(run, "TR")
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{alone.steps} steps" in done.stdout
    expected, found = (
        load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (tmp_path / "alone", run / "tune/TR")
    )
    assert expected.keys() == found.keys()
    assert max(float((expected[name] - found[name]).abs().max()) for name in expected) < 2e-3
    assert parallel.look(run, "TR", ROOT).state == "done"
    parallel.tune_arm(run, "TR")
    assert "tune[TR] is up to date" in capsys.readouterr().out


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_an_arm_whose_alignment_has_not_run_is_one_line_of_the_first_process(run, monkeypatch, capsys, rank, lines):
    (run / "align" / manifest.NAME).unlink()
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as ended:
        parallel.main(run, "TR")
    told = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(told) == lines
    assert all("tune[TR] needs align" in line and "--to align" in line for line in told)


def test_a_run_folder_in_use_is_left_alone(run):
    with runner.sole(run), pytest.raises(InputError, match="in use by process"):
        parallel.tune_arm(run, "TR")


def test_weights_that_were_gathered_from_shards_make_a_whole_adapter(run, tmp_path):
    settings, out = parallel.look(run, "TR", ROOT).settings, tmp_path / "out"
    model = attach(assembly.load_aligned(run / "align")[0], rank=4, alpha=8)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    checkpoints.save_trained(Learner(model), out / checkpoints.GATHERED)
    found = parallel.whole(None, settings, out)
    expected = dict(model.named_parameters())
    assert all(torch.equal(parameter, expected[name]) for name, parameter in found.named_parameters())
    assert not (out / checkpoints.GATHERED).exists()


def test_every_process_takes_the_gpu_of_its_number_and_more_processes_than_gpus_are_refused(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "3")
    compute.set_up(1, precision="bf16")
    assert chosen == [3]
    compute.set_up(1, precision="bf16", device="cpu")
    assert chosen == [3]
    monkeypatch.setenv("LOCAL_RANK", "4")
    with pytest.raises(InputError, match=r"process 5 .* finds 4 GPUs.*nproc-per-node=4"):
        compute.set_up(1, precision="bf16")
    monkeypatch.delenv("LOCAL_RANK")
    compute.set_up(1, precision="bf16")
    assert chosen == [3]


def agree():
    """Each process brings its number; all must find the smallest."""
    assert ranks.smallest(4 + 4 * ranks.leads(), "cpu") == 4


def test_processes_agree_on_the_smallest_micro_batch(tmp_path):
    assert forks.together(2, tmp_path, agree) == [0, 0]
    assert ranks.smallest(7, "cpu") == 7  # one process agrees with itself, without a group


def test_the_probe_takes_what_all_processes_can_take(monkeypatch, tiny_vlm, tiny_rows):
    """CUDA is a stand-in: eight rows fit here, two in the other process."""
    from textreg.settings import Tune
    from textreg.training.batches import encode

    model, processor = tiny_vlm
    samples = encode(processor, tiny_rows, Placeholders(), max_length=128)
    monkeypatch.setattr(probing.torch.cuda, "current_device", lambda: 1)
    properties = type("Properties", (), {"total_memory": 2**30})
    monkeypatch.setattr(probing.torch.cuda, "get_device_properties", {1: properties}.__getitem__)
    monkeypatch.setattr(probing, "largest", lambda share, fits: 8)
    monkeypatch.setattr(probing.ranks, "smallest", lambda value, device: min(value, 2))
    settings = Tune(batch_size=8)
    assert probing.probe_micro_batch(model, samples, None, settings, "cuda") == 2
