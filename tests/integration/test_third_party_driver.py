"""A third party's driver, installed from outside: nothing in taskmux knows that it exists."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest
from taskmux.conformance import DriverSuite

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "examples" / "third_party_driver"

APP = """
import asyncio
import logging
import sys

from taskmux import Taskmux

logging.getLogger("taskmux").addHandler(logging.NullHandler())  # else the dead job is told
mux = Taskmux(sys.argv[1])

@mux.task(queue="sums")
async def add(a: int, b: int) -> int:
    return a + b

@mux.task(queue="sums", max_attempts=1)
def fail() -> None:
    raise ValueError("no")

async def main() -> None:
    async with mux, mux.worker(["sums"], concurrency=4):
        jobs = [await add.options(delay=0.1 * (n % 2)).enqueue(n, 1) for n in range(6)]
        print([await job.result(timeout="30s") for job in jobs])
        job = await fail.enqueue()
        try:
            await job.result(timeout="30s")
        except Exception as error:
            print(type(error).__name__)
        counts = await mux.queue("sums").counts()
        print(counts.completed, counts.dead)

asyncio.run(main())
"""


class Outside:
    """An environment of its own that has taskmux and the driver as their users get them.

    Their dependencies are those of the interpreter that runs this test.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.project = place / "project"
        self.bin = place / "env" / "bin"

    def make(self) -> None:
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(PROJECT, self.project, ignore=ignored)
        self.run(sys.executable, "-m", "venv", "--without-pip", str(self.bin.parent))
        (packages,) = self.bin.parent.glob("lib/python*/site-packages")
        # Not a site directory of its own: editable installs in it are not followed.
        paths = sysconfig.get_paths()
        (packages / "dependencies.pth").write_text(f"{paths['purelib']}\n{paths['platlib']}\n")
        self.run(*installer(self.bin / "python"), "--no-deps", str(ROOT), str(self.project))
        shutil.rmtree(self.project / "taskmux_files")  # only what was installed is left

    def run(self, *command: str, fails: bool = False) -> str:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TASKMUX_", "PYTHON", "PYTEST_", "VIRTUAL_ENV"))
        }
        done = subprocess.run(
            command,
            cwd=self.place,
            env=kept | {"COLUMNS": "200", "TMPDIR": str(self.place)},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def python(self, code: str, *args: str) -> str:
        return self.run(str(self.bin / "python"), "-c", textwrap.dedent(code), *args)

    def taskmux(self, *args: str, fails: bool = False) -> str:
        return self.run(str(self.bin / "taskmux"), *args, fails=fails)


def installer(python: Path) -> list[str]:
    """Return the command that installs into another environment: uv's, or a pip's."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is not None:
        return [uv, "pip", "install", "--quiet", "--python", str(python)]
    base = Path(sys.base_prefix) / "bin" / "python3"
    for candidate in (sys.executable, base, shutil.which("python3")):
        probe = [str(candidate), "-m", "pip", "--version"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return [str(candidate), "-m", "pip", "--quiet", "--python", str(python), "install"]
    raise AssertionError("neither uv nor pip is there to install with")


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Outside:
    outside = Outside(tmp_path_factory.mktemp("outside"))
    outside.make()
    return outside


installed = pytest.mark.chaos
"""It takes an installation, and the whole kit in a process: one Python is enough."""


@installed
def test_both_come_from_the_environment(outside: Outside) -> None:
    code = "import taskmux, taskmux_files; print(taskmux.__file__, taskmux_files.__file__)"
    for file in outside.python(code).split():
        assert file.startswith(str(outside.bin.parent))


@installed
def test_its_own_tests_pass_and_the_kit_reports_its_levels(outside: Outside) -> None:
    told = outside.run(str(outside.bin / "python"), "-m", "pytest", "-q", str(outside.project))
    line = r"^TestFiles: required: (\d+)/(\d+)(?:, \d+ not applicable)?$"
    required = re.search(line, told, re.MULTILINE)
    assert required is not None, told
    assert required[1] == required[2]
    assert "TestFiles: presence: not offered" in told
    assert "TestFiles: lines: not offered" in told


@installed
def test_it_is_listed_beside_the_built_in_ones(outside: Outside) -> None:
    lines = map(json.loads, outside.taskmux("drivers", "--json").splitlines())
    rows = {row["scheme"]: row for row in lines}
    assert rows["files"] == {
        "scheme": "files",
        "module": "taskmux_files",
        "capabilities": "",
        "ready": "yes",
        "problem": "",
    }
    assert rows["memory"]["capabilities"].startswith("presence")


@installed
def test_an_app_runs_on_its_url(outside: Outside, tmp_path: Path) -> None:
    url = f"files://{tmp_path}/jobs"
    told = outside.python(APP, url)
    assert told.split("\n") == ["[1, 2, 3, 4, 5, 6]", "JobFailed", "6 1", ""]
    row = json.loads(outside.taskmux("queue", "ls", "--url", url, "--json"))
    assert (row["queue"], row["counts"]["completed"], row["counts"]["dead"]) == ("sums", 6, 1)
    assert "ValueError" in outside.taskmux("dead", "ls", "sums", "--url", url)


@installed
def test_processes_share_it_and_some_crash(outside: Outside, tmp_path: Path) -> None:
    told = outside.taskmux("demo", "--url", f"files://{tmp_path}/jobs")
    assert "every job accounted for" in told
    assert "crashed its worker 2 times" in told


@installed
def test_an_unfit_directory_is_a_typed_error_of_one_line(outside: Outside, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    told = outside.taskmux("queue", "ls", "--url", f"files://{tmp_path}", fails=True)
    assert "holds something else" in told
    assert "Traceback" not in told


def test_a_capability_that_it_lacks_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PROJECT)
    from taskmux.driver import (  # noqa: PLC0415 - after the path
        UnsupportedFeature,
        capabilities_of,
        require,
    )
    from taskmux_files import FilesDriver  # noqa: PLC0415

    driver = FilesDriver("files:///jobs")
    assert capabilities_of(driver) == ()
    with pytest.raises(UnsupportedFeature, match=r"presence.* FilesDriver .files:///jobs"):
        require(driver, "presence", feature="Listing workers")


def test_it_knows_the_interface_only() -> None:
    ours_alone = ("", ".driver", ".files", ".keys")
    known = {"taskmux.driver", *(f"taskmux_files{name}" for name in ours_alone)}
    for file in (PROJECT / "taskmux_files").glob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        named = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        ours = {name for name in named if name is not None and name.startswith("taskmux")}
        assert ours <= known, file
        whole = {
            name.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for name in node.names
        }
        assert not any(name.startswith("taskmux") for name in whole), file


def test_the_walk_through_names_cases_that_there_are() -> None:
    page = (ROOT / "docs" / "write-a-driver.md").read_text(encoding="utf-8")
    cases = {name for name in dir(DriverSuite) if name.startswith("test_")}
    assert not set(re.findall(r"`(test_\w+)`", page)) - cases
    for chosen in re.findall(r'`-k "([^"]+)"`', page):
        for part in chosen.split(" or "):
            assert any(part in case for case in cases), part
