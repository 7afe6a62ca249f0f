"""What a fresh clone relies on: environments that agree, commands that exist, files that say what they are."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from textreg import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def as_table(lines):
    requirements = [Requirement(line) for line in lines]
    return {normalised(item.name): (item.specifier, frozenset(item.extras)) for item in requirements}


def declared(*groups):
    lines = [*PROJECT["dependencies"], *(line for group in groups for line in PROJECT["optional-dependencies"][group])]
    return as_table(lines)


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return as_table(line for line in lines if line and not line.startswith("#"))


def make_targets():
    return set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_conda_and_binder_install_the_package_with_its_pins():
    *own, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert own == ["python=3.11", "pip"]
    assert pip == {"pip": ["-c constraints.txt", "-e .[book,dev]"]}
    assert {"-c ../constraints.txt", "-e .[book]"} <= set((ROOT / "binder/requirements.txt").read_text().splitlines())


@pytest.mark.parametrize("path", sorted([*ROOT.glob(".github/**/*.yml"), ROOT / ".pre-commit-config.yaml"]),
                         ids=lambda path: path.name)  # fmt: skip
def test_what_github_and_git_read_is_valid_and_names_commands_that_exist(path):
    text = path.read_text()
    assert yaml.safe_load(text)
    assert set(re.findall(r"run: make ([a-z]+)", text)) <= make_targets()
    assert all((ROOT / name).exists() for name in re.findall(r"(?:tests/\S+\.py|\.ci/run)", text))


def test_hooks_use_the_pinned_tools():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    versions = {normalised(hook["repo"].rpartition("/")[2]): hook["rev"].lstrip("v") for hook in hooks}
    for name, hook in (("ruff", "ruff-pre-commit"), ("nbstripout", "nbstripout")):
        assert pins()[name][0] == SpecifierSet(f"=={versions[hook]}")


def test_every_direct_dependency_is_pinned_within_its_declared_range():
    pinned = pins()
    for name, (specifier, _) in declared("book", "dev").items():
        assert name in pinned, f"{name} is not in constraints.txt"
        (pin,) = pinned[name][0]
        assert pin.operator == "==" and specifier.contains(Version(pin.version), prereleases=True), name


def test_torch_and_the_book_tool_are_capped_and_constraints_name_no_host_and_no_local_build():
    assert any(part.operator == "<" for part in declared()["torch"][0])
    assert not declared("book")["jupyter-book"][0].contains(Version("2.0"))
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text and "+" not in text and " @ " not in text


def test_every_make_target_the_pages_name_exists_and_help_lists_them_all():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "book").glob("*.md")]
    command = re.compile(r"(?:`|^)make ([a-z]+)", re.MULTILINE)
    named = {target for page in pages for target in command.findall(page.read_text())}
    assert named and named <= make_targets()
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"make {target}" in shown for target in make_targets())


@pytest.mark.parametrize("target", ["reproduce", "test", "rerun", "smoke", "figures", "book", "check", "audit"])
def test_every_target_sets_up_its_own_environment(target):
    planned = subprocess.run(
        ["make", "-n", target, "VENV=absent-venv"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "-m venv absent-venv" in planned and "-e '.[book,dev]'" in planned


def test_an_old_python_is_refused_in_one_line():
    done = subprocess.run(
        ["make", "setup", "VENV=absent-venv", "PYTHON=false"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 and "Python 3.11 or newer is needed" in done.stdout
    assert not (ROOT / "absent-venv").exists()


def test_the_ci_script_runs_tests_chain_rerun_book_and_checks():
    script = (ROOT / ".ci" / "run").read_text()
    positions = [script.index(f"make {target}") for target in ("test", "smoke", "rerun", "book", "check")]
    assert positions == sorted(positions)


def test_the_licence_is_named_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["license"] == citation["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert str(citation["version"]) == PROJECT["version"] == __version__


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda path: path.name)
def test_links_of_the_pages_at_the_root_lead_somewhere(page):
    """Those of the book are looked at when it is built."""
    named = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_no_page_or_setting_names_a_folder_of_one_machine():
    files = [*ROOT.glob("*.md"), *ROOT.glob("*.yml"), ROOT / "Makefile", *ROOT.glob("*.txt"), *ROOT.glob("book/*")]
    for path in files:
        if path.is_file():
            assert not re.search(r"(/home/|/root/|/Users/|/work/|/tmp/)", path.read_text()), path.name
