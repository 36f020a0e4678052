"""The recipes that have tests: files as the page says, and pytest run on them as a user does."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
SETTINGS = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1]


def section(title: str) -> str:
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]


def blocks(title: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", section(title), re.DOTALL)


def run(folder: Path, name: str) -> str:
    (folder / "pyproject.toml").write_text(SETTINGS)
    quiet = (
        "-W",
        "error",
        "-W",
        "ignore::pytest.PytestDeprecationWarning",
    )  # of a plug-in's option
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *quiet, name],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("title", "needs", "tests"),
    [("FastAPI", ("fastapi", "httpx2"), 1), ("Flask", ("flask",), 1)],
)
def test_a_module_and_its_test(title, needs, tests, tmp_path):
    for package in needs:
        assert package in section(title)  # what to install is said
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed here")
    module, test = blocks(title)
    assert "test" not in module.lower()
    name = re.search(r"Saved as `(\w+)\.py`", section(title))[1]
    first = re.search(rf"`(from {name} import [\w, ]+)`", section(title))[1]
    (tmp_path / f"{name}.py").write_text(module)
    (tmp_path / f"test_{name}.py").write_text(f"{first}\n{test}")
    assert f"{tests} passed" in run(tmp_path, f"test_{name}.py")


def test_the_tests_of_an_app(tmp_path):
    (tmp_path / "test_app.py").write_text("\n\n".join(blocks("pytest")))
    assert "5 passed" in run(tmp_path, "test_app.py")


def test_the_settings_are_those_of_a_project_file():
    assert tomllib.loads(SETTINGS) == {
        "tool": {"pytest": {"ini_options": {"asyncio_mode": "auto"}}}
    }
