"""Code fingerprints: which definitions a notebook computes with, compared by meaning.

From the code cells the names are followed, as imports resolve them, to the functions, classes and constants of the
package that they reach; each is hashed without comments, docstrings, annotations of arguments and imports, and a name
of another module is the same whether it was imported alone or through its module.  So a comment, a function nobody
calls, or a definition that moves to another file invalidates nothing.  Not followed is what decides no result:
settings (they arrive resolved), errors, what only shows one (figures, the card of a model), unless drawings are
what a stage makes, and what only other scales run.  A string that names a data file or folder beside its module
claims it.  A module that is handed on whole counts whole.

    code(Path("notebooks/03_tune.ipynb"))  # {"03_tune.ipynb": "b2a4...", "attach": "77c1...", ...}
"""

import ast
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from textreg.errors import InputError
from textreg.files import digest, meaning
from textreg.runs import notebooks

PACKAGE = Path(__file__).parents[1]
NEUTRAL = ("settings", "errors")
SHOWING = ("figures", "vlm.card")
ALL = "*"  # in place of a name: every definition of the module
LENGTH = 16  # hex digits kept: 64 bits
Use = tuple[str, str]  # module, name


@dataclass(frozen=True)
class Part:
    """A top-level statement: the names it defines, its text, what it reaches, and the data it claims."""

    names: frozenset[str]
    text: str
    uses: frozenset[Use]
    data: frozenset[Path]
    passing: bool  # an expression alone: nothing of it stays


def code(
    notebook: Path, package: Path = PACKAGE, *, drawing: bool = False, without: Sequence[str] = ()
) -> dict[str, str]:
    """Hash of the notebook, of each definition it reaches by its name, and of each data file by its place.

    ``drawing``: what shows a result counts as well.  ``without``: modules, below the package, that are not followed.
    Raises :class:`InputError` for a missing or damaged notebook and for code that is no Python.
    """
    showing = tuple(f"{package.name}.{name}" for name in (*NEUTRAL, *(() if drawing else SHOWING)))
    left_out = {f"{package.name}.{name}" for name in without}
    cells = [notebooks.source(cell) for cell in notebooks.computing_cells(notebook)]
    source = re.sub(r"^([ \t]*)([%!].*)$", lambda magic: f"{magic[1]}({magic[2]!r},)", "\n".join(cells), flags=re.M)
    kept = [
        part
        for part in _parts(source, notebook, "", package)
        if not (part.passing and any(module.startswith(showing) for module, _ in part.uses))
    ]
    texts: dict[str, set[str]] = {notebook.name: {f"{place} {part.text}" for place, part in enumerate(kept)}}
    data = {path for part in kept for path in part.data}
    waiting, seen = [use for part in kept for use in part.uses], set()
    while waiting:
        module, name = use = waiting.pop()
        if use in seen or module.startswith(showing) or module in left_out:
            continue
        seen.add(use)
        for part in module_parts(module, package):
            if name == ALL or name in part.names or not part.names:  # without a name it runs at import
                for called in part.names or {f"import of {module}"}:
                    texts.setdefault(called, set()).add(part.text)
                waiting += part.uses
                data |= part.data
    found = {name: digest(sorted(said))[:LENGTH] for name, said in texts.items()}
    return found | {f"data {path.relative_to(package).as_posix()}": digest(meaning(path))[:LENGTH] for path in data}


def stamp(notebook: Path, package: Path = PACKAGE) -> str:
    """What is another one whenever the notebook or a file of the package was written since."""
    places = [notebook, *(Path(folder, name) for folder, _, names in os.walk(package) for name in names)]
    found = [(str(place), place.stat()) for place in places if place.suffix != ".pyc" and place.is_file()]
    return digest([(name, written.st_size, written.st_mtime_ns) for name, written in sorted(found)])


def module_file(name: str, package: Path = PACKAGE) -> Path | None:
    """The source file of a module of the package, or None when there is no such module."""
    first, *steps = name.split(".")
    path = package.joinpath(*steps)
    places = (path / "__init__.py", path.with_suffix(".py")) if first == package.name and all(steps) else ()
    return next((place for place in places if place.is_file()), None)


def module_parts(name: str, package: Path = PACKAGE) -> tuple[Part, ...]:
    """The top-level statements of a module of the package."""
    path = module_file(name, package)
    return _read(path, name, package, path.stat().st_mtime_ns) if path is not None else ()


@lru_cache(maxsize=1024)
def _read(path: Path, name: str, package: Path, _time: int) -> tuple[Part, ...]:
    return tuple(_parts(path.read_text(encoding="utf-8"), path, name, package))


def _parts(source: str, path: Path, module: str, package: Path) -> Iterator[Part]:
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError) as error:
        where = f"line {getattr(error, 'lineno', None)} of its code: {getattr(error, 'msg', error)}"
        raise InputError(f"{path}: not valid Python ({where})") from None
    known = {name: (module, name) for node in body for name in _defined(node)} if module else {}
    known |= _imported(body, package)
    for node in body:
        if not _computes_nothing(node):
            reader = _Reader(module, package, known | _imported([node], package), path.parent)
            text = rendered(reader.visit(node))
            yield Part(_defined(node), text, frozenset(reader.uses), frozenset(reader.data), type(node) is ast.Expr)


def _defined(node: ast.stmt) -> frozenset[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return frozenset({node.name})
    targets = (
        node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    )
    return frozenset(word.id for target in targets for word in ast.walk(target) if isinstance(word, ast.Name))


def _computes_nothing(node: ast.stmt) -> bool:
    """An import, a docstring, or what is there for a script or a type checker."""
    if isinstance(node, ast.If):
        return bool(re.search("__name__|TYPE_CHECKING", ast.unparse(node.test)))
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return docstring or isinstance(node, ast.Import | ast.ImportFrom)


def _imported(nodes: list[ast.stmt], package: Path) -> dict[str, Use]:
    """What the names that are imported anywhere in ``nodes`` stand for; ``ALL`` of a module."""
    found: dict[str, Use] = {}
    for node in (word for each in nodes for word in ast.walk(each)):
        for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            full = f"{module}.{alias.name}" if module else alias.name
            whole = not module or module_file(full, package)
            found[alias.asname or alias.name.split(".")[0]] = (full, ALL) if whole else (module, alias.name)
    return found


class _Reader(ast.NodeTransformer):
    """Resolves the names of a statement, and collects what they reach."""

    def __init__(self, module: str, package: Path, known: dict[str, Use], beside: Path):
        self.module, self.package, self.known, self.beside = module, package, known, beside
        self.uses: set[Use] = set()
        self.data: set[Path] = set()
        self.local: set[str] = set()

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            words = list(ast.walk(node))
            self.local |= {word.arg for word in words if isinstance(word, ast.arg)}
            self.local |= {word.id for word in words if isinstance(word, ast.Name) and type(word.ctx) is ast.Store}
        for field in ("annotation", "returns"):
            if isinstance(node, ast.arg | ast.FunctionDef | ast.AsyncFunctionDef) and hasattr(node, field):
                setattr(node, field, None)
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:]
        return super().visit(node)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        return None  # names are resolved through it

    visit_ImportFrom = visit_Import

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if self.module and node.id in ("globals", "vars", "eval", "exec"):
            self.uses.add((self.module, ALL))
        module, name = self.known.get(node.id, ("", ""))
        if not module or (name == ALL and node.id in self.local):
            return node
        self.uses.add((module, name))
        return ast.Name(name if module.split(".")[0] == self.package.name and name != ALL else f"{module}.{name}")

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        module, name = self.known.get(node.value.id, ("", "")) if isinstance(node.value, ast.Name) else ("", "")
        if name != ALL or not module_file(module, self.package):
            return self.generic_visit(node)
        self.uses.add((module, node.attr))
        return ast.Name(node.attr)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, str) and re.fullmatch(r"\w[\w./-]{2,99}", node.value):
            entry = self.beside / node.value.split("/")[0]
            no_data = entry.suffix == ".py" or entry.name == "__pycache__" or (entry / "__init__.py").exists()
            if self.module and not no_data and entry.exists():
                self.data.add(entry)
            if module_file(node.value, self.package):  # so a process of its own is started
                self.uses.add((node.value, ALL))
        return node


def rendered(tree: Any) -> str:
    """A syntax tree as text without positions and empty fields, the same in every version of Python (``ast.dump`` is
    not): equal text means equal program."""
    if isinstance(tree, list):
        return f"[{' '.join(map(rendered, tree))}]"
    if not isinstance(tree, ast.AST):
        return repr(tree)
    told = ((name, getattr(tree, name, None)) for name in sorted(tree._fields) if name not in ("ctx", "kind"))
    fields = " ".join(f"{name}={rendered(value)}" for name, value in told if value is not None and value != [])
    return f"({type(tree).__name__} {fields})"
