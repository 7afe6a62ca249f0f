"""Untrusted images in, plain RGB out, or one clear line about what is wrong with the file.

Three choices are not obvious.  The number of pixels is read from the header and checked before anything is decoded, so
a small file cannot fill the memory.  Only six raster formats are opened at all: others (EPS, PSD, SVG) are programs or
containers.  What looks different in different viewers is settled here: the camera's rotation is applied, an animation
is its first frame, transparency shows white, 16-bit greys are scaled rather than clipped.

:class:`ImageTable` is the file ``images.parquet`` of a run.  It may come from somebody else, so what it names is
checked: paths stay in the folder of pictures, that folder is one of pictures alone, and what is handed out begins as
an image does.  A large one is not read into memory: ``datasets`` maps a copy of it in Arrow's own format, beside it.

Use: ``open_image("photo.jpg")``; ``data_url(encode_png(picture))`` is what a chat endpoint takes.
"""

import base64
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image, ImageOps, UnidentifiedImageError

from textreg.data.rows import CURE, image_root, opened
from textreg.errors import InputError, did_you_mean, quoted

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 50_000_000
MAX_BYTES = 100 * 2**20
IN_MEMORY = 2**29  # bytes of a table of pictures
GREY = (127, 127, 127)

BLANK = "blank"
#: No folder of pictures: what the system and its services keep there is nobody's training data.
NEVER_PICTURES = ("/etc", "/proc", "/sys", "/dev", "/boot", "/run/secrets")


def is_image(data: bytes) -> bool:
    """Whether the bytes begin as an image of a known format does; whether it is whole only :func:`open_image` says."""

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

    if max(picture.size) <= longest:
        return picture
    small = picture.copy()
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return small


def blank_like(picture: "Image") -> "Image":
    """A mid-grey picture of the same size: the image of the ``blank`` arm."""

    return Image.new("RGB", picture.size, GREY)


def data_url(png: bytes) -> str:
    """Encoded PNG bytes as the ``data:`` address that chat endpoints take for an image."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


class MappedPictures(Mapping[str, bytes]):
    """Encoded pictures by image id, on the disk until they are asked for; processes that read them share the pages.

    ``data``: a ``datasets.Dataset`` with the columns of a table of pictures; ``rows``: image id -> row.
    """

    def __init__(self, data: Any, rows: dict[str, int]) -> None:
        self._data, self._rows = data, rows

    def __getitem__(self, image_id: str) -> bytes:
        return self._data[self._rows[image_id]]["image"]["bytes"]

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


@dataclass(frozen=True)
class ImageTable:
    """``images.parquet``: encoded pictures, or paths relative to ``root``, by image id.

    The id ``blank`` is always known: the table's own row if it has one, else a uniform mid-grey picture.
    """

    encoded: Mapping[str, bytes]
    paths: dict[str, str]
    root: Path
    blank_side: int = 48

    @classmethod
    def read(
        cls, table: str | Path, root: str | Path | None = None, *, ids: Iterable[str] | None = None
    ) -> "ImageTable":
        """Read a parquet file with the columns ``image_id`` and ``image`` (struct of bytes and path).

        ``ids``: only these images and the blank one.  A file over :data:`IN_MEMORY` is memory-mapped.

        Without ``root``, paths are relative to the folder that the file's metadata names, else to its own folder.
        Raises :class:`InputError` as :func:`textreg.data.rows.opened` does, for an image that is nowhere, and for
        metadata that name no folder of pictures (:func:`picture_folder`).
        """

        encoded: dict[str, Any] = {}
        paths: dict[str, str] = {}
        wanted_ids = None if ids is None else {BLANK, *ids}
        with opened(table, ["image_id", "image"]) as (file, wanted):
            mapped = mapped_table(Path(table)) if Path(table).stat().st_size > IN_MEMORY else None
            batches = mapped.data.to_batches() if mapped else file.iter_batches(batch_size=256, columns=wanted)
            for row, image_id, data, path in _pictures(batches, mapped is not None):
                if wanted_ids is not None and image_id not in wanted_ids:
                    continue
                if data is None and path is None:
                    raise InputError(f"{table}: image {image_id!r} has neither bytes nor a path; {CURE}")
                if data is not None:
                    encoded[image_id] = row if mapped else data
                else:
                    paths[image_id] = path
        pictures = MappedPictures(mapped, encoded) if mapped else encoded
        return cls(pictures, paths, Path(root) if root else picture_folder(image_root(table), Path(table)))

    def __len__(self) -> int:
        return len(self.encoded) + len(self.paths)

    @property
    def ids(self) -> list[str]:
        """All image ids, those with bytes first."""
        return [*self.encoded, *self.paths]

    def data(self, image_id: str) -> bytes:
        """Encoded bytes of one image.

        Raises:
            InputError: unknown id, or a path that is missing, leads out of the data folder or to no image.
        """
        if image_id in self.encoded:
            return self.encoded[image_id]
        if image_id == BLANK and image_id not in self.paths:
            return encode_png(Image.new("RGB", (self.blank_side, self.blank_side), GREY))
        if image_id not in self.paths:
            raise InputError(f"image {image_id!r} is not in the image table{did_you_mean(image_id, self.ids[:5000])}")
        return self._read(image_id, self.paths[image_id])

    def _read(self, image_id: str, name: str) -> bytes:
        try:
            path = (self.root / name).resolve()
            inside = path.is_relative_to(self.root.resolve())
        except (OSError, RuntimeError, ValueError):  # a link to itself; a NUL character
            raise InputError(
                f"image {image_id!r}: {quoted(name)} is no path: run the stage prepare_data again"
            ) from None
        if not inside:
            raise InputError(
                f"image {image_id!r}: its path leads out of {self.root}: use a path inside the data folder"
            )
        try:
            if path.exists() and not path.is_file():  # reading a pipe would wait for ever
                raise InputError(f"image {image_id!r}: no file ({quoted(name)} in {self.root})")
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"image {image_id!r}: {error.strerror} ({quoted(name)} in {self.root})") from None
        if data and not is_image(data):
            raise InputError(f"image {image_id!r}: not an image ({quoted(name)} in {self.root}): check where it lies")
        return data

    def image(self, image_id: str) -> "Image":
        """The decoded picture, RGB, under the limits of :func:`textreg.data.images.open_image`."""
        return open_image(self.data(image_id), f"image {image_id!r}")


def mapped_table(table: Path) -> Any:
    """A table of pictures as a ``datasets.Dataset``, from an Arrow copy in the folder ``cache`` beside it, which is
    made where there is none of this content."""
    import datasets  # takes seconds, and small runs have no use for it

    datasets.disable_progress_bars()
    place, columns = str(table.parent / "cache"), ["image_id", "image"]
    return datasets.Dataset.from_parquet(str(table), columns=columns, cache_dir=place, keep_in_memory=False)


def _pictures(batches: Iterable[Any], mapped: bool) -> Iterator[tuple[int, str, Any, str | None]]:
    """Row, id, bytes and path of every picture; of ``mapped`` ones only whether there are bytes (True or None)."""
    row = -1
    for batch in batches:
        held, paths = (pc.struct_field(batch.column("image"), name) for name in ("bytes", "path"))
        data = [True if there else None for there in held.is_valid().to_pylist()] if mapped else held.to_pylist()
        for image_id, found, path in zip(batch.column("image_id").to_pylist(), data, paths.to_pylist(), strict=True):
            row += 1
            yield row, image_id, found, path


def picture_folder(named: Path | None, table: Path) -> Path:
    """The folder that image paths are relative to: the one ``named`` in the metadata of ``table``, else its own.

    A folder of the run itself is taken as it is.  Any other, which is ``prepare_data.image_folder`` as that stage
    wrote it, is refused (:class:`InputError`) where it holds more than pictures: the root, a home folder or what holds
    one, hidden folders in it, and folders of the system.  With :meth:`ImageTable.data`, which hands out images alone,
    this keeps a row file of somebody else from reading keys and passwords.  It does not keep such a file from naming a
    folder of your pictures.
    """
    if named is None:
        return table.parent
    cure = "name a folder of pictures as prepare_data.image_folder and run the stage prepare_data again"
    try:
        real, run, home = named.resolve(), table.resolve().parent.parent, Path.home().resolve()
    except (OSError, RuntimeError, ValueError):
        raise InputError(f"{table}: its image folder {quoted(str(named))} is no path: {cure}") from None
    if not named.is_absolute():
        raise InputError(f"{table}: its image folder {quoted(str(named))} is no absolute path: {cure}")
    if real != run and real.is_relative_to(run):
        return named
    hidden = real.is_relative_to(home) and real.relative_to(home).parts[:1]
    if (
        home.is_relative_to(real)
        or (hidden and hidden[0].startswith(".") and hidden[0] != ".cache")  # data of the hub lie in .cache
        or any(real.is_relative_to(place) for place in NEVER_PICTURES)
    ):
        raise InputError(f"{table}: its image folder {named} holds more than pictures: {cure}")
    return named
