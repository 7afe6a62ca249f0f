"""Append-only JSON lines that survive a kill: what was paid for once is never asked for again.

One record per line, under the key it was asked for.  A record that does not hold what the caller needs of one is left
out, as if it had never been answered.  A line is written with its line break in one call and handed to
the system at once, so a killed process leaves at most one torn last line, which the next one cuts off; damage anywhere
else is an error, since somebody edited the file.  One process writes at a time, held by a lock beside the file.

Use: ``with Journal("answers.jsonl") as journal: journal.append(key, {"answer": "..."})``.
"""

import json
import os
from collections.abc import Iterator, Mapping
from io import BufferedRandom
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any

from filelock import FileLock, Timeout

from textreg.errors import InputError

KEY = "key"


class Journal:
    """Records by key, on disk and in memory.

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
        line = json.dumps({KEY: key, **record}, ensure_ascii=True)
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
                key = record.pop(KEY)
            except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
                raise InputError(
                    f"{self.path}, line {number}: not a record of this journal; repair the line, or delete the file "
                    "and lose what it keeps"
                ) from None
            if all(name in record and isinstance(record[name], kind) for name, kind in self._needs.items()):
                yield str(key), record
        self._file.seek(whole)
        self._file.truncate()
