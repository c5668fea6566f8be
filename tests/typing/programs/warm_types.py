"""Warm: the types that checkers infer for each kind of function that makes a value."""
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import assert_type
from handout import Arg, Cluster, Graph, Input, Output, Stored, Warm, later
class Model:
    def score(self, x: int) -> float: return x / 2
def load(path: str, *, bits: int = 8) -> Model: return Model()
async def connect(address: str) -> Model: return Model()
@contextmanager
def opened(path: str) -> Iterator[Model]: yield Model()
@asynccontextmanager
async def opened_in_loop(path: str) -> AsyncIterator[Model]: yield Model()
class Session:
    def __enter__(self) -> Model: return Model()
    def __exit__(self, *error: object) -> None: ...
def unpack(weights: bytes) -> Model: return Model()
def predict(model: Model, x: int) -> float: return model.score(x)
async def predict_in_loop(model: Model, x: int) -> float: return model.score(x)
def both(models: list[Model]) -> int: return len(models)
g = Graph()
model = Warm(load, "/models/v7", bits=8)
assert_type(model, Warm[Model])
assert_type(Warm(connect, "db"), Warm[Model])
assert_type(Warm(opened, "x"), Warm[Model])
assert_type(Warm(opened_in_loop, "x"), Warm[Model])
assert_type(Warm(Session), Warm[Model])
assert_type(g.add(predict, model, 1), Output[float])
assert_type(g.add(predict, model, g.add(int, "1")), Output[float])
assert_type(g.add(predict_in_loop, Warm(connect, "db"), 1), Output[float])
assert_type(g.map(predict, model, [1, 2]), list[Output[float]])
assert_type(g.add(both, [later(model), later(model)]), Output[int])
assert_type(later(model), Model)
assert_type(Warm(unpack, later(g.add(bytes, 3))), Warm[Model])
def takes(shared: Input[Model]) -> Output[float]: return g.add(predict, shared, 1)
takes(model)
async def calls(c: Cluster, weights: Stored[bytes]) -> None:
    assert_type(await c.call(predict, model, 1), float)
    assert_type(await c.call(predict_in_loop, model, 1), float)
    assert_type(await c.call(predict, Warm(unpack, later(weights)), 1), float)
    assert_type(c.executor().submit(predict, later(model), 1).result(), float)
    g.add(float, Arg(model, load=lambda m: m.score(1)))
