import json
import os
import stat
from functools import partial

import pandas as pd
import pytest
from PIL import Image

from textreg.errors import InputError, RunError
from textreg.pictures import gather

SVG = '<rect width="16" height="16" fill="#f00"/>'


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Puts a client of that name in front of the path, which does what its lines say."""

    def put(name: str, *lines: str) -> None:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}/bin")

    return put


def test_every_source_has_a_version_a_licence_and_a_hash():
    told = gather.sources()
    assert all({"version", "licence", "sha256"} <= set(each) for each in told["pip"].values())
    assert all({"version", "licence", "integrity"} <= set(each) for each in told["npm"].values())
    assert len({each.get("style") for each in told["npm"].values()} - {None}) == 5


def test_a_folder_made_with_other_concepts_is_refused(tmp_path, monkeypatch):
    for folder in ("packages", "tower", "llm", "pictures"):
        (tmp_path / folder).mkdir()
    for made in ("packages/complete", "tower/config.json", "llm/config.json"):
        (tmp_path / made).touch()
    (tmp_path / "pictures" / "about.json").write_text(json.dumps({"picture_concepts": 200}))
    assert gather.gather(tmp_path, 200, print) == tmp_path / "pictures"
    with pytest.raises(InputError, match="has 200 concepts, not 50: remove it, or take another --out"):
        gather.gather(tmp_path, 50, print)


def test_names_come_from_languages_that_name_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(gather, "CLDR_LEAST", 2)
    told = {"❤": {"tts": ["Herz"], "default": ["Liebe", "a|b"]}, "👁\ufe0f": {"tts": ["Auge"]}, "x": {"default": ["y"]}}
    for code, signs in {"de": told, "tlh": {"❤": told["❤"]}, "de-AT": told}.items():
        (tmp_path / code).mkdir()
        content = {"annotations": {"annotations": signs}}
        (tmp_path / code / "annotations.json").write_text(json.dumps(content), "utf-8")
    assert list(gather.cldr(tmp_path)) == [
        {"concept": "2764", "language": "de", "name": "Herz", "words": "Liebe | a b"},
        {"concept": "1f441", "language": "de", "name": "Auge", "words": ""},
    ]


def test_a_drawing_is_found_in_single_files_and_in_a_set_of_icons(tmp_path):
    pytest.importorskip("resvg_py")
    icons, files = tmp_path / "icons", tmp_path / "files"
    for folder in (icons, files / "img"):
        folder.mkdir(parents=True)
    (icons / "icons.json").write_text(json.dumps({"icons": {"heart": {"body": SVG}}, "width": 16, "height": 16}))
    (icons / "chars.json").write_text(json.dumps({"2764-fe0f": "heart", "1": "unknown"}))
    Image.new("RGBA", (8, 8), (255, 0, 0, 255)).save(files / "img" / "2764-fe0f.webp", lossless=True)
    packages = {"icons": {"style": "flat"}, "files": {"style": "solid"}, "names": {}}
    assert gather.draw(tmp_path, packages, {"2764", "1"}, tmp_path / "out", side=4) == ["2764"]
    for style in ("flat", "solid"):
        assert Image.open(tmp_path / "out" / style / "2764.png").getpixel((2, 2)) == (255, 0, 0)


def test_what_the_tower_tells_apart_counts_the_training_styles_alone(tmp_path, monkeypatch):
    for style in ("a", "b", "twemoji"):
        for concept in ("one", "two", "three"):
            (tmp_path / style).mkdir(exist_ok=True)
            (tmp_path / style / f"{concept}.png").touch()
    place = {"one": (1.0, 0.0), "two": (0.0, 1.0), "three": (-1.0, -1.0)}

    def features(tower, paths, batch):
        assert "twemoji" not in {path.parent.name for path in paths}
        swapped = {"one": "two", "two": "one"} if paths[0].parent.name == "b" else {}
        return pd.DataFrame([place[swapped.get(path.stem, path.stem)] for path in paths]).to_numpy()

    monkeypatch.setattr(gather, "features", features)
    shares = gather.told_apart(tmp_path, tmp_path).set_index("concept")["share"]
    assert shares["three"] == 1.0
    assert shares["one"] == shares["two"] == 0.5


def test_a_client_that_is_missing_is_named_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="npm is not installed: install Node"):
        gather.by_npm({}, tmp_path)


def test_a_changed_package_is_one_line_of_the_client(tmp_path, client):
    client("npm", 'echo "npm ERR! code EINTEGRITY" >&2', 'echo "npm ERR! more" >&2', "exit 1")
    with pytest.raises(RunError, match="EINTEGRITY") as caught:
        gather.by_npm({"a": {"version": "1.0.0", "licence": "MIT", "integrity": "sha512-x"}}, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("licence", "refused"), [("MIT", False), ("GPL-3.0", True)])
def test_a_licence_that_is_another_one_than_when_it_was_looked_at_is_refused(tmp_path, client, licence, refused):
    client("npm", "mkdir -p node_modules/a", f'echo \'{{"license": "{licence}"}}\' > node_modules/a/package.json')
    take = partial(gather.by_npm, {"a": {"version": "1.0.0", "licence": "MIT", "integrity": "sha512-x"}}, tmp_path)
    if not refused:
        take()
        assert json.loads((tmp_path / "package-lock.json").read_text())["packages"]["node_modules/a"]["integrity"]
        return
    with pytest.raises(InputError, match=r"licence is 'GPL-3\.0', not MIT"):
        take()
