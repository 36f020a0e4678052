"""Values both ways: Python to JSON bytes, and back as an annotation says.

msgspec does the work: datetime, UUID, Decimal, bytes (base64), Enum, dataclass, Struct, TypedDict
and the built-in containers. Added here are pydantic models, paths, deques, and subclasses of
`str`, `int`, `float` and `bytes`. Pydantic is recognised by its methods, never imported.

What would come back as something else is refused when it is sent.
"""

from __future__ import annotations

import asyncio
import json
import math
import typing
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any, Final

import msgspec
from msgspec import inspect

from taskmux.api.annotations import kinds_in
from taskmux.api.roundtrip import difference
from taskmux.model.errors import NotDecodable, NotEncodable, PayloadTooLarge

__all__ = ["USER_ERRORS", "dec_hook", "decode_value", "encode_value", "error_text", "foreign_types"]

USER_ERRORS: Final = (Exception, SystemExit, GeneratorExit, asyncio.CancelledError)
"""What a user's own type may raise while it is written or read. Ctrl-C goes through."""

_Plain = tuple[type, Callable[[Any], Any]]

_WRITTEN_AS: Final[tuple[_Plain, ...]] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, bytes),
    (PurePath, str),
    (deque, list),
)
"""Types whose values travel as plain ones do, and so do those of their subclasses."""


_TEXT: Final = frozenset({str})


def encode_value(value: Any, what: str, limit: int, *, known_objects: int = 0) -> bytes:
    """Return a value as JSON bytes.

    Args:
        value: anything with a JSON form.
        what: how an error calls it, such as `"the result of task 'add'"`.
        limit: the most bytes it may take.
        known_objects: how many of its JSON objects have keys that cannot collide.

    Raises:
        NotEncodable: it has no JSON form, or would not come back as it is.
        PayloadTooLarge: it is over the limit.
    """
    try:
        data = _encode(value)
        fault = None
        if not known_objects and type(value) is dict and _TEXT.issuperset(map(type, value)):
            known_objects = 1  # two keys that are text and not equal stay two
        if (b"null" in data or data.count(b"{") > known_objects) and len(data) <= limit:
            fault = _fault(value, data, known_objects)
    except RecursionError:
        raise NotEncodable(
            f"{what} contains itself or is nested too deeply. Send ids instead of linked objects."
        ) from None
    except _LostError as error:
        raise NotEncodable(f"{what} would not come back as it is: {error}") from None
    except USER_ERRORS as error:
        raise NotEncodable(
            f"{what} has no JSON form: {error_text(error)}. Use plain values, dataclasses, msgspec "
            f"Structs or pydantic models."
        ) from None
    if len(data) > limit:
        raise PayloadTooLarge(
            f"{what} takes {len(data):,} bytes of JSON; the limit is {limit:,}. Store the bulk "
            f"elsewhere and send a reference, or raise the limit: Taskmux(limits=Limits(...))."
        )
    if fault is not None:
        raise NotEncodable(f"{what} {fault}")
    return data


def _fault(value: Any, data: bytes, known_objects: int) -> str | None:
    """Return what JSON would change in silence, or None."""
    if b"null" in data and _not_finite(msgspec.to_builtins(value, enc_hook=_enc_hook)):
        return "has a NaN or an infinity, which JSON would turn into null. Send None, or text."
    if data.count(b"{") > known_objects and (key := _twin_key(data)) is not None:
        return f"has a mapping with two keys that are both {key!r} in JSON. Rename one of them."
    return None


def _not_finite(value: Any) -> bool:
    left = [value]
    while left:  # a recursion would end before msgspec's does
        one = left.pop()
        if isinstance(one, float):
            if not math.isfinite(one):
                return True
        elif isinstance(one, dict):
            left.extend(one.values())
        elif isinstance(one, list | tuple | set | frozenset):
            left.extend(one)
    return False


def _twin_key(data: bytes) -> str | None:
    """Return a key that one JSON object has twice. Cheap where none has: most never need `json`."""
    if len(msgspec.json.encode(msgspec.json.decode(data))) == len(data):
        return None
    twins: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        keys = [key for key, _ in pairs]
        twins.extend(key for key in set(keys) if keys.count(key) > 1)

    json.loads(data, object_pairs_hook=look)
    return twins[0] if twins else None


def decode_value(data: bytes, kind: Any, what: str) -> Any:
    """Return a value from JSON bytes, as the annotation says; `object` is any JSON value.

    Raises:
        NotDecodable: the bytes do not fit the annotation.
    """
    try:
        return msgspec.json.decode(data, type=Any if kind is object else kind, dec_hook=dec_hook)
    except USER_ERRORS as error:
        raise NotDecodable(f"{what} does not fit {_name(kind)}: {error_text(error)}.") from None


def error_text(error: BaseException) -> str:
    """Return an exception's message, or its type's name if it has none that can be shown."""
    try:
        return str(error) or type(error).__name__
    except USER_ERRORS:
        return type(error).__name__


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", None) or str(kind)


# -- types that msgspec does not know -------------------------------------------------------------


def _enc_hook(value: Any) -> Any:
    if isinstance(value, bool):  # as the key of a mapping: it would come back as text
        raise TypeError("a bool cannot be a key")
    for kind, plain in _WRITTEN_AS:
        if isinstance(value, kind):
            return plain(value)
    if hasattr(type(value), "model_fields"):
        return _written_model(value)
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    raise TypeError(f"a {type(value).__name__} has none")


_encode = msgspec.json.Encoder(enc_hook=_enc_hook).encode


def dec_hook(kind: Any, value: Any) -> Any:
    """Return a value of a type that msgspec does not know, from what its JSON holds."""
    origin = typing.get_origin(kind) or kind
    if hasattr(origin, "model_validate"):
        return _read_model(kind, value)
    for base, _ in _WRITTEN_AS:
        if issubclass(origin, base):
            return origin(msgspec.convert(value, _json_type(base, kind), dec_hook=dec_hook))
    raise TypeError(f"a {origin.__name__} cannot be read from JSON")


def _json_type(base: type, kind: Any) -> Any:
    """Return the type that a value of `kind` has in JSON."""
    if base is deque:
        return list[typing.get_args(kind)[:1] or (Any,)]  # type: ignore[misc]
    return str if base is PurePath else base


def foreign_types(kind: Any) -> Iterator[str]:
    """Yield the names of types inside an annotation whose values cannot travel."""
    for one in kinds_in(kind):
        if isinstance(one, inspect.CustomType) and not _travels(one.cls):
            yield _name(one.cls)


def _travels(kind: type) -> bool:
    return hasattr(kind, "model_validate") or issubclass(
        kind, tuple(base for base, _ in _WRITTEN_AS)
    )


# -- pydantic -----------------------------------------------------------------------------------


class _LostError(ValueError):
    """A model would come back as something else."""


def _written_model(model: Any) -> Any:
    """Return a pydantic model as JSON values from which an equal one can be read.

    Raises:
        _LostError: a field would come back as something else, such as a secret as asterisks.
    """
    lost: str | None = None
    for by_alias in (True, False):  # aliases for writing may not be those for reading
        data = model.model_dump(mode="json", by_alias=by_alias, round_trip=True)
        try:
            back = _read_model(type(model), data)
        except ValueError as error:
            lost = lost or f"{type(model).__name__} cannot be read back: {error}"
            continue
        changed = difference(model, back, type(model).__name__)
        if changed is None:
            return data
        lost = changed
    raise _LostError(lost)


def _read_model(kind: Any, value: Any) -> Any:
    """Return a pydantic model from JSON values, with fields by alias or by name."""
    try:
        return kind.model_validate(value)
    except ValueError:
        data = msgspec.json.encode(value)
        for options in ({}, {"by_name": True}):  # strict models read JSON only
            try:
                return kind.model_validate_json(data, **options)
            except (ValueError, TypeError):  # older releases have no `by_name`
                continue
        raise
