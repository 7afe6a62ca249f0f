"""Files that are whole or absent: atomic writes, journals, hashes, and the checks before anything is written.

A file gets its final name by a rename on the same disk, so a kill leaves the old file or the new one, never half of
one.  What grows line by line is a :class:`Journal`, of which a kill costs at most the last line.  Content hashes are
remembered by size and modification time (:class:`HashCache`), so that a run with nothing to do does not read gigabytes
again.  Paths that come from files are resolved through :func:`inside`, which refuses to leave a folder.

Use: ``with atomic_write("fidelity.csv") as path: table.to_csv(path)``;
``with Journal("answers.jsonl") as journal: journal.append(key, {"answer": "..."})``.
"""

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from io import BufferedRandom
from pathlib import Path, PurePosixPath
from types import MappingProxyType, UnionType
from typing import Any, TypeVar
from uuid import uuid4

import yaml
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from textreg.errors import InputError, RunError

#: Files over this size are hashed by their first and last MiB and their size (a data set, a foreign checkpoint).
SAMPLED_OVER = 256 * 2**20
#: In the names of a file on its way in and of a folder on its way out: ``.align.removed-x7f3``.
PART, REMOVED = ".part-", ".removed-"

JOURNAL_KEY = "key"
Model = TypeVar("Model", bound=BaseModel)
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A temporary neighbour of ``path`` that, flushed, takes its place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[:100]}{PART}{uuid4().hex[:8]}{path.suffix}")
    temporary.touch()
    try:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``; on success it is flushed and takes its place, on failure it is removed.

    Raises InputError naming ``path`` where its folder cannot be made or written, or the disk is full.
    """
    path, within = Path(path), False
    try:
        with _beside(path) as temporary:
            within = True
            yield temporary
            within = False
    except OSError as failure:
        if within and failure.errno not in FULL:  # what else fails in the caller's block may be another file's
            raise
        reason = failure.strerror or type(failure).__name__
        cure = "free some space" if failure.errno in FULL else "name a place that can be written"
        raise InputError(f"{path}: cannot be written ({reason}): {cure}") from failure


def write_text(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` through a temporary neighbour and a rename."""
    with _beside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON in ``path``.  Raises :class:`InputError` naming the file when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and run the stage again") from None


class Foreign(BaseModel):
    """A JSON object that somebody else wrote: what is read of it has the right type, the rest may be anything."""

    model_config = ConfigDict(extra="allow")


def read_as(path: Path, form: type[Model], cure: str = "download or save it again") -> Model:
    """The JSON object in ``path`` in the form of a pydantic model; one line of InputError when it is not one."""
    try:
        return form.model_validate(json.loads(path.read_text(encoding="utf-8-sig")))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        reason = f"{where}: {first['msg']}"
    except (OSError, ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise InputError(f"{path} is not as it should be ({reason}); {cure}")


def inside(folder: Path, relative: str) -> Path:
    """``folder / relative``, refused unless it stays inside ``folder`` (no ``..``, no absolute path, no link out)."""
    pure = PurePosixPath(relative)
    target = folder / relative
    if pure.is_absolute() or ".." in pure.parts or not target.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"path {relative!r} leaves the folder {folder}; only paths inside it are accepted")
    return target


def require_room(folder: Path, free_bytes: int, cure: str = "choose another folder with --run") -> None:
    """Make ``folder`` and prove that it can be written and that its disk has ``free_bytes`` left.

    Raises :class:`InputError` ending in ``cure``: a read-only folder and a full disk are told apart.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable."):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write to {folder} ({reason}); {cure}") from None
    if free < free_bytes:
        raise InputError(
            f"{folder}: {free / 2**20:.0f} MiB free, this run needs about {free_bytes / 2**20:.0f} MiB; "
            f"free some space, or {cure}"
        )


def trouble(error: OSError, place: str) -> str:
    """What a disk that refused something in ``place`` means for the user, in one line."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{place}: no space left on the disk; free some and run the same command again"
    return f"{error.filename or place}: {error.strerror or error}; mend that and run the same command again"


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file; over :data:`SAMPLED_OVER` bytes of its size, first and last MiB (prefixed
    ``sampled-``)."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if size <= SAMPLED_OVER:
            for block in iter(lambda: file.read(2**20), b""):
                digest.update(block)
            return digest.hexdigest()
        digest.update(f"{size}\n".encode())
        digest.update(file.read(2**20))
        file.seek(-(2**20), os.SEEK_END)
        digest.update(file.read())
    return "sampled-" + digest.hexdigest()


def files_under(folder: Path) -> Iterator[Path]:
    """Every file under ``folder`` in a fixed order, without hidden names, checkpoints, caches, TensorBoard's files and
    the manifest."""
    for root, names, files in os.walk(folder, onerror=_refuse_unreadable):
        names[:] = sorted(name for name in names if not _passing(name))
        for name in sorted(files):
            if not _passing(name) and name != "manifest.json":
                yield Path(root) / name


def _refuse_unreadable(error: OSError) -> None:
    """A folder that vanished has no files; one that cannot be read would count as empty."""
    if isinstance(error, PermissionError):
        raise InputError(f"{error.filename} cannot be read ({error.strerror}); mend its permissions or move it away")


def _passing(name: str) -> bool:
    # TensorBoard puts host name and time into the name of its files, and times into what they hold.
    passing = (".", "checkpoint", "__pycache__", "events.out.tfevents")
    return name.startswith(passing) or name in ("cache", "trainer_state")


class HashCache:
    """SHA-256 by path, remembered while size and modification time stay the same.

    The cache file only saves time: a missing or damaged one is made anew.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        if path is not None and path.is_file():
            try:
                known = json.loads(path.read_text(encoding="utf-8"))
                self._known = known if isinstance(known, dict) else {}
            except (OSError, ValueError):
                self._known = {}

    def file(self, path: Path) -> str:
        """Hash of one file; a link to nothing, a pipe or a device counts by its kind and target, it is never opened.

        Raises :class:`InputError` naming a file that cannot be read.
        """
        if not path.is_file():
            if not os.path.lexists(path):
                raise InputError(f"{path} is missing")
            target = os.readlink(path) if path.is_symlink() else ""
            return digest([stat.S_IFMT(path.lstat().st_mode), target])
        try:
            return self._content(path)
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror or error}); mend its permissions or move it away"
            ) from None

    def _content(self, path: Path) -> str:
        found = path.stat()
        key = str(path.resolve())
        stamp = [found.st_size, found.st_mtime_ns]
        known = self._known.get(key)
        if not (isinstance(known, list) and known[:2] == stamp):
            known = [*stamp, sha256(path)]
            self._known[key] = known
            self._changed = True
        return str(known[2])

    def folder(self, folder: Path) -> dict[str, str]:
        """Relative POSIX path -> hash of every result file under ``folder`` (see :func:`files_under`)."""
        return {path.relative_to(folder).as_posix(): self.file(path) for path in files_under(folder)}

    def kept(self, name: str, stamp: Any, make: Callable[[], Any]) -> Any:
        """What ``make()`` gave, a JSON-able value, remembered while ``stamp``, another one, stays the same."""
        known = self._known.get(name)
        if not (isinstance(known, list) and len(known) == 2 and known[0] == stamp):
            known = self._known[name] = [stamp, make()]
            self._changed = True
        return known[1]

    def save(self) -> None:
        """Write the cache when something was added."""
        if self._path is not None and self._changed:
            write_json(self._path, self._known)
            self._changed = False


def digest(value: Any) -> str:
    """Hex SHA-256 of a JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def meaning(path: Path) -> dict[str, str]:
    """Relative POSIX path -> hash of a data file, or of each in a folder; YAML and JSON by their content, so that
    comments and layout do not count."""
    paths = sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
    kept = [found for found in paths if "__pycache__" not in found.parts and found.name != "manifest.json"]
    return {found.relative_to(path.parent).as_posix(): _content(found, found.stat().st_mtime_ns) for found in kept}


@lru_cache(maxsize=512)
def _content(path: Path, _time: int) -> str:
    try:
        if path.suffix in (".yaml", ".yml"):
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            return digest(yaml.load(path.read_text(encoding="utf-8"), loader))
        if path.suffix == ".json":
            return digest(json.loads(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValueError, TypeError):
        # What reads a damaged file names it; here it only has to differ from the whole one.
        return sha256(path)
    return sha256(path)


def remove_tree(folder: Path) -> None:
    """Delete ``folder``; it loses its name first, so that a kill never leaves a half-deleted one under it.

    Of a link only the link goes, never what it points to.  What a kill leaves is for :func:`sweep`.
    """
    if not os.path.lexists(folder):
        return
    try:
        if folder.is_symlink() or not folder.is_dir():
            folder.unlink()
            return
        doomed = tempfile.mkdtemp(prefix=f".{folder.name}{REMOVED}", dir=folder.parent)
        os.replace(folder, Path(doomed) / folder.name)
        shutil.rmtree(doomed)
    except OSError as error:
        raise RunError(f"cannot remove {folder}: {error.strerror or error}") from None


def sweep(folder: Path, name: str = "**/") -> None:
    """Remove what killed writes and removals have left anywhere below ``folder``, or of ``folder / name`` alone; what
    resists does no harm and stays."""
    start = f"{name}.*" if name.endswith("/") else f".{name}"
    for left in [*folder.glob(f"{start}{PART}*"), *folder.glob(f"{start}{REMOVED}*")]:
        with suppress(OSError):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


class Journal:
    """Records by key, one JSON object a line, on disk and in memory: what was paid for once is never asked for again.

    A line is written with its line break in one call and handed to the system at once, so a killed process leaves at
    most one torn last line, which the next one cuts off; damage anywhere else is an error, since somebody edited the
    file.  One process writes at a time, held by a lock beside the file.

    ``needs``: fields that a record has, and what they hold, such as ``{"answer": str}``; another one is passed over,
    and its key is not known.  Raises InputError when the file is damaged, or open in another process.
    """

    def __init__(self, path: str | Path, needs: Mapping[str, type | UnionType] = MappingProxyType({})):
        self.path = Path(path)
        self._needs = needs
        self._records: dict[str, dict[str, Any]] = {}
        self._file: BufferedRandom | None = None
        self._lock = FileLock(self.path.parent / f".{self.path.name}.lock")

    def __enter__(self) -> "Journal":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"{self.path}: another process is writing it; wait for it or name another file") from None
        except OSError as error:
            raise InputError(
                f"{self.path.parent}: cannot be written ({error.strerror}); name another folder"
            ) from None
        try:
            self._file = open(self.path, "rb+" if self.path.exists() else "wb+")
            self._records = dict(self._read())
        except OSError as error:
            self.__exit__()
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); name another file") from None
        except InputError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
        self._lock.release()

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._records[key]

    def __len__(self) -> int:
        return len(self._records)

    def append(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep a JSON-able record under its key; on disk, short of the disk's own cache, when this returns."""
        line = json.dumps({JOURNAL_KEY: key, **record}, ensure_ascii=True)
        self._file.write(line.encode("ascii") + b"\n")
        self._file.flush()
        self._records[key] = dict(record)

    def _read(self) -> Iterator[tuple[str, dict[str, Any]]]:
        whole = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                record = json.loads(line)
                key = record.pop(JOURNAL_KEY)
            except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
                raise InputError(
                    f"{self.path}, line {number}: not a record of this journal; repair the line, or delete the file "
                    "and lose what it keeps"
                ) from None
            if all(name in record and isinstance(record[name], kind) for name, kind in self._needs.items()):
                yield str(key), record
        self._file.seek(whole)
        self._file.truncate()
