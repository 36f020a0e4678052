"""Arguments, both ways: one JSON object of named values, typed by a handler's annotations."""

from __future__ import annotations

import contextlib
import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
from msgspec import UNSET, UnsetType

from taskmux.api.annotations import Look, kinds_in, look_needed, never_a_key
from taskmux.api.handlers import annotated
from taskmux.api.hints import near
from taskmux.api.roundtrip import difference, is_equal
from taskmux.api.values import (
    USER_ERRORS,
    dec_hook,
    decode_value,
    encode_value,
    error_text,
    foreign_types,
)
from taskmux.model.errors import DeclarationError, InvalidArguments, NotDecodable, NotEncodable

__all__ = [
    "ResultType",
    "Signature",
    "decode_value",
    "encode_mapping",
    "encode_value",
    "result_type",
    "step_type",
]


_CONTEXTS = frozenset({"context", "ctx", "self"})
"""What a parameter is called that is meant to be the context."""

MOST_DEFAULT = 4096
"""Bytes of a parameter's default that is compared with values."""


def encode_mapping(task: str, arguments: object, limit: int) -> bytes:
    """Return the payload of a call by name: its arguments are not checked here.

    Raises:
        InvalidArguments: the arguments are no mapping from names.
        NotEncodable: a value has no JSON form.
        PayloadTooLarge: over the limit.
    """
    mapping = _checked_mapping(task, arguments)
    return encode_value(mapping, f"The payload of task {task!r}", limit, known_objects=1)


def _checked_mapping(task: str, arguments: object) -> dict[str, Any]:
    if not isinstance(arguments, Mapping) or not all(isinstance(key, str) for key in arguments):
        raise InvalidArguments(
            f"The arguments of {task!r} must be a mapping from parameter names to values, such as "
            f"{{'order': 7}}."
        )
    return dict(arguments)


class Signature:
    """How a handler is called: whether it takes a context, and its arguments' types.

    Raises:
        DeclarationError: the handler has `*args` or `**kwargs`, a context that is not first, or
            an annotation that cannot be resolved, or whose values cannot travel.
    """

    def __init__(self, function: Callable[..., Any], name: str, context: type) -> None:
        self.name = name
        self._what = f"The payload of task {name!r}"
        self.what_returns = f"The result of task {name!r}"
        hints = _hints(function, name)
        parameters = [
            one.replace(annotation=hints.get(one.name, one.empty))
            for one in inspect.signature(function).parameters.values()
        ]
        self.takes_context = bool(parameters) and hints.get(parameters[0].name) is context
        self._parameters = parameters[1:] if self.takes_context else parameters
        self._signature = inspect.Signature(self._parameters)
        self._by_place = _names_by_place(self._parameters)
        self._has_defaults = any(one.default is not one.empty for one in self._parameters)
        self.names = tuple(one.name for one in self._parameters)
        self._positional = [one.name for one in self._parameters if one.kind is one.POSITIONAL_ONLY]
        self._read = self._arguments_decoder(hints, context).decode
        self._looked_at = self._rich_parameters(hints)
        self.returns = _result_type(hints.get("return", Any))
        self.result = ResultType.of(self.returns)

    def _arguments_decoder(
        self, hints: Mapping[str, Any], context: type
    ) -> msgspec.json.Decoder[Any]:
        for one in self._parameters:
            if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
                raise DeclarationError(
                    f"Task {self.name!r} has {one}: arguments travel by name, so each needs a "
                    f"parameter of its own. Take a list or a dict instead."
                )
            if hints.get(one.name, Any) is context:
                raise DeclarationError(
                    f"Task {self.name!r} takes its Context as {one.name!r}: make it the first "
                    f"parameter."
                )
        try:
            shape = msgspec.defstruct(
                "Arguments",
                [_field(one, hints.get(one.name, Any)) for one in self._parameters],
                kw_only=True,
                forbid_unknown_fields=True,
                rename=None,
            )
            decoder = msgspec.json.Decoder(shape, dec_hook=dec_hook)
        except (TypeError, ValueError) as error:
            raise DeclarationError(
                f"Task {self.name!r}: its annotations cannot be read back from JSON: {error}. "
                f"Simplify them, or annotate the parameter Any."
            ) from None
        for one in self._parameters:
            self._check_kind(one.name, hints.get(one.name, Any))
        return decoder

    def _check_kind(self, parameter: str, kind: Any) -> None:
        for name in foreign_types(kind):
            raise DeclarationError(
                f"Task {self.name!r} takes a {name} as {parameter!r}, which has no JSON form. "
                f"Use plain values, dataclasses, msgspec Structs or pydantic models; or take "
                f"an id and load the object in the handler."
            )
        for name in filter(None, map(never_a_key, kinds_in(kind))):
            raise DeclarationError(
                f"Task {self.name!r} takes a mapping with keys of type {name} as {parameter!r}: "
                f"keys in JSON are text, which no {name} can be read from. Use str, int or another "
                f"simple type, or take a list of pairs."
            )

    def _rich_parameters(self, hints: Mapping[str, Any]) -> tuple[tuple[str, Any, Look], ...]:
        """Return the parameters whose arguments must be looked at when they have been read back."""
        kinds = ((one.name, hints.get(one.name, Any)) for one in self._parameters)
        looks = ((name, kind, look_needed(kind)) for name, kind in kinds)
        return tuple(one for one in looks if one[2] is not Look.NOWHERE)

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """What parameters are when a call leaves them out, as plain JSON values, where they can."""
        plain: dict[str, Any] = {}
        for one in self._parameters:
            if one.default is not one.empty:
                with contextlib.suppress(Exception):  # a default need not travel
                    data = encode_value(one.default, self._what, MOST_DEFAULT)
                    plain[one.name] = msgspec.json.decode(data)
        return plain

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: int) -> bytes:
        """Return a call's payload. It is read back once, so that what is stored can be run.

        Raises:
            InvalidArguments: the call does not fit the parameters or their annotations.
            NotEncodable: a value has no JSON form, or would not come back as it is.
            PayloadTooLarge: over the limit.
        """
        return self._checked(self._bind(args, kwargs), limit)

    def encode_named(self, arguments: object, limit: int) -> bytes:
        """Return the payload of a call by name, checked as `encode` does.

        Raises:
            InvalidArguments, NotEncodable, PayloadTooLarge: as `encode`.
        """
        return self._checked(_checked_mapping(self.name, arguments), limit)

    def _checked(self, arguments: Mapping[str, Any], limit: int) -> bytes:
        data = encode_value(arguments, self._what, limit, known_objects=1)
        try:
            back = self._read(data)
            if self._looked_at:
                self._look_at(arguments, back)
        except NotEncodable:
            raise
        except RecursionError:
            raise NotEncodable(f"{self._what} is nested too deeply to be read back.") from None
        except USER_ERRORS as error:
            raise InvalidArguments(
                f"Task {self.name!r} cannot take these arguments: {error_text(error)}. Its "
                f"parameters are {self._signature}."
            ) from None
        return data

    def _look_at(self, arguments: Mapping[str, Any], back: Any) -> None:
        for name, kind, look in self._looked_at:
            if name in arguments:
                lost = _lost(arguments[name], getattr(back, name), name, kind, look)
                if lost is not None:
                    raise _changed(self._what, lost)

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._by_place is not None and not kwargs and len(args) == len(self._by_place):
            return dict(zip(self._by_place, args, strict=True))  # what `bind` would take long for
        try:
            return self._signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise InvalidArguments(
                f"Task {self.name!r} cannot take these arguments: {self._misfit(error, kwargs)} "
                f"Its parameters are {self._signature}{self._about_context()}."
            ) from None

    def _misfit(self, error: TypeError, kwargs: Mapping[str, Any]) -> str:
        """Return what is wrong with a call: a name that nobody has says more than one missing."""
        unknown = next((name for name in kwargs if name not in self.names), None)
        if unknown is None:
            return f"{error}."
        return f"there is no parameter {unknown!r}.{near(unknown, self.names)}"

    def _about_context(self) -> str:
        first = self._parameters[0] if self._parameters else None
        if self.takes_context:
            return " (the context is not passed)"
        if first is None or first.name not in _CONTEXTS or first.annotation is not first.empty:
            return ""
        return f"; if {first.name} is to be the job's context, annotate it: {first.name}: Context"

    def decode(self, payload: bytes) -> tuple[list[Any], dict[str, Any]]:
        """Return the positional and named arguments that a payload holds.

        Raises:
            NotDecodable: the payload does not fit the handler (any more).
        """
        try:
            values = self._read(payload)
        except USER_ERRORS as error:
            raise NotDecodable(
                f"The payload does not fit task {self.name!r} ({self._signature}): "
                f"{error_text(error)}. Deploy a handler that takes it and redrive the job, or "
                f"remove it."
            ) from None
        named = msgspec.structs.asdict(values)
        if self._has_defaults:
            named = {name: value for name, value in named.items() if value is not UNSET}
        return [named.pop(name) for name in self._positional if name in named], named


def _lost(sent: Any, back: Any, root: str, kind: Any, look: Look) -> str | None:
    """Return what a value has lost that was sent and read back, or None."""
    if look is Look.EQUAL and is_equal(sent, back):
        return None
    return difference(sent, back, root, kind)


class ResultType:
    """The annotation of a result whose values must be looked at when they are stored."""

    def __init__(self, kind: Any, look: Look) -> None:
        self._kind = kind
        self._look = look

    @classmethod
    def of(cls, kind: Any) -> ResultType | None:
        """Return what an annotation needs; None: nothing must be looked at."""
        try:
            look = look_needed(Any if kind is object else kind)
        except (TypeError, ValueError):  # nothing that JSON can be read as
            return None
        return None if look is Look.NOWHERE else cls(kind, look)

    def encode(self, value: Any, what: str, limit: int) -> bytes:
        """Return a result as JSON bytes.

        One that does not fit its annotation at all is stored as it is: who reads it is told.

        Raises:
            NotEncodable: it has no JSON form, or would come back as something else.
            PayloadTooLarge: it is over the limit.
        """
        data = encode_value(value, what, limit)
        try:
            back = decode_value(data, self._kind, what)
        except NotDecodable:
            return data
        lost = _lost(value, back, "result", self._kind, self._look)
        if lost is not None:
            raise _changed(what, lost)
        return data


def step_type(function: Callable[..., Any]) -> ResultType | None:
    """Return what a step's function needs; asked once for each function."""
    function = getattr(function, "__func__", function)  # a method is a new object each time
    try:
        return _step_types[function]
    except (KeyError, TypeError):  # a callable may have no hash
        found = ResultType.of(result_type(function))
    with contextlib.suppress(TypeError):
        _step_types[function] = found
    return found


_step_types: WeakKeyDictionary[Callable[..., Any], ResultType | None] = WeakKeyDictionary()


def _changed(what: str, lost: str) -> NotEncodable:
    return NotEncodable(f"{what} would not come back as it is: {lost}")


def _names_by_place(parameters: Sequence[inspect.Parameter]) -> tuple[str, ...] | None:
    """Return the names of parameters that may all be given by place; None if one may not."""
    by_place = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    if any(one.kind not in by_place for one in parameters):
        return None
    return tuple(one.name for one in parameters)


def _field(one: inspect.Parameter, kind: Any) -> tuple[str, Any] | tuple[str, Any, Any]:
    if one.default is one.empty:
        return (one.name, kind)
    if one.default is None:  # `v: int = None` takes None, whatever its annotation forgets
        return (one.name, kind | None | UnsetType, UNSET)
    return (one.name, kind | UnsetType, UNSET)


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(annotated(function), include_extras=True)
    except Exception as error:  # noqa: BLE001 - an annotation is an expression and may do anything
        raise DeclarationError(
            f"Task {name!r}: its annotations cannot be resolved: {error}. Give a function, and "
            f"import the names at run time (not under TYPE_CHECKING) and at module level."
        ) from None


def result_type(function: Callable[..., Any]) -> Any:
    """Return the type that a function's result has, by its annotation; Any if it has none."""
    try:
        return _result_type(typing.get_type_hints(function, include_extras=True).get("return", Any))
    except Exception:  # noqa: BLE001 - as above; the value itself is fine
        return Any


def _result_type(hint: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Awaitable):
        return typing.get_args(hint)[-1]
    return hint
