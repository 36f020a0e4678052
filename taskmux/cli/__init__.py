"""The command line: worker, demo, drivers, enqueue, queue, job, dead, events.

Exit codes: 0 done; 1 it failed; 2 wrong usage or configuration; 3 the store cannot be reached or
does not fit; 4 no such job or worker; 130 interrupted.
"""

from __future__ import annotations

import click

from taskmux.cli.common import Commands
from taskmux.cli.dead import dead
from taskmux.cli.demo.command import demo
from taskmux.cli.emptying import queue
from taskmux.cli.enqueue import enqueue
from taskmux.cli.events import events
from taskmux.cli.inspect import drivers
from taskmux.cli.verbs import job
from taskmux.cli.workers import worker

__all__ = ["main"]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="taskmux")
def main() -> None:
    """A task queue for Python with pluggable storage.

    Try `taskmux demo` first: it needs no server.

    Commands that look at a store take --url, or else the stores of --app. Both can be set for good:
    TASKMUX_URL, TASKMUX_APP, or url and app in [tool.taskmux] of pyproject.toml. An app that has
    its URL in code keeps to it: TASKMUX_URL is for apps that name none. Each command says on
    standard error which store it looked at.

    \b
    Exit codes:
      0  done
      1  it failed
      2  wrong usage or configuration; nothing was sent
      3  the store cannot be reached, does not fit, or is not there
      4  no such job or worker
    130  interrupted by Ctrl-C; what is done stays done
    """  # noqa: D301 - click wants the character that it stands for


for command in (worker, demo, drivers, enqueue, queue, job, dead, events):
    main.add_command(command)
