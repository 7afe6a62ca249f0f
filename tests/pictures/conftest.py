from pathlib import Path

import pytest
import tiny_pictures

from textreg.pictures.folder import Concepts, read


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of forty concepts in three languages and three styles."""
    return tiny_pictures.write_folder(tmp_path_factory.mktemp("emoji") / "pictures")


@pytest.fixture(scope="session")
def concepts(root: Path) -> Concepts:
    return read(root)
