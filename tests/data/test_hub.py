"""The door to hub ids and folders, against a hub that runs on the loopback interface."""

import json
import os
import subprocess
import sys
from pathlib import Path

import hub_folders
import hub_server
import pytest

from textreg.data import hub as hubs
from textreg.data import sources
from textreg.errors import InputError

RESOLVE = """
import json, sys
from huggingface_hub import constants
from textreg.data import crossmodal, hub
from textreg.errors import InputError
for offline, names in enumerate(json.loads(sys.argv[1])):
    constants.HF_HUB_OFFLINE, found = bool(offline), {}
    for name, kind in names:
        try:
            found[name] = str(crossmodal.resolve(name, ["de"]) if "few" in name else hub.resolve(name, kind=kind))
        except InputError as error:
            found[name] = f"InputError: {error}"
    print(json.dumps(found))
"""


def resolve(online, offline, endpoint, store):
    """Resolve names with a network and then without one, in a process of its own, since the hub's address is read when
    its library is imported.
    """
    env = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(store), "HF_HUB_OFFLINE": "0"}
    env |= {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", RESOLVE, json.dumps([online, offline])]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()[-2:]]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """What is found on a hub that holds a data set and a model, and what is found again without a network."""
    root, store = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("store")
    hub_folders.crossmodal(root / "owner" / "captions")
    hub_folders.crossmodal(root / "owner" / "few")
    (root / "owner" / "captions" / "loader.py").write_text("raise SystemExit")
    for name, weights in (("model", "model.safetensors"), ("pickled", "pytorch_model.bin")):
        folder = root / "owner" / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / weights).write_bytes(b"weights")
    found = [("owner/captions", "dataset"), ("owner/few", "dataset"), ("owner/model", "model")]
    found.append((f"owner/captions@{hub_server.COMMIT}:data/de-*", "dataset"))
    refused = [("owner/pickled", "model"), ("owner/captions@v9", "dataset")]
    refused += [("gated/model", "model"), ("nobody/nothing", "model")]
    with hub_server.serving(root) as (endpoint, asked):
        online, offline = resolve([*found, *refused], [*found, ("owner/never", "model")], endpoint, store)
    return online, offline, asked


def test_a_hub_id_becomes_a_folder_with_its_data_files_and_no_code(hub):
    folder = Path(hub[0]["owner/captions"])
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        f"{code}-00000-of-00001.parquet" for code in ("de", "en", "quz")
    ]
    assert not any("loader.py" in line and "resolve" in line for line in hub[2])


def test_of_the_languages_of_crossmodal_those_that_are_asked_about_alone_are_fetched(hub):
    found = [path.name for path in Path(hub[0]["owner/few"]).rglob("*.parquet")]
    assert found == ["de-00000-of-00001.parquet"]


def test_data_files_are_chosen_by_the_glob_of_the_name(hub):
    name = f"owner/captions@{hub_server.COMMIT}:data/de-*"
    assert [path.name for path in hubs.data_files(name, Path(hub[0][name]))] == ["de-00000-of-00001.parquet"]


def test_pickled_weights_are_not_even_fetched(hub):
    assert "no *.safetensors" in hub[0]["owner/pickled"]
    assert not any("pytorch_model.bin" in line and "resolve" in line for line in hub[2])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "gated/model",
            "gated/model: the repository is gated; accept its terms at https://huggingface.co/gated/model",
        ),
        ("nobody/nothing", "nobody/nothing: no such model on the hub and no such folder here; check the spelling"),
        ("owner/captions@v9", "owner/captions: no revision 'v9'; see https://huggingface.co/datasets/owner/captions"),
    ],
)
def test_what_the_hub_refuses_is_one_line_with_its_cure(hub, name, said):
    assert hub[0][name].startswith(f"InputError: {said}")
    assert "\n" not in hub[0][name]


def test_what_was_fetched_once_is_found_without_a_network(hub):
    online, offline, _ = hub
    assert offline["owner/captions"] == online["owner/captions"]
    assert offline["owner/model"] == online["owner/model"]
    assert "the hub was not reached" in offline["owner/never"]


def test_a_folder_without_data_names_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"no \.parquet, \.jsonl or \.json file in .*; it holds notes\.txt"):
        hubs.data_files(str(tmp_path), tmp_path)


def test_a_missing_folder_is_one_clear_line():
    with pytest.raises(InputError, match=r"\./nowhere: no such file or folder"):
        hubs.resolve("./nowhere", kind="dataset")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("owner/name", ("owner/name", None, None)),
        ("owner/name@abc123", ("owner/name", "abc123", None)),
        ("owner/name@v1:a(b,c)/*.parquet", ("owner/name", "v1", "a(b,c)/*.parquet")),
        ("liuhaotian/LLaVA-Instruct-150K", ("liuhaotian/LLaVA-Instruct-150K", None, "llava_instruct_150k.json")),
        ("floschne/xm3600", ("floschne/xm3600", "8d3e5665526c55a5855cd6ddfbaba2032bc7cee4", None)),
    ],
)
def test_a_name_splits_into_id_revision_and_files(name, parts):
    found = hubs.parse(name)
    assert (found.base, found.revision, found.glob) == parts


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"only pytorch_model\.bin and no \*\.safetensors; convert"):
        hubs.resolve(str(tmp_path))


def test_a_full_copy_of_a_known_data_set_is_read_from_its_own_file(tmp_path):
    folder = hub_folders.pretrain(tmp_path / "lcs")
    (folder / "blip_laion_cc_sbu_558k_meta.json").write_text('[{"id": "1", "blip_caption": "x"}]', "utf-8")
    files = hubs.data_files(str(folder), folder)
    assert [path.name for path in files] == ["blip_laion_cc_sbu_558k.json"]
    assert len(list(sources.read(str(folder), "visual"))) == 12
