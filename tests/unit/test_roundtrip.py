"""Typed values travel whole or are refused when they are sent."""

from __future__ import annotations

import collections
import dataclasses
import enum
import threading
import typing
from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from taskmux.api.codec import ResultType, Signature, encode_value, step_type
from taskmux.api.context import Context
from taskmux.model.errors import DeclarationError, NotEncodable, PayloadError

LIMIT = 10**7
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
ODD = timezone(timedelta(hours=1, seconds=30))
V = TypeVar("V")


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass
class Point3(Point):
    z: int = 0


@dataclasses.dataclass
class Marked(Point):
    """A subclass without a field of its own."""


@dataclasses.dataclass
class Pixel:
    """Has the fields of a point, and is none."""

    x: int
    y: int = 0


@dataclasses.dataclass
class Same(Point3):
    """Equal to whatever has its id, as records of a database are."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and other.x == self.x

    __hash__ = None  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: int


@dataclasses.dataclass(frozen=True)
class Frozen2(Frozen):
    y: int = 0


class Item(msgspec.Struct):
    name: str


class PricedItem(Item):
    price: int = 1


class Thing(msgspec.Struct):
    name: str


class Animal(pydantic.BaseModel):
    name: str


class Dog(Animal):
    breed: str = "pug"


class Robot(pydantic.BaseModel):
    name: str


class Pair(NamedTuple):
    a: int
    b: int = 0


class Couple(NamedTuple):
    a: int
    b: int = 0


class Options(TypedDict):
    depth: int
    note: NotRequired[str]


@attrs.define
class Hidden:
    x: int
    _y: int = 1  # written by no serializer


@dataclasses.dataclass
class Box(Generic[V]):
    inside: V


class Colour(enum.Enum):
    RED = "red"


class Fruit(enum.Enum):
    CHERRY = "red"


class Number(int):
    pass


class Ratio(float):
    pass


class Text(str):
    __slots__ = ()


def taking(kind: Any) -> Signature:
    """Return the signature of a handler with one parameter of this type."""

    def handler(value):
        raise NotImplementedError

    handler.__annotations__ = {"value": kind}
    return Signature(handler, "job", Context)


def send(kind: Any, value: Any) -> Any:
    """Return what a handler gets for a value."""
    one = taking(kind)
    return one.decode(one.encode((value,), {}, LIMIT))[1]["value"]


class Place(NamedTuple):
    """Somewhere a value can be: the annotation there, what holds it, how an error calls it."""

    kind: Any
    hold: Any
    named: str


PLACES = [
    Place(lambda kind: kind, lambda value: value, r"value"),
    Place(lambda kind: list[kind], lambda value: [value], r"value\[0\]"),
    Place(lambda kind: dict[str, kind], lambda value: {"k": value}, r"value\['k'\]"),
    Place(lambda kind: kind | None, lambda value: value, r"value"),
    Place(lambda kind: tuple[int, kind], lambda value: (1, value), r"value\[1\]"),
    Place(lambda kind: Box[kind], Box, r"value\.inside"),
    Place(
        lambda kind: list[Box[list[kind]]],
        lambda value: [Box([value])],
        r"value\[0\]\.inside\[0\]",
    ),
]
EVERYWHERE = pytest.mark.parametrize("place", PLACES, ids=[place.named for place in PLACES])
CHANGED_TYPES = [
    (Point, Point3(1, 2, 3), "Point3 and would come back as a Point"),
    (Point, Marked(1), "Marked and would come back as a Point"),
    (Point, Pixel(1), "Pixel and would come back as a Point"),
    (Point, Item("a"), None),  # not even its fields fit
    (Point, Same(1, 2, 3), "Same and would come back as a Point"),
    (Item, PricedItem("a"), "PricedItem and would come back as a Item"),
    (Item, Thing("a"), "Thing and would come back as a Item"),
    (Item, Animal(name="a"), "Animal and would come back as a Item"),
    (Animal, Dog(name="a"), "Dog and would come back as a Animal"),
    (Animal, Robot(name="a"), "Robot and would come back as a Animal"),
    (Animal, Item("a"), "Item and would come back as a Animal"),
    (Pair, Couple(1), "Couple and would come back as a Pair"),
    (Options, Item("a"), None),
    (Colour, Fruit.CHERRY, "Fruit and would come back as a Colour"),
    (datetime, NOON.isoformat, None),
]


class TestAnotherType:
    @EVERYWHERE
    @pytest.mark.parametrize(("kind", "value", "said"), CHANGED_TYPES)
    def test_is_refused_wherever_it_is(self, place, kind, value, said):
        one = taking(place.kind(kind))
        with pytest.raises(PayloadError) as caught:
            one.encode((place.hold(value),), {}, LIMIT)
        if said is not None:
            assert isinstance(caught.value, NotEncodable)
            assert caught.match(rf"{place.named} is a {said}\. Send what the annotation says")

    @EVERYWHERE
    def test_the_annotated_one_travels(self, place):
        right = [Point(1), Item("a"), Animal(name="a"), Dog(name="a"), Pair(1), Hidden(1)]
        for value in right:
            back = send(place.kind(type(value)), place.hold(value))
            assert back == place.hold(value)

    def test_in_a_model_and_in_a_struct(self):
        class Kennel(pydantic.BaseModel):
            animals: dict[str, list[Animal]]

        class Shop(msgspec.Struct):
            items: list[Item]

        dogs = {"a": [Animal(name="a"), Dog(name="b")]}
        with pytest.raises(NotEncodable, match=r"Kennel\.animals\['a'\]\[1\] is a Dog"):
            send(Kennel, Kennel.model_construct(animals=dogs))
        with pytest.raises(NotEncodable, match=r"value\.items\[1\] is a PricedItem"):
            send(Shop, Shop([Item("a"), PricedItem("b")]))

    def test_in_a_set_and_in_keys(self):
        assert send(set[Frozen], {Frozen(1), Frozen(2)}) == {Frozen(1), Frozen(2)}
        with pytest.raises(NotEncodable, match="Frozen2"):
            send(set[Frozen], {Frozen(1), Frozen2(2)})
        with pytest.raises(NotEncodable, match=r"value has a key .*CHERRY.* is a Fruit"):
            send(dict[Colour, int], {Fruit.CHERRY: 1})
        with pytest.raises(NotEncodable, match=r"value has a key 1 that is a int"):
            send(dict[int | str, int], {1: 1})

    def test_unions_that_tell_their_types(self):
        class One(msgspec.Struct, tag=True):
            x: int

        class Two(msgspec.Struct, tag=True):
            x: int

        class Three(Two, tag="Two"):
            y: int = 0

        assert send(One | Two, Two(1)) == Two(1)
        assert send(Point | str | None, Point(1)) == Point(1)
        with pytest.raises(NotEncodable, match="Three"):
            send(One | Two, Three(1))
        with pytest.raises(NotEncodable, match="Point3"):
            send(Point | str | None, Point3(1))
        with pytest.raises(NotEncodable, match="Colour"):
            send(Point | str | None, Colour.RED)


class TestWhatHasNoPlace:
    @EVERYWHERE
    def test_a_key_that_a_typed_dict_does_not_name(self, place):
        with pytest.raises(
            NotEncodable, match=rf"{place.named} has a key 'more' that would be lost"
        ):
            send(place.kind(Options), place.hold({"depth": 1, "more": 2}))
        assert send(place.kind(Options), place.hold({"depth": 1})) == place.hold({"depth": 1})

    def test_a_field_that_is_not_written(self):
        with pytest.raises(NotEncodable, match=r"value\._y would not come back"):
            send(Hidden, Hidden(1, y=5))

    @pytest.mark.parametrize(
        ("kind", "given", "what"),
        [
            (Point, {"x": 1, "more": 2}, "has a key 'more', which is no field of Point"),
            (Item, {"name": "a", "more": 2}, "has a key 'more', which is no field of Item"),
            (Box[float], {"inside": 2**60 + 1}, "inside is an int that no float"),
            (Box[list[Point]], {"inside": [{"x": 1, "z": 2}]}, r"inside\[0\] has a key 'z'"),
            (set[int], [1, 1], "items that become one in a set"),
            (dict[float, int], {2**60: 1, 2**60 + 1: 2}, "would be lost"),
        ],
    )
    def test_in_json_that_was_given_for_a_typed_value(self, kind, given, what):
        with pytest.raises(NotEncodable, match=what):
            send(kind, given)

    def test_what_an_array_has_too_much(self):
        class Row(msgspec.Struct, array_like=True):
            a: int
            b: int = 0

        assert send(Row, [1]) == Row(1)
        with pytest.raises(NotEncodable, match="more items than a Row has fields"):
            send(Row, [1, 2, 3])


class Noted(pydantic.BaseModel):
    id: int
    _note: str = pydantic.PrivateAttr(default="")
    _seen: list[int] = pydantic.PrivateAttr(default_factory=list)
    _lock: Any = pydantic.PrivateAttr(default_factory=threading.Lock)
    _open: int = pydantic.PrivateAttr()


class Derived(pydantic.BaseModel):
    id: int
    _twice: int = 0

    def model_post_init(self, context: object) -> None:
        self._twice = 2 * self.id


class TestPrivateAttributes:
    @pytest.mark.parametrize(("name", "value"), [("_note", "x"), ("_seen", [1]), ("_open", 0)])
    def test_what_was_set_is_refused(self, name, value):
        model = Noted(id=1)
        setattr(model, name, value)
        for kind in (Noted, Any):
            with pytest.raises(NotEncodable, match=f"private attribute '{name}'.*Make it a field"):
                send(kind, model)

    def test_what_a_new_one_has_as_well_travels(self):
        model = Noted(id=1)
        model._note, model._lock = "", threading.Lock()
        assert send(Noted, model).id == 1
        assert send(list[Derived], [Derived(id=4)]) == [Derived(id=4)]


class Open(pydantic.BaseModel):
    more: Any = None
    extra: dict[str, Any] = {}
    thing: object = None
    items: list = []  # type: ignore[type-arg]


class Named(pydantic.BaseModel):
    names: Sequence[str] = ()


@dataclasses.dataclass
class OpenPoint:
    more: Any


@dataclasses.dataclass
class Track:
    points: Sequence[Point]
    tags: Collection[str]


class OpenStruct(msgspec.Struct):
    more: dict[str, Any]


class OpenDict(TypedDict):
    more: Any


NO_JSON_OF_THEIR_OWN = [
    {1, 2},
    (1, 2),
    NOON,
    date(2026, 1, 1),
    UUID(int=1),
    Decimal(1),
    b"a",
    Colour.RED,
    Path("a"),
    Point(1),
    Item("a"),
    Pair(1),
    {1: 2},
    [[(1,)]],
    {"a": [{"b": {3}}]},
    collections.deque([1]),
]
OPEN = [
    (Open, lambda value: Open(more=value)),
    (Open, lambda value: Open(extra={"k": value})),
    (Open, lambda value: Open(thing=value)),
    (Open, lambda value: Open(items=[value])),
    (OpenPoint, OpenPoint),
    (Box, Box),
    (OpenStruct, lambda value: OpenStruct({"k": [value]})),
    (OpenDict, lambda value: OpenDict(more=value)),
    (tuple[int, Any], lambda value: (1, value)),
]


class TestFieldsThatSayNoType:
    @pytest.mark.parametrize(("kind", "make"), OPEN, ids=range(len(OPEN)))
    @pytest.mark.parametrize("value", NO_JSON_OF_THEIR_OWN, ids=repr)
    def test_take_no_more_than_json_has(self, kind, make, value):
        with pytest.raises(NotEncodable, match=r"would not come back as it is|no JSON form"):
            send(kind, make(value))

    @pytest.mark.parametrize(("kind", "make"), OPEN, ids=range(len(OPEN)))
    @pytest.mark.parametrize("value", [None, 1, 0.5, "a", True, [1, ["a"]], {"a": {"b": [None]}}])
    def test_take_what_json_has(self, kind, make, value):
        assert send(kind, make(value)) == make(value)

    def test_a_sequence_is_a_sequence_whichever(self):
        assert send(Named, Named(names=("a",))).names == ["a"]
        assert send(Track, Track((Point(1),), {"a"})) == Track([Point(1)], ["a"])

    def test_a_parameter_without_a_type_gets_what_json_has(self):
        assert send(Any, (NOON, {1})) == ["2026-01-02T12:00:00Z", [1]]
        assert send(dict[str, Any], {"a": Point(1)}) == {"a": {"x": 1, "y": 0}}


class TestNumbersAndMoments:
    @EVERYWHERE
    def test_an_integer_that_no_float_is_equal_to(self, place):
        for number in (2**60 + 1, -(2**53) - 1, 10**30):
            with pytest.raises(NotEncodable, match=rf"{place.named} is an int that no float"):
                send(place.kind(float), place.hold(number))
        for number in (2**60, 3, -0.0, 1e300):
            assert send(place.kind(float), place.hold(number)) == place.hold(number)

    @EVERYWHERE
    @pytest.mark.parametrize("moment", [NOON.replace(tzinfo=ODD), time(1, tzinfo=ODD)])
    def test_an_offset_with_seconds(self, place, moment):
        with pytest.raises(NotEncodable, match=rf"{place.named} has an offset .* Send it in UTC"):
            send(place.kind(type(moment)), place.hold(moment))

    def test_an_offset_of_long_ago_and_the_hour_that_a_clock_repeats(self):
        zone = ZoneInfo("Europe/Amsterdam")
        with pytest.raises(NotEncodable, match="Send it in UTC"):
            send(datetime, datetime(1910, 1, 1, tzinfo=ZoneInfo("Europe/Paris")))
        for fold in (0, 1):
            moment = datetime(2026, 10, 25, 2, 30, tzinfo=zone, fold=fold)
            assert send(datetime, moment).timestamp() == moment.timestamp()

    def test_decimals_that_equal_nothing(self):
        for text in ("NaN", "sNaN", "-Infinity", "1.10"):
            assert str(send(Decimal, Decimal(text))) == text

    def test_relatives_of_plain_types_travel_as_those(self):
        assert send(tuple[int, float], (Number(1), Ratio(0.5))) == (1, 0.5)
        assert send(Box[str], Box(Text("a"))) == Box("a")
        assert send(Box[bytes], Box(bytearray(b"a"))) == Box(b"a")
        assert send(Box[Path], Box(PurePosixPath("a"))) == Box(Path("a"))
        assert send(tuple[int, int], Pair(1, 2)) == (1, 2)


class TestKeys:
    @pytest.mark.parametrize(
        "key", [Number, Ratio, bool, None, tuple[int, str], Frozen, Pair, list[str], Number | None]
    )
    @pytest.mark.parametrize("wrap", [lambda kind: kind, lambda kind: list[Box[kind]]])
    def test_that_json_cannot_have_are_refused_when_the_task_is_declared(self, key, wrap):
        with pytest.raises(DeclarationError, match=r"mapping with keys .* as 'value'"):
            taking(wrap(dict[key, int]))

    @pytest.mark.parametrize(
        "key", [1, 1.5, "a", Text("a"), Colour.RED, NOON, UUID(int=1), Path("a"), Decimal(1), b"a"]
    )
    def test_that_json_can_have(self, key):
        kind = Path if isinstance(key, Path) else type(key)
        back = send(dict[kind, int], {key: 1})
        assert back == {key: 1}
        assert type(next(iter(back))) is type(key)

    def test_that_may_be_another_type_as_well(self):
        assert send(dict[str | None, int], {"a": 1}) == {"a": 1}
        assert send(dict[Literal["a", 1], int], {"a": 1, 1: 2}) == {"a": 1, 1: 2}


class TestGivenAsJson:
    """A call by name gives plain values, which the worker reads as the annotations say."""

    @pytest.mark.parametrize(
        ("kind", "given", "value"),
        [
            (datetime, "2026-01-02T12:00:00Z", NOON),
            (UUID, "00000000-0000-0000-0000-000000000001", UUID(int=1)),
            (Decimal, 0.1, Decimal("0.1")),
            (Colour, "red", Colour.RED),
            (Number, 1, Number(1)),
            (Point, {"x": 1}, Point(1)),
            (Box[datetime], {"inside": "2026-01-02T12:00:00Z"}, Box(NOON)),
            (list[Item], [{"name": "a"}], [Item("a")]),
            (Animal, {"name": "a"}, Animal(name="a")),
            (set[UUID], ["00000000-0000-0000-0000-000000000001"], {UUID(int=1)}),
            (dict[UUID, Point], {str(UUID(int=1)): {"x": 1}}, {UUID(int=1): Point(1)}),
            (tuple[Point, ...], [{"x": 1}], (Point(1),)),
            (Pair, [1], Pair(1)),
            (Point, msgspec.Raw(b'{"x":1}'), Point(1)),
        ],
    )
    def test_travels(self, kind, given, value):
        back = send(kind, given)
        assert back == value
        assert type(back) is type(value)


class TestResults:
    def test_of_a_handler_are_looked_at_as_its_annotation_says(self):
        def plain() -> dict[str, Any]:
            raise NotImplementedError

        async def rich() -> list[Point]:
            raise NotImplementedError

        assert Signature(plain, "job", Context).result is None
        result = Signature(rich, "job", Context).result
        assert result is not None
        assert result.encode([Point(1)], "The result", LIMIT) == b'[{"x":1,"y":0}]'
        with pytest.raises(NotEncodable, match=r"The result .* result\[1\] is a Point3"):
            result.encode([Point(1), Point3(1)], "The result", LIMIT)

    def test_what_does_not_fit_at_all_is_for_the_reader(self):
        result = ResultType.of(Point)
        assert result is not None
        assert result.encode({"y": 1}, "It", LIMIT) == encode_value({"y": 1}, "It", LIMIT)

    @pytest.mark.parametrize("kind", [Any, object, None, str, Point | Pixel, 5, type, typing.Self])
    def test_what_nothing_is_known_of_is_taken_as_it_is(self, kind):
        result = ResultType.of(kind)
        for value in (Point3(1), 5):
            data = encode_value(value, "It", LIMIT)
            assert result is None or result.encode(value, "It", LIMIT) == data

    def test_a_step_is_asked_once(self):
        class Steps:
            def rich(self) -> Point:
                raise NotImplementedError

        def plain(a: int) -> int:
            raise NotImplementedError

        assert step_type(plain) is None
        assert step_type(Steps().rich) is step_type(Steps().rich) is not None
        assert step_type(len) is None
        assert step_type(print) is None


# -- whatever is generated ------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
OFFSETS = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(
    lambda offset: timezone(timedelta(seconds=offset // timedelta(seconds=1)))
)
ZONES = st.none() | st.just(UTC) | OFFSETS | st.sampled_from([ZoneInfo("Europe/Amsterdam"), ODD])
INTS = st.integers(-(2**63), 2**63 - 1)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | INTS | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=4,
)
LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    float: st.floats(allow_nan=False, allow_infinity=False) | INTS,
    datetime: st.datetimes(timezones=ZONES),
    time: st.times(timezones=st.none() | st.just(UTC) | OFFSETS),
    timedelta: st.timedeltas(),
    Decimal: st.decimals(),
    Colour: st.just(Colour.RED),
    Fruit: st.just(Fruit.CHERRY),
    Point: st.builds(Point, INTS, INTS),
    Point3: st.builds(Point3, INTS, INTS, INTS),
    Pixel: st.builds(Pixel, INTS),
    Item: st.builds(Item, TEXT),
    PricedItem: st.builds(PricedItem, TEXT, INTS),
    Animal: st.builds(Animal, name=TEXT),
    Dog: st.builds(Dog, name=TEXT, breed=TEXT),
    Pair: st.builds(Pair, INTS, INTS),
    Options: st.fixed_dictionaries({"depth": INTS}, optional={"note": TEXT, "more": JSON}),
    Hidden: st.builds(Hidden, INTS, y=st.integers(0, 2)),
}
ANYTHING = st.one_of(JSON, *LEAVES.values())
ANYTHING |= (
    st.sets(INTS, max_size=3) | st.tuples(ANYTHING) | st.dictionaries(INTS, JSON, max_size=2)
)
INSIDE_ANY = {
    Box[Any]: st.builds(Box, ANYTHING),
    Open: st.builds(Open, more=ANYTHING, thing=ANYTHING),
    OpenStruct: st.builds(OpenStruct, st.dictionaries(TEXT, ANYTHING, max_size=2)),
}


@st.composite
def typed(draw: st.DrawFn) -> tuple[Any, Any]:
    """Return an annotation and a value that fits, fits nearly, or does not fit."""
    kind, values = draw(st.sampled_from([*LEAVES.items(), *INSIDE_ANY.items()]))
    if draw(st.integers(0, 2)) == 0:
        values |= st.one_of(*LEAVES.values())
    for _ in range(draw(st.integers(0, 3))):
        kind, values = draw(
            st.sampled_from(
                [
                    (list[kind], st.lists(values, max_size=3)),
                    (dict[str, kind], st.dictionaries(TEXT, values, max_size=3)),
                    (tuple[kind, ...], st.lists(values, max_size=3).map(tuple)),
                    (Box[kind], st.builds(Box, values)),
                    (kind | None, st.none() | values),
                ]
            )
        )
    return kind, draw(values)


def alike(one: Any, other: Any) -> bool:
    """Say whether two values are of the same types all through, and hold the same."""
    plain = {bool, int, float, str}
    if type(one) is int and type(other) is float:  # to type checkers, an int is a float
        return one == other
    if type(one) in plain and type(other) not in plain:
        return True  # given as JSON has it
    if isinstance(one, dict) and isinstance(other, pydantic.BaseModel):
        return True  # what it leaves out is the model's to say
    if type(one) is not type(other):
        return False
    return all(alike(*pair) for pair in parts(one, other))


def parts(one: Any, other: Any) -> list[tuple[Any, Any]]:
    """Return what two values of a type have inside, or something equal if they are."""
    if isinstance(one, dict):
        return [(len(one), len(other)), *zip(one.items(), other.items(), strict=False)]
    if isinstance(one, list | tuple):
        return [(len(one), len(other)), *zip(one, other, strict=False)]
    if hasattr(one, "__dict__") and not isinstance(one, enum.Enum):
        return [(vars(one), vars(other))]
    if isinstance(one, Decimal | datetime):  # NaN equals nothing, nor do some hours of zones
        one, other = str(one), str(other)
    return [] if one == other else [(1, "1")]


class TestWhateverIsSent:
    @settings(max_examples=300)
    @given(typed())
    @example((list[Point], [Point(1), Point3(1)]))
    def test_travels_whole_or_is_a_typed_error(self, sent):
        kind, value = sent
        try:
            back = send(kind, value)
        except PayloadError:
            return
        assert alike(value, back)
