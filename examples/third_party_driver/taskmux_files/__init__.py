"""A taskmux driver on a directory of files: `files:///var/lib/jobs`. An example, made to be read.

`files.py` changes a queue's file whole or not at all. `verbs.py`, and `keys.py` for deduplication,
keep the contracts of `taskmux.driver` on a queue in memory, and `driver.py` puts them behind the
interface.
"""

from taskmux_files.driver import FilesDriver, taskmux_driver

__all__ = ["FilesDriver", "taskmux_driver"]
