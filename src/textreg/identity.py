"""Identity: what decides whether a finished unit may be kept.

Three parts: the resolved parameters that change results, the hashes of the inputs, and the fingerprint of the code.  Code is
compared by meaning: the notebook's code cells and every module of the package that they import, directly or not, are parsed,
docstrings are dropped, and what is left is hashed; prose, comments, blank lines and the values in the ``parameters`` cell (they
arrive resolved) invalidate nothing.  A module's data files count as its code: a string in it that names a file or folder of
the package claims that.  The hash is over our own rendering of the syntax tree, which leaves empty fields out, because
``ast.dump`` differs between Python versions and shipped results must not look stale under a newer one.

    python -c "from textreg import identity; print(identity.code(Path('notebooks/03_tune.ipynb')))"
"""

import ast
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from textreg import config
from textreg.disk import HashCache, digest
from textreg.errors import InputError

#: Settings that never change a result: where, how fast, how often told.
WITHOUT_EFFECT = frozenset(
    {"run", "out", "device", "threads", "workers", "log_steps", "checkpoint_steps", "cache_features"}
)
#: Modules every notebook imports whose content reaches results only through parts that are hashed already.
NEUTRAL = frozenset({"textreg", "textreg.config", "textreg.errors"})
#: Settings that may name a local file or folder; its content counts, not its place.
LOCAL_DATA = frozenset(
    {"llm", "tower", "vlm", "align_data", "visual_data", "text_data", "evaluation_data", "image_folder", "results"}
)
PACKAGE = Path(__file__).parent
LENGTH = 16  # hex digits kept of a fingerprint: 64 bits


@dataclass(frozen=True)
class Identity:
    """Why a unit's result is what it is.  Plain JSON values; equal identities mean equal results."""

    parameters: Mapping[str, Any]
    code: Mapping[str, str]
    inputs: Mapping[str, str]

    @property
    def digest(self) -> str:
        """One hash of all three parts."""
        return digest({"parameters": self.parameters, "code": self.code, "inputs": self.inputs})


def parameters(settings: config.Stage) -> dict[str, Any]:
    """The settings that change results, as JSON values; a local folder is shown by its name alone."""
    values: dict[str, Any] = {}
    for field in fields(settings):
        if field.name in WITHOUT_EFFECT:
            continue
        value = getattr(settings, field.name)
        if field.name in LOCAL_DATA:
            value = [_place(word) for word in value] if isinstance(value, list) else _place(value)
        values[field.name] = value
    return values


def _place(word: str) -> str:
    return f"local:{Path(word).name}" if word and Path(word).exists() else word


def local_data(settings: config.Stage, hashes: HashCache) -> dict[str, str]:
    """Setting -> hash of the local file or folder that it names."""
    found: dict[str, str] = {}
    for field in fields(settings):
        if field.name not in LOCAL_DATA:
            continue
        value = getattr(settings, field.name)
        for word in value if isinstance(value, list) else [value]:
            path = Path(word)
            if word and path.exists():
                content = hashes.folder(path) if path.is_dir() else {path.name: hashes.file(path)}
                found[f"{field.name}:{path.name}"] = digest(content)[:LENGTH]
    return found


def of(settings: config.Stage, notebook: Path, inputs: Mapping[str, str], hashes: HashCache) -> Identity:
    """Identity of the unit that runs ``notebook`` with ``settings`` on ``inputs`` (upstream unit -> hash of its files)."""
    return Identity(parameters(settings), code(notebook), {**inputs, **local_data(settings, hashes)})


def differences(old: Mapping[str, Any], new: Identity) -> list[str]:
    """What changed from a manifest's identity fields to ``new``, one short phrase each; empty when nothing did."""
    reasons: list[str] = []
    before, now = old.get("parameters", {}), new.parameters
    for key in sorted({*before, *now}):
        if key not in before or key not in now:
            reasons.append(f"parameter {key} is {'new' if key in now else 'gone'}")
        elif before[key] != now[key]:
            reasons.append(f"parameter {key}: {_short(before[key])} -> {_short(now[key])}")
    for what, old_part, new_part in (("code", old.get("code", {}), new.code), ("input", old.get("inputs", {}), new.inputs)):
        changed = sorted(key for key in {*old_part, *new_part} if old_part.get(key) != new_part.get(key))
        reasons += [f"{what} {key} changed" for key in changed]
    return reasons


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


def code(notebook: Path, package: Path = PACKAGE) -> dict[str, str]:
    """Fingerprint per part of the code: the notebook, each module reached from it, and the data files they claim."""
    source = notebook_source(notebook)
    tree = _parse(source, notebook)
    parts = {notebook.name: digest(rendered(tree))[:LENGTH]}
    waiting = sorted(imports(tree, "", package))
    claimed: set[str] = set()
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        path = module_file(name, package)
        if path is None:
            continue
        fingerprint, reached, data = _module(path, name, package, path.stat().st_mtime_ns)
        if name not in NEUTRAL:
            parts[name] = fingerprint
            claimed |= data
        waiting += reached
    for entry in sorted(claimed):
        parts[f"data {entry}"] = data_fingerprint(package / entry)
    return dict(sorted(parts.items()))


def notebook_source(path: Path) -> str:
    """The code cells of a notebook in order as one Python source, without the ``parameters`` cell and IPython magics."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        cells = [
            "".join(cell["source"])
            for cell in content["cells"]
            if cell["cell_type"] == "code" and "parameters" not in cell.get("metadata", {}).get("tags", [])
        ]
    except FileNotFoundError:
        raise InputError(f"notebook {path} does not exist") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"notebook {path} is damaged ({type(error).__name__}: {error})") from None
    return "\n".join(_without_magics(cell) for cell in cells)


def _without_magics(cell: str) -> str:
    if cell.lstrip().startswith("%%"):
        return repr(cell)
    lines = []
    for line in cell.splitlines():
        word = line.lstrip()
        # A magic still counts: as an expression that holds its text.
        lines.append(f"{line[: len(line) - len(word)]}{word!r}" if word.startswith(("%", "!")) else line)
    return "\n".join(lines)


def _parse(source: str, path: Path) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise InputError(f"{path}: not valid Python (line {line} of its code: {getattr(error, 'msg', error)})") from None


@lru_cache(maxsize=512)
def _module(path: Path, name: str, package: Path, _time: int) -> tuple[str, tuple[str, ...], frozenset[str]]:
    tree = _parse(path.read_text(encoding="utf-8"), path)
    data = {path.stem} & {entry.name for entry in package.iterdir() if entry.is_dir()}
    data |= claims(tree, package)
    return digest(rendered(tree))[:LENGTH], tuple(sorted(imports(tree, name, package))), frozenset(data)


def rendered(tree: ast.AST) -> str:
    """The syntax tree as text, without docstrings, positions and empty fields: equal text means equal program."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    parts: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, ast.AST):
            parts.append(f"({type(node).__name__}")
            for name in sorted(node._fields):
                value = getattr(node, name, None)
                if name == "body" and isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
                    value = value[1:]
                if value is None or value == [] or name in ("ctx", "kind", "type_comment", "type_ignores"):
                    continue
                parts.append(f" {name}=")
                walk(value)
            parts.append(")")
        elif isinstance(node, list):
            parts.append("[")
            for item in node:
                walk(item)
            parts.append("]")
        else:
            parts.append(repr(node))

    walk(tree)
    return "".join(parts)


def imports(tree: ast.AST, name: str, package: Path = PACKAGE) -> set[str]:
    """Modules of the package that ``tree`` (of module ``name``; empty for a notebook) imports anywhere in it.

    A string that is the dotted name of a module counts too: that is how a worker process is named.
    """
    root = package.name
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = name.split(".")[: -node.level] if module_file(name, package) else []
                base = ".".join([*above, *([base] if base else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(f"{root}."):
            found.add(node.value)
    return {word for word in found if word.split(".")[0] == root and module_file(word, package) is not None}


def module_file(name: str, package: Path = PACKAGE) -> Path | None:
    """The source file of a module of the package, or None when there is no such module."""
    parts = name.split(".")
    if parts[0] != package.name or not all(part.isidentifier() for part in parts):
        return None
    path = package.joinpath(*parts[1:])
    for candidate in (path / "__init__.py", path.with_suffix(".py") if parts[1:] else path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def claims(tree: ast.AST, package: Path = PACKAGE) -> set[str]:
    """Top-level data files and folders of the package that a string in ``tree`` names (its first path part)."""
    entries = {entry.name for entry in package.iterdir() if entry.suffix != ".py" and not entry.name.startswith(("_", "."))}
    words = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return {word.split("/")[0] for word in words if len(word) < 200} & entries


def data_fingerprint(path: Path) -> str:
    """Hash of a data file or folder of the package; YAML and JSON by their content, so comments and layout do not count."""
    paths = sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
    kept = [found for found in paths if "__pycache__" not in found.parts and found.name != "manifest.json"]
    return digest({found.relative_to(path.parent).as_posix(): _data(found, found.stat().st_mtime_ns) for found in kept})[:LENGTH]


@lru_cache(maxsize=512)
def _data(path: Path, _time: int) -> str:
    from textreg.disk import sha256

    try:
        if path.suffix in (".yaml", ".yml"):
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            return digest(yaml.load(path.read_text(encoding="utf-8"), loader))
        if path.suffix == ".json":
            return digest(json.loads(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValueError, TypeError):
        # A damaged file is named by the module that reads it; here it only has to differ from the whole one.
        return sha256(path)
    return sha256(path)


def graph(notebooks: Iterable[Path]) -> dict[str, tuple[str, ...]]:
    """Notebook name -> modules it depends on: for the status page and for tests."""
    return {path.name: tuple(part for part in code(path) if part.startswith("textreg.")) for path in notebooks}
