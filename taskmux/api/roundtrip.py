"""What a value would lose on its way through JSON, seen by what was read back.

Refused is what would come back as another type, with fewer fields or keys, or changed.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections import deque
from collections.abc import Collection, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec

from taskmux.api.annotations import leaves_open

__all__ = ["difference", "is_equal"]


_Path = tuple[Any, str, Any]
"""Where a value is: the path of what holds it, and how that is written."""
_Hint = tuple[type | None, Any]
"""The class and the name of the field that a value is in; or None and an annotation."""
_Pair = tuple[Any, Any, _Hint, _Path]

_ATOMS: Final = frozenset({type(None), bool, int, float, str, bytes, UUID, date, timedelta})
_JSON: Final = frozenset({type(None), bool, int, float, str})
_ARRAYS: Final = (list, tuple, set, frozenset, deque)
_SETS: Final = (set, frozenset)
_BYTES: Final = (bytes, bytearray, memoryview)
_ABSENT: Final = object()


def difference(sent: Any, back: Any, root: str, hint: Any = Any) -> str | None:
    """Return a sentence on what `back` lacks of what was sent, or None.

    JSON values may be given for typed ones, as a call by name does: `{"x": 1}` for a dataclass.

    Args:
        sent: the value that was given.
        back: what its JSON was read back as.
        root: how the sentence calls it.
        hint: its annotation.
    """
    left: list[_Pair] = [(sent, back, (None, hint), (None, "", root))]
    while left:  # a recursion would end before msgspec's does
        sent, back, where, path = left.pop()
        found = _look(sent, back, where, path)
        if isinstance(found, str):
            return f"{_written(path)} {found}"
        for pair in found:
            one, other, *_ = pair
            if type(one) is not type(other) or type(one) not in _ATOMS or one != other:
                left.append(pair)
    return None


def _look(sent: Any, back: Any, hint: _Hint, path: _Path) -> str | Iterable[_Pair]:
    """Return what is wrong, or the parts that must be looked at."""
    if type(sent) is msgspec.Raw and type(back) is not msgspec.Raw:
        sent = msgspec.json.decode(sent)
    kind: Any = type(back)
    shape = _shape(kind)
    if shape is not None:
        return _look_at_fields(sent, back, shape, path)
    if isinstance(back, dict) and isinstance(sent, dict):
        return _look_at_keys(sent, back, hint, path)
    if isinstance(back, _ARRAYS) and isinstance(sent, _ARRAYS):
        return _look_at_items(sent, back, hint, path)
    return () if _is_same(sent, back) else _changed(sent, back)


def _written(path: _Path | None) -> str:
    steps: list[str] = []
    while path is not None:
        path, kind, step = path
        steps.append(f"[{step!r}]" if kind == "[" else f"{kind}{step}")
    return "".join(reversed(steps))


def _changed(sent: Any, back: Any) -> str:
    was, becomes = type(sent).__name__, type(back).__name__
    if type(sent) is type(back):
        if isinstance(sent, datetime | time) and _has_odd_offset(sent):
            return (
                "has an offset from UTC that is no whole minutes, which dates and times in JSON "
                "cannot have. Send it in UTC."
            )
        return f"would not come back as the {was} it is: is it excluded, secret, or changed?"
    if back is _ABSENT:
        return f"is a {was} that would not come back as it is. Annotate it with its own type."
    if isinstance(sent, int) and type(back) is float:
        return "is an int that no float is equal to. Send a float, or annotate it int."
    return (
        f"is a {was} and would come back as a {becomes}. Send what the annotation says, or "
        f"annotate it with the type that you send."
    )


def _has_odd_offset(moment: datetime | time) -> bool:
    offset = moment.utcoffset()
    return offset is not None and bool(offset % timedelta(minutes=1))


def _look_at_fields(sent: Any, back: Any, shape: _Shape, path: _Path) -> str | Iterable[_Pair]:
    """Look at an object, which may have been given as JSON has it."""
    names, kind = shape.names, type(back)
    if type(sent) is kind:
        if shape.is_model:
            names = (*names, *(getattr(sent, "model_extra", None) or ()))
            private = _lost_in_private(sent, back)
            if private is not None:
                return private
        return [
            (getattr(sent, at, _ABSENT), getattr(back, at, _ABSENT), (kind, at), (path, ".", at))
            for at in names
        ]
    if isinstance(sent, dict) and not isinstance(back, tuple):
        return () if shape.is_model else _look_at_given(sent, back, shape, path)
    if isinstance(sent, list | tuple) and not hasattr(sent, "_fields"):
        items = sent[1:] if shape.tag is not None else sent
        if len(items) > len(names):
            return f"has more items than a {kind.__name__} has fields. Send one."
        return [
            (one, getattr(back, at), (kind, at), (path, ".", at))
            for one, at in zip(items, names, strict=False)
        ]
    return _changed(sent, back)


def _look_at_given(
    sent: dict[Any, Any], back: Any, shape: _Shape, path: _Path
) -> str | Iterable[_Pair]:
    """Look at an object that was given as a dict. What its text means is the class's to say."""
    kind = type(back)
    for key in sent:
        if key not in shape.written and key != shape.tag:
            return f"has a key {key!r}, which is no field of {kind.__name__}. Leave it out."
    given = [(shape.written[key], one) for key, one in sent.items() if key in shape.written]
    return [
        (one, getattr(back, at), (kind, at), (path, ".", at))
        for at, one in given
        if type(one) is not str
    ]


def _look_at_keys(
    sent: dict[Any, Any], back: dict[Any, Any], hint: _Hint, path: _Path
) -> str | Iterable[_Pair]:
    lost = [key for key in sent if key not in back]
    if not lost:
        return [(one, back[key], hint, (path, "[", key)) for key, one in sent.items()]
    if len(sent) != len(back):
        return (
            f"has a key {lost[0]!r} that would be lost: its annotation does not name it, or turns "
            f"it into another key. Leave it out, or change the annotation."
        )
    pairs = list(zip(sent.items(), back.items(), strict=True))
    for (key, _), (other, _) in pairs:
        if not _is_same(key, other):
            return f"has a key {key!r} that {_changed(key, other)}"
    return [(one, other, hint, (path, "[", key)) for (key, one), (_, other) in pairs]


def _look_at_items(
    sent: Collection[Any], back: Collection[Any], hint: _Hint, path: _Path
) -> str | Iterable[_Pair]:
    if not isinstance(sent, type(back)) and leaves_open(_annotation(hint)):
        return _changed(sent, back)
    if len(sent) != len(back):
        return f"has items that become one in a {type(back).__name__}. Send each once."
    pairs: Iterable[tuple[Any, Any]] = zip(sent, back, strict=True)
    if isinstance(back, _SETS):
        if not isinstance(sent, _SETS):
            return ()  # given as JSON has it
        same = {one: one for one in back}
        pairs = [(one, same.get(one, _ABSENT)) for one in sent]
    return [(one, other, hint, (path, "[", at)) for at, (one, other) in enumerate(pairs)]


def _is_same(sent: Any, back: Any) -> bool:
    """Compare what has no parts; simple JSON may have been given for a typed value."""
    if type(sent) is not type(back):
        if type(sent) in _JSON and type(back) not in _JSON:
            return sent is not None and back is not _ABSENT
        related = isinstance(sent, type(back)) or isinstance(back, type(sent))
        as_good = isinstance(sent, int) and type(back) is float
        as_good = as_good or (isinstance(sent, _BYTES) and isinstance(back, _BYTES))
        return (related or as_good) and is_equal(sent, back)
    if isinstance(sent, datetime):  # two zones are never equal in the hour that a clock repeats
        sent_wall, back_wall = sent.replace(tzinfo=None), back.replace(tzinfo=None)
        return bool(sent_wall == back_wall and sent.utcoffset() == back.utcoffset())
    if isinstance(sent, Decimal):  # NaN equals nothing
        return str(sent) == str(back)
    if hasattr(sent, "model_dump") and _is_equal_to_itself_alone(sent):
        return is_equal(sent.model_dump(mode="json"), back.model_dump(mode="json"))
    return is_equal(sent, back)


def _is_equal_to_itself_alone(value: Any) -> bool:
    kind: Any = type(value)
    return kind.__eq__ is object.__eq__


def is_equal(sent: Any, back: Any) -> bool:
    """Compare; what cannot be compared is not equal."""
    try:
        return bool(sent == back)
    except Exception:  # noqa: BLE001 - a user's type may raise anything
        return False


def _lost_in_private(sent: Any, back: Any) -> str | None:
    """Return what a pydantic model's private attributes would lose, or None.

    What is equal to itself alone, such as a lock or a client, is taken to be made anew.
    """
    made = getattr(back, "__pydantic_private__", None) or {}
    for name, value in (getattr(sent, "__pydantic_private__", None) or {}).items():
        if _is_equal_to_itself_alone(value) or is_equal(value, made.get(name, _ABSENT)):
            continue
        return (
            f"has a private attribute {name!r} that would be lost. Make it a field, or send a "
            f"model in which it is as a new one has it."
        )
    return None


# -- classes with fields --------------------------------------------------------------------------


class _Shape(msgspec.Struct, frozen=True):
    """What is known of a class with fields.

    Attributes:
        names: of its fields.
        written: these names by the keys that JSON has for them.
        tag: the key, or the first item, that tells the type from others; or None.
        is_model: it is pydantic's. A dict that is given for one is judged by itself: aliases,
            what is extra, validators.
    """

    names: tuple[str, ...]
    written: dict[str, str]
    tag: str | None = None
    is_model: bool = False


@functools.lru_cache(1024)
def _shape(kind: Any) -> _Shape | None:
    """Return what is known of a class, or None if it has no fields."""
    if issubclass(kind, msgspec.Struct):
        names: tuple[str, ...] = kind.__struct_fields__
        written = dict(zip(kind.__struct_encode_fields__, names, strict=True))
        return _Shape(names, written, kind.__struct_config__.tag_field)
    if hasattr(kind, "model_fields"):
        return _Shape(tuple(kind.model_fields), {}, is_model=True)
    if dataclasses.is_dataclass(kind):
        names = tuple(field.name for field in dataclasses.fields(kind))
    elif hasattr(kind, "__attrs_attrs__"):
        names = tuple(field.name for field in kind.__attrs_attrs__)
    elif issubclass(kind, tuple) and hasattr(kind, "_fields"):
        names = kind._fields
    else:
        return None
    return _Shape(names, {name: name for name in names})


def _annotation(hint: _Hint) -> Any:
    """Return what is said of a field; Any if nothing can be found out."""
    owner, said = hint
    if owner is None:
        return said
    if hasattr(owner, "model_fields"):
        field = owner.model_fields.get(said)
        return Any if field is None else field.annotation
    try:
        return typing.get_type_hints(owner, include_extras=True).get(said, Any)
    except Exception:  # noqa: BLE001 - an annotation is an expression and may do anything
        return Any
