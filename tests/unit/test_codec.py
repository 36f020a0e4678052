from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import math
import typing
from collections.abc import Awaitable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType, NotRequired, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskmux.api.codec import Signature, decode_value, encode_mapping, encode_value, result_type
from taskmux.api.context import Context
from taskmux.model.errors import (
    DeclarationError,
    InvalidArguments,
    NotDecodable,
    NotEncodable,
    PayloadError,
    PayloadTooLarge,
)

if typing.TYPE_CHECKING:
    from nowhere import Missing

LIMIT = 10_000


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass
class Other:
    z: int


class Item(msgspec.Struct):
    name: str
    points: list[Point] = []


class Options(TypedDict):
    depth: int
    note: NotRequired[str]


class Order(pydantic.BaseModel):
    id: int
    placed: datetime
    lines: list[Item] = []

    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)


class Customer(pydantic.BaseModel):
    email: str
    age: int = pydantic.Field(ge=0)


@dataclasses.dataclass
class Basket:
    customer: Customer
    when: datetime
    extra: dict[str, list[Decimal]]


UserId = NewType("UserId", int)
NOON = datetime(2026, 1, 2, 12, 0, 0, 123456, tzinfo=UTC)
TYPED = [
    (int, 42),
    (int, 2**63 - 1),
    (int, -(2**63)),
    (float, 0.1),
    (bool, True),
    (str, "naïve \x00 $.{}'\"\u2028 🎉"),
    (None, None),
    (datetime, NOON),
    (datetime, NOON.replace(tzinfo=None)),
    (date, NOON.date()),
    (time, time(1, 2, 3)),
    (timedelta, timedelta(days=1, microseconds=5)),
    (UUID, UUID(int=7)),
    (Decimal, Decimal("0.10000000000000000000000001")),
    (bytes, b"\x00\xff"),
    (Colour, Colour.RED),
    (Level, Level.LOW),
    (Literal["a", "b"], "b"),
    (UserId, 7),
    (Annotated[int, msgspec.Meta(ge=0)], 0),
    (Point, Point(1, 2)),
    (Item, Item("a", [Point(1)])),
    (Options, {"depth": 1}),
    (Options, {"depth": 1, "note": "x"}),
    (Customer, Customer(email="a@b", age=3)),
    (list[Customer], [Customer(email="a@b", age=3)]),
    (Customer | None, None),
    (Basket, Basket(Customer(email="a", age=1), NOON, {"a": [Decimal("1.10")]})),
    (list[int], [1, 2]),
    (tuple[int, str], (1, "a")),
    (set[UUID], {UUID(int=1)}),
    (frozenset[int], frozenset({1})),
    (dict[str, datetime], {"a": NOON}),
    (dict[int, str], {1: "a"}),
    (dict[str, Any], {"$set": {"a.b": [1, None, 2.5]}}),
    (Sequence[int], [1]),
    (Mapping[str, int], {"a": 1}),
    (int | None, None),
    (int | str, "5"),
    (Any, {"a": [1, "b", None, True]}),
]


def taking(kind: Any) -> Signature:
    """Return the signature of a handler with one parameter of this type."""

    def handler(value):
        raise NotImplementedError

    handler.__annotations__ = {"value": kind}
    return Signature(handler, "job", Context)


def signature(function: Any) -> Signature:
    return Signature(function, "job", Context)


class TestBothWays:
    @pytest.mark.parametrize(("kind", "value"), TYPED)
    def test_an_argument_comes_back_as_the_annotated_type(self, kind, value):
        one = taking(kind)
        args, named = one.decode(one.encode((value,), {}, LIMIT))
        assert args == []
        assert named == {"value": value}
        assert type(named["value"]) is type(value)

    @pytest.mark.parametrize(("kind", "value"), TYPED)
    def test_a_result_comes_back_as_the_annotated_type(self, kind, value):
        back = decode_value(encode_value(value, "the result", LIMIT), kind, "the result")
        assert back == value
        assert type(back) is type(value)

    def test_a_pydantic_model_with_json_types_of_its_own(self):
        order = Order(id=1, placed=NOON)
        one = taking(Order)
        assert one.decode(one.encode((order,), {}, LIMIT)) == ([], {"value": order})

    def test_without_annotations_values_come_back_as_json_has_them(self):
        def handler(a, b=None):
            raise NotImplementedError

        one = signature(handler)
        _, named = one.decode(one.encode((Point(1, 2),), {"b": NOON}, LIMIT))
        assert named == {"a": {"x": 1, "y": 2}, "b": "2026-01-02T12:00:00.123456Z"}

    @given(
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**63 - 1)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(exclude_categories=["Cs"])),
            lambda inner: st.lists(inner) | st.dictionaries(st.text("a$.\x00{}"), inner),
            max_leaves=20,
        )
    )
    def test_any_json_value_is_kept(self, value):
        one = taking(Any)
        assert one.decode(one.encode((value,), {}, 10**9)) == ([], {"value": value})

    @pytest.mark.parametrize(
        "number", [2**64 - 1, 2**64, -(2**63) - 1, 10**100, 10**5000], ids=range(5)
    )
    def test_an_integer_over_64_bits_is_kept_exactly_or_refused(self, number):
        one = taking(int)
        try:
            payload = one.encode((number,), {}, LIMIT)
        except PayloadError:
            return
        assert one.decode(payload)[1] == {"value": number}

    def test_the_same_call_has_the_same_bytes(self):
        one = taking(Item)
        assert one.encode((Item("a"),), {}, LIMIT) == b'{"value":{"name":"a","points":[]}}'


class TestCalling:
    def test_defaults_are_the_workers_and_do_not_travel(self):
        def handler(a: int, b: int = 2, *, c: str = "c"):
            raise NotImplementedError

        one = signature(handler)
        assert one.encode((1,), {}, LIMIT) == b'{"a":1}'
        assert one.decode(b'{"a":1}') == ([], {"a": 1})
        assert one.decode(b'{"a":1,"b":3,"c":"d"}') == ([], {"a": 1, "b": 3, "c": "d"})

    def test_positional_only_parameters_are_given_by_position(self):
        def handler(a: int, b: int = 2, /, c: int = 3):
            raise NotImplementedError

        one = signature(handler)
        assert one.decode(one.encode((1,), {"c": 5}, LIMIT)) == ([1], {"c": 5})
        assert one.decode(one.encode((1, 2), {}, LIMIT)) == ([1, 2], {})

    def test_a_leading_context_is_not_passed(self):
        def handler(ctx: Context, a: int):
            raise NotImplementedError

        one = signature(handler)
        assert one.takes_context
        assert one.encode((1,), {}, LIMIT) == b'{"a":1}'

    def test_a_name_alone_makes_no_context(self):
        def handler(ctx: int):
            raise NotImplementedError

        assert not signature(handler).takes_context

    def test_a_handler_without_parameters(self):
        def handler() -> None:
            raise NotImplementedError

        one = signature(handler)
        assert one.decode(one.encode((), {}, LIMIT)) == ([], {})


def add(a: int, b: float = 1.0) -> float:
    return a + b


class TestWrongArgumentsAreRefusedBeforeAnythingIsSent:
    @pytest.mark.parametrize(
        ("args", "kwargs"),
        [
            ((), {}),
            ((1, 2, 3), {}),
            ((1,), {"c": 1}),
            ((1,), {"a": 1}),
            (("1",), {}),
            ((1.5,), {}),
            ((None,), {}),
            ((True,), {}),
            (([],), {}),
            ((1, "x"), {}),
        ],
    )
    def test_by_count_name_or_type(self, args, kwargs):
        with pytest.raises(InvalidArguments, match=r"job.*a: int, b: float") as caught:
            signature(add).encode(args, kwargs, LIMIT)
        assert isinstance(caught.value, TypeError)  # what calling the function would raise

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            (datetime, "yesterday"),
            (UUID, "x"),
            (Decimal, "1,5"),
            (bytes, "not base64!"),
            (Colour, "blue"),
            (Point, {"y": 1}),
            (Item, {"name": 1}),
            (Options, {"note": "x"}),
            (Customer, {"email": "a", "age": -1}),
            (list[int], [1, "2"]),
            (tuple[int, str], (1,)),
            (Annotated[int, msgspec.Meta(ge=0)], -1),
            (Literal["a"], "b"),
        ],
    )
    def test_by_what_the_type_says(self, kind, value):
        with pytest.raises(InvalidArguments):
            taking(kind).encode((value,), {}, LIMIT)

    def test_a_type_that_raises_something_odd(self):
        @dataclasses.dataclass
        class Odd:
            x: int

            def __post_init__(self):
                if self.x < 0:
                    raise KeyError("x")

        one = taking(Odd)
        with pytest.raises(InvalidArguments):
            one.encode(({"x": -1},), {}, LIMIT)
        with pytest.raises(NotDecodable):
            one.decode(b'{"value":{"x":-1}}')
        with pytest.raises(NotDecodable):
            decode_value(b'{"x":-1}', Odd, "the result")


class Silent:
    """Has no JSON form."""


class Loud:
    """Claims a JSON form and fails."""

    def model_dump(self, mode: str) -> object:
        raise RuntimeError("dump failed")


class TestWhatHasNoJsonForm:
    @pytest.mark.parametrize(
        "value", [Silent(), Loud(), object, lambda: 1, 1j, "\ud800", {1.5: Silent()}, {(1, 2): 3}]
    )
    def test_is_refused(self, value):
        with pytest.raises(NotEncodable, match="has no JSON form"):
            taking(Any).encode((value,), {}, LIMIT)
        with pytest.raises(NotEncodable, match="The result of 'x' has no JSON form"):
            encode_value(value, "The result of 'x'", LIMIT)

    def test_a_value_that_contains_itself(self):
        endless: list[Any] = []
        endless.append(endless)
        with pytest.raises(NotEncodable, match="contains itself"):
            taking(Any).encode((endless,), {}, LIMIT)

    def test_a_value_nested_too_deeply(self):
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        with pytest.raises(NotEncodable, match="too deeply"):
            taking(Any).encode((deep,), {}, 10**9)

    def test_over_the_limit(self):
        one = taking(str)
        fits = "x" * (LIMIT - len('{"value":""}'))
        assert len(one.encode((fits,), {}, LIMIT)) == LIMIT
        with pytest.raises(PayloadTooLarge, match=r"10,001 bytes of JSON; the limit is 10,000"):
            one.encode((fits + "x",), {}, LIMIT)


class TestStoredPayloadsThatDoNotFit:
    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'"a"',
            b"{}",
            b'{"a":"x"}',
            b'{"a":1,"nosuch":2}',
            b'{"a":1,"b":null}',
            b"\xff\xfe",
            b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        ],
        ids=range(11),
    )
    def test_are_a_typed_error_that_says_what_to_do(self, payload):
        with pytest.raises(NotDecodable, match="redrive"):
            signature(add).decode(payload)

    @given(st.binary())
    def test_any_bytes_decode_or_are_a_typed_error(self, payload):
        with contextlib.suppress(NotDecodable):
            signature(add).decode(payload)

    def test_a_result_of_another_type(self):
        with pytest.raises(NotDecodable, match="The result of x does not fit int"):
            decode_value(b'"a"', int, "The result of x")

    @pytest.mark.parametrize("kind", [Point | Other, Silent, int | Silent, list[Silent]])
    def test_a_result_type_that_json_cannot_tell(self, kind):
        with pytest.raises(NotDecodable):
            decode_value(b'{"x":1}', kind, "The result")


class TestByName:
    def test_a_mapping_is_encoded(self):
        assert encode_mapping("t", {"order": 7}, LIMIT) == b'{"order":7}'

    @pytest.mark.parametrize("arguments", [[1], "x", 5, {1: 2}, {None: 1}])
    def test_anything_else_is_refused(self, arguments):
        with pytest.raises(InvalidArguments, match="mapping from parameter names"):
            encode_mapping("t", arguments, LIMIT)


class TestDeclarations:
    def test_star_arguments_are_refused(self):
        def args(*values: int):
            raise NotImplementedError

        def kwargs(**values: int):
            raise NotImplementedError

        for function in (args, kwargs):
            with pytest.raises(DeclarationError, match="values: int"):
                signature(function)

    def test_a_context_elsewhere_is_refused(self):
        def handler(a: int, ctx: Context):
            raise NotImplementedError

        with pytest.raises(DeclarationError, match="first parameter"):
            signature(handler)

    def test_a_name_known_to_type_checkers_only_is_refused(self):
        def handler(value: Missing):
            raise NotImplementedError

        with pytest.raises(DeclarationError, match=r"'Missing' is not defined.*TYPE_CHECKING"):
            signature(handler)

    @pytest.mark.parametrize("kind", [Point | Other, int | Silent, 5, "a comment, not a type"])
    @pytest.mark.parametrize("default", [False, True])
    def test_a_type_that_json_cannot_tell_is_refused(self, kind, default):
        def required(value):
            raise NotImplementedError

        def optional(value=None):
            raise NotImplementedError

        function = optional if default else required
        function.__annotations__ = {"value": kind}
        with pytest.raises(DeclarationError, match="annotations cannot be"):
            signature(function)

    def test_what_is_no_function_is_refused(self):
        with pytest.raises(DeclarationError):
            signature(object())

    def test_a_partial_takes_what_is_left(self):
        assert signature(functools.partial(add, 1)).decode(b'{"b":2}') == ([], {"b": 2})


class TestResultTypes:
    @pytest.mark.parametrize(
        ("hint", "kind"),
        [(int, int), (Awaitable[int], int), (typing.Coroutine[Any, Any, str], str), (None, None)],
    )
    def test_of_async_and_sync_functions(self, hint, kind):
        def function():
            raise NotImplementedError

        function.__annotations__ = {"return": hint}
        expected = type(None) if kind is None else kind
        assert result_type(function) is expected
        assert signature(function).returns is expected

    def test_any_without_an_annotation_or_with_one_that_cannot_be_resolved(self):
        def bare():
            raise NotImplementedError

        def missing() -> Missing:
            raise NotImplementedError

        assert result_type(bare) is Any
        assert result_type(missing) is Any
        assert result_type(len) is Any


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"deep": [x, None]}, lambda x: (None, x)])
def test_numbers_that_json_would_turn_into_null_are_refused(number, wrap):
    with pytest.raises(NotEncodable, match="NaN or an infinity"):
        encode_value(wrap(number), "It", LIMIT)
    assert encode_value({"none": None, "half": 0.5}, "It", LIMIT) == b'{"none":null,"half":0.5}'
