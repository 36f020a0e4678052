"""The command line: `taskmux worker`, `demo`, `drivers`, `queue`, `job`, `dead`.

Exit codes: 0 done; 1 it failed; 2 wrong usage or configuration; 3 the store cannot be reached or
does not fit; 4 no such job.
"""

from __future__ import annotations

import click

from taskmux.cli.control import job, queue
from taskmux.cli.demo.command import demo
from taskmux.cli.inspect import dead, drivers
from taskmux.cli.workers import worker

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="taskmux")
def main() -> None:
    """A task queue for Python with pluggable storage.

    Try `taskmux demo` first: it needs no server.
    """


for command in (worker, demo, drivers, queue, job, dead):
    main.add_command(command)
