"""Files that take another's place only once they are whole."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_NEW = 0o666


def place_of(path: Path) -> Path | None:
    """Return where the file that `path` names lies, behind any link; None for a pipe or device, which is written to.

    Raises
    ------
    IsADirectoryError
        If it is a folder.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder; name a file", str(path))
    if not stat.S_ISREG(mode):
        return None
    return path.resolve() if path.is_symlink() else path


def put(part: Path, place: Path) -> None:
    """Let a whole file take the place of another, whose permissions it is given."""
    with suppress(FileNotFoundError):
        shutil.copymode(place, part)
    part.replace(place)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` once it is whole; of one that fails nothing is left.

    What a link leads to is replaced, and what is no file, as a pipe, is written to as it stands.

    Raises
    ------
    IsADirectoryError
    """
    place = place_of(path)
    if place is None:
        with path.open("wb") as stream:
            yield stream
        return
    # Others may be writing the same.
    part = place.with_name(f".{place.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        # Nor may anyone read what is half done who could not read what stood there.
        part.touch(stat.S_IMODE(place.stat().st_mode) | stat.S_IWUSR if place.exists() else _NEW)
        with part.open("wb") as stream:
            yield stream
        put(part, place)
    finally:
        part.unlink(missing_ok=True)
