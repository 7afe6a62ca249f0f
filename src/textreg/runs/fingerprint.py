"""Code fingerprints: which code a notebook runs, compared by meaning.

A notebook's code cells are parsed, docstrings dropped, and the names they use followed through the package: a
function, class or constant counts when a name that reaches it is used, so a new function that nobody calls
invalidates nothing.  A name counts in its own module and in every module imported there, words in strings included,
which errs on the side of counting too much; where code looks names up at run time (``globals()``, ``getattr`` of a
module with a computed name), its whole module and those it imports count.  A module's data files count as its code:
a string that names a file or folder of the package claims it.

The hash is over our own rendering of the syntax tree, which leaves empty fields out, because ``ast.dump`` differs
between Python versions and shipped results must not look stale under another one.

    code(Path("notebooks/03_tune.ipynb"))  # {"03_tune.ipynb": "b2a4...", "textreg.training.train": "77c1...", ...}
"""

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from textreg.errors import InputError
from textreg.files import digest, sha256

PACKAGE = Path(__file__).parents[1]
#: Modules that reach results only through what is in the identity already: settings arrive resolved, errors end a run.
NEUTRAL = frozenset({"textreg", "textreg.settings", "textreg.errors"})
LENGTH = 16  # hex digits kept: 64 bits
#: Decorators that change how a function is called, not who calls it; any other one may register it somewhere.
PLAIN_DECORATORS = frozenset(
    {"dataclass", "cache", "lru_cache", "contextmanager", "inference_mode", "no_grad", "total_ordering", "overload"}
)
DYNAMIC = frozenset({"globals", "locals", "vars", "eval", "exec", "__import__"})


@dataclass(frozen=True)
class Part:
    """A top-level statement.  ``names``: what it defines; ``uses``: every name in it; ``always``: it runs at
    import."""

    text: str
    names: frozenset[str]
    uses: frozenset[str]
    modules: frozenset[str]
    data: frozenset[str]
    always: bool
    dynamic: bool


def code(notebook: Path, package: Path = PACKAGE) -> dict[str, str]:
    """Fingerprint per piece of code: the notebook, each module with the parts of it that are reached, claimed data
    files.

    Raises :class:`InputError` for a missing or damaged notebook and for code that is no Python.
    """
    tree = _parse(notebook_source(notebook), notebook)
    start = part_of(tree, "", package)
    names: dict[str, set[str]] = {"": set(start.uses)}  # module -> names that its kept parts use
    context: dict[str, set[str]] = {"": set(start.modules)}  # module -> modules that its kept parts import
    whole = set(start.modules if start.dynamic else ())
    data = set(start.data)
    kept: dict[str, set[int]] = {}
    changed = True
    while changed:
        changed = False
        for name in sorted(set().union(*context.values())):
            used = set().union(names.get(name, ()), *(names[other] for other in context if name in context[other]))
            mine = kept.setdefault(name, set())
            parts = module_parts(name, package)
            for place, part in enumerate(parts):
                if place in mine or not (part.always or name in whole or part.names & used):
                    continue
                changed = True
                mine.add(place)
                names.setdefault(name, set()).update(part.uses)
                context.setdefault(name, set()).update(part.modules)
                data |= part.data if name not in NEUTRAL else frozenset()
                if part.dynamic:
                    whole |= {name, *part.modules, *(other for each in parts for other in each.modules)}
    found = {notebook.name: digest(start.text)[:LENGTH]}
    for name, places in kept.items():
        if places and name not in NEUTRAL:
            found[name] = digest([module_parts(name, package)[place].text for place in sorted(places)])[:LENGTH]
    for entry in data:
        found[f"data {entry}"] = data_fingerprint(package / entry)
    return dict(sorted(found.items()))


def notebook_source(path: Path) -> str:
    """The code cells of a notebook in order as one source, without the ``parameters`` cell; IPython magics as
    strings."""
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
    return "\n".join(without_magics(cell) for cell in cells)


def without_magics(cell: str) -> str:
    """A cell as plain Python: every line magic, and a cell with a cell magic, becomes a tuple that holds its text."""
    if cell.lstrip().startswith("%%"):
        return f"({cell!r},)"
    lines = []
    for line in cell.splitlines():
        word = line.lstrip()
        lines.append(f"{line[: len(line) - len(word)]}({word!r},)" if word.startswith(("%", "!")) else line)
    return "\n".join(lines)


def _parse(source: str, path: Path) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        reason = getattr(error, "msg", error)
        raise InputError(f"{path}: not valid Python (line {line} of its code: {reason})") from None


def module_parts(name: str, package: Path = PACKAGE) -> tuple[Part, ...]:
    """The top-level statements of a module of the package."""
    path = module_file(name, package)
    return _parts(path, name, package, path.stat().st_mtime_ns) if path is not None else ()


@lru_cache(maxsize=512)
def _parts(path: Path, name: str, package: Path, _time: int) -> tuple[Part, ...]:
    tree = _parse(path.read_text(encoding="utf-8"), path)
    statements = tree.body[1:] if ast.get_docstring(tree, clean=False) is not None else tree.body
    return tuple(part_of(node, name, package) for node in statements if not _is_main_guard(node))


def _is_main_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "__name__" in {getattr(word, "id", None) for word in ast.walk(node.test)}


def part_of(node: ast.AST, module: str, package: Path = PACKAGE) -> Part:
    """What one statement (or a whole notebook) defines, uses, imports and claims."""
    names: set[str] = set()
    always = False
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        names = {node.name}
        decorators = {_decorator(item) for item in node.decorator_list}
        always = node.name.startswith("__") or not decorators <= PLAIN_DECORATORS
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        names = {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        always = "*" in names
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = {target.id for target in targets if isinstance(target, ast.Name)}
        always = len(names) < len(targets)
    else:
        always = True
    modules = frozenset(imported(node, module, package))
    entries = data_entries(package)
    uses, data, dynamic = set(), set(), "*" in names
    if module and module.split(".")[-1] in entries:
        data.add(module.split(".")[-1])
    for word in ast.walk(node):
        if isinstance(word, ast.Name):
            uses.add(word.id)
            # A notebook hands globals() to config.collect, which takes the settings out of it and nothing else.
            dynamic |= word.id in DYNAMIC and (bool(module) or word.id != "globals")
        elif isinstance(word, ast.Attribute):
            uses.add(word.attr)
        elif isinstance(word, ast.alias):
            uses.add(word.name.split(".")[-1])
        elif isinstance(word, ast.Constant) and isinstance(word.value, str) and len(word.value) < 200:
            uses |= {word.value} if word.value.isidentifier() else set()
            data |= {word.value.split("/")[0]} & entries
        elif isinstance(word, ast.Call):
            dynamic |= _looks_up(word, package)
    return Part(rendered(node), frozenset(names), frozenset(uses), modules, frozenset(data), always, dynamic)


def _looks_up(call: ast.Call, package: Path) -> bool:
    """Whether a call fetches something from a module by a name that only the running program knows."""
    name = getattr(call.func, "id", getattr(call.func, "attr", ""))
    if name == "import_module":
        return not (call.args and isinstance(call.args[0], ast.Constant))
    if name != "getattr" or len(call.args) < 2 or isinstance(call.args[1], ast.Constant):
        return False
    holder = getattr(call.args[0], "id", "")
    return module_file(f"{package.name}.{holder}", package) is not None


def _decorator(node: ast.expr) -> str:
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def rendered(tree: ast.AST) -> str:
    """The syntax tree as text without docstrings, positions and empty fields: equal text means equal program."""
    return "".join(_pieces(tree))


def _pieces(node: Any) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for name in sorted(node._fields):
            value = getattr(node, name, None)
            if name == "body" and isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
                value = value[1:]
            if value is None or value == [] or name in ("ctx", "kind", "type_comment", "type_ignores"):
                continue
            yield f" {name}="
            yield from _pieces(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for item in node:
            yield from _pieces(item)
        yield "]"
    else:
        yield repr(node)


def imported(tree: ast.AST, module: str, package: Path = PACKAGE) -> set[str]:
    """Modules of the package that ``tree`` (in ``module``; empty for a notebook) imports anywhere in it.

    A string that is the dotted name of a module counts too: that is how a worker process is named.
    """
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")[: -node.level]
                base = ".".join([*above, *([base] if base else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value.startswith(f"{package.name}.")
        ):
            found.add(node.value)
    return {word for word in found if module_file(word, package) is not None}


@lru_cache(maxsize=4096)
def module_file(name: str, package: Path = PACKAGE) -> Path | None:
    """The source file of a module of the package, or None when there is no such module."""
    parts = name.split(".")
    if parts[0] != package.name or not all(part.isidentifier() for part in parts):
        return None
    path = package.joinpath(*parts[1:])
    for candidate in (path / "__init__.py", path.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None


@lru_cache(maxsize=8)
def data_entries(package: Path = PACKAGE) -> frozenset[str]:
    """Names of the data files and data folders directly below the package."""
    return frozenset(
        entry.name
        for entry in package.iterdir()
        if entry.suffix != ".py" and not entry.name.startswith(("_", ".")) and not (entry / "__init__.py").exists()
    )


def data_fingerprint(path: Path) -> str:
    """Hash of a data file or folder; YAML and JSON by their content, so that comments and layout do not count."""
    paths = sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
    kept = [found for found in paths if "__pycache__" not in found.parts and found.name != "manifest.json"]
    files = {found.relative_to(path.parent).as_posix(): _content(found, found.stat().st_mtime_ns) for found in kept}
    return digest(files)[:LENGTH]


@lru_cache(maxsize=512)
def _content(path: Path, _time: int) -> str:
    try:
        if path.suffix in (".yaml", ".yml"):
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            return digest(yaml.load(path.read_text(encoding="utf-8"), loader))
        if path.suffix == ".json":
            return digest(json.loads(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValueError, TypeError):
        # The module that reads a damaged file names it; here it only has to differ from the whole one.
        return sha256(path)
    return sha256(path)
