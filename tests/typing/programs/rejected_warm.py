from typing import Any
from handout import Cluster, Graph, Output, Warm, current
from handout.joblib import Backend
from handout.testing import Faults
class Model:
    def score(self, x: int) -> float: return x / 2
def load(path: str, *, bits: int = 8) -> Model: return Model()
def parse(text: str) -> int: return int(text)
def predict(model: Model, x: int) -> float: return model.score(x)
g = Graph()
model = Warm(load, "/models/v7", bits=8)
async def refused(c: Cluster, n: Output[int], f: Faults) -> None:
    await c.call(predict, model)                    # E1 a parameter that nobody gives
    await c.call(predict, Warm(parse, "1"), 1)      # E2 another thing than a Model is warm
    await c.call(parse, "1", retries=2)             # E3 options(retries=2)(parse)
    Warm(load)                                      # E4
    Warm(load, 3)                                   # E5
    Warm(load, "p", bit=4)                          # E6
    g.add(predict, Warm(parse, "1"), n)             # E7
    g.map(predict, Warm(parse, "1"), [1])           # E8
    [x for x in model]                              # E9 a Warm is no container
    model.score(1)                                  # E10 its value exists only in workers
    Warm(Model())                                   # E11 a value is not what makes it
    current().report("half")                        # E12
    current().report(0.5, loss=[1.0])               # E13 a fact is one value
    i: int = current().restore("start")             # E14
    current().checkpoint()                          # E15
    f.lose("gpu1", during=3)                        # E16
    f.fail(parse, "boom")                           # E17 an exception
    Backend()                                       # E18
