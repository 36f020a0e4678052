"""Logging of `taskmux worker`: set up only where the app has not done so itself."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from taskmux.cli.output import dumps, safe
from taskmux.model.errors import ConfigError

__all__ = ["FORMATS", "LEVELS", "JsonFormatter", "TextFormatter", "check_logging", "set_up_logging"]

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def check_logging(level: str, form: str) -> None:
    """Check the settings of logging.

    Raises:
        ConfigError: a level or format that there is not.
    """
    if level.lower() not in LEVELS:
        raise ConfigError(f"log level {level!r} is none of {', '.join(LEVELS)}.")
    if form.lower() not in FORMATS:
        raise ConfigError(f"log format {form!r} is none of {', '.join(FORMATS)}.")


def set_up_logging(level: str, form: str) -> None:
    """Log to standard error, unless the app configured logging when it was imported.

    Its own handlers stay the only ones, on the root logger or on `taskmux`, at its own levels.
    `logging.config.dictConfig` switches off loggers that it does not name, unless told not to;
    those of taskmux go on.
    """
    for name, known in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] == "taskmux" and isinstance(known, logging.Logger):
            known.disabled = False
    if logging.root.handlers or logging.getLogger("taskmux").handlers:
        return
    handler = _Handler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form.lower() == "json" else TextFormatter())
    logging.root.addHandler(handler)
    logging.root.setLevel(level.upper())


class _Handler(logging.StreamHandler[Any]):
    """Writes while somebody reads; a closed pipe is no error of whoever logs."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its base's name
        """Say what is wrong with a record, but not that nobody reads."""
        if not isinstance(sys.exc_info()[1], OSError) and self._is_open():
            super().handleError(record)

    def _is_open(self) -> bool:
        try:
            return not self.stream.closed
        except ValueError:  # it was detached
            return False


class TextFormatter(logging.Formatter):
    """A line for people: time, level, logger, message; a traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text that no terminal obeys."""
        when = f"{self.formatTime(record, '%Y-%m-%d %H:%M:%S')},{record.msecs:03.0f}"
        first, *rest = record.getMessage().split("\n")
        line = f"{when} {record.levelname:<7} {record.name}: {safe(first)}"
        # Set in, so that no text of a job's can look like a line of its own.
        lines = [line, *(f"    {safe(one)}" for one in rest)]
        below = _trace(self, record)
        return "\n".join([*lines, safe(below, lines=True)] if below else lines)


class JsonFormatter(logging.Formatter):
    """A JSON object a line: time, level, logger, message, the record's extra fields, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{when}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD and name not in line:
                line[name] = value
        if below := _trace(self, record):
            line["traceback"] = below
        try:
            return dumps(line)
        except Exception:  # noqa: BLE001 - NaN, a cycle, keys that are no text: as they print
            return dumps({name: str(value) for name, value in line.items()})


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)
