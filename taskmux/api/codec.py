"""Arguments and results, both ways: one JSON object of named values, typed by annotations.

msgspec does the work: datetime, UUID, Decimal, bytes (base64), Enum, dataclass, Struct, TypedDict
and the built-in containers. Pydantic models are recognised by their methods, never imported.
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from taskmux.api.handlers import annotated
from taskmux.model.errors import (
    DeclarationError,
    InvalidArguments,
    NotDecodable,
    NotEncodable,
    PayloadTooLarge,
)

__all__ = ["Signature", "decode_value", "encode_mapping", "encode_value", "result_type"]


def _enc_hook(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    raise NotImplementedError(f"a {type(value).__name__} has no JSON form")


def _dec_hook(kind: type, value: Any) -> Any:
    validate = getattr(kind, "model_validate", None)
    if validate is not None:
        return validate(value)
    raise NotImplementedError(f"{kind.__name__} cannot be read from JSON")


_encoder = msgspec.json.Encoder(enc_hook=_enc_hook)


def encode_value(value: Any, what: str, limit: int) -> bytes:
    """Return a value as JSON bytes.

    Args:
        value: anything with a JSON form.
        what: how an error calls it, such as `"the result of task 'add'"`.
        limit: the most bytes it may take.

    Raises:
        NotEncodable: it has no JSON form.
        PayloadTooLarge: it is over the limit.
    """
    try:
        data = _encoder.encode(value)
    except RecursionError:
        raise NotEncodable(
            f"{what} contains itself or is nested too deeply. Send ids instead of linked objects."
        ) from None
    except Exception as error:  # noqa: BLE001 - also whatever a user's own type raises
        raise NotEncodable(
            f"{what} has no JSON form: {error}. Use plain values, dataclasses, msgspec Structs or "
            f"pydantic models."
        ) from None
    if len(data) > limit:
        raise PayloadTooLarge(
            f"{what} takes {len(data):,} bytes of JSON; the limit is {limit:,}. Store the bulk "
            f"elsewhere and send a reference, or raise the limit: Taskmux(limits=Limits(...))."
        )
    if b"null" in data and _not_finite(msgspec.to_builtins(value, enc_hook=_enc_hook)):
        raise NotEncodable(
            f"{what} has a NaN or an infinity, which JSON would turn into null. Send None, or text."
        )
    return data


def _not_finite(value: Any) -> bool:
    match value:
        case float():
            return not math.isfinite(value)
        case dict():
            return any(map(_not_finite, value.values()))
        case list() | tuple():
            return any(map(_not_finite, value))
        case _:
            return False


def decode_value(data: bytes, kind: Any, what: str) -> Any:
    """Return a value from JSON bytes, as the annotation says.

    Raises:
        NotDecodable: the bytes do not fit the annotation.
    """
    try:
        return msgspec.json.decode(data, type=kind, dec_hook=_dec_hook)
    except Exception as error:  # noqa: BLE001 - also whatever a user's own type raises
        raise NotDecodable(f"{what} does not fit {_name(kind)}: {error}.") from None


def encode_mapping(task: str, arguments: object, limit: int) -> bytes:
    """Return the payload of a call by name: its arguments are not checked here.

    Raises:
        InvalidArguments: the arguments are no mapping from names.
        NotEncodable: a value has no JSON form.
        PayloadTooLarge: over the limit.
    """
    if not isinstance(arguments, Mapping) or not all(isinstance(key, str) for key in arguments):
        raise InvalidArguments(
            f"The arguments of {task!r} must be a mapping from parameter names to values, such as "
            f"{{'order': 7}}."
        )
    return encode_value(dict(arguments), f"The payload of task {task!r}", limit)


class Signature:
    """How a handler is called: whether it takes a context, and its arguments' types.

    Raises:
        DeclarationError: the handler has `*args` or `**kwargs`, a context that is not first, or
            an annotation that cannot be resolved or decoded.
    """

    def __init__(self, function: Callable[..., Any], name: str, context: type) -> None:
        self.name = name
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
        self._positional = [one.name for one in self._parameters if one.kind is one.POSITIONAL_ONLY]
        self._decoder = self._arguments_decoder(hints, context)
        self.returns = _result_type(hints.get("return", Any))

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
            return msgspec.json.Decoder(shape, dec_hook=_dec_hook)
        except (TypeError, ValueError) as error:
            raise DeclarationError(
                f"Task {self.name!r}: its annotations cannot be read back from JSON: {error}. "
                f"Simplify them, or annotate the parameter Any."
            ) from None

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: int) -> bytes:
        """Return a call's payload. It is read back once, so that what is stored can be run.

        Raises:
            InvalidArguments: the call does not fit the parameters or their annotations.
            NotEncodable: a value has no JSON form.
            PayloadTooLarge: over the limit.
        """
        arguments = self._bind(args, kwargs)
        data = encode_value(arguments, f"The payload of task {self.name!r}", limit)
        try:
            self._decoder.decode(data)
        except Exception as error:  # noqa: BLE001 - also whatever a user's own type raises
            raise InvalidArguments(
                f"Task {self.name!r} cannot take these arguments: {error}. Its parameters are "
                f"{self._signature}."
            ) from None
        return data

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._by_place is not None and not kwargs and len(args) == len(self._by_place):
            return dict(zip(self._by_place, args, strict=True))  # what `bind` would take long for
        try:
            return self._signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise InvalidArguments(
                f"Task {self.name!r} cannot take these arguments: {error}. Its parameters are "
                f"{self._signature} (the context is not passed)."
            ) from None

    def decode(self, payload: bytes) -> tuple[list[Any], dict[str, Any]]:
        """Return the positional and named arguments that a payload holds.

        Raises:
            NotDecodable: the payload does not fit the handler (any more).
        """
        try:
            values = self._decoder.decode(payload)
        except Exception as error:  # noqa: BLE001 - also whatever a user's own type raises
            raise NotDecodable(
                f"The payload does not fit task {self.name!r} ({self._signature}): {error}. "
                f"Deploy a handler that takes it and redrive the job, or remove it."
            ) from None
        named = msgspec.structs.asdict(values)
        if self._has_defaults:
            named = {name: value for name, value in named.items() if value is not UNSET}
        return [named.pop(name) for name in self._positional if name in named], named


def _names_by_place(parameters: Sequence[inspect.Parameter]) -> tuple[str, ...] | None:
    """Return the names of parameters that may all be given by place; None if one may not."""
    by_place = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    if any(one.kind not in by_place for one in parameters):
        return None
    return tuple(one.name for one in parameters)


def _field(one: inspect.Parameter, kind: Any) -> tuple[str, Any] | tuple[str, Any, Any]:
    required = one.default is one.empty
    return (one.name, kind) if required else (one.name, kind | UnsetType, UNSET)


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


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", None) or str(kind)
