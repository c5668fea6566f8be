"""A program whose functions and classes can only travel by value, because `test_pickling` runs it as ``__main__``.

It sends its functions and classes to a fresh process, which uses them and sends some of them back. The program runs on
every version of Python that agents run on. Its only argument is the path of the agent's bundle, from which it imports
`handout`.
"""

from __future__ import annotations

import sys

sys.path.insert(0, sys.argv[1])

import abc
import collections
import dataclasses
import datetime
import enum
import functools
import math
import subprocess
import types
import typing

from handout.serialization import pickling

T = typing.TypeVar("T")


class Color(enum.Enum):
    RED = 1
    BLUE = 2

    def is_red(self) -> bool:
        return self is Color.RED


class Planet(enum.Enum):
    EARTH = (6.0, 2.0)

    def __init__(self, mass, radius):
        self.mass, self.radius = mass, radius

    def density(self):
        return self.mass / self.radius


class Access(enum.IntFlag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Point:
    x: int
    y: int = 3
    color: Color = Color.RED
    tags: list = dataclasses.field(default_factory=list)

    def other(self):
        return Point(1, 2)

    @functools.cached_property
    def twice(self):
        return self.x * 2

    @staticmethod
    def plus_one(a):
        return a + 1

    @classmethod
    def nine(cls):
        return cls(9)

    @property
    def same(self):
        return self.x


@dataclasses.dataclass
class Point3(Point):
    z: int = 1

    def other(self):
        return super().other()


@dataclasses.dataclass(frozen=True)
class Frozen:
    a: int


class Box(typing.Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...


class Square(Shape):
    __slots__ = ("side",)

    def __init__(self, side):
        self.side = side

    def area(self):
        return self.side**2


Pair = collections.namedtuple("Pair", "a b", defaults=[3])


class Row(typing.NamedTuple):
    a: int
    b: int = 4

    def double(self):
        return self.a * 2


SEEN = {}


def ping(n):
    SEEN[n] = True
    return pong(n - 1) if n else Point(1)


def pong(n):
    return ping(n)


def seen():
    return len(SEEN)


@functools.cache
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def counter():
    n = 0

    def increment():
        nonlocal n
        n += 1
        return n

    def get():
        return n

    def factorial(k):
        return 1 if k == 0 else k * factorial(k - 1)

    return increment, get, factorial


def keywords(a, *, b=2):
    return a + b + math.floor(2.5)


@functools.singledispatch
def kind_of(x):
    return kind_of(1) + "?"


@kind_of.register(int)
def _(x):
    return "int"


class Outer:
    class Inner:
        def outer(self):
            return Outer

    def own(self):
        return __class__


class Enlisted:
    names: typing.ClassVar[list] = []

    def __init_subclass__(cls):
        Enlisted.names.append(cls.__name__)


class Enlistee(Enlisted):
    pass


class Named(str, enum.Enum):  # noqa: UP042
    A = "a"
    ALSO_A = "a"


@dataclasses.dataclass
class Size:
    legs: int


class Beetle(Size, enum.Enum):
    SMALL = 6


class Day(datetime.date, enum.Enum):
    FIRST = 2020, 1, 1
    ALSO_FIRST = 2020, 1, 1
    LAST = 2020, 12, 31


class Knot:
    def __init__(self):
        self.own = self


VIEW = types.MappingProxyType({"a": 1, "color": Color})


def make():
    return {
        "Point": Point, "Point3": Point3, "point3": Point3(1), "Color": Color, "red": Color.RED,
        "planet": Planet.EARTH, "access": Access.READ | Access.WRITE, "frozen": Frozen(3), "box": Box(3),
        "alias": Box[int], "Shape": Shape, "square": Square(3), "pair": Pair(1), "row": Row(1), "ping": ping,
        "pong": pong, "seen": seen, "fibonacci": fibonacci, "closures": counter(), "keywords": keywords,
        "increment": lambda x: x + 1, "partial": functools.partial(keywords, 1), "method": Point3(5).other,
        "view": VIEW, "kind_of": kind_of, "Outer": Outer, "Enlistee": Enlistee, "named": Named.ALSO_A, "knot": Knot(),
        "beetle": Beetle.SMALL, "day": Day.LAST,
        "nested": collections.defaultdict(lambda: collections.defaultdict(int)),
    }  # fmt: skip


def use(v):
    """Check on the other side that all values work and that each class exists only once. Return some of the values."""
    q, point, point3 = v["point3"], v["Point"], v["Point3"]
    assert isinstance(q, point)
    assert type(q) is point3
    assert type(q.other()) is point
    assert (q.twice, point.plus_one(1), point3.nine().x, q.same) == (2, 2, 9, 1)
    assert q == point3(1)
    assert dataclasses.replace(q, z=5).z == 5
    assert [f.name for f in dataclasses.fields(q)] == ["x", "y", "color", "tags", "z"]
    assert q.color is v["Color"].RED is v["red"]
    assert v["red"].is_red()
    assert v["Color"](2).name == "BLUE"
    assert v["planet"].density() == 3.0
    assert v["access"] == 3
    assert v["frozen"].a == v["box"].value == 3
    assert v["square"].area() == 9
    assert isinstance(v["square"], v["Shape"])
    try:
        v["Shape"]()
    except TypeError:
        pass
    else:
        raise AssertionError("an abstract class could be instantiated")
    assert v["pair"].b == 3
    assert v["pair"]._replace(a=7).a == 7
    assert (v["row"].double(), v["row"].b) == (2, 4)
    assert type(v["ping"](3)) is point
    assert v["seen"]() == 4  # functions of one module share its globals
    assert v["fibonacci"](30) == 832040
    increment, get, factorial = v["closures"]
    increment()
    increment()
    assert get() == 2  # closures that were made by one call share its variables
    assert factorial(5) == 120
    assert v["keywords"](1) == 5
    assert v["increment"](1) == 2
    assert v["partial"](b=3) == 6
    assert type(v["method"]()) is point
    assert v["view"]["color"] is v["Color"]
    assert (v["kind_of"](1), v["kind_of"]("")) == ("int", "int?")
    assert v["Outer"]().own() is v["Outer"].Inner().outer() is v["Outer"]
    assert v["Enlistee"].names == ["Enlistee"]
    assert (v["named"].name, v["named"]) == ("A", "a")
    assert v["beetle"] is type(v["beetle"])(v["beetle"].value)  # a value without a hash
    assert v["day"] == datetime.date(2020, 12, 31)
    assert list(type(v["day"]).__members__) == ["FIRST", "ALSO_FIRST", "LAST"]
    assert v["knot"].own is v["knot"]
    assert v["nested"]["a"]["b"] == 0
    return {"q": q, "Point3": point3, "red": v["red"], "ping": v["ping"], "new": point3.nine(), "get": get}


HOST = """
import sys
sys.path.insert(0, sys.argv[1])
from handout.serialization import pickling
data = sys.stdin.buffer.read()
use, values = pickling.loads(data)
again, others = pickling.loads(data)
assert again is use
assert others["Point"] is values["Point"]
assert others["point3"].color is values["red"]
sys.stdout.buffer.write(b"".join(pickling.dumps(use(values))))
"""


if __name__ == "__main__":
    sent = b"".join(pickling.dumps((use, make())))
    host = [sys.executable, "-I", "-S", "-c", HOST, sys.argv[1]]
    done = subprocess.run(host, input=sent, stdout=subprocess.PIPE, check=True, timeout=120)
    back = pickling.loads(done.stdout)
    assert type(back["q"]) is Point3
    assert back["q"] == Point3(1)
    assert back["red"] is Color.RED
    assert back["ping"] is ping
    assert back["Point3"] is Point3
    assert type(back["new"]) is Point3
    assert back["get"]() == 2
    print("round trip")
