"""mypy and pyright reject what is wrong in a user's file, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mypy import api

FILE = Path(__file__).with_name("users_file.py")
ROOT = FILE.parents[2]

pytestmark = pytest.mark.typing


def marked() -> dict[int, str]:
    """Return the lines that must be rejected, each with its text."""
    lines = enumerate(FILE.read_text(encoding="utf-8").splitlines(), 1)
    return {number: line.strip() for number, line in lines if "  # E: " in line}


def check(rejected: dict[int, str]) -> None:
    """Compare the lines that a type checker rejected with the marked ones."""
    expected = marked()
    missed = {number: text for number, text in expected.items() if number not in rejected}
    wrong = {number: text for number, text in rejected.items() if number not in expected}
    assert not missed, f"accepted, though wrong: {missed}"
    assert not wrong, f"rejected, though right: {wrong}"


def test_there_is_something_to_reject():
    assert len(marked()) > 30


def test_mypy_strict():
    output, errors, _ = api.run(
        [
            "--strict",
            "--config-file=",
            "--no-pretty",
            "--hide-error-context",
            f"--python-executable={sys.executable}",
            f"--cache-dir={ROOT / '.mypy_cache' / 'users'}",
            str(FILE),
        ]
    )
    assert not errors, errors
    rejected: dict[int, str] = {}
    for line in output.splitlines():
        path, _, rest = line.partition(":")
        number, _, message = rest.partition(":")
        if number.isdigit() and " error:" in f" {message}":
            assert Path(path).name == FILE.name, line
            rejected[int(number)] = message
    check(rejected)


def pyright() -> str:
    """Return the command; a checkout without it cannot prove what it promises."""
    beside = Path(sys.executable).with_name("pyright")
    found = str(beside) if beside.exists() else shutil.which("pyright")
    if found is None:
        pytest.fail('pyright is missing: pip install -e ".[dev]"')
    return found


def test_pyright_strict():
    done = subprocess.run(
        [pyright(), "--outputjson", "--pythonpath", sys.executable, str(FILE)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,  # strict is said in pyproject.toml
        env=os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
    )
    report = json.loads(done.stdout[done.stdout.index("{") :])
    assert report["summary"]["filesAnalyzed"] == 1
    rejected = {
        found["range"]["start"]["line"] + 1: found["message"]
        for found in report["generalDiagnostics"]
        if found["severity"] == "error"
    }
    check(rejected)
