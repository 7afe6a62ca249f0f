"""Bad inputs by command: each ends with exit code 1 or 2 and one clear line, never a traceback, and nothing is lost.

Three tables, multiplied: bad *places* for every argument that names one, bad *contents* for every kind of foreign
file, and bad *words* for every other option.
"""

import hashlib
import json
import os
import re
import struct
import sys
import zipfile
from pathlib import Path

import pytest
from merge_checkpoints import adapted, build_vlm, write_backbone

from textreg import cli

pytestmark = pytest.mark.slow
SPANISH = "Un perro grande corre por la calle mojada."
ROW = {"answer": SPANISH, "language": "es"}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """``base`` and ``vlm`` checkpoints, and an ``adapter`` of the second."""
    folder = tmp_path_factory.mktemp("models")
    write_backbone(folder / "base")
    vlm = build_vlm()
    vlm.save_pretrained(folder / "vlm")
    adapted(vlm).save_pretrained(folder / "adapter")
    return folder


@pytest.fixture
def world(tmp_path, models, monkeypatch) -> Path:
    """A working directory with good inputs, and some bad places in it."""
    for name in ("base", "vlm", "adapter"):
        (tmp_path / name).mkdir()
        for path in (models / name).iterdir():
            os.link(path, tmp_path / name / path.name)
    (tmp_path / "good.jsonl").write_text(json.dumps(ROW) + "\n")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def held(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path)] = os.readlink(path)
        elif path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def refused(words, world, monkeypatch, capsys) -> str:
    """Runs the command and returns its line, after all that is promised of a refusal was checked."""
    before = held(world)
    monkeypatch.setattr(sys, "argv", ["textreg", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code in (1, 2), said
    lines = [line for line in said.splitlines() if line.startswith("textreg: ")]
    usage = "Usage:" in said
    assert "Traceback" not in said and (usage or len(lines) == 1), said
    if not usage:
        assert not said.split("textreg: ", 1)[1].rstrip("\n").count("\n") and len(lines[0]) < 2100
        assert re.search(r"\w{3,}", lines[0].removeprefix("textreg: "))
    after = held(world)
    assert all(after.get(path) == content for path, content in before.items()), "something was lost"
    return said


# ------------------------------------------------------------------------------------------------------- places

READ_FROM = {
    "missing": "no/such/place", "a link to itself": "loop", "a link to nothing": "gone", "300 letters": "n" * 300,
    "NUL": "a\0b", "a home of nobody": "~nobody-here/x", "below a file": "file/x", "nothing": "",
    "a device": "/dev/null", "an empty folder": "empty", "half a surrogate": "x\udcff", "5,000 letters": "d/" * 2500,
}  # fmt: skip
SERVER = ("--endpoint", "http://127.0.0.1:9")
WRITE_TO = {key: READ_FROM[key] for key in ("a link to itself", "300 letters", "NUL", "below a file", "5,000 letters")}
READING = {
    "score ANSWERS": ("score", None),
    "evaluate --images": ("evaluate", "--model", "m", *SERVER, "--out", "e", "--images", None),
    "merge TUNED": ("merge", None, "base", "--out", "m", "--no-check"),
    "merge BASE": ("merge", "vlm", None, "--out", "m", "--no-check"),
    "merge --adapter-base": ("merge", "adapter", "base", "--out", "m", "--no-check", "--adapter-base", None),
    "export --run": ("export", "TR", "--out", "x", "--run", None),
    "ask IMAGE": ("ask", None, "what?", "--model", "vlm"),
    "status RUN": ("status", None),
    "run --profile": ("run", "--dry-run", "--profile", None),
}
WRITING = {
    "score --out": ("score", "good.jsonl", "--out", None),
    "score --figures": ("score", "good.jsonl", "--figures", None),
    "evaluate --out": ("evaluate", "--model", "m", *SERVER, "--out", None),
    "merge --out": ("merge", "vlm", "base", "--no-check", "--out", None),
}
#: What is no error: a place that means the default or the current folder.
FINE = {("evaluate --images", "nothing"), ("merge --adapter-base", "nothing"), ("score ANSWERS", "nothing")}
PLACES = [
    pytest.param(words, place, id=f"{what}: {kind}")
    for commands, places in ((READING, READ_FROM), (WRITING, WRITE_TO))
    for what, words in commands.items()
    for kind, place in places.items()
    if (what, kind) not in FINE
]


@pytest.mark.parametrize(("words", "place"), PLACES)
def test_a_place_that_is_none_is_refused_in_one_line(words, place, world, monkeypatch, capsys):
    refused([place if word is None else word for word in words], world, monkeypatch, capsys)


# ----------------------------------------------------------------------------------------------------- contents

DEEP = "[" * 100_000
JSONS = {
    "nothing": "", "null": "null", "a number": "7", "a word": '"x"', "a list": "[]", "half": '{"a": ', "deep": DEEP,
    "deep objects": '{"a":' * 50_000, "not UTF-8": b"\xff\xfe\x00\xd8", "NaN": "NaN",
    "a huge number": "1" + "0" * 5000,
}  # fmt: skip
ANSWERS = {  # more kinds, each with its message: FILES of test_hostile
    "without a language": ("a.jsonl", json.dumps({"answer": SPANISH})),
    "of a language that is a list": ("a.jsonl", json.dumps({"answer": SPANISH, "language": ["es"]})),
    "an empty JSON list": ("a.json", "[]"),
    "an empty JSON object": ("a.json", "{}"),
    "zip for xlsx": ("a.xlsx", None),
    "text for arrow": ("a.arrow", "ARROW1\0\0"),
    "text for gz": ("a.jsonl.gz", "no gzip"),
    "an archive of nothing": ("a.zip", b"PK\5\6" + bytes(18)),
    "cells too many": ("a.csv", "answer,language\na,es,c,d\n"),
    "NUL in a CSV": ("a.csv", "answer,language\na\0b,e\0s\n"),
    "a data set of nothing": ("d/dataset_info.json", "{}"),
    "a data set cut off": ("d/state.json", '{"_data_files": [{"filename": "x.arrow"}]}'),
    "a data set that is a list": ("d/state.json", "[]"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_file_of_answers_that_is_none_is_refused_in_one_line(kind, world, monkeypatch, capsys):
    name, content = ANSWERS[kind]
    path = world / name
    path.parent.mkdir(exist_ok=True)
    if content is None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("hello.txt", "x")
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = refused(["score", path.parent if name.startswith("d/") else path], world, monkeypatch, capsys)
    assert path.parent.name in said or path.name in said or "line" in said or "row" in said


@pytest.mark.parametrize("kind", JSONS)
@pytest.mark.parametrize(
    "file",
    ["vlm/config.json", "vlm/model.safetensors.index.json", "adapter/adapter_config.json", "base/tokenizer.json"],
)
def test_a_json_file_of_a_checkpoint_that_is_none_is_refused_in_one_line(file, kind, world, monkeypatch, capsys):
    path, content = world / file, JSONS[kind]
    if file == "base/tokenizer.json":
        (world / "vlm" / "tokenizer.json").write_text("{}")
    if file.endswith("index.json"):
        (world / "vlm" / "model.safetensors").rename(world / "vlm" / "model-00001-of-00001.safetensors")
    path.unlink(missing_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    tuned = "adapter" if file.startswith("adapter") else "vlm"
    words = ["merge", tuned, "base", "--out", "m", "--no-check", "--adapter-base", "vlm"]
    refused(words, world, monkeypatch, capsys)
    assert not (world / "m").exists()


def header(value: object, body: bytes = b"") -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text + body


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
WEIGHTS = {
    "nothing": b"",
    "a length alone": struct.pack("<Q", 10),
    "a length beyond all": struct.pack("<Q", 2**63) + b"{}",
    "a list": header([]),
    "deep": header(b'{"a":' * 5000),
    "no dtype": header({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "a huge shape": header({"a": ONE | {"shape": [2**62, 2**62]}}, bytes(8)),
    "offsets backwards": header({"a": ONE | {"data_offsets": [8, 0]}}, bytes(8)),
    "offsets beyond": header({"a": ONE | {"data_offsets": [0, 800]}}, bytes(8)),
    "no tensors": header({}),
    "a tensor of nothing to do with it": header({"a": ONE}, bytes(8)),
    "eight-bit weights": header({"model.norm.weight": ONE | {"dtype": "I8", "data_offsets": [0, 2]}}, bytes(2)),
    "a pickle": b"\x80\x04\x95\x00",
}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize(
    "file", ["vlm/model.safetensors", "base/model.safetensors", "adapter/adapter_model.safetensors"]
)
def test_weights_that_are_none_are_refused_in_one_line(file, kind, world, monkeypatch, capsys):
    (world / file).unlink()
    (world / file).write_bytes(WEIGHTS[kind])
    if (file, kind) == ("adapter/adapter_model.safetensors", "no tensors"):
        pytest.skip("an adapter of nothing changes nothing")
    tuned = "adapter" if file.startswith("adapter") else "vlm"
    words = ["merge", tuned, "base", "--out", "m", "--no-check", "--adapter-base", "vlm"]
    refused(words, world, monkeypatch, capsys)
    assert not (world / "m").exists()


# -------------------------------------------------------------------------------------------------------- words

MERGE, SCORE = ("merge", "vlm", "base", "--no-check", "--out", "m"), ("score", "good.jsonl")
EVALUATE = ("evaluate", "--model", "m", "--out", "e", "--limit", "1")
WORDS = [
    *[(*MERGE, "--lambda", value) for value in ("nan", "inf", "-inf", "1e39", "half", "", "0,5", "1e9")],
    *[(*MERGE, "--method", value) for value in ("", "liner", "LINEAR ", "ties\n", "model_stock")],
    *[(*MERGE, "--method", "trim", "--density", value) for value in ("0", "-1", "1.1", "nan", "inf")],
    *[(*MERGE, "--method", "breadcrumbs", "--density", "0.9", "--gamma", value) for value in ("0.5", "-0.1", "nan")],
    *[(*MERGE, "--pattern", value) for value in ("*", "=", "*=x", "*=nan", "*=1e40", "nothing.like.it=0.5", "[=0.1")],
    *[(*MERGE, "--keep", value) for value in ("nothing.like.it", "", "[")],
    *[(*MERGE, "--seed", value) for value in ("-1", "1.5", "x")],
    ("merge", "vlm", "--out", "m"), ("merge", "base", "vlm", "--out", "m"),
    ("merge", "vlm", "vlm", "base", "--out", "m"),
    ("merge", "vlm", "base", "--out", "vlm"), ("merge", "vlm", "base", "--out", "vlm/inner"),
    ("merge", "vlm", "base", "--out", "."), ("merge", "vlm", "base", "--out", "thesis", "--force"),
    ("merge", "vlm", "base"), ("merge", "vlm", "base", "--out", "file"),
    *[(*SCORE, "--identifier", value) for value in ("pyld2", ",", "pycld2,", "pycld2,pycld2", "nowhere.bin", "a\nb")],
    *[(*SCORE, "--candidates", value) for value in ("en", "xx,yy", "en,,", "english spanish")],
    *[(*SCORE, "--map", value) for value in ("answer", "=", "answer=nowhere", "x=y", "answer=answer=answer")],
    *[(*SCORE, "--near", value) for value in ("", "far", "TOGETHER")],
    *[(*SCORE, "--set-aside", value) for value in ("codes", "code;maths", "all,none")],
    *[(*SCORE, "--judge", value) for value in ("", "gpt", "llm")],
    *[(*SCORE, "--seen", value) for value in ("xx", "es;de")],
    *[(*SCORE, "--price", value) for value in ("1", "a,b", "1,2,3", "nan,1", "-1,2")],
    *[(*SCORE, "--out", value) for value in ("x.xlsx", "x", "good.jsonl", "file", "empty")],
    (*SCORE, "--language", "jp"), (*SCORE, "--figures", "file"),
    *[(*EVALUATE, "--endpoint", value) for value in ("", "localhost", "http://", "ftp://h", "http://u:p@h", "http://h:x")],
    *[(*EVALUATE, *SERVER, option, value)
      for option, value in (("--timeout", "nan"), ("--timeout", "0"), ("--concurrency", "0"), ("--max-tokens", "0"),
                            ("--concurrency", "9" * 20), ("--limit", "0"), ("--limit", "-3"), ("--languages", "xx"),
                            ("--model", ""), ("--model", "  "), ("--identifier", "nobody"))],
    (*EVALUATE, *SERVER),
    ("export", "TR", "--run", "thesis", "--out", "x"), ("export", "", "--run", "empty", "--out", "x"),
    ("status", "thesis"), ("status", "good.jsonl"), ("run", "--profile", "no-such"), ("run", "--only", "no-such"),
    ("run", "--profile", "laptop", "--jobs", "0", "--dry-run"), ("run", "-p", "seed", "--dry-run"),
    ("study", "text_share", "--jobs", "0", "--dry-run"), ("data", "backbone", "empty", "--seed", "-1"),
    ("data", "backbone", "empty", "--languages", ","), ("score", ".", "--judge", "llm", *SERVER, "--model", "m"),
    (*EVALUATE, *SERVER, "--near", "far"),
    ("ask", "file", "what?", "--model", "vlm"), ("ask", "good.jsonl", "", "--model", "base"),
    ("ask", "--system", "XX"), ("ask", "--max-new-tokens", "0"), ("ask", "--language", "Elvish"), ("tell", "me"),
    ("score",), ("score", "good.jsonl", "more.jsonl"), ("score", "good.jsonl", "--colour", "red"),
]  # fmt: skip


@pytest.mark.parametrize("words", WORDS, ids=lambda words: " ".join(words)[-60:])
def test_a_wrong_word_is_refused_in_one_line(words, world, monkeypatch, capsys):
    refused(words, world, monkeypatch, capsys)
