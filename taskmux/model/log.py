"""The loggers that taskmux speaks through: nothing that logging raises gets out of them.

Handlers, filters, formatters and the record factory are the user's, and they are called wherever
something is logged: in a lane, in a duty, in the middle of a batch. What they raise must not end
any of these.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

__all__ = ["Log"]

REMIND_EVERY = 60.0
"""Seconds between two lines about logging that fails."""

_CALLER = 3
"""How far above the logging module the line is that speaks: over `_say` and the method it used."""

_told = float("-inf")


class Log:
    """A logger of the standard library that raises nothing.

    Args:
        name: the logger's name.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def takes(self, level: int) -> bool:
        """Return whether anybody wants to hear of this level."""
        try:
            return self._logger.isEnabledFor(level)
        except BaseException as error:  # noqa: BLE001 - a logger class may be the user's, too
            _complain(error)
            return False

    def debug(self, text: str, *args: object, **more: Any) -> None:
        """Log at DEBUG; `more` as for the standard library's loggers, here and below."""
        self._say(logging.DEBUG, text, args, more)

    def info(self, text: str, *args: object, **more: Any) -> None:
        """Log at INFO."""
        self._say(logging.INFO, text, args, more)

    def warning(self, text: str, *args: object, **more: Any) -> None:
        """Log at WARNING."""
        self._say(logging.WARNING, text, args, more)

    def error(self, text: str, *args: object, **more: Any) -> None:
        """Log at ERROR."""
        self._say(logging.ERROR, text, args, more)

    def exception(self, text: str, *args: object, **more: Any) -> None:
        """Log at ERROR, with the exception that is being handled."""
        self._say(logging.ERROR, text, args, {"exc_info": True} | more)

    def _say(self, level: int, text: str, args: tuple[object, ...], more: dict[str, Any]) -> None:
        try:
            self._logger.log(level, text, *args, stacklevel=_CALLER, **more)
        except BaseException as error:  # noqa: BLE001 - whoever logs has something to finish
            _complain(error)


def _complain(error: BaseException) -> None:
    """Say once in a while on standard error that the log is incomplete, if that can be said."""
    global _told  # noqa: PLW0603 - standard error is the process's own
    now = time.monotonic()
    if now - _told < REMIND_EVERY:
        return
    _told = now
    try:
        kind = type.__dict__["__name__"].__get__(type(error))  # its metaclass may be odd
        sys.stderr.write(f"taskmux: logging failed ({kind}); work goes on, some lines are lost\n")
    except BaseException:  # noqa: BLE001 - nobody reads it
        return
