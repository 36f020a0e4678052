"""What an annotation says of the values that travel: their types, and how much must be looked at.

How much follows once, when a task is declared. Plain annotations need no look: what they name, JSON
has. `Any` and no annotation are plain, too: they take what has a JSON form, and the handler gets
what JSON has.
"""

from __future__ import annotations

import typing
from collections.abc import Collection, Iterator
from enum import IntEnum
from pathlib import PurePath
from typing import Any, Final

from msgspec import inspect

__all__ = ["Look", "kinds_in", "leaves_open", "look_needed", "never_a_key"]


class Look(IntEnum):
    """How much of a type's values must be looked at."""

    NOWHERE = 0
    """The annotation asks for what JSON has."""
    EQUAL = 1
    """Equality says it all: simple values, and containers of them."""
    WHOLE = 2
    """Every field, since of two equal objects one may hold less; and what is inside `Any`."""


_PLAIN: Final = (
    inspect.AnyType,
    inspect.NoneType,
    inspect.BoolType,
    inspect.IntType,
    inspect.StrType,
    inspect.LiteralType,
    inspect.ListType,
    inspect.DictType,
    inspect.UnionType,
    inspect.Metadata,
)
_PLAIN_KEYS: Final = (inspect.AnyType, inspect.IntType, inspect.StrType, inspect.LiteralType)
_OBJECTS: Final = (
    inspect.StructType,
    inspect.DataclassType,
    inspect.TypedDictType,
    inspect.NamedTupleType,
)
_NO_KEYS: Final = (
    inspect.NoneType,
    inspect.BoolType,
    inspect.CollectionType,
    inspect.TupleType,
    inspect.DictType,
    *_OBJECTS,
)
"""What no key of a JSON object can be, beside types of one's own."""
_CUSTOM_KEYS: Final = (str, bytes, PurePath)


def kinds_in(kind: Any) -> Iterator[inspect.Type]:
    """Yield the types that an annotation is made of."""
    left: list[Any] = [inspect.type_info(kind)]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if id(one) in seen:  # a type may hold itself
            continue
        seen.add(id(one))
        if isinstance(one, inspect.Type):
            yield one
        for name in one.__struct_fields__:
            part = getattr(one, name)
            parts = part if isinstance(part, tuple) else (part,)
            left += [part for part in parts if isinstance(part, inspect.Type | inspect.Field)]


def look_needed(kind: Any) -> Look:
    """Return how much must be looked at of the values of an annotation."""
    kinds = list(kinds_in(kind))
    if all(isinstance(one, _PLAIN) and _has_plain_keys(one) for one in kinds):
        return Look.NOWHERE
    whole = any(isinstance(one, (inspect.AnyType, *_OBJECTS)) or _is_model(one) for one in kinds)
    return Look.WHOLE if whole else Look.EQUAL


def _has_plain_keys(kind: inspect.Type) -> bool:
    return not isinstance(kind, inspect.DictType) or isinstance(kind.key_type, _PLAIN_KEYS)


def _is_model(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.CustomType) and hasattr(kind.cls, "model_validate")


def never_a_key(kind: inspect.Type) -> str | None:
    """Return the name of the type that a mapping has for its keys, if JSON cannot have them."""
    if not isinstance(kind, inspect.DictType):
        return None
    key = kind.key_type
    keys = key.types if isinstance(key, inspect.UnionType) else (key,)
    refused = [name for name in map(_refused_key, keys) if name is not None]
    return refused[0] if len(refused) == len(keys) else None


def _refused_key(kind: inspect.Type) -> str | None:
    if isinstance(kind, inspect.CustomType):
        origin = typing.get_origin(kind.cls) or kind.cls
        return None if issubclass(origin, _CUSTOM_KEYS) else origin.__name__
    if isinstance(kind, _NO_KEYS):
        cls = getattr(kind, "cls", None)
        return type(kind).__name__.removesuffix("Type").lower() if cls is None else cls.__name__
    return None


def leaves_open(hint: Any) -> bool:
    """Say whether `Any` or the like is in an annotation, not counting fields of its classes."""
    left, seen = [hint], set[int]()
    while left:
        one = left.pop()
        if id(one) in seen:  # an alias may hold itself
            continue
        seen.add(id(one))
        if one is Any or one is object or isinstance(one, typing.TypeVar) or _is_bare(one):
            return True
        if typing.is_typeddict(one):
            left += typing.get_type_hints(one).values()
        left += typing.get_args(one)
        left += [getattr(one, name, None) for name in ("__value__", "__supertype__")]
    return False


def _is_bare(hint: Any) -> bool:
    """Say whether it is a container that does not say of what, such as `list`."""
    if not isinstance(hint, type) or typing.get_args(hint):
        return False
    return issubclass(hint, Collection) and not issubclass(hint, str | bytes | bytearray)
