import shutil

import pytest

from textreg.errors import InputError
from textreg.pictures.folder import read


def test_a_name_that_two_concepts_share_is_left_out_in_that_language_alone(tmp_path, root):
    copied = shutil.copytree(root, tmp_path / "pictures")
    lines = (copied / "names.csv").read_text("utf-8").splitlines()
    lines[2] = "c00,de,Zwilling,"
    lines[5] = "c01,de,zwilling,"
    (copied / "names.csv").write_text("\n".join(lines), "utf-8")
    found = read(copied)
    assert {"c00", "c01"} & set(found.names["de"]) == set()
    assert {"c00", "c01"} <= set(found.names["en"])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda at: (at / "about.json").unlink(), "about.json is missing"),
        (lambda at: (at / "about.json").write_text("{"), "damaged"),
        (lambda at: (at / "about.json").write_text('{"held_out_style": "oil", "picture_concepts": 3}'), "'oil'"),
        (lambda at: (at / "names.csv").write_text("concept,language,name\n"), "column 'words' is missing"),
        (lambda at: (at / "names.csv").write_text("concept,language,name,words\na,de,b,c\n"), "no English name"),
    ],
)
def test_a_folder_that_is_not_of_the_form_is_refused_in_one_line(tmp_path, root, spoil, said):
    copied = shutil.copytree(root, tmp_path / "pictures")
    spoil(copied)
    with pytest.raises(InputError, match=said) as caught:
        read(copied)
    assert "\n" not in str(caught.value)


def test_a_language_without_names_is_named_with_a_suggestion(concepts):
    with pytest.raises(InputError, match=r"'dee'.*'de'"):
        concepts.require(["en", "dee"])
