"""Untrusted images in, plain RGB out, or one clear line about what is wrong with the file.

Three choices are not obvious.  The number of pixels is read from the header and checked before anything is decoded, so
a small file cannot fill the memory.  Only six raster formats are opened at all: others (EPS, PSD, SVG) are programs or
containers.  What looks different in different viewers is settled here: the camera's rotation is applied, an animation
is its first frame, transparency shows white, 16-bit greys are scaled rather than clipped.

Use: ``open_image("photo.jpg")``; ``data_url(encode_png(picture))`` is what a chat endpoint takes.
"""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from textreg.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 50_000_000
MAX_BYTES = 100 * 2**20
GREY = (127, 127, 127)


def is_image(data: bytes) -> bool:
    """Whether the bytes begin as an image of a known format does; whether it is whole only :func:`open_image` says."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS):
            return True
    except UnidentifiedImageError:
        return False
    except Exception:  # known by its beginning, and damaged, or far too large
        return True


def open_image(source: str | Path | bytes, name: str = "", *, max_pixels: int = MAX_PIXELS) -> "Image":
    """The picture of a file or of encoded bytes: RGB, decoded to the last pixel.

    ``name`` stands for the bytes in messages.  Raises InputError naming the file and the cure: missing, empty, not a
    file, over 100 MB, another format, over ``max_pixels``, truncated or damaged.
    """
    from PIL import Image, UnidentifiedImageError

    name = name or (f"image of {len(source):,} bytes" if isinstance(source, bytes) else str(source))
    data = source if isinstance(source, bytes) else _read(Path(source), name)
    if not data:
        raise InputError(f"{name}: empty; save or download the image again")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise InputError(
                    f"{name}: {width} x {height} pixels, the limit is {max_pixels // 10**6} million; scale it down"
                )
            return _as_rgb(picture)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{name}: not an image of a known format; convert it to {', '.join(FORMATS[:3])}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(
            f"{name}: far more pixels than the limit of {max_pixels // 10**6} million; scale it down"
        ) from None
    except Exception as error:  # decoders of damaged files raise whatever their format's parser stumbles over
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise InputError(f"{name}: truncated or damaged ({why}); save or download the image again") from error


def _read(path: Path, name: str) -> bytes:
    try:
        if path.is_dir():
            raise InputError(f"{name}: a folder, not an image; name a file in it")
        if not path.is_file():  # a pipe or a device would block for ever
            raise InputError(f"{name}: no such image file; check the path")
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{name}: over {MAX_BYTES // 2**20} MB; scale it down")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{name[:200]}: cannot be read ({why}); check the path and its permissions") from None


def _as_rgb(picture: "Image") -> "Image":
    from PIL import Image, ImageOps

    picture.seek(0)
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I") or upright.mode == "F":
        return _scaled_grey(upright).convert("RGB")
    if upright.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in upright.info:
        layer = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return upright.convert("RGB")


def _scaled_grey(picture: "Image") -> "Image":
    """16- or 32-bit greys to 8 bits: 0..65535 for integers, 0..1 for floats, else their own range."""
    import numpy as np
    from PIL import Image

    values = np.nan_to_num(np.asarray(picture, dtype=np.float64))
    top = 1.0 if picture.mode == "F" else 65535.0
    low, high = (0.0, top) if values.min() >= 0 and values.max() <= top else (values.min(), values.max())
    return Image.fromarray(np.round((values - low) / max(high - low, 1e-12) * 255).astype(np.uint8))


def find_images(folder: str | Path) -> list[Path]:
    """The image files directly in a folder, by name.  Raises InputError for no folder, or none with an image."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images; check --images")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise InputError(f"{folder}: no image in it; expected files ending in {', '.join(SUFFIXES)}")
    return found


def encode_png(picture: "Image") -> bytes:
    """The same pixels as PNG bytes, without any metadata of the original."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def shrink(picture: "Image", longest: int) -> "Image":
    """The picture scaled down so that its longest side is at most ``longest`` pixels; smaller ones are left alone."""
    from PIL import Image

    if max(picture.size) <= longest:
        return picture
    small = picture.copy()
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return small


def blank_like(picture: "Image") -> "Image":
    """A mid-grey picture of the same size: the image of the ``blank`` arm."""
    from PIL import Image

    return Image.new("RGB", picture.size, GREY)


def data_url(png: bytes) -> str:
    """Encoded PNG bytes as the ``data:`` address that chat endpoints take for an image."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
