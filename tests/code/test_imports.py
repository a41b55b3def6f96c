"""service → models ← training, and what serving may cost to import."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.conftest import ROOT

HEAVY = {"training", "matplotlib", "torch", "transformers", "sklearn", "scipy", "joblib", "pandas", "pyarrow"}
ALLOWED = {"models": {"models"}, "training": {"training", "models"}, "service": {"service", "models"}}


def imported(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_package_imports_only_what_it_may(package: str) -> None:
    ours = {"models", "training", "service", "stancery", "tests", "benchmarks"}
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        reached = imported(file.read_text()) & ours
        assert reached <= ALLOWED[package], f"{file} imports {reached - ALLOWED[package]}"


def test_the_rule_would_notice_a_breach() -> None:
    assert imported("from training.run import train\nimport models.bundle") == {"training", "models"}


@pytest.mark.parametrize("statement", ["import service.app", "import stancery; stancery.load", "import models.tables"])
def test_serving_loads_nothing_heavy(statement: str) -> None:
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "sys" in loaded
    assert not loaded & HEAVY


def test_files_stay_short() -> None:
    for folder in ("benchmarks", "models", "service", "tests", "training"):
        for file in (ROOT / folder).rglob("*.py"):
            assert len(file.read_text().splitlines()) <= 400, file
