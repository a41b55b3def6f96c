"""Files labelled on all cores, interrupted and gone on with, through the real command."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from models import bulk
from models.bulk import STRETCH
from tests.conftest import ROOT

ROWS = 6 * STRETCH + 5


@pytest.fixture(scope="module")
def folder(shared_small: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a bundle at home and a file of a few stretches."""
    made = tmp_path_factory.mktemp("bulk")
    (made / "bundle").symlink_to(shared_small())
    words = ("kettle", "cup", "leaf", "brew", "town", "splendid", "fair", "paw", "rain")
    with (made / "rows.jsonl").open("w") as file:
        for number in range(ROWS):
            text = " ".join(words[(number * 7 + i * i) % len(words)] for i in range(5 + number % 30))
            file.write(json.dumps({"id": f"n{number}", "text": f"{text} {number}"}) + "\n")
    return made


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stancery", "classify", *arguments, "--bundle", str(folder / "bundle")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Return the processes that score, once both are there: CPython tells of one that dies before in its own words."""
    found: list[int] = []
    while len(found) < 2:
        assert process.poll() is None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        found = [int(pid) for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
        time.sleep(0.005)
    return found


def run(folder: Path, *arguments: str, code: int = 0) -> str:
    process = started(folder, *arguments)
    _, told = process.communicate(timeout=120)
    assert process.returncode == code, told
    return told


@pytest.fixture(scope="module")
def expected(folder: Path) -> bytes:
    run(folder, "rows.jsonl", "-o", "one.jsonl", "--jobs", "1")
    found = (folder / "one.jsonl").read_bytes()
    assert [json.loads(line)["id"] for line in found.splitlines()] == [f"n{number}" for number in range(ROWS)]
    return found


def test_processes_give_what_one_gives(folder: Path, expected: bytes) -> None:
    run(folder, "rows.jsonl", "-o", "two.jsonl", "--jobs", "2")
    assert (folder / "two.jsonl").read_bytes() == expected
    assert not (folder / "two.jsonl.parts").exists()


def interrupted(folder: Path, output: str, number: signal.Signals) -> str:
    """Stop a run once a stretch is done; return what it told."""
    process = started(folder, "rows.jsonl", "-o", output, "--jobs", "2")
    parts = folder / f"{output}.parts"
    while not (parts / "00000000").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode != 0 and not (folder / output).exists()
    return told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_is_gone_on_with(folder: Path, expected: bytes, number: signal.Signals) -> None:
    output = f"{number.name}.jsonl"
    told = interrupted(folder, output, number)
    if number == signal.SIGINT:
        assert "--resume" in told and "Traceback" not in told
    first = folder / f"{output}.parts" / "00000000"
    made = first.stat().st_mtime_ns
    assert "differs in topics" in run(folder, "rows.jsonl", "-o", output, "--resume", "--topics", "tea", code=2)
    assert first.stat().st_mtime_ns == made
    first.write_bytes(first.read_bytes().replace(b'"n0"', b'"kept"', 1))
    run(folder, "rows.jsonl", "-o", output, "--resume")
    assert (folder / output).read_bytes() == expected.replace(b'"n0"', b'"kept"', 1)


@pytest.mark.parametrize("wait", [0, 0.1, 0.3])
def test_an_interrupt_while_workers_start_leaves_no_traceback(folder: Path, wait: float) -> None:
    # However fast the processor, the run is not over by then.
    long = folder / "long.jsonl"
    long.write_bytes((folder / "rows.jsonl").read_bytes() * 20)
    process = started(folder, long.name, "--jobs", "2")
    workers_of(process)
    time.sleep(wait)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to the workers too
    _, told = process.communicate(timeout=10)
    assert process.returncode == 1 and told == "\nAborted!\n"


def test_an_interrupt_that_another_thread_takes_waits_for_the_pool() -> None:
    done, over = [], threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt), bulk._held_interrupt():
            os.kill(os.getpid(), signal.SIGINT)
            # Python handles a signal between two steps of the main thread, soon after another thread took it.
            time.sleep(0.2)
            done.append("held")
        assert done == ["held"]
    finally:
        over.set()
        other.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_no_run_left_is_not_removed(folder: Path) -> None:
    (folder / "mine.jsonl.parts").mkdir()
    (folder / "mine.jsonl.parts" / "notes").write_text("mine")
    assert "left by no run" in run(folder, "rows.jsonl", "-o", "mine.jsonl", code=2)
    assert (folder / "mine.jsonl.parts" / "notes").read_text() == "mine"


def test_without_a_run_before_there_is_nothing_to_go_on_with(folder: Path) -> None:
    assert "nothing to go on with" in run(folder, "rows.jsonl", "-o", "none.jsonl", "--resume", code=2)
    assert "standard output" in run(folder, "rows.jsonl", "--resume", code=2)


@pytest.mark.parametrize("name", ["./rows.jsonl", "link.jsonl", "hard.jsonl"])
def test_what_is_read_is_not_written_over(folder: Path, name: str) -> None:
    before = (folder / "rows.jsonl").read_bytes()
    if name == "link.jsonl":
        (folder / name).symlink_to("rows.jsonl")
    elif name == "hard.jsonl":
        (folder / name).hardlink_to(folder / "rows.jsonl")
    assert "would be lost" in run(folder, "rows.jsonl", "-o", name, code=2)
    command = [sys.executable, "-m", "stancery", "classify", "-", "--format", "jsonl", "-o", str(folder / name)]
    with (folder / "rows.jsonl").open("rb") as stdin:
        done = subprocess.run(command, cwd=ROOT, stdin=stdin, capture_output=True, timeout=60)
    assert done.returncode == 2 and b"would be lost" in done.stderr
    assert (folder / "rows.jsonl").read_bytes() == before and not (folder / f"{name}.parts").exists()


def test_a_private_output_behind_a_link_stays_so(folder: Path, expected: bytes) -> None:
    (folder / "elsewhere").mkdir()
    private, link = folder / "elsewhere" / "private.jsonl", folder / "to.jsonl"
    private.touch(0o600)
    link.symlink_to(private)
    process = started(folder, "rows.jsonl", "-o", link.name, "--jobs", "2")
    parts = private.with_name("private.jsonl.parts")
    while not parts.exists():
        assert process.poll() is None
        time.sleep(0.005)
    assert stat.S_IMODE(parts.stat().st_mode) == 0o700
    process.communicate(timeout=120)
    assert process.returncode == 0 and link.is_symlink() and stat.S_IMODE(private.stat().st_mode) == 0o600
    assert private.read_bytes() == expected and list(private.parent.iterdir()) == [private]


def test_a_pipe_is_written_to_as_standard_output_is(folder: Path, expected: bytes) -> None:
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    process = started(folder, "rows.jsonl", "-o", pipe.name, "--jobs", "2")
    assert subprocess.run(["cat", pipe], capture_output=True, timeout=120).stdout == expected
    process.communicate(timeout=60)
    assert process.returncode == 0 and pipe.is_fifo() and not (folder / "pipe.parts").exists()
    assert "or a pipe cannot be gone on with" in run(folder, "rows.jsonl", "-o", pipe.name, "--resume", code=2)


def test_a_folder_is_refused_before_anything_is_scored(folder: Path) -> None:
    (folder / "out.csv.d").mkdir()
    told = run(folder, "rows.jsonl", "-o", "out.csv.d", "--output-format", "csv", code=2)
    assert told == "Error: out.csv.d: is a folder; name a file\n" and not (folder / "out.csv.d.parts").exists()


def test_parquet_with_a_damaged_page_is_at_fault_itself(folder: Path) -> None:
    path = folder / "damaged.parquet"
    table = pa.table({"text": [f"The kettle of town {number} is splendid." for number in range(6 * STRETCH)]})
    parquet.write_table(table, path, row_group_size=STRETCH, compression="snappy")
    with parquet.ParquetFile(path) as file:
        column = file.metadata.row_group(4).column(0)
    data = bytearray(path.read_bytes())
    page = slice(column.dictionary_page_offset, column.dictionary_page_offset + column.total_compressed_size)
    data[page] = b"\xff" * len(data[page])
    path.write_bytes(data)
    told = run(folder, path.name, "-o", "undamaged.jsonl", code=2)
    assert f"damaged.parquet: in the 1,024 rows from {4 * STRETCH + 1:,} on: damaged: " in told
    assert "--resume" not in told and "Traceback" not in told
    assert not (folder / "undamaged.jsonl").exists() and not (folder / "undamaged.jsonl.parts").exists()


def test_parquet_holds_what_json_lines_hold(folder: Path, expected: bytes) -> None:
    run(folder, "rows.jsonl", "-o", "out.parquet", "--jobs", "2")
    with parquet.ParquetFile(folder / "out.parquet") as file:
        assert file.num_row_groups == 7
        found = file.read().to_pylist()

    def without_blanks(value: object) -> object:
        if isinstance(value, dict):
            return {key: without_blanks(each) for key, each in value.items() if each not in (None, [], False)}
        return [without_blanks(each) for each in value] if isinstance(value, list) else value

    assert [without_blanks(row) for row in found] == [without_blanks(json.loads(row)) for row in expected.splitlines()]
    assert run(folder, "rows.jsonl", "--output-format", "parquet", code=2).startswith("Parquet cannot be written")


def test_csv_has_one_head(folder: Path) -> None:
    run(folder, "rows.jsonl", "-o", "out.csv", "--jobs", "2")
    lines = (folder / "out.csv").read_text().splitlines()
    assert lines[0].startswith("id,decision,") and sum(line.startswith("id,decision,") for line in lines) == 1


def test_a_row_at_fault_is_named_and_nothing_is_left(folder: Path) -> None:
    lines = (folder / "rows.jsonl").read_text().splitlines()
    lines[3 * STRETCH + 7] = '{"text": ""}'
    (folder / "bad.jsonl").write_text("\n".join(lines))
    told = run(folder, "bad.jsonl", "-o", "bad.out.jsonl", "--jobs", "2", code=2)
    assert told.strip().splitlines()[-1] == f"bad.jsonl:{3 * STRETCH + 8}: text: is blank; text is needed"
    assert not (folder / "bad.out.jsonl").exists() and not (folder / "bad.out.jsonl.parts").exists()


def test_a_worker_that_dies_is_told_of(folder: Path, expected: bytes) -> None:
    process = started(folder, "rows.jsonl", "-o", "dead.jsonl", "--jobs", "2")
    parts = folder / "dead.jsonl.parts"
    while not (parts / "00000000").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1 and "has died" in told and "--resume" in told and "Traceback" not in told
    run(folder, "rows.jsonl", "-o", "dead.jsonl", "--resume", "--jobs", "2")
    assert (folder / "dead.jsonl").read_bytes() == expected


def test_standard_output_is_not_said_to_be_gone_on_with(folder: Path) -> None:
    process = started(folder, "rows.jsonl", "--jobs", "2")
    os.kill(workers_of(process)[0], signal.SIGKILL)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1 and told == "Error: a process that scored has died\n"
