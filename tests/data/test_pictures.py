"""Pictures of data sets: found in folders and archives, and counted where they are broken."""

import zipfile

import hub_folders
import pytest

from textreg.data import sources
from textreg.data.pictures import BrokenImage, Pictures, checked
from textreg.errors import InputError


def pictures_of(tmp_path, **options):
    source = sources.source(str(hub_folders.pretrain(tmp_path / "lcs", **options)))
    return list(sources.read(source, "visual")), source


def test_pictures_are_found_in_a_zip_archive_as_in_a_folder(tmp_path):
    rows, source = pictures_of(tmp_path, archive=True)
    found = list(checked(rows, Pictures(source.folder), wanted=12, limit=0.0))
    assert [picture.data for _, picture in found] == [hub_folders.png(i) for i in range(12)]


def test_pictures_of_the_image_folder_are_kept_as_paths(tmp_path):
    rows, source = pictures_of(tmp_path)
    pictures = Pictures(tmp_path, source.folder / "images")
    picture = pictures.check(rows[2])
    assert picture.data is None
    assert (pictures.root / picture.path).read_bytes() == hub_folders.png(2)


def test_broken_pictures_up_to_the_limit_are_left_out_and_the_order_stays(tmp_path):
    rows, source = pictures_of(tmp_path)
    (source.folder / "images" / rows[4].image).write_bytes(hub_folders.png(4)[:40])
    (source.folder / "images" / rows[7].image).unlink()
    found = list(checked(rows, Pictures(source.folder), wanted=12, limit=0.2, workers=3))
    assert [row.number for row, _ in found] == [0, 1, 2, 3, 5, 6, 8, 9, 10, 11]


def test_broken_pictures_beyond_the_limit_name_the_first_and_the_cure(tmp_path):
    rows, source = pictures_of(tmp_path)
    (source.folder / "images" / rows[4].image).write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"00004/000000004\.png: not an image.*allowed are 0 of 12.*image_folder"):
        list(checked(rows, Pictures(source.folder), wanted=12, limit=0.0))


def test_a_picture_path_cannot_leave_its_folder(tmp_path):
    (tmp_path / "secret.png").write_bytes(hub_folders.png())
    (tmp_path / "data").mkdir()
    with pytest.raises(BrokenImage, match="leads out of the data folder"):
        Pictures(tmp_path / "data").find("../secret.png")


def test_a_zip_that_was_cut_off_is_named_with_the_cure(tmp_path):
    folder = hub_folders.pretrain(tmp_path, archive=True)
    (folder / "images.zip").write_bytes((folder / "images.zip").read_bytes()[:-30])
    with pytest.raises(InputError, match=r"images\.zip: not a whole zip archive .*; download it again"):
        Pictures(folder)


def test_a_damaged_member_of_a_zip_is_one_broken_picture(tmp_path):
    folder = hub_folders.pretrain(tmp_path, archive=True)
    whole = (folder / "images.zip").read_bytes()
    (folder / "images.zip").write_bytes(whole.replace(hub_folders.png(3)[20:40], bytes(20)))
    with zipfile.ZipFile(folder / "images.zip") as archive:
        assert archive.testzip()
    with pytest.raises(BrokenImage, match=r"00003/000000003\.png cannot be read"):
        Pictures(folder).find("00003/000000003.png")


def test_a_path_too_long_for_a_file_system_is_one_broken_picture(tmp_path):
    with pytest.raises(BrokenImage, match="cannot be read"):
        Pictures(tmp_path).find("a" * 5000 + ".png")
