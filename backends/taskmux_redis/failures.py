"""Redis's errors in taskmux's words. No message here ever holds a credential."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Final

from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    ConnectionError,  # noqa: A004 - the client's name for it
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004 - the client's name for it
)
from taskmux.driver import (
    CorruptRecord,
    StoreBusy,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreIncompatible,
    StoreUnavailable,
)

__all__ = ["CLIENT_ERRORS", "RefusedInScript", "WrongType", "translate"]

CLIENT_ERRORS: Final = (RedisError, RedisClusterException, OSError, TimeoutError)
"""What a command may raise. asyncio's TimeoutError is an OSError."""

_CODE = re.compile(
    r"\b(OOM|MISCONF|NOPERM|NOAUTH|WRONGPASS|DENIED|WRONGTYPE|MOVED|CROSSSLOT|OUTDATED|BUSY|LOADING"
    r"|READONLY|CLUSTERDOWN|TRYAGAIN|MASTERDOWN|NOREPLICAS|UNBLOCKED)\b"
)
_TLS = re.compile(r"(?i)\bssl|\btls|certificate")


class WrongType(CorruptRecord):
    """A key is of another type. Redis does not say which; the driver looks and names it."""


class RefusedInScript(StoreDenied):
    """A command of a script was refused. What the script wrote before stays."""


_IN_SCRIPT: Final = re.compile(r"executing the script can't|ACL failure in script")
_A_KEY: Final = re.compile(r"access (?:a key|at least one of the keys)")
_COMMAND: Final = re.compile(r"run the '([^']+)' command")
_LINE: Final = re.compile(r"@user_script: ?(\d+)")
_CALL: Final = re.compile(r"redis\.p?call\('([A-Z]+)'")
_IN_CHUNKS: Final = re.compile(r"in_chunks\('([A-Z]+)'")

_Say = Callable[[str, str], StoreError]


def _unavailable(where: str, text: str) -> StoreError:
    return StoreUnavailable(
        f"Redis at {where} cannot serve now: {text}. The operation may be sent again; if this "
        f"lasts, look at the server and its log."
    )


def _full(where: str, text: str) -> StoreError:
    return StoreFull(
        f"Redis at {where} has no room: {text}. Workers can go on draining; raise maxmemory (or "
        f"free the disk), or shorten the retention of finished jobs, then enqueue again."
    )


def _denied(where: str, text: str) -> StoreError:
    return StoreDenied(
        f"Redis at {where} refused: {text}. Check the user, the password and the ACL; "
        f"docs/redis.md lists what taskmux needs."
    )


def _refused_in_script(where: str, text: str, source: str) -> StoreError:
    if _A_KEY.search(text):
        lacks = "the right to a key: its key patterns must cover every key with taskmux's prefix"
    else:
        lacks = f"the right to {_commands_refused(text, source)}"
    return RefusedInScript(
        f"Redis at {where} refused a command inside a script: the user lacks {lacks}. Give it that "
        f"right (ACL SETUSER); docs/redis.md lists what taskmux needs."
    )


def _commands_refused(text: str, source: str) -> str:
    """Return the command that was refused. Older servers name only the line of the script."""
    named = _COMMAND.search(text)
    if named is not None:
        return f"+{named[1]}"
    number, lines = _LINE.search(text), source.splitlines()
    line = lines[int(number[1]) - 1] if number and int(number[1]) <= len(lines) else ""
    found = _CALL.findall(line) or sorted(set(_IN_CHUNKS.findall(source)))
    return " or ".join(f"+{name.lower()}" for name in found) or "one of its commands"


_BY_CODE: Final[dict[str, _Say]] = {
    "OOM": _full,
    "MISCONF": _full,
    "NOPERM": _denied,
    "NOAUTH": _denied,
    "WRONGPASS": _denied,
    "DENIED": _denied,
    "WRONGTYPE": lambda where, _: WrongType(
        f"A key of taskmux at {where} is of another type: something else wrote under this "
        f"prefix. Remove that key, or choose another prefix with ?prefix=."
    ),
    "MOVED": lambda where, _: StoreIncompatible(
        f"Redis at {where} is a cluster. Write redis+cluster://host:port instead of redis://."
    ),
    "CROSSSLOT": lambda where, _: StoreIncompatible(
        f"Redis at {where} refused keys of several slots. Write redis+cluster://host:port."
    ),
    "OUTDATED": lambda where, _: StoreIncompatible(
        f"Redis at {where} refused an operation older than its origin's last one. Numbers of one "
        f"origin must rise."
    ),
    "BUSY": lambda where, _: StoreBusy(
        f"Redis at {where} is busy running a script. The operation may be sent again; if this "
        f"lasts, find the script with SLOWLOG GET."
    ),
}


def translate(error: BaseException, where: str, source: str = "") -> StoreError:
    """Return the error to raise in place of the client's.

    `where` is the server's address without credentials, `source` that of the script that was sent.
    `StoreUnavailable` and its kind mean that sending the same again may help.
    """
    if isinstance(error, AuthenticationError | AuthenticationWrongNumberOfArgsError):
        return _denied(where, "the user or password is wrong, or one is missing")
    if isinstance(error, ResponseError):
        refused = _IN_SCRIPT.search(str(error)) is not None
        return _refused_in_script(where, str(error), source) if refused else _answered(error, where)
    if isinstance(error, ConnectionError) and "invalid DB index" in str(error):
        return _no_database(where)
    if isinstance(error, ConnectionError) and _TLS.search(str(error)):
        return StoreUnavailable(
            f"Redis at {where} did not agree on TLS. Use rediss:// where the server speaks TLS "
            f"and redis:// where it does not; name its authority with ?ssl_ca_certs=FILE."
        )
    if isinstance(error, OSError | TimeoutError) and not str(error):
        return _unavailable(where, "it did not answer in time (do both sides agree on TLS?)")
    return StoreUnavailable(
        f"Redis at {where} cannot be reached ({_reason(error)}). Start it, or check host, "
        f"port, TLS (rediss://) and firewall, and try again."
    )


def _answered(error: ResponseError, where: str) -> StoreError:
    text = str(error)
    found = _CODE.search(f"{getattr(error, 'status_code', '') or ''} {text}")
    if found is not None:
        say = _BY_CODE.get(found[1], _unavailable)
        return say(where, found[1] if say is _unavailable else text)
    if "DB index" in text or "SELECT is not allowed" in text:
        return _no_database(where)
    if "max number of clients" in text:
        return _unavailable(where, "it has as many clients as it allows")
    if "unknown command" in text.lower():
        return StoreIncompatible(
            f"Redis at {where} lacks a command that taskmux needs: {text[:120]}. Use Redis 6.2 or "
            f"newer, or Valkey."
        )
    return StoreIncompatible(f"Redis at {where} refused a command: {text[:300]}.")


def _no_database(where: str) -> StoreError:
    return StoreIncompatible(
        f"Redis at {where} has no database of this number. Use a smaller one (redis://host/0); a "
        f"cluster has only 0."
    )


def _reason(error: BaseException) -> str:
    for one in (error, error.__cause__, error.__context__):
        if isinstance(one, socket.gaierror):
            return "its host name is not known"
        if isinstance(one, ConnectionRefusedError):
            return "nothing listens there"
    number = getattr(error, "errno", None) or getattr(error.__cause__, "errno", None)
    return f"{type(error).__name__}, errno {number}" if number else type(error).__name__
