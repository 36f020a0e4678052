"""The SQLite driver, the embedded default: `sqlite:///taskmux.db`. No server, one file."""

from taskmux_sqlite.driver import SQLiteDriver, taskmux_driver

__all__ = ["SQLiteDriver", "taskmux_driver"]
