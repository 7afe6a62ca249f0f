"""One door for hub ids and local folders.

``resolve`` turns what a profile names into a folder on disk and says in one line what is wrong when it cannot.  A name
is ``ID_OR_FOLDER[@REVISION][:GLOB]``: the revision pins a hub repository, the glob chooses among the data files of a
data set (``liuhaotian/LLaVA-Instruct-150K:llava_instruct_150k.json``).  An existing path always wins over a hub id.
Of a model only safetensors, JSON, chat templates and tokenizer files are fetched: pickled weights are refused and code
is never run.

Nothing is downloaded when ``HF_HUB_OFFLINE=1`` is set; what an earlier call stored is found again.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from textreg.errors import InputError

MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
TWICE = ("consolidated*", "*/*.safetensors")  # the same weights in other layouts
DATA_SUFFIXES = (".parquet", ".jsonl", ".json")  # in the order in which they are preferred
DATA_FILES = tuple(f"*{suffix}" for suffix in DATA_SUFFIXES)
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class Name:
    """The parts of ``ID_OR_FOLDER[@REVISION][:GLOB]``; ``local`` where the first part is a path."""

    base: str
    revision: str | None
    glob: str | None
    local: bool

    @property
    def short(self) -> str:
        """What tables call it: the hub id, or the name of the folder; with the glob where there is one."""
        base = Path(self.base).name if self.local else self.base
        return f"{base}:{self.glob}" if self.glob else base


@cache
def known() -> dict[str, dict[str, Any]]:
    """Well-known data sets: which of their files are read, and at which revision (``well_known.yaml``)."""
    return yaml.safe_load(resources.files(__package__).joinpath("well_known.yaml").read_text("utf-8"))


def parse(name: str) -> Name:
    """Split a name; the revision and files of a well-known data set are filled in where the name gives none."""
    if Path(name).expanduser().exists():
        return Name(name, None, None, True)
    base, _, glob = name.partition(":")
    base, _, revision = base.partition("@")
    if glob.startswith("/") or ".." in glob.split("/"):
        raise InputError(f"{name}: what stands after ':' is a pattern of files inside the folder, not {glob!r}")
    if Path(base).expanduser().exists():
        return Name(base, revision or None, glob or None, True)
    if base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise InputError(f"{base}: no such file or folder; give an existing path or a hub id like owner/name")
    facts = known().get(base, {})
    return Name(base, revision or facts.get("revision"), glob or facts.get("files"), False)


def resolve(
    name: str,
    *,
    kind: Literal["model", "dataset"] = "model",
    revision: str | None = None,
    files: Sequence[str] = (),
) -> Path:
    """The folder (or single data file) behind ``name``; ``files``: patterns, no others are fetched or asked for.

    Raises ``InputError`` for a missing path, a gated or missing repository, a missing revision, no network, and for a
    model that has pickled weights only.
    """
    parts = parse(name)
    path = Path(parts.base).expanduser() if parts.local else _download(parts, kind, revision or parts.revision, files)
    if kind == "model":
        _check_model(path, parts.base, weights=not files)
    return path


def fetch(name: str, files: Sequence[str]) -> Path:
    """The folder behind a model's ``name``, with those of ``files`` that it has; nothing need be among them.

    Raises what :func:`resolve` does.
    """
    parts = parse(name)
    return Path(parts.base).expanduser() if parts.local else _download(parts, "model", parts.revision, files)


def to_fetch(name: str, *, kind: Literal["model", "dataset"] = "model", files: Sequence[str] = ()) -> dict[str, int]:
    """File -> bytes of what :func:`resolve` would fetch and is not stored here.  Raises what it does."""
    parts = parse(name)
    found = [] if parts.local else _download(parts, kind, parts.revision, files, dry_run=True)
    return {file.filename: file.file_size or 0 for file in found if file.will_download}


def data_files(name: str, path: Path) -> list[Path]:
    """The data files of a resolved data set, sorted: those of the glob, else the file that a well-known data set is
    read from, else the training split, else all of one kind.

    Raises ``InputError`` when there are none.
    """
    if path.is_file():
        return [path]
    glob = parse(name).glob
    if glob:
        files = sorted(found for found in path.glob(glob) if found.is_file())
        if not files:
            raise InputError(f"{name}: no file matches {glob!r} in {path.name}; it holds {_listing(path)}")
        return files
    for facts in known().values():  # a copy of a known data set, with other JSON files beside the data
        if (path / facts.get("files", "*")).is_file():
            return [path / facts["files"]]
    for suffix in DATA_SUFFIXES:
        files = sorted(found for found in path.rglob(f"*{suffix}") if not found.name.startswith("."))
        files = [found for found in files if found.name not in ("dataset_infos.json", "config.json")]
        training = [found for found in files if "train" in found.relative_to(path).as_posix().lower()]
        if files:
            return training or files
    raise InputError(f"{name}: no .parquet, .jsonl or .json file in {path.name}; it holds {_listing(path)}")


def _listing(path: Path) -> str:
    names = sorted(found.name for found in path.iterdir())
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"


def _check_model(path: Path, name: str, *, weights: bool) -> None:
    if not path.is_dir():
        raise InputError(f"{name}: a model is a folder with config.json and *.safetensors, this is a file")
    if not (path / "config.json").is_file():
        raise InputError(f"{name}: no config.json; a model is a folder with config.json and *.safetensors")
    if weights and not any(path.glob("*.safetensors")):
        pickled = [found.name for pattern in PICKLED for found in path.glob(pattern)]
        cure = "convert it with save_pretrained (safetensors), pickled weights are not read"
        held = f"only {pickled[0]}" if pickled else "no weights"
        raise InputError(f"{name}: {held} and no *.safetensors; {cure}")


def _download(name: Name, kind: str, revision: str | None, files: Sequence[str] = (), *, dry_run: bool = False) -> Any:
    from huggingface_hub import constants, errors, snapshot_download

    patterns = list(files or (MODEL_FILES if kind == "model" else DATA_FILES))
    if kind == "dataset" and name.glob:
        archives = known().get(name.base, {}).get("archives", [])
        patterns = [name.glob, *archives]
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{name.base}"
    try:
        found = snapshot_download(
            name.base,
            repo_type=kind,
            revision=revision,
            allow_patterns=patterns,
            ignore_patterns=list(TWICE) if kind == "model" else None,
            dry_run=dry_run,
        )
        return found if dry_run else Path(found)
    except errors.GatedRepoError as error:
        cure = f"accept its terms at {page}, then log in with `hf auth login`"
        raise InputError(f"{name.base}: the repository is gated; {cure}") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{name.base}: no revision {revision!r}; see {page}/commits/main") from error
    except errors.RepositoryNotFoundError as error:
        cure = "check the spelling; if it is private, log in with `hf auth login`"
        raise InputError(f"{name.base}: no such {kind} on the hub and no such folder here; {cure}") from error
    except errors.HFValidationError as error:
        raise InputError(f"{name.base!r} is neither an existing folder nor a hub id like owner/name") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.DryRunError, ConnectionError) as error:
        cure = "connect (unset HF_HUB_OFFLINE) or download it elsewhere and give the folder"
        raise InputError(f"{name.base}: not stored here and the hub was not reached; {cure}") from error
    except errors.HfHubHTTPError as error:
        raise InputError(
            f"{name.base}: the hub answered with an error ({str(error).splitlines()[0]}); try later"
        ) from error
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        cure = "free some space there, or set HF_HOME to a folder on another disk"
        raise InputError(
            f"{name.base}: cannot be stored in {constants.HF_HUB_CACHE} ({error.strerror or error}); {cure}"
        ) from error
