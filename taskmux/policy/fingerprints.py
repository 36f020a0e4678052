"""Fingerprints: which errors are the same one. Pure functions.

Two messages of one error differ in ids, numbers, times, addresses and paths. These are replaced by
a word for their kind, so that 40,000 dead letters become the five things that went wrong.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from taskmux.model.job import ErrorInfo

__all__ = ["fingerprint", "pattern_of"]

LONGEST: Final = 200
"""Characters of a pattern: what differs in a message is mostly at its end."""


def _id_or_word(found: re.Match[str]) -> str:
    """Return what stands for a long run of letters and digits.

    Ids have several digits, or one among letters of both cases; words have none.
    """
    token = found[0]
    digits = sum(one.isdigit() for one in token)
    mixed = digits == 1 and not (token.islower() or token.isupper() or token.istitle())
    return "<id>" if (digits > 1 and not token.isdigit()) or mixed else token


_UNIMPORTANT: Final = tuple(
    (re.compile(pattern), word)
    for pattern, word in (
        (r"\bworker [A-Za-z][^\s,]*-[^\s,]*", "worker <id>"),
        (r"[a-z][a-z0-9+.-]{1,20}://[^\s'\"<>]+", "<url>"),
        (r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+", "<email>"),
        (
            r"(?i)\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b",
            "<id>",
        ),
        (
            r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?",
            "<time>",
        ),
        (r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b", "<address>"),
        (r"(?i)\b0x[0-9a-f]+\b", "<number>"),
        (r"(?:/[\w.@%+~-]+){2,}", "<path>"),
        (r"\b[A-Za-z]:\\[^\s'\"]+", "<path>"),
        (r"(?i)(?:[0-9a-f]{0,4}:){2,}[0-9a-f]{0,4}", "<address>"),
        (r"[0-9A-Za-z_+=-]{7,}", _id_or_word),
        (r"'[^'\n]{1,200}'", "<text>"),
        (r'"[^"\n]{1,200}"', "<text>"),
        (r"[+-]?\d+(?:[.,]\d+)*(?:e[+-]?\d+)?", "<number>"),
    )
)
"""What does not tell one error from another, and what stands for it; in this order."""

_NAMES: Final = re.compile(r"""(['"])([A-Za-z_][A-Za-z_.-]{0,60})\1""")
_ABOUT_NAMES: Final = frozenset(
    {"AttributeError", "ImportError", "KeyError", "ModuleNotFoundError", "NameError"}
)
"""Errors of Python whose quoted word is mostly a name in the program: another one, another bug."""

_SPACE: Final = re.compile(r"\s+")


# Each of these takes time in proportion to the text, however hostile: nothing in them can match in
# two ways what it repeats.


def pattern_of(message: str, kind: str = "") -> str:
    """Return an error's message without what changes from one time to the next.

    Only its first thousand characters are looked at. Of an error of this `kind` (its type) quoted
    names stay, if that is what such an error is about.
    """
    text = message[:1000]
    if kind.rpartition(".")[2] in _ABOUT_NAMES:
        text = _NAMES.sub(r"<\2>", text)
    for unimportant, word in _UNIMPORTANT:
        text = unimportant.sub(word, text)
    return _SPACE.sub(" ", text).strip()[:LONGEST]


def fingerprint(task: str, error: ErrorInfo | None, reason: str | None = None) -> str:
    """Return eight hexadecimal digits that tell one way of failing from another.

    They are the same for the same task, type of error and pattern of its message. A job that died
    without an error, as by crashes, goes by its reason.
    """
    what = ("", reason or "") if error is None else (error.type, error.message)
    told = "\0".join((task, what[0], pattern_of(what[1], what[0])))
    return hashlib.blake2b(told.encode("utf-8", "replace"), digest_size=4).hexdigest()
