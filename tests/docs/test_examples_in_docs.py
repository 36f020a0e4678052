"""Every Python block of README and docs runs, in order, as one module per page."""

import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import taskmux
from taskmux.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
WITH_PYTHON = [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))]


FRAMEWORKS = {"fastapi": ("fastapi", "httpx2"), "flask": ("flask",)}
"""What the recipes of a framework need: in the `dev` extra, not everywhere."""


def _runnable(block: str) -> bool:
    """Say whether what a block imports is installed; the page is compiled whether it is or not."""
    wanted = [
        package
        for name, packages in FRAMEWORKS.items()
        if re.search(rf"^from {name}\b", block, re.MULTILINE)
        for package in packages
    ]
    return all(importlib.util.find_spec(package) for package in wanted)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    """Blocks are executed top to bottom; then each function without parameters is called.

    Tests among them are run by pytest, in `test_recipes.py`.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASKMUX_URL", f"sqlite:///{tmp_path / 'docs.db'}")
    name = f"page_{page.stem.lower().replace('-', '_')}"
    source = tmp_path / f"{name}.py"
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    compile("\n\n".join(blocks), str(page), "exec")
    source.write_text("\n\n".join(filter(_runnable, blocks)))
    # A process of its own: a page may define an app, a plug-in or a driver.
    runner = tmp_path / "run.py"
    runner.write_text(
        "import asyncio, inspect, sys\n"
        f"import {name} as page\n"
        "for name, it in list(vars(page).items()):\n"
        "    if not inspect.isfunction(it) or it.__module__ != page.__name__:\n"
        "        continue\n"
        "    if inspect.signature(it).parameters or name.startswith(('_', 'test_')):\n"
        "        continue\n"
        "    print('calling', name)\n"
        "    asyncio.run(it()) if inspect.iscoroutinefunction(it) else it()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", str(runner)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_first_sample_runs_and_the_commands_below_it_see_its_store(tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "app.py").write_text(BLOCK.search(readme)[1])
    clean = {name: it for name, it in os.environ.items() if not name.startswith("TASKMUX_")}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=clean,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    said = re.search(r"`python app\.py` prints `(.+?)`", readme)[1]
    assert run("app.py").strip() == said
    looking = re.findall(r"^taskmux (.+ --app app:mux)$", readme, re.MULTILINE)
    assert len(looking) >= 2
    for command in looking:
        assert str(tmp_path / "mail.db") in run("-m", "taskmux", *command.split())
    assert '"completed": 1' in run("-m", "taskmux", *looking[0].split(), "--json")


def test_readme_names_every_command_and_no_other():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"\| `taskmux ([^`]+)`", readme)
    # Lower-case words without a colon are the command; the rest are its arguments.
    words = [re.match(r"([a-z]+)(?: ([a-z/]+)(?![:a-z]))?", row).groups() for row in rows]
    named = {
        " ".join(filter(None, (group, command)))
        for group, commands in words
        for command in (commands or "").split("/")
    }
    implied = {"worker run"}  # `taskmux worker app:mux`
    assert named - {"worker"} == _commands(main) - implied


def _commands(group: click.Group, prefix: str = "") -> set[str]:
    names = set()
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            names |= _commands(command, f"{prefix}{name} ")
        else:
            names.add(prefix + name)
    return names


def test_every_public_name_has_a_docstring():
    bare = [
        name
        for name in taskmux.__all__
        if (inspect.isclass(getattr(taskmux, name)) or callable(getattr(taskmux, name)))
        and not inspect.getdoc(getattr(taskmux, name))
    ]
    assert bare == []


def test_links_in_docs_lead_somewhere():
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http") and not (page.parent / target).exists():
                broken += [f"{page.name}: {target}"]
    assert broken == []


def test_readme_leads_to_every_page():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)", readme))
    assert linked == {page.name for page in (ROOT / "docs").glob("*.md")}


SAID = {
    "priorities.py": (
        "1. break-in\n2. account closed\n3. password reset\n4. receipt\n5. newsletter\n6.",
    ),
    "job_cleanup.py": (
        "39 results were read, 1 job failed",
        "Later: thumbnails has 0 completed and 1 dead",
        "Later: reports has 3 completed and 0 dead",
    ),
    "error_context.py": (
        "Dead: payments, charge, failed 2 of 2 attempts",
        "Arguments: {'order': 42, 'amount': 100}; tags ('customer:7',)",
        "Its cause is in the traceback: True",
        "So is the note of the last request: True",
    ),
}
"""What examples print, on every backend."""


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
@pytest.mark.parametrize("backend", ["memory", "sqlite"])
def test_examples_run(script, backend, tmp_path):
    url = "memory://" if backend == "memory" else f"sqlite:///{tmp_path}/example.db"
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), url],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if script.name == "fair_tenants.py":
        last = int(re.search(r"number (\d+) of 205", done.stdout)[1])
        assert last <= 30
    if script.name == "email_queue.py":
        assert "The first one out: ops@example.org: The disk is full" in done.stdout
        assert done.stdout.endswith("{'completed': 53, 'dead': 0, 'cancelled': 1}\n")
    if script.name == "dead_letters.py":
        assert done.stdout.count("ALERT") == 1
        assert "6 x ConnectionError: the mail server <address> does not answer" in done.stdout
        assert done.stdout.endswith("7 completed, 0 dead.\n")
    assert [said for said in SAID.get(script.name, ()) if said not in done.stdout] == []
    if script.name == "idempotent_payment.py":
        assert "11 requests, 9 of them for a payment that there was." in done.stdout
        assert "Charged: {'order-1': 1, 'order-2': 1}" in done.stdout
    if script.name == "rate_limited_api.py":
        assert float(re.search(r"for ([\d.]+) s", done.stdout)[1]) >= 0.9
