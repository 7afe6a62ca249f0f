"""Pictures of hub data: found in folders, archives or the data files themselves, and decoded once to know they are
whole.

A data set spells its images as paths; they are looked for in ``image_folder``, in the data set's folder, in its
``images`` folder and in its zip archives (LCS-558K ships one), so nothing has to be unpacked by hand.  Pictures of
``image_folder`` are kept as paths, all others as bytes.  Decoding runs in threads (Pillow releases the interpreter
lock) with a bounded number of rows in flight, so the order of rows and the memory stay the same whatever the number
of workers.

Try it: ``Pictures(folder, image_folder="coco/train2017").find("000000033471.jpg")``.
"""

import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Lock

from textreg.data.images import open_image
from textreg.data.sources import Image, Row
from textreg.errors import InputError


class BrokenImage(Exception):
    """One picture that is missing or does not decode; counted, and an ``InputError`` only beyond the limit."""


@dataclass(frozen=True)
class CheckedPicture:
    """A checked picture: ``data`` (encoded bytes) or ``path`` relative to the image folder; the other is ``None``.

    ``image_id`` is ``SOURCE/PATH``, or ``SOURCE#ROW`` of a picture that lies in the data file itself.
    """

    image_id: str
    data: bytes | None
    path: str | None

    def as_record(self, split: str) -> dict[str, object]:
        image = {"bytes": self.data, "path": self.path}
        return {"image_id": self.image_id, "split": split, "image": image, "scene": None}


class Pictures:
    """Where the pictures of one data set lie.  ``image_folder`` (may be empty) is the user's; ``folder`` the data
    set's.
    """

    def __init__(self, folder: Path, image_folder: str | Path = ""):
        self.root = Path(image_folder).expanduser().resolve() if str(image_folder) else None
        if self.root is not None and not self.root.is_dir():
            raise InputError(f"prepare_data.image_folder {image_folder}: no such folder")
        self._folders = [folder, folder / "images"]
        self._archives = [_archive(path) for path in sorted(folder.glob("*.zip"))]
        self._names = [set(archive.namelist()) for archive in self._archives]
        self._lock = Lock()

    def find(self, image: Image) -> tuple[bytes, str | None]:
        """Encoded bytes, and the path relative to the image folder where the picture lies there.

        Raises ``BrokenImage`` for a picture that is nowhere, and for a path that leaves its folder.
        """
        if isinstance(image, dict):
            if image.get("bytes"):
                return image["bytes"], None
            if not image.get("path"):
                raise BrokenImage("an image without bytes or path")
            image = str(image["path"])
        try:
            return self._look_up(image)  # what a name or a member of an archive can be wrong in is many things
        except (
            OSError,
            zipfile.BadZipFile,
            zlib.error,
            RuntimeError,
        ) as error:
            raise BrokenImage(f"{image[:200]} cannot be read ({error})") from error

    def _look_up(self, image: str) -> tuple[bytes, str | None]:
        relative = PurePosixPath(image)
        if relative.is_absolute() or ".." in relative.parts:
            raise BrokenImage(f"{image} leads out of the data folder")
        if self.root is not None and (self.root / relative).is_file():
            return (self.root / relative).read_bytes(), str(relative)
        for folder in self._folders:
            if (folder / relative).is_file():
                return (folder / relative).read_bytes(), None
        for archive, names in zip(self._archives, self._names, strict=True):
            for name in (str(relative), f"images/{relative}"):
                if name in names:
                    with self._lock:
                        return archive.read(name), None
        raise BrokenImage(f"{image} is missing")

    def check(self, row: Row) -> CheckedPicture:
        """The picture of a row, decoded to the last pixel and thrown away; raises ``BrokenImage``."""
        data, path = self.find(row.image)
        try:
            open_image(data, _label(row))
        except InputError as error:
            raise BrokenImage(str(error)) from error
        # The source is part of the name: two data sets may both hold a 0.png, and a test picture is no training one.
        name = f"{row.source}#{row.number}" if isinstance(row.image, dict) else f"{row.source}/{row.image}"
        return CheckedPicture(name, None if path else data, path)


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a whole zip archive ({error}); download it again") from error


def _label(row: Row) -> str:
    return row.image if isinstance(row.image, str) else f"the image of row {row.number}"


def checked(
    rows: Iterable[Row],
    pictures: Pictures,
    *,
    wanted: int,
    limit: float,
    workers: int = 4,
    say: Callable[[str], None] = print,
) -> Iterator[tuple[Row, CheckedPicture]]:
    """Rows with their whole pictures, in order.

    A row whose picture is broken is left out, and ``say`` is told at the end how many were; more than ``limit``
    (share, 0..1) of the ``wanted`` rows is an ``InputError`` that names the first broken picture and the cure.
    """
    broken = 0
    first = ""
    allowed = int(limit * wanted)
    flight: deque[tuple[Row, Future[CheckedPicture]]] = deque()
    stream = iter(rows)
    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            while True:
                while len(flight) < 4 * workers and (row := next(stream, None)) is not None:
                    flight.append((row, pool.submit(pictures.check, row)))
                if not flight:
                    break
                row, future = flight.popleft()
                try:
                    picture = future.result()
                except BrokenImage as error:
                    broken += 1
                    first = first or f"{row.source}: {error}"
                    if broken > allowed:
                        raise InputError(
                            f"{first}; {broken} broken images, allowed are {allowed} of {wanted}: point "
                            "prepare_data.image_folder at the pictures, or raise prepare_data.max_broken_images"
                        ) from error
                    continue
                yield row, picture
        finally:
            for _, future in flight:
                future.cancel()
    if broken:
        say(f"left out {broken} rows with a broken picture ({first} is the first)")
