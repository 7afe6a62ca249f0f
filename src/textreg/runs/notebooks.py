"""Notebook files: the ``parameters`` cell, and the cleaning of executed ones.

The parameters cell is read with ``ast`` (papermill's own reader works by line and misses ``s = "a=b"``).  An
executed notebook is cleaned before it gets its final name: machine paths become relative, the values of
secret-looking environment variables are blotted out, papermill's input and output paths go.  A failed one is cleaned
likewise and keeps its failure in its metadata.
"""

import ast
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from textreg.errors import InputError
from textreg.files import write_json
from textreg.settings import Stage

SECRET_NAME = re.compile(
    r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|(?<![A-Z])(PASS|PAT|AUTH(?!_SOCK)|DSN)(?![A-Z]))",
    re.IGNORECASE,
)
#: ``user:password`` of an address (of a proxy, a database), whatever variable holds it.
IN_ADDRESS = re.compile(r"://([^/\s:@]*:([^/\s@]+))@")


@dataclass(frozen=True)
class Failure:
    """Why a unit failed, in one line.  ``cell`` counts the source's code cells from 1; ``user``: exit code 2."""

    message: str
    cell: int | None = None
    user: bool = False


def read(path: Path) -> dict[str, Any]:
    """The notebook as plain JSON.  Raises :class:`InputError` naming the file when it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"notebook {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise InputError(f"notebook {path} is damaged ({error})") from None
    if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
        raise InputError(f"notebook {path} is damaged (no list of cells)")
    if not all(isinstance(cell, dict) and {"cell_type", "source"} <= set(cell) for cell in content["cells"]):
        raise InputError(f"notebook {path} is damaged (a cell without type or source)")
    return content


def source(cell: Mapping[str, Any]) -> str:
    """The text of a cell, which may be stored as one string or as lines."""
    return "".join(cell.get("source", ""))


def parameters(path: Path) -> dict[str, Any]:
    """Name -> literal value of every assignment in the cell tagged ``parameters``.

    Raises :class:`InputError` when there is not exactly one such cell, or when it holds anything but plain
    assignments.
    """
    tagged = [cell for cell in _code_cells(read(path)["cells"]) if "parameters" in _tags(cell)]
    if len(tagged) != 1:
        raise InputError(f"notebook {path}: {len(tagged)} code cells are tagged 'parameters', one is needed")
    try:
        statements = ast.parse(source(tagged[0])).body
    except SyntaxError as error:
        raise InputError(f"notebook {path}: the parameters cell is not valid Python (line {error.lineno})") from None
    values: dict[str, Any] = {}
    for statement in statements:
        where = f"notebook {path}: line {statement.lineno} of the parameters cell"
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or not statement.value or len(targets) != 1:
            raise InputError(f"{where} is no plain assignment")
        try:
            values[targets[0].id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError):
            raise InputError(f"{where} is no literal") from None
    return values


def _code_cells(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [cell for cell in cells if cell["cell_type"] == "code"]


def _tags(cell: Mapping[str, Any]) -> Sequence[str]:
    return cell.get("metadata", {}).get("tags", [])


def computing_cells(path: Path) -> list[Mapping[str, Any]]:
    """The code cells of a notebook in order, without the ``parameters`` cell.  Raises what :func:`read` does."""
    return [cell for cell in _code_cells(read(path)["cells"]) if "parameters" not in _tags(cell)]


def require_parameters(path: Path, settings: Stage) -> None:
    """Refuse a notebook whose parameters cell does not name exactly the settings it will be given."""
    here = set(parameters(path))
    wanted = {field.name for field in fields(settings)}
    if here != wanted:
        parts = [f"lacks {', '.join(sorted(wanted - here))}"] if wanted - here else []
        parts += [f"has unknown {', '.join(sorted(here - wanted))}"] if here - wanted else []
        raise InputError(f"notebook {path}: the parameters cell {' and '.join(parts)}")


def unfinished(content: Mapping[str, Any]) -> Failure | None:
    """The first cell of an executed notebook that failed, left by ``sys.exit`` or did not run; None when all ran."""
    for number, cell in enumerate(_numbered(content["cells"]), start=1):
        for output in cell.get("outputs", []):
            if output.get("output_type") != "error":
                continue
            name, value = output.get("ename", "Error"), " ".join(str(output.get("evalue", "")).split())
            if name == "SystemExit":
                return Failure(f"cell {number} left the notebook by sys.exit({value}); the rest did not run", number)
            if name in ("InputError", "RunError"):
                return Failure(f"{value} (cell {number})", number, user=name == "InputError")
            return Failure(f"cell {number} raised {name}: {value}"[:500], number)
        if source(cell).strip() and cell.get("execution_count") is None:
            return Failure(f"cell {number} did not run", number)
    return None


def cell_number(content: Mapping[str, Any], place: int) -> int:
    """Number of the code cell at ``place`` (from 0, among all cells), as counted in the source notebook."""
    return len(_numbered(content["cells"][: place + 1]))


def _numbered(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The code cells that the source notebook has too: papermill's injected parameters are not counted."""
    return [cell for cell in _code_cells(cells) if "injected-parameters" not in _tags(cell)]


def secrets(environment: Mapping[str, str]) -> list[str]:
    """Values of environment variables whose name says that they are secret, and the passwords in addresses that any
    variable holds, longest first; short ones (below 8 characters) are none."""
    found = {value for name, value in environment.items() if SECRET_NAME.search(name)}
    for value in environment.values():
        found.update(word for pair in IN_ADDRESS.findall(value) for word in pair)
    return sorted((value for value in found if len(value) >= 8), key=lambda value: (-len(value), value))


def blotted(text: str, hidden: Sequence[str]) -> str:
    """``text`` with every secret replaced."""
    for value in hidden:
        text = text.replace(value, "[secret]")
    return text


def cleaned(content: Any, places: Sequence[tuple[str, str]], hidden: Sequence[str]) -> Any:
    """The notebook with machine paths (``places``: path -> what to show) and secrets replaced in every string."""
    if isinstance(content, str):
        if len(content) > 2000 and re.fullmatch(r"[A-Za-z0-9+/=\s]+", content):
            return content  # base64 of a picture
        for path, shown in places:
            content = content.replace(path, shown)
        return blotted(content, hidden)
    if isinstance(content, list):
        return [cleaned(item, places, hidden) for item in content]
    if isinstance(content, dict):
        return {key: cleaned(value, places, hidden) for key, value in content.items()}
    return content


def machine_places(run: Path, shown: str) -> list[tuple[str, str]]:
    """Paths of this machine and what an executed notebook shows in their place, longest first."""
    places = {str(run.resolve()): shown, sys.prefix: "<environment>", str(Path.home()): "~", str(Path.cwd()): "."}
    places[str(Path(__file__).resolve().parents[3])] = "."
    places.pop("/", None)
    return sorted(places.items(), key=lambda item: -len(item[0]))


def publish(
    executed: Path,
    final: Path,
    places: Sequence[tuple[str, str]],
    failure: Failure | None = None,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Clean the notebook in ``executed`` and give it its final name, with the failure in its metadata if there is
    one."""
    content = cleaned(read(executed), places, secrets(environment))
    record = content.setdefault("metadata", {}).get("papermill", {})
    for key in ("input_path", "output_path", "environment_variables"):
        record.pop(key, None)
    if failure is not None:
        message = blotted(failure.message, secrets(environment))
        content["metadata"]["textreg"] = {"failure": message, "cell": failure.cell, "user": failure.user}
    write_json(final, content)
    executed.unlink()
