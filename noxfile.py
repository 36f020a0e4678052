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

nox.options.sessions = ["lint", "types", *(f"tests-{version}" for version in PYTHONS), "docs"]


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


def _tests(session: nox.Session, *extra: str) -> None:
    session.install("-e", ".[dev]")
    # A server's program that the environment of nox has serves the others, too.
    path = os.pathsep.join([os.environ["PATH"], str(Path(sys.executable).parent)])
    session.run("pytest", *extra, *session.posargs, env={"PATH": path})


for _version, _path in PYTHONS.items():
    # Real kills and real compilers of users' files take long: once is enough.
    _extra = () if _path == MAIN else ("-m", "not chaos and not typing")
    nox.session(python=_path, name=f"tests-{_version}")(
        lambda session, extra=_extra: _tests(session, *extra)
    )


@nox.session(python=MAIN)
def docs(session: nox.Session) -> None:
    """Every example in README, docs and examples runs."""
    session.install("-e", ".[dev]")
    session.run("pytest", "tests/docs", *session.posargs)
