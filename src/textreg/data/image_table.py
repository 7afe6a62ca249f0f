"""The pictures of a run by their ids: ``images.parquet``, with bytes in it or paths to them.

A row file may come from somebody else, so what it names is checked: paths stay in the folder of pictures, that folder
is one of pictures alone, and what is handed out begins as an image does.

    >>> images = ImageTable.read("prepare_data/images.parquet")
    >>> images.image("blank").size
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textreg.errors import InputError, did_you_mean, shown

if TYPE_CHECKING:
    from PIL.Image import Image

BLANK = "blank"
#: No folder of pictures: what the system and its services keep there is nobody's training data.
NEVER_PICTURES = ("/etc", "/proc", "/sys", "/dev", "/boot", "/run/secrets")


@dataclass(frozen=True)
class ImageTable:
    """``images.parquet``: encoded pictures, or paths relative to ``root``, by image id.

    The id ``blank`` is always known: the table's own row if it has one, else a uniform mid-grey picture.
    """

    encoded: dict[str, bytes]
    paths: dict[str, str]
    root: Path
    blank_side: int = 48

    @classmethod
    def read(
        cls, table: str | Path, root: str | Path | None = None, *, ids: Iterable[str] | None = None
    ) -> "ImageTable":
        """Read a parquet file with the columns ``image_id`` and ``image`` (struct of bytes and path).

        ``ids``: only these images and the blank one, because all pictures of a real run are gigabytes.

        Without ``root``, paths are relative to the folder that the file's metadata names, else to its own folder.
        Raises :class:`InputError` as :func:`textreg.data.rows.opened` does, for an image that is nowhere, and for
        metadata that name no folder of pictures (:func:`picture_folder`).
        """
        from textreg.data.rows import CURE, image_root, opened

        encoded: dict[str, bytes] = {}
        paths: dict[str, str] = {}
        wanted_ids = None if ids is None else {BLANK, *ids}
        # Batch by batch: real pictures are gigabytes, and a whole table would hold them twice.
        with opened(table, ["image_id", "image"]) as (file, wanted):
            for batch in file.iter_batches(batch_size=256, columns=wanted):
                for image_id, image in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    if wanted_ids is not None and image_id not in wanted_ids:
                        continue
                    if image is None or (image["bytes"] is None and image["path"] is None):
                        raise InputError(f"{table}: image {image_id!r} has neither bytes nor a path; {CURE}")
                    if image["bytes"] is not None:
                        encoded[image_id] = image["bytes"]
                    else:
                        paths[image_id] = image["path"]
        return cls(encoded, paths, Path(root) if root else picture_folder(image_root(table), Path(table)))

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
            from PIL import Image

            from textreg.data.images import GREY, encode_png

            return encode_png(Image.new("RGB", (self.blank_side, self.blank_side), GREY))
        if image_id not in self.paths:
            raise InputError(f"image {image_id!r} is not in the image table{did_you_mean(image_id, self.ids[:5000])}")
        return self._read(image_id, self.paths[image_id])

    def _read(self, image_id: str, name: str) -> bytes:
        from textreg.data.images import is_image

        try:
            path = (self.root / name).resolve()
            inside = path.is_relative_to(self.root.resolve())
        except (OSError, RuntimeError, ValueError):  # a link to itself; a NUL character
            raise InputError(
                f"image {image_id!r}: {shown(name)} is no path: run the stage prepare_data again"
            ) from None
        if not inside:
            raise InputError(
                f"image {image_id!r}: its path leads out of {self.root}: use a path inside the data folder"
            )
        try:
            if path.exists() and not path.is_file():  # reading a pipe would wait for ever
                raise InputError(f"image {image_id!r}: no file ({shown(name)} in {self.root})")
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"image {image_id!r}: {error.strerror} ({shown(name)} in {self.root})") from None
        if data and not is_image(data):
            raise InputError(f"image {image_id!r}: not an image ({shown(name)} in {self.root}): check where it lies")
        return data

    def image(self, image_id: str) -> "Image":
        """The decoded picture, RGB, under the limits of :func:`textreg.data.images.open_image`."""
        from textreg.data.images import open_image

        return open_image(self.data(image_id), f"image {image_id!r}")


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
        raise InputError(f"{table}: its image folder {shown(str(named))} is no path: {cure}") from None
    if not named.is_absolute():
        raise InputError(f"{table}: its image folder {shown(str(named))} is no absolute path: {cure}")
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
