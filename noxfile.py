"""The checks. `nox` runs what CI runs; `nox -l` lists the sessions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = True

SUPPORTED = ("3.11", "3.12", "3.13")
CODE = ("taskmux", "backends", "tests", "examples", "benchmarks", "noxfile.py")


def _answers(python: str, version: str) -> bool:
    """Say whether a command is a Python of that version (a version manager's shim may not be)."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        told = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return told.stdout.strip() == version


def _find(version: str) -> str | None:
    """Return a Python of that version: on PATH, or where pyenv keeps it."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [sys.executable, shutil.which(f"python{version}")]
    candidates += [str(path) for path in sorted(pyenv.glob(f"{version}.*/bin/python"))]
    return next((one for one in candidates if one and _answers(one, version)), None)


PYTHONS = {version: path for version in SUPPORTED if (path := _find(version))}
MAIN = next(iter(PYTHONS.values()), None)

OTHERS = [version for version, path in PYTHONS.items() if path != MAIN]

nox.options.sessions = [
    "lint",
    "types",
    "tests",
    "variants",
    "chaos",
    *(f"python-{one}" for one in OTHERS),
]


@nox.session(python=MAIN)
def lint(session: nox.Session) -> None:
    """Style, and the layers of the imports."""
    session.install("-e", ".[dev]")
    session.run("ruff", "format", "--check", *CODE)
    session.run("ruff", "check", *CODE)
    session.run("lint-imports", "--no-cache")


@nox.session(python=MAIN)
def types(session: nox.Session) -> None:
    """Static types of the library (those of users' files are in tests/typing)."""
    session.install("-e", ".[dev]")
    session.run("mypy")


FAST = (
    "tests/unit",
    "tests/conformance/test_memory.py",
    "tests/conformance/test_sqlite.py",
    "tests/integration/test_worker_isolation.py",
)
"""What depends on the version of Python most: run on each. The main one runs everything."""

PARALLEL = ("-n", "4", "--dist", "loadscope")

PATIENT = ("--reruns", "2")
"""Real servers and processes on a shared machine can be starved; the summary names each rerun."""


def _tests(session: nox.Session, *paths: str) -> None:
    session.install("-e", ".[dev]")
    # A server's program that the environment of nox has serves the others, too.
    path = os.pathsep.join([os.environ["PATH"], str(Path(sys.executable).parent)])
    session.run("pytest", *PARALLEL, *PATIENT, *paths, *session.posargs, env={"PATH": path})


VARIANTS = (
    "Cluster or Sentinel or Valkey or OldestRedis or FakeRedis or Motor or Standalone or Mongomock"
)
"""Other ways to run a server or to reach it, each with the whole kit."""


@nox.session(python=MAIN)
def tests(session: nox.Session) -> None:
    """Everything but kills: every driver on its real server, in its usual form."""
    _tests(session, "-m", "not chaos", "-k", f"not ({VARIANTS})")


@nox.session(python=MAIN)
def variants(session: nox.Session) -> None:
    """The drivers on clusters, behind sentinels, on other clients and without servers."""
    _tests(session, "-m", "not chaos", "-k", VARIANTS)


@nox.session(python=MAIN)
def chaos(session: nox.Session) -> None:
    """Processes and servers killed and stopped at random, one test at a time.

    How a worker meets signals and poison is its own business, not its store's: here on SQLite
    alone; `nox -s chaos -- -k ""` tries every store.
    """
    session.install("-e", ".[dev]")
    some = session.posargs or ["-k", "SQLite or not (TestSignals or TestPoison)"]
    # What a first try left open in the process must not fail its second chance.
    lenient = ("-W", "default::pytest.PytestUnraisableExceptionWarning")
    session.run("pytest", *PATIENT, *lenient, "-m", "chaos", *some)


for _version, _path in PYTHONS.items():
    if _path != MAIN:
        nox.session(python=_path, name=f"python-{_version}")(
            lambda session: _tests(session, "-m", "not chaos", *FAST)
        )
