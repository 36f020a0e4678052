from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from taskmux.plugins import hookspecs

PAGE = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text(encoding="utf-8")
HOOKS = {
    name: value
    for name, value in vars(hookspecs).items()
    if name.startswith("taskmux_") and inspect.isfunction(value)
}
ROWS = dict(re.findall(r"^\| `(taskmux_\w+)` \| (.*?) \|", PAGE, re.MULTILINE))


def test_every_hook_is_on_the_page_and_nothing_else():
    assert set(ROWS) == set(HOOKS)
    assert HOOKS


@pytest.mark.parametrize("name", HOOKS)
def test_its_arguments_are_on_the_page(name):
    assert re.findall(r"`(\w+)`", ROWS[name]) == list(inspect.signature(HOOKS[name]).parameters)


@pytest.mark.parametrize("name", HOOKS)
def test_it_has_a_one_line_docstring(name):
    documentation = HOOKS[name].__doc__
    assert documentation
    assert "\n" not in documentation


def test_the_example_prints_what_the_page_says():
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, check=True
    )
    ((first, second),) = re.findall(r"^It prints `(.*)` and `(.*)`", PAGE, re.MULTILINE)
    assert done.stdout.splitlines() == [first, second]
