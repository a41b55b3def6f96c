"""The command line as a user runs it: a process, its output and its exit code."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import resource
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import msgspec
import pyarrow as pa
import pytest
from pyarrow import parquet

import stancery
from models.bundle import Bundle, read_manifest
from models.errors import missing_extra
from models.examples import Example, read_examples
from models.taxonomy import read_taxonomy
from tests.conftest import ROOT, SEEDS, TAXONOMY, write_small


def run(*arguments: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "stancery", *arguments],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        env={**os.environ, **environment},
        timeout=120,
    )


def lines(output: bytes) -> list[Any]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture
def texts(seeds: list[Example]) -> list[str]:
    return [example.text for example in seeds[:12]]


def test_help_is_cheap_and_teaches() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = run("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert told.returncode == 0
    assert b"stancery train seeds/paragraphs.jsonl" in told.stdout and b"Exit codes" in told.stdout
    # A guard against importing the service or the trainer, which cost seconds; the figure is benchmarks/resources.py's.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5


@pytest.mark.parametrize(
    "command",
    [
        "serve",
        "classify",
        "train",
        "evaluate",
        "labels",
        "labels check",
        "labels import",
        "models",
        "models activate",
        "models export",
        "keys",
        "keys create",
    ],
)
def test_every_command_has_help(command: str) -> None:
    assert run(*command.split(), "--help").returncode == 0


def test_every_format_gives_the_same_answers(bundle_path: Path, texts: list[str], tmp_path: Path) -> None:
    rows = [{"id": f"r{number}", "text": text} for number, text in enumerate(texts)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (tmp_path / "in.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "id"])
        writer.writeheader()
        writer.writerows(rows)
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    (tmp_path / "in.txt").write_text("\n\n".join(texts))
    outputs = []
    for suffix in ("jsonl", "csv", "parquet", "txt"):
        done = run("classify", str(tmp_path / f"in.{suffix}"), "--bundle", str(bundle_path))
        assert done.returncode == 0, done.stderr
        outputs.append(lines(done.stdout))
    assert [row["id"] for row in outputs[0]] == [row["id"] for row in rows]
    assert outputs[0] == outputs[1] == outputs[2]
    assert [row["topics"] for row in outputs[3]] == [row["topics"] for row in outputs[0]]
    piped = run("classify", "-", "--bundle", str(bundle_path), stdin="\n\n".join(texts).encode())
    assert lines(piped.stdout) == outputs[3]
    python = stancery.load(bundle_path).classify(texts)
    assert [row["topics"] for row in python] == [row["topics"] for row in outputs[0]]


def test_each_line_of_standard_input_is_answered_before_the_next_is_sent(bundle_path: Path) -> None:
    command = [sys.executable, "-m", "stancery", "classify", "-", "--format", "jsonl", "--bundle", str(bundle_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONUNBUFFERED": ""}, **pipes) as process:
        assert process.stdin is not None and process.stdout is not None
        for number in range(3):
            process.stdin.write(json.dumps({"id": f"n{number}", "text": "Flights may resume."}).encode() + b"\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], 60)
            assert ready and json.loads(process.stdout.readline())["id"] == f"n{number}"
        process.stdin.close()


def test_csv_output_has_a_row_a_topic(bundle_path: Path, texts: list[str], tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    out = tmp_path / "out.csv"
    done = run("classify", str(tmp_path / "in.jsonl"), "-o", str(out), STANCERY_BUNDLE=str(bundle_path))
    assert done.returncode == 0 and done.stdout == b""
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    expected = stancery.load(bundle_path).classify(texts)
    assert len(rows) == sum(max(1, len(result["topics"])) for result in expected)
    first = next(result for result in expected if result["topics"])
    assert [row["topic"] for row in rows if row["id"] == f"p{expected.index(first) + 1}"] == [
        topic["topic"] for topic in first["topics"]
    ]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("in.jsonl", b'"fine"\n{"text": 3}\n', b"in.jsonl:2: text: must be text, not int"),
        ("in.jsonl", b'"fine"\n{"colour": "x"}\n', b"in.jsonl:2: must be a string or an object with text"),
        ("in.jsonl", b'"fine"\n{oops\n', b"in.jsonl:2: not JSON"),
        ("in.jsonl", b'{"text": "a", "id": {"x": 1}}\n', b"in.jsonl:1: id: must be text or a whole number, not dict"),
        ("in.jsonl", b'{"text": "a", "id": true}\n', b"in.jsonl:1: id: must be text or a whole number, not bool"),
        ("in.jsonl", b'{"text": "a", "id": 1.5}\n', b"in.jsonl:1: id: must be text or a whole number, not float"),
        ("in.csv", b"id,body\n1,x\n", b"no column named text; there are id, body"),
        ("in.csv", b"text\nfine\n\xff\xfe\n", b"not valid UTF-8"),
        ("in.csv", b"id,text\n1,It hurts, he said\n", b"in.csv:2: 3 cells, but the header has 2; quote what"),
        ("in.csv", b'text\n"One\nTwo\n', b"not CSV: unexpected end of data"),
        ("in.jsonl", b'"fine"\n"\xff"\n', b"in.jsonl:2: not valid UTF-8"),
        ("in.parquet", b"PAR1", b"cannot be read as Parquet"),
        ("in.xlsx", b"", b"extension not one of .jsonl"),
        ("in.txt", b"a\0b", b"NUL"),
        ("in.txt", b"One.\n\n\nTwo\nlines.\n" * 900 + b"\na\0b\n", b"in.txt:4502: holds a NUL"),
    ],
)
def test_bad_files_end_in_2_and_say_where(
    name: str, content: bytes, reason: bytes, bundle_path: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    done = run("classify", str(tmp_path / name), "--bundle", str(bundle_path))
    assert done.returncode == 2
    assert reason in done.stderr and b"Traceback" not in done.stderr


def test_an_id_is_text_or_a_whole_number(shared_small: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "a", "id": 7}\n{"text": "b", "id": "x"}\n{"text": "c", "id": null}\n')
    done = run("classify", str(tmp_path / "in.jsonl"), "--bundle", str(shared_small()))
    assert [row["id"] for row in lines(done.stdout)] == ["7", "x", "p3"]


def test_an_output_is_replaced_whole_or_left_alone(bundle_path: Path, tmp_path: Path) -> None:
    path, bad = tmp_path / "same.jsonl", tmp_path / "bad.jsonl"
    path.write_text("old\n")
    (tmp_path / "in.jsonl").write_text('"Rain."\n"Snow."\n')
    bad.write_text('"Rain."\n{oops\n')
    assert run("classify", str(bad), "-o", str(path), "--bundle", str(bundle_path)).returncode == 2
    assert path.read_text() == "old\n"
    assert run("classify", str(tmp_path / "in.jsonl"), "-o", str(path), "--bundle", str(bundle_path)).returncode == 0
    assert [row["id"] for row in lines(path.read_bytes())] == ["p1", "p2"]
    nowhere = run("classify", str(bad), "-o", str(tmp_path / "no" / "o.jsonl"), "--bundle", str(bundle_path))
    assert nowhere.returncode == 1 and b"Traceback" not in nowhere.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bad.jsonl", "in.jsonl", "same.jsonl"]


def test_a_port_in_use_ends_in_1(bundle_path: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("serve", "--bundle", str(bundle_path), "--home", str(tmp_path), "--port", port)
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("serve --host bogus..host --allow-anonymous", "neither an address nor a host's name"),
        ("serve --bundle {home}/nope", "/nope: no such folder"),
        ("classify {home} --bundle nope", "nope: no such folder, and no such version in"),
        ("models show nope", "nope: no such folder, and no such version in"),
        ("models activate ../nope", "../nope: no such version"),
        ("labels export -o {home}", "is a folder; name a file"),
        ("keys create anonymous --scopes label", "anonymous is who has another key or none"),
    ],
)
def test_a_call_at_fault_ends_in_2_and_one_line_says_why(call: str, reason: str, tmp_path: Path) -> None:
    done = run(*call.format(home=tmp_path).split(), STANCERY_HOME=str(tmp_path), STANCERY_PORT="0")
    assert done.returncode == 2 and b"Traceback" not in done.stderr
    assert reason in done.stderr.decode().splitlines()[-1]


def test_a_version_is_named_as_the_list_does(shared_small: Callable[..., Path], tmp_path: Path) -> None:
    version, home = read_manifest(shared_small()).version, ("--home", str(tmp_path))
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / version).symlink_to(shared_small())
    assert run("models", "list", *home).stdout.decode().split()[0] == version
    assert run("models", "show", version, *home).stdout.decode().startswith(f"# {version}")
    examples = str(shared_small().parent / "examples.jsonl")
    assert run("evaluate", version, examples, *home).stdout.decode().startswith(f"{version} on ")
    assert run("classify", "-", "--bundle", version, *home, stdin=b"Rain.").returncode == 0
    assert run("models", "export", version, *home, "-o", str(tmp_path / "m.joblib")).returncode == 0
    refused = run("models", "export", version, *home, "-o", str(tmp_path))
    assert refused.returncode == 2 and b"is a folder; name a file" in refused.stderr


def test_a_missing_file_an_unknown_topic_and_a_missing_bundle(bundle_path: Path, tmp_path: Path) -> None:
    assert run("classify", str(tmp_path / "no.jsonl"), "--bundle", str(bundle_path)).returncode == 2
    (tmp_path / "in.jsonl").write_text('"x"\n')
    unknown = run("classify", str(tmp_path / "in.jsonl"), "--bundle", str(bundle_path), "--topics", "teapots")
    assert unknown.returncode == 2 and b"allowed are crimea" in unknown.stderr
    nothing = run("classify", str(tmp_path / "in.jsonl"), STANCERY_HOME=str(tmp_path))
    assert nothing.returncode == 1 and b"stancery train" in nothing.stderr


def test_train_evaluate_show_list_and_export(tmp_path: Path) -> None:
    write_small(tmp_path)
    examples, taxonomy = str(tmp_path / "examples.jsonl"), str(tmp_path / "taxonomy.toml")
    home = str(tmp_path / "home")
    trained = run("train", examples, "--taxonomy", taxonomy, "--family", "linear", "--home", home)
    assert trained.returncode == 0, trained.stderr
    assert b"calibrate: scoring each paragraph" in trained.stderr and b"topic macro-F1" in trained.stdout
    version, _, folder = trained.stdout.decode().splitlines()[0].partition(" in ")
    assert run("train", examples, "--taxonomy", taxonomy, "--home", home).returncode == 0
    assert [line.split()[0] for line in run("models", "list", "--home", home).stdout.decode().splitlines()] == [version]
    assert run("models", "show", folder).stdout.decode().startswith(f"# {version}")
    told = json.loads(run("evaluate", folder, examples, "--json").stdout)
    assert told["topics"]["micro"]["f1"]["value"] > 0.9 and len(told["topics"]["macro"]["f1"]["interval"]) == 2
    assert set(told["stance"]["given_topic"]["confusion"]) == {"labels", "counts"}
    assert (
        told["stance"]["end_to_end"]["macro_f1"]["value"] <= told["stance"]["given_topic"]["macro_f1"]["value"] + 1e-9
    )
    assert b"F1 of tea" in run("evaluate", folder, examples).stdout
    assert run("models", "export", folder, "--format", "joblib", "-o", str(tmp_path / "m.joblib")).returncode == 0
    assert set(joblib.load(tmp_path / "m.joblib")["topics"]) == {"tea", "cats"}


def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it(tmp_path: Path) -> None:
    write_small(tmp_path)
    given = ["train", str(tmp_path / "examples.jsonl"), "--taxonomy", str(tmp_path / "taxonomy.toml")]
    # As where it is not installed.
    command = f"import sys; sys.modules['joblib'] = None; import stancery; stancery.main({given})"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == 1 and b"Traceback" not in done.stderr
    assert b"pip install '.[train]' in the folder of Stancery's source" in done.stderr
    ours = ModuleNotFoundError("No module named 'models.none'", name="models.none")
    assert missing_extra(ours) is None


@pytest.mark.parametrize("table", ["in.parquet", "out.parquet"])
def test_parquet_says_what_it_needs(table: str, shared_small: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('"Rain."\n')
    source, output = ("in.parquet", "out.jsonl") if table == "in.parquet" else ("in.jsonl", "out.parquet")
    given = ["classify", str(tmp_path / source), "-o", str(tmp_path / output), "--bundle", str(shared_small())]
    command = f"import sys; sys.modules['pyarrow'] = None; import stancery; stancery.main({given})"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == 2 and b"Parquet needs pyarrow: pip install '.[parquet]' in the folder" in done.stderr


def test_what_only_a_training_here_takes_is_refused_beside_a_remote_one() -> None:
    done = run("train", "--remote", "http://127.0.0.1:9", "--holdout", "0.2", "--jobs", "1")
    assert done.returncode == 2 and b"--holdout, --jobs" in done.stderr
    # What the environment says holds for all commands.
    done = run("train", "--remote", "http://127.0.0.1:9", STANCERY_JOBS="1")
    assert done.returncode == 1


def test_a_seed_below_0_is_refused(bundle_path: Path) -> None:
    done = run("evaluate", str(bundle_path), str(SEEDS), "--seed", "-1")
    assert done.returncode == 2 and b"--seed" in done.stderr


def test_labels_check_tells_every_fault_or_what_there_is(tmp_path: Path) -> None:
    told = run("labels", "check", str(SEEDS), "--taxonomy", str(TAXONOMY))
    assert told.returncode == 0 and b"no fault" in told.stdout and b"crimea" in told.stdout
    (tmp_path / "bad.jsonl").write_text('{"text": "x", "topics": {"crimea": "maybe"}}\n{"topics": {}}\n')
    told = run("labels", "check", str(tmp_path / "bad.jsonl"), "--taxonomy", str(TAXONOMY))
    assert told.returncode == 2
    assert b"bad.jsonl:1: topics.crimea: stance 'maybe' is not one of favor, against, neutral" in told.stderr
    assert b"bad.jsonl:2: text: missing" in told.stderr


def test_a_dry_run_of_an_import_shows_how_the_file_was_read(tmp_path: Path) -> None:
    write_small(tmp_path)
    table = "text,tea,cats\nPlain.,con,\nRain.,,0\nLater.,,\nCafé façade.,1,pro\n"
    (tmp_path / "table.csv").write_bytes(table.encode("cp1252"))
    options = ["--taxonomy", str(tmp_path / "taxonomy.toml"), "--home", str(tmp_path), "--dry-run"]
    done = run("labels", "import", str(tmp_path / "table.csv"), *options, PYTHONIOENCODING="utf-8")
    told = done.stdout.decode()
    assert done.returncode == 0 and told.startswith("3 labels (csv, cp1252)"), done.stderr
    assert "off topic            1" in told and "skipped              1  unlabelled" in told
    assert "  row 4 (line 5): tea, cats: favor: 'Café façade.'\n  row 1 (line 2): tea: against: 'Plain.'\n" in told
    assert told.endswith("  row 2 (line 3): off topic: 'Rain.'\nnothing was changed\n")


def test_labels_come_in_once_and_go_out_as_they_are(tmp_path: Path) -> None:
    write_small(tmp_path)
    home, rows, out = ("--home", str(tmp_path)), tmp_path / "examples.jsonl", tmp_path / "out.jsonl"
    count = len(rows.read_text().splitlines())
    taxonomy = ("--taxonomy", str(tmp_path / "taxonomy.toml"))
    for told in ("new", "duplicate"):
        done = run("labels", "import", str(rows), *taxonomy, *home)
        assert done.returncode == 0 and f"{told:<19}{count}\n" in done.stdout.decode(), done
    done = run("labels", "export", "-o", str(out), *home)
    assert done.returncode == 0, done.stderr
    known = read_taxonomy(tmp_path / "taxonomy.toml")
    sent, kept = ([msgspec.structs.replace(each, id="") for each in read_examples(path, known)] for path in (rows, out))
    assert kept == sent and len(sent) == count


def test_labels_come_in_by_standard_input(tmp_path: Path) -> None:
    write_small(tmp_path)
    rows, home = (tmp_path / "examples.jsonl").read_bytes(), ("--home", str(tmp_path))
    done = run("labels", "import", "-", "--taxonomy", str(tmp_path / "taxonomy.toml"), *home, stdin=rows)
    assert done.returncode == 0 and f"new{len(rows.splitlines()):>19}\n" in done.stdout.decode(), done
    assert len(run("labels", "export", *home).stdout.splitlines()) == len(rows.splitlines())


def test_the_columns_of_the_keys_stay_apart(tmp_path: Path) -> None:
    names = ("ann", "a desk with a name of more than 24 letters")
    for name in names:
        limit = ("--requests-per-minute", "10")
        assert run("keys", "create", name, "--scopes", "label", *limit, "--home", str(tmp_path)).returncode == 0
    assert run("keys", "revoke", "ann", "--home", str(tmp_path)).returncode == 0
    rows = [re.split(" {2,}", row) for row in run("keys", "list", "--home", str(tmp_path)).stdout.decode().splitlines()]
    told = {name: [scopes, limit, *(state.split()[0] for state in rest)] for name, scopes, _, limit, *rest in rows}
    assert told == {"ann": ["label", "10 a minute", "revoked"], names[1]: ["label", "10 a minute"]}


@pytest.mark.parametrize(
    ("texts", "reason"),
    [("Sanctions", "texts: must be a list of texts"), (["a", 3], r"texts\[1\]: must be text, not int")],
)
def test_what_is_no_list_of_texts_is_refused(texts: Any, reason: str, shared_small: Callable[..., Path]) -> None:
    with pytest.raises(TypeError, match=reason):
        stancery.load(shared_small()).classify(texts)


def test_python_users_get_what_http_users_get(bundle_path: Path, bundle: Bundle) -> None:
    classifier = stancery.load(bundle_path)
    assert classifier.version == bundle.manifest.version
    assert classifier.topics[0]["id"] == "crimea"
    (result,) = classifier.classify(["Rain."], topics=["energy"], explain=True)
    assert result["decision"] == "off_topic" and result["topics"][0]["decision"] == "absent"
