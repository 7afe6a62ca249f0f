"""Append-only records: answers and verdicts written as they are made, so that an interruption loses at most one line.

A file of JSON lines.  The first line names the *plan* the records belong to (a hash of everything that decides them);
a file of another plan is started anew.  A last line torn by a kill is cut off, everything before it is kept.

    with Records(path, plan) as records:
        todo = [key for key in keys if key not in records.known]
        records.add(key, {"answer": "..."})
"""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from textreg.errors import InputError


class Records:
    """Key -> value pairs in a growing file; use it in a ``with`` block.

    ``known`` holds what earlier runs of the same plan left; ``add`` writes one line and flushes it to the system, so
    that a killed process loses nothing it has added.
    """

    def __init__(self, path: str | Path, plan: str):
        self.path, self.plan = Path(path), plan
        self.known: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._read() if self.path.exists() else 0
        if whole:
            os.truncate(self.path, whole)
        self._file = open(self.path, "ab" if whole else "wb")
        if not whole:
            self._write({"plan": self.plan})
        return self

    def _read(self) -> int:
        """Fill ``known``; the number of bytes that whole lines of this plan take, 0 if the file is another plan's."""
        whole = 0
        with open(self.path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    record = json.loads(line)
                    if number == 1:
                        if record != {"plan": self.plan}:
                            return 0
                    else:
                        self.known[record["key"]] = record["value"]
                except (ValueError, KeyError, TypeError):
                    cure = "delete the file to ask again"
                    raise InputError(f"{self.path.name}, line {number}: not a record; {cure}") from None
                whole += len(line)
        return whole

    def add(self, key: str, value: Any) -> None:
        """Append one record."""
        self.known[key] = value
        self._write({"key": key, "value": value})

    def _write(self, record: dict) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
