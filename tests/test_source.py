"""What the package's own source never does: unpickle, run remote code, start a shell, build objects from YAML."""

import ast
from pathlib import Path

import pytest
import yaml

from textreg.runs import strict_yaml

MODULES = sorted((Path(__file__).parents[1] / "src" / "textreg").glob("**/*.py"))
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {
    "eval", "exec", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "yaml.unsafe_load", "yaml.full_load", "torch.save", "pd.read_pickle", "np.fromfile",
}  # fmt: skip


def offences(text: str) -> list[str]:
    """What a source does of the forbidden things, with line numbers."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"{node.lineno}: imports {name}" for name in names if name.split(".")[0] in FORBIDDEN_IMPORTS]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        strict = {*map(ast.unparse, node.args[1:]), *given.values()} & {"_Loader", "loader"}
        checks = (
            (name, name in FORBIDDEN_CALLS),
            *((word, given.get(word, "False") != "False") for word in ("shell", "trust_remote_code", "allow_pickle")),
            ("torch.load without weights_only", name == "torch.load" and given.get("weights_only") != "True"),
            ("yaml.load with another loader", name == "yaml.load" and not strict),
        )
        found += [f"{node.lineno}: {what}" for what, wrong in checks if wrong]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_no_module_unpickles_or_runs_what_a_file_says(path):
    assert offences(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "eval(text)",
    ],
)
def test_each_of_these_would_be_found(line):
    assert len(offences(line)) == 1


def test_the_loader_of_profiles_is_a_safe_one():
    assert issubclass(strict_yaml._Loader, yaml.SafeLoader)
