"""What an image file may look like, and what comes of it: plain RGB, or one line that names the file."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from textreg.data.images import blank_like, data_url, encode_png, find_images, open_image, shrink
from textreg.errors import InputError

RED = (255, 0, 0)


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient() -> Image.Image:
    values = np.linspace(0, 255, 40 * 30 * 3).reshape(30, 40, 3).astype(np.uint8)
    return Image.fromarray(values)


GOOD = {kind: encoded(gradient(), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")}


@pytest.mark.parametrize("kind", GOOD)
def test_each_known_format_opens_as_rgb_of_its_size(kind):
    picture = open_image(GOOD[kind])
    assert (picture.mode, picture.size) == ("RGB", (40, 30))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.integers(0, 10**6), st.binary(min_size=1, max_size=6), st.booleans())
def test_a_damaged_file_opens_or_is_an_input_error_and_nothing_else(kind, where, patch, cut):
    data = GOOD[kind]
    where %= len(data)
    damaged = data[:where] if cut else data[:where] + patch + data[where + len(patch) :]
    try:
        picture = open_image(damaged, "photo", max_pixels=10**6)
    except InputError as error:
        assert str(error).startswith("photo: ")
        assert "\n" not in str(error)
    else:
        assert picture.mode == "RGB"


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300))
def test_bytes_that_are_no_image_are_an_input_error(data):
    with pytest.raises(InputError):
        open_image(data, "noise")


def test_an_animation_is_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, "blue")]
    for kind in ("GIF", "WEBP"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert open_image(data).getpixel((4, 4))[0] > 240


def test_transparency_shows_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert open_image(encoded(clear)).getpixel((1, 1)) == (255, 255, 255)
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    assert open_image(encoded(half)).getpixel((1, 1)) == pytest.approx((255, 127, 127), abs=1)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    assert open_image(encoded(palette)).getpixel((1, 1)) == RED
    assert open_image(encoded(palette, transparency=0)).getpixel((1, 1)) == (255, 255, 255)


def test_the_rotation_of_the_camera_is_applied():
    picture = Image.new("RGB", (20, 10), "white")
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_image(encoded(picture, "JPEG", exif=exif)).size == (10, 20)


def test_cmyk_keeps_its_colour():
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red, green, blue = open_image(encoded(cmyk, "JPEG")).getpixel((4, 4))
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (32768, 128), (65535, 255)])
def test_sixteen_bit_greys_are_scaled_not_clipped(value, expected):
    deep = Image.fromarray(np.full((4, 4), value, dtype=np.uint16))
    assert open_image(encoded(deep)).getpixel((1, 1)) == (expected,) * 3


def test_the_limit_is_checked_before_anything_is_decoded():
    with pytest.raises(InputError, match="40 x 30 pixels"):
        open_image(GOOD["PNG"], max_pixels=1199)
    assert open_image(GOOD["PNG"], max_pixels=1200)


def test_a_folder_is_listed_by_name_and_only_images(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden"):
        (tmp_path / name).write_bytes(GOOD["PNG"])
    (tmp_path / "sub.png").mkdir()
    assert [path.name for path in find_images(tmp_path)] == ["a.png", "b.JPG"]


def test_a_shrunk_image_keeps_its_shape_and_a_small_one_its_pixels():
    assert shrink(gradient(), 20).size == (20, 15)
    assert shrink(gradient(), 40).tobytes() == gradient().tobytes()


def test_the_blank_image_has_the_size_and_one_colour():
    blank = blank_like(gradient())
    assert blank.size == (40, 30)
    assert len(blank.getcolors()) == 1


def test_what_is_sent_is_the_same_pixels_without_metadata():
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    data = encode_png(open_image(encoded(gradient(), "JPEG", exif=exif)))
    assert b"secret" not in data
    assert data_url(data).startswith("data:image/png;base64,iVBOR")
    assert open_image(data).tobytes() == open_image(encoded(gradient(), "JPEG")).tobytes()
