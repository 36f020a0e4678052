"""Values that msgspec alone does not carry, and those that must be refused when they are sent."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskmux.api.codec import Signature
from taskmux.api.context import Context
from taskmux.api.values import decode_value, encode_value
from taskmux.model.errors import (
    DeclarationError,
    InvalidArguments,
    NotDecodable,
    NotEncodable,
    PayloadError,
)

LIMIT = 10**7
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def taking(kind: Any, default: Any = msgspec.UNSET) -> Signature:
    """Return the signature of a handler with one parameter of this type."""

    def required(value):
        raise NotImplementedError

    def optional(value=default):
        raise NotImplementedError

    function = required if default is msgspec.UNSET else optional
    function.__annotations__ = {"value": kind}
    return Signature(function, "job", Context)


def both_ways(kind: Any, value: Any) -> Any:
    """Send a value as an argument and as a result; return what both come to."""
    one = taking(kind)
    argument = one.decode(one.encode((value,), {}, LIMIT))[1]["value"]
    result = decode_value(encode_value(value, "It", LIMIT), kind, "It")
    assert type(argument) is type(result)
    assert argument == result
    return argument


class Text(str):
    """Text of its own kind."""

    __slots__ = ()

    def __str__(self) -> str:
        return "not this"


class Number(int):
    pass


class Ratio(float):
    pass


class Blob(bytes):
    pass


PLAIN = [
    (Text, Text("x")),
    (Number, Number(2**63 - 1)),
    (Ratio, Ratio(0.1)),
    (Blob, Blob(b"\x00\xff")),
    (Path, Path("/tmp/x y")),
    (PurePosixPath, PurePosixPath("a/b")),
    (collections.deque, collections.deque([1, "a"])),
    (collections.deque[datetime], collections.deque([NOON])),
    (list[Path | None], [Path("a"), None]),
    (dict[str, Number], {"a": Number(1)}),
]


class TestSubclassesPathsAndDeques:
    @pytest.mark.parametrize(("kind", "value"), PLAIN)
    def test_come_back_as_the_annotated_type(self, kind, value):
        back = both_ways(kind, value)
        assert back == value
        assert type(back) is type(value)

    @pytest.mark.parametrize(
        ("value", "plain"),
        [
            (Text("x"), "x"),
            (Number(1), 1),
            (Ratio(0.5), 0.5),
            (collections.deque([1, Text("x")]), [1, "x"]),
            (Path("a/b"), "a/b"),
            ({Text("k"): Number(1)}, {"k": 1}),
            (collections.OrderedDict(a=1), {"a": 1}),
            (collections.Counter("aab"), {"a": 2, "b": 1}),
        ],
    )
    def test_are_plain_where_the_annotation_says_nothing(self, value, plain):
        assert both_ways(Any, value) == plain

    @pytest.mark.parametrize(
        ("kind", "value"),
        [(Text, 1), (Number, "1"), (Number, True), (Path, 5), (collections.deque[int], ["x"])],
    )
    def test_another_type_is_refused(self, kind, value):
        with pytest.raises(InvalidArguments):
            taking(kind).encode((value,), {}, LIMIT)

    @given(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
    )
    def test_whatever_they_hold(self, text, number, ratio):
        for kind, value in ((Text, text), (Number, number), (Ratio, ratio)):
            assert both_ways(kind, kind(value)) == kind(value)


class Plain(pydantic.BaseModel):
    id: int
    at: datetime | None = None
    tags: set[str] = set()
    more: Any = None


class Aliased(pydantic.BaseModel):
    user_id: int = pydantic.Field(alias="userId")
    inner: list[Plain] = pydantic.Field(default=[], alias="innerOnes")


class ReadByAlias(pydantic.BaseModel):
    user_id: int = pydantic.Field(validation_alias="userId")


class WrittenByAlias(pydantic.BaseModel):
    user_id: int = pydantic.Field(serialization_alias="userId")


class Computed(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    width: int

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.width**2


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    at: datetime
    price: Decimal


class Extra(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")

    id: int


class Root(pydantic.RootModel[list[Plain]]):
    pass


class Secret(pydantic.BaseModel):
    name: str
    password: pydantic.SecretStr


class Account(pydantic.BaseModel):
    secrets: list[Secret] = []


class Hiding(pydantic.BaseModel):
    id: int
    token: str = pydantic.Field(default="", exclude=True)


class HidingRequired(pydantic.BaseModel):
    token: str = pydantic.Field(exclude=True)


class Shortened(pydantic.BaseModel):
    text: str

    @pydantic.field_serializer("text")
    def short(self, text: str) -> str:
        return text[:3]


class Dog(Plain):
    breed: str


class Kennel(pydantic.BaseModel):
    animal: Plain


MODELS = [
    Plain(id=1, at=NOON, tags={"a"}),
    Plain(id=1, more={"at": "x", "list": [1, 2.5, None]}),
    Aliased(userId=1, innerOnes=[Plain(id=2)]),
    ReadByAlias(userId=1),
    WrittenByAlias(user_id=1),
    Computed(width=2),
    Strict(at=NOON, price=Decimal("1.10")),
    Extra(id=1, other=[1]),
    Root([Plain(id=1)]),
    Hiding(id=1),  # nothing is hidden that would not be there again
    Shortened(text="abc"),
]
LOSING = [
    (Secret(name="a", password=pydantic.SecretStr("pw")), r"Secret\.password"),
    (
        Account(secrets=[Secret(name="a", password=pydantic.SecretStr("pw"))]),
        r"Account\.secrets\[0\]\.password",
    ),
    (Hiding(id=1, token="t"), r"Hiding\.token"),
    (HidingRequired(token="t"), "token"),
    (Shortened(text="abcd"), r"Shortened\.text"),
    (Kennel(animal=Dog(id=1, breed="b")), r"Kennel\.animal"),
]


class TestPydantic:
    @pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
    def test_a_model_is_read_back_as_it_was(self, model):
        assert both_ways(type(model), model) == model
        assert both_ways(list[type(model)], [model]) == [model]

    @pytest.mark.parametrize(("model", "field"), LOSING, ids=range(len(LOSING)))
    def test_what_would_be_lost_is_refused_and_named(self, model, field):
        for kind in (type(model), Any):
            with pytest.raises(NotEncodable, match=field) as caught:
                taking(kind).encode((model,), {}, LIMIT)
            assert "pw" not in str(caught.value)
        with pytest.raises(NotEncodable, match=field):
            encode_value([model], "The result", LIMIT)

    @pytest.mark.parametrize("number", [math.nan, math.inf])
    @pytest.mark.parametrize("null", ["null", "constants"])
    def test_a_number_that_json_lacks_is_refused(self, number, null):
        class Measured(pydantic.BaseModel):
            model_config = pydantic.ConfigDict(ser_json_inf_nan=null)

            value: float | None = None

        with pytest.raises(NotEncodable):
            encode_value(Measured(value=number), "It", LIMIT)

    def test_a_serializer_that_turns_a_number_into_none_is_found_out(self):
        class Measured(pydantic.BaseModel):
            value: float | None

            @pydantic.field_serializer("value")
            def finite(self, value: float | None) -> float | None:
                return value if value is not None and math.isfinite(value) else None

        with pytest.raises(NotEncodable, match=r"Measured\.value"):
            encode_value(Measured(value=math.nan), "It", LIMIT)
        assert encode_value(Measured(value=0.5), "It", LIMIT) == b'{"value":0.5}'

    @given(
        st.builds(
            Plain,
            id=st.integers(-(2**63), 2**63 - 1),
            at=st.none() | st.datetimes(timezones=st.just(UTC)),
            tags=st.sets(st.text(st.characters(exclude_categories=["Cs"]))),
            more=st.none() | st.integers(0, 9) | st.dictionaries(st.text("ab"), st.booleans()),
        )
    )
    def test_any_model(self, model):
        assert both_ways(Plain, model) == model


class Arbitrary:
    pass


@dataclasses.dataclass
class Holding:
    inner: list[Arbitrary]


class Typed(TypedDict):
    one: Arbitrary


class Chain(msgspec.Struct):
    next: Chain | None = None


class TestDeclarations:
    @pytest.mark.parametrize(
        "kind",
        [
            object,
            Arbitrary,
            type,
            complex,
            Callable[[], int],
            Iterable[int],
            Exception,
            pydantic.SecretStr,
            list[Arbitrary],
            dict[str, Arbitrary | None],
            tuple[int, Arbitrary],
            Holding,
            Typed,
            collections.defaultdict[str, int],
        ],
    )
    @pytest.mark.parametrize("default", [msgspec.UNSET, None])
    def test_what_cannot_travel_is_refused_when_the_task_is_declared(self, kind, default):
        with pytest.raises(DeclarationError, match=r"as 'value', which has no JSON form"):
            taking(kind, default)

    @pytest.mark.parametrize("kind", [Any, Chain, Path, list[Plain], timedelta, None, Text | None])
    def test_what_can_travel_is_taken(self, kind):
        taking(kind)

    @pytest.mark.parametrize("kind", [int, list[int], Plain, Path, datetime, int | None])
    def test_a_default_of_none_takes_none(self, kind):
        one = taking(kind, None)
        assert one.decode(one.encode((None,), {}, LIMIT)) == ([], {"value": None})
        with pytest.raises(InvalidArguments):
            taking(int, 5).encode((None,), {}, LIMIT)

    def test_a_result_annotated_object_is_any_json(self):
        assert decode_value(b'{"a":[1]}', object, "It") == {"a": [1]}


def deep(depth: int, wrap: Callable[[Any], Any], bottom: Any = None) -> Any:
    value = bottom
    for _ in range(depth):
        value = wrap(value)
    return value


def carried(encode: Callable[[], bytes]) -> bytes | None:
    """Return what it encodes to; None if it was refused for its depth."""
    try:
        return encode()
    except NotEncodable as error:
        reason = str(error)
    assert "nested too deeply" in reason
    return None


class TestWhatJsonWouldChange:
    @pytest.mark.parametrize(
        "twins", [{1: "a", "1": "b"}, {1.5: 0, "1.5": 1}, {Number(2): 0, Text("2"): 1}]
    )
    @pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [{"a": 1}, x], lambda x: {"x": (x,)}])
    def test_two_keys_that_become_one_are_refused(self, twins, wrap):
        with pytest.raises(NotEncodable, match="two keys"):
            taking(Any).encode((wrap(twins),), {}, LIMIT)
        with pytest.raises(NotEncodable, match="two keys"):
            encode_value(wrap(twins), "It", LIMIT)

    def test_spaces_in_raw_json_are_no_twins(self):
        assert encode_value(msgspec.Raw(b'{ "a" : 1 }'), "It", LIMIT) == b'{ "a" : 1 }'

    @pytest.mark.parametrize("depth", [100, 500, 900, 1_500, 50_000])
    @pytest.mark.parametrize(
        "wrap",
        [lambda x: [x], lambda x: {"a": x}, lambda x: collections.deque([x]), Chain],
        ids=["list", "dict", "deque", "struct"],
    )
    def test_depth_is_carried_or_a_typed_error(self, depth, wrap):
        value = deep(depth, wrap)
        data = carried(lambda: encode_value(value, "It", LIMIT))
        if data is not None:
            decode_value(data, Any, "It")
        one = taking(Chain if wrap is Chain else Any)
        payload = carried(lambda: one.encode((value,), {}, LIMIT))
        if payload is not None:
            one.decode(payload)
        while isinstance(value, Chain):  # freeing it at once would recurse, too
            value = value.next

    def test_stored_depth_is_a_typed_error(self):
        with pytest.raises(NotDecodable):
            decode_value(b"[" * 100_000 + b"]" * 100_000, Any, "It")

    @pytest.mark.parametrize("number", [math.nan, math.inf, Ratio("nan")])
    def test_a_number_that_json_lacks_is_refused_wherever_it_is(self, number):
        for wrap in (lambda x: x, lambda x: collections.deque([x]), lambda x: deep(300, list, [x])):
            with pytest.raises(NotEncodable, match="NaN or an infinity"):
                taking(Any).encode((wrap(number),), {}, LIMIT)


class TestHostileTypes:
    @pytest.mark.parametrize(
        "error", [SystemExit(), GeneratorExit(), asyncio.CancelledError(), RecursionError()]
    )
    def test_whatever_a_type_raises_when_it_is_written_is_a_typed_error(self, error):
        class Hostile:
            def model_dump(self, mode: str) -> object:
                raise error

        with pytest.raises(PayloadError):
            encode_value(Hostile(), "It", LIMIT)

    def test_an_error_that_cannot_be_shown(self):
        class Mute(Exception):
            def __str__(self) -> str:
                raise SystemExit

        class Hostile:
            def model_dump(self, mode: str) -> object:
                raise Mute

        with pytest.raises(NotEncodable, match="Mute"):
            encode_value(Hostile(), "It", LIMIT)

    def test_ctrl_c_goes_through(self):
        class Slow:
            def model_dump(self, mode: str) -> object:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            encode_value(Slow(), "It", LIMIT)
