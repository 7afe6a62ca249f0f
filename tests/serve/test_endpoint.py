"""Answers of a served model: asked once, kept through faults and kills, written in the shape that scoring reads."""

import base64

import pandas as pd
import pytest
from faulty_server import FaultyServer, Server, completion, last_text
from PIL import Image

from textreg.data.images import open_image
from textreg.errors import RunError
from textreg.fidelity.service import Service
from textreg.serve.endpoint import evaluate, sentences
from textreg.serve.probes import probe_set, scene_set

COLUMNS = ["seed", "system", "lambda", "language", "arm", "item_id", "task", "prompt", "answer", "reference"]
PROBES = scene_set(("en", "es"), 3)


def service(server, **options) -> Service:
    return Service(server.url, "vlm", **{"timeout": 20, "first_wait": 0.01, "longest_wait": 0.05, **options})


def test_every_probe_is_asked_and_written_in_order(tmp_path):
    with FaultyServer(lambda body: f" {last_text(body)} ") as server:
        done = evaluate(service(server), PROBES, tmp_path, progress=False)
    table = pd.read_parquet(done.answers)
    assert list(table) == COLUMNS
    assert list(table["prompt"]) == [probe.prompt for probe in PROBES.probes]
    assert list(table["answer"]) == [probe.prompt.removeprefix("<image>\n") for probe in PROBES.probes]
    assert (done.asked, done.kept, dict(done.unanswered)) == (18, 0, {})
    assert (done.tokens_in, done.tokens_out) == (180, 54)


def test_images_go_as_png_and_text_goes_alone(tmp_path):
    with FaultyServer() as server:
        evaluate(service(server), PROBES, tmp_path, progress=False)
    kinds = {True: 0, False: 0}
    for body in server.requests:
        assert (body["temperature"], body["max_tokens"], body["model"]) == (0, 64, "vlm")
        content = body["messages"][0]["content"]
        kinds[isinstance(content, str)] += 1
        if not isinstance(content, str):
            assert [part["type"] for part in content] == ["image_url", "text"]
            png = base64.b64decode(content[0]["image_url"]["url"].removeprefix("data:image/png;base64,"))
            assert open_image(png).size == (224, 224)
    assert kinds == {True: 6, False: 12}


def test_a_second_run_asks_nothing_and_a_changed_argument_asks_again(tmp_path):
    with FaultyServer() as server:
        evaluate(service(server), PROBES, tmp_path, progress=False)
        again = evaluate(service(server), PROBES, tmp_path, progress=False)
        assert (again.asked, again.kept, len(server.requests)) == (0, 18, 18)
        more = evaluate(service(server), scene_set(("en", "es"), 4), tmp_path, progress=False)
        assert (more.asked, more.kept) == (6, 18)
        longer = evaluate(service(server), PROBES, tmp_path, max_tokens=9, progress=False)
        assert (longer.asked, longer.kept) == (18, 0)


def test_a_request_that_fails_for_good_is_counted_and_left_out(tmp_path):
    with FaultyServer(faults=["", "400"]) as server:
        done = evaluate(service(server, concurrency=1), PROBES, tmp_path, progress=False)
        assert (done.asked, sum(done.unanswered.values()), len(pd.read_parquet(done.answers))) == (17, 1, 17)
        assert "1 requests without an answer" in sentences(done)[1]
        healed = evaluate(service(server), PROBES, tmp_path, progress=False)
        assert (healed.asked, healed.kept, len(pd.read_parquet(done.answers))) == (1, 17, 18)


def test_a_picture_refused_for_its_size_is_sent_smaller_and_that_is_said(tmp_path):
    def play(body):
        content = body["messages"][0]["content"]
        if isinstance(content, list):
            data = content[0]["image_url"]["url"].removeprefix("data:image/png;base64,")
            if max(open_image(base64.b64decode(data)).size) > 336:
                return 413, {"error": {"message": "payload too large"}}
        return 200, completion("hola")

    folder = tmp_path / "images"
    folder.mkdir()
    Image.effect_noise((700, 500), 50).save(folder / "large.png")
    probes = probe_set(str(folder), ["es"], 1)
    with Server(play) as server:
        done = evaluate(service(server), probes, tmp_path / "out", progress=False)
    assert done.unanswered == {} and (done.asked, len(server.requests)) == (2, 4)
    assert "2 pictures were refused for their size and sent with 336 pixels at most" in sentences(done)


def test_an_arm_without_a_single_answer_is_named(tmp_path):
    def play(body):
        return (
            (200, completion("hola")) if isinstance(body["messages"][0]["content"], str) else (400, {"error": "blind"})
        )

    with Server(play) as server:
        done = evaluate(service(server, failures=99), PROBES, tmp_path, progress=False)
    assert [note.split()[5] for note in done.notes] == ["blank", "image"]


def test_a_run_without_a_single_answer_is_a_failed_run(tmp_path):
    with (
        Server(lambda _: (200, completion("", "content_filter"))) as server,
        pytest.raises(RunError, match="content filter"),
    ):
        evaluate(service(server), PROBES, tmp_path, progress=False)


def test_a_server_that_breaks_down_loses_nothing(tmp_path):
    with FaultyServer(faults=["", "", "", *["500"] * 99]) as server, pytest.raises(RunError, match="is kept"):
        evaluate(service(server, attempts=2, failures=2, concurrency=1), PROBES, tmp_path, progress=False)
    assert (tmp_path / "answers.jsonl").read_text().count("\n") == 3


def test_answers_cut_by_the_token_limit_are_counted(tmp_path):
    class Cutting(FaultyServer):
        def _completion(self, body):
            completion = super()._completion(body)
            completion["choices"][0]["finish_reason"] = "length"
            return completion

    with Cutting() as server:
        assert evaluate(service(server), PROBES, tmp_path, progress=False).cut == 18


def test_strange_answers_reach_the_table_whole(tmp_path):
    strange = ["", "\x00\x1b[2J", "\u202e<script>", "x" * 100_000, "a\r\nb", '"}{', "\u2028", "\ud800"]
    left = iter(strange * 99)
    with FaultyServer(lambda _: next(left)) as server:
        done = evaluate(service(server, concurrency=1), PROBES, tmp_path, progress=False)
    assert list(pd.read_parquet(done.answers)["answer"])[:8] == [
        text.strip().replace("\ud800", "?") for text in strange
    ]


def test_progress_is_plain_lines_without_a_terminal(tmp_path, capsys):
    with FaultyServer() as server:
        evaluate(service(server), PROBES, tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "answers: 18 of 18"
    assert 2 < len(lines) <= 11


def test_the_key_is_in_no_file_of_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-123")
    with FaultyServer(lambda _: "my key is sk-secret-123", faults=["500", "429"]) as server:
        evaluate(service(server), PROBES, tmp_path)
    assert server.headers[0]["authorization"] == "Bearer sk-secret-123"
    assert all(b"sk-secret" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert "sk-secret" not in "".join(capsys.readouterr())
