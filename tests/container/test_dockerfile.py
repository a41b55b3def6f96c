"""The Dockerfile, linted, and its steps replayed without an engine by an unprivileged user."""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dockerfile_parse import DockerfileParser

from tests.conftest import ROOT, free_port

PREFIX = "/opt/stancery"
Steps = list[dict[str, Any]]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> list[Steps]:
    parser = DockerfileParser(str(tmp_path_factory.mktemp("parse") / "Dockerfile"))
    parser.content = (ROOT / "Dockerfile").read_text()
    found: list[Steps] = []
    for step in parser.structure:
        if step["instruction"] == "FROM":
            found.append([])
        if step["instruction"] != "COMMENT":
            found[-1].append(step)
    return found


def values(stage: Steps, instruction: str) -> list[str]:
    return [step["value"] for step in stage if step["instruction"] == instruction]


def test_the_serving_image_is_small_and_runs_without_rights(stages: list[Steps]) -> None:
    build, final, retraining, last = stages
    bases = [values(stage, "FROM")[0] for stage in stages]
    # What is compiled in the one must run in the other.
    assert re.match(r"python:\d+\.\d+-slim ", bases[1])
    assert bases[0] == bases[1].replace("-slim AS service", " AS build")
    # What is built unless a target is named is the service alone; the trainer comes on top of it.
    assert bases[2:] == ["service AS retraining", "service"] and bases[1].endswith(" AS service")
    assert [step["instruction"] for step in last] == ["FROM"]
    assert [step["instruction"] for step in retraining] == ["FROM", "COPY", "ENV"]
    assert values(final, "VOLUME") == [re.search(r"STANCERY_HOME=(\S+)", values(final, "ENV")[0])[1]]  # type: ignore[index]
    assert values(final, "USER") == ["10001"]
    assert values(final, "EXPOSE") == ["8000"]
    assert "/readyz" in values(final, "HEALTHCHECK")[0]
    assert all(value.startswith("--from=build ") for value in values(final, "COPY"))
    assert not any("pip" in value or "apt" in value for value in values(final, "RUN"))
    assert json.loads(values(final, "CMD")[0]) == ["stancery", "serve"]
    order = [step["instruction"] for step in final]
    assert order.index("USER") < order.index("CMD")
    assert any("stancery train" in value for value in values(build, "RUN"))
    assert not values(final, "ADD") and not values(build, "ADD")


def test_what_is_copied_is_let_through_and_nothing_else_is(stages: list[Steps]) -> None:
    rules = (ROOT / ".dockerignore").read_text().split()
    assert rules[0] == "*"
    let_through = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {name for value in values(stages[0], "COPY") for name in value.split()[:-1]}
    assert copied == let_through
    assert all((ROOT / name).exists() for name in copied)


class Replay:
    """Run a stage's steps as `user`, with what lies under /opt/stancery in the image lying in a folder of ours."""

    def __init__(self, folder: Path, user: str | None) -> None:
        self.folder = folder
        self.user = user
        self.work = folder

    def place(self, text: str) -> str:
        return text.replace(PREFIX, str(self.folder))

    def command(self, line: str) -> list[str]:
        shell = ["sh", "-ec", line]
        return ["setpriv", f"--reuid={self.user}", "--clear-groups", *shell] if self.user else shell

    def run(self, stage: Steps, context: Path) -> None:
        for step in stage:
            value = self.place(step["value"])
            if step["instruction"] == "WORKDIR":
                self.work = Path(value)
                subprocess.run(self.command(f"mkdir -p {shlex.quote(value)}"), check=True)
            elif step["instruction"] == "COPY" and not value.startswith("--from"):
                *sources, target = value.split()
                for source in sources:
                    where = self.work / target / (source if target == "./" else "")
                    subprocess.run(
                        self.command(f"cp -r {shlex.quote(str(context / source))} {shlex.quote(str(where))}"),
                        check=True,
                    )
            elif step["instruction"] == "RUN":
                environment = {
                    "PATH": f"{Path(sys.base_prefix) / 'bin'}:{os.environ['PATH']}",
                    "HOME": str(self.folder),
                }
                environment |= {name: os.environ[name] for name in os.environ if name.startswith("PIP_")}
                done = subprocess.run(
                    self.command(value), cwd=self.work, env=environment, capture_output=True, text=True, timeout=500
                )
                assert done.returncode == 0, f"{value}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.fixture(scope="module")
def image(stages: list[Steps]) -> Iterator[Replay]:
    """An empty folder that any user may enter, the build stage replayed in it, and only what is copied left there."""
    user = "nobody" if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(dir="/var/tmp" if user else None) as name:
        folder = Path(name)
        context = folder / "context"
        folder.chmod(0o755)
        for rule in (ROOT / ".dockerignore").read_text().split():
            if rule.startswith("!"):
                source = ROOT / rule[1:]
                target = context / rule[1:]
                target.parent.mkdir(parents=True, exist_ok=True)
                if source.is_dir():
                    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(source, target)
        # The steps are replayed, not the fit of all seeds, which another test makes.
        seeds = context / "seeds" / "paragraphs.jsonl"
        seeds.write_text("".join(seeds.read_text().splitlines(keepends=True)[::4]))
        root = folder / "image"
        root.mkdir()
        if user:
            entry = pwd.getpwnam(user)
            os.chown(root, entry.pw_uid, entry.pw_gid)
        replay = Replay(root, user)
        replay.run(stages[0], context)
        copies = [
            value.split()[1:] for stage in stages for value in values(stage, "COPY") if value.startswith("--from")
        ]
        kept = {Path(target).name for _, target in copies}
        for source, target in copies:
            if source != target:
                Path(replay.place(source)).rename(replay.place(target))
        for path in root.iterdir():
            if path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert {path.name for path in root.iterdir()} == kept
        for path in [root, *root.rglob("*")]:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & ~0o222)
        yield replay
        for path in [root, *root.rglob("*")]:
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)


def test_the_replayed_image_answers_from_a_folder_it_cannot_write(image: Replay, stages: list[Steps]) -> None:
    """Beside answering, the serving environment holds no trainer and no compiler's input."""
    packages = {path.name.partition("-")[0].lower() for path in image.folder.glob("venv/lib/python*/site-packages/*")}
    assert "uvicorn" in packages
    assert not packages & {"sklearn", "scikit_learn", "scipy", "matplotlib", "torch", "pandas", "joblib", "pyarrow"}
    port = free_port()
    variables = dict(re.findall(r"(\w+)=(\S+)", image.place(values(stages[1], "ENV")[0])))
    variables["PATH"] = variables["PATH"].replace("$PATH", os.environ["PATH"])
    variables |= {"STANCERY_PORT": str(port), "STANCERY_HOST": "127.0.0.1"}
    # The home is a volume in the image; without one the service still answers, and keeps nothing.
    variables["STANCERY_HOME"] = str(image.folder / "no-volume")
    command = " ".join(json.loads(values(stages[1], "CMD")[0]))
    with tempfile.TemporaryFile() as log:
        start = time.monotonic()
        process = subprocess.Popen(
            image.command(f"cd / && exec {command}"), env=variables, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as ready:
                        assert ready.status == 200
                    break
                except OSError:
                    log.seek(0)
                    assert process.poll() is None and time.monotonic() - start < 30, log.read().decode()
                    time.sleep(0.1)
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/v1/classify",
                b"Crimea is Ukraine, and its annexation will never be recognised.",
                {"Content-Type": "text/plain"},
            )
            with urllib.request.urlopen(request, timeout=10) as response:
                (result,) = json.load(response)["results"]
            assert result["topics"][0]["topic"] == "crimea"
            assert result["topics"][0]["stance"]["label"] == "against"
        finally:
            process.terminate()
            process.wait(20)
