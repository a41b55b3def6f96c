"""What an output takes the place of: files whole, with their permissions, behind links; what is no file stays."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from models.files import place_of, replacing


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    for name in ("old", "new"):
        with pytest.raises(RuntimeError), replacing(tmp_path / name) as stream:
            stream.write(b"half")
            raise RuntimeError
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("old", b"old")]


def test_permissions_stay_and_are_the_usual_ones_of_a_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for name, kept in (("private", 0o600), ("shared", 0o666), ("read-only", 0o444)):
            (tmp_path / name).touch()
            (tmp_path / name).chmod(kept)
            with replacing(tmp_path / name) as stream:
                assert not mode(Path(stream.name)) & ~(kept | stat.S_IWUSR)
                stream.write(b"new")
            assert mode(tmp_path / name) == kept and (tmp_path / name).read_bytes() == b"new"
        with replacing(tmp_path / "new"):
            pass
        assert mode(tmp_path / "new") == 0o640
    finally:
        os.umask(before)


@pytest.mark.parametrize("is_there", [True, False])
def test_what_a_link_leads_to_is_replaced_and_the_link_stays(is_there: bool, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link, target = tmp_path / "link", tmp_path / "far" / "file"
    link.symlink_to(Path("far", "file"))
    if is_there:
        target.write_bytes(b"old")
    with replacing(link) as stream:
        stream.write(b"new")
    assert link.is_symlink() and not target.is_symlink() and target.read_bytes() == b"new"
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code = f"import pathlib, models.files as f\nwith f.replacing(pathlib.Path({str(pipe)!r})) as s: s.write(b'new')"
    with subprocess.Popen([sys.executable, "-c", code]) as writer:
        assert subprocess.run(["cat", pipe], capture_output=True, timeout=30).stdout == b"new"
    assert writer.returncode == 0 and pipe.is_fifo() and place_of(pipe) is None


def test_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for path in (tmp_path, tmp_path / "link"):
        with pytest.raises(IsADirectoryError, match="is a folder; name a file"), replacing(path):
            pass
