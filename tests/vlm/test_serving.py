"""The real thing: ``transformers serve`` with a LLaVA checkpoint on loopback, evaluated, scored and asked to judge."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pandas as pd
import pytest

from textreg.errors import InputError, RunError
from textreg.fidelity.judges import LLMJudge
from textreg.fidelity.service import Service
from textreg.micro import assets
from textreg.serve.endpoint import evaluate
from textreg.serve.probes import scene_set
from textreg.serve.score import score_file

pytest.importorskip("fastapi", reason="needs the extra `serving`: pip install textreg[serving]")
pytest.importorskip("uvicorn", reason="needs the extra `serving`: pip install textreg[serving]")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
START = 600  # seconds; a busy machine takes minutes to import everything


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_llm, tiny_tower) -> Path:
    """The shipped micro VLM, unaligned, where the package carries one, else a tiny random one."""
    from textreg.vlm.assembly import assemble

    shipped = (assets.FOLDER / assets.MANIFEST).is_file()
    model, processor = assemble(*(("shipped", "shipped") if shipped else (str(tiny_llm), str(tiny_tower))))
    folder = tmp_path_factory.mktemp("served")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def served(checkpoint, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).parent / "transformers", "serve", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path_factory.mktemp("server") / "log"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with open(log, "wb") as out:
        process = subprocess.Popen([*command, "--device", "cpu"], stdout=out, stderr=out, env=environment)
    try:
        deadline = time.monotonic() + START
        while not _healthy(port):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.5)
        yield Service(f"http://127.0.0.1:{port}", str(checkpoint), timeout=300, attempts=2, first_wait=0.1, failures=3)
    finally:
        process.terminate()
        process.wait(60)


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def test_a_served_model_is_asked_in_three_arms_and_its_answers_are_scored(served, tmp_path):
    probes = scene_set(("en", "el"), 2)
    done = evaluate(served, probes, tmp_path, max_tokens=8, progress=False)
    assert (done.asked, dict(done.unanswered)) == (12, {})
    assert done.tokens_in > 0
    again = evaluate(served, probes, tmp_path, max_tokens=8, progress=False)
    assert (again.asked, again.kept) == (0, 12)
    answers = pd.read_parquet(done.answers)
    assert answers["answer"].str.len().max() > 0
    result = score_file(done.answers)
    assert set(result.summary["arm"]) == {"image", "blank", "text"}
    assert result.ifl is not None


def test_a_model_that_cannot_judge_decides_nothing(served, tmp_path):
    verdict = LLMJudge(served, tmp_path / "verdicts.jsonl")([("", "La imagen muestra un círculo rojo.", "es")])[0]
    assert verdict.ok is None
    assert "no valid verdict" in verdict.reasons


def test_a_model_that_is_not_served_is_one_line(served, tmp_path):
    wrong = Service(served.url, "no/such-model", timeout=60, attempts=1, failures=1)
    with pytest.raises((InputError, RunError), match="no/such-model") as failure:
        evaluate(wrong, scene_set(("en",), 1), tmp_path, progress=False)
    assert "\n" not in str(failure.value)
