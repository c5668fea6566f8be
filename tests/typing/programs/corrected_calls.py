"""Each line of the files of rejected calls, without its mistake."""
from accepted_calls import *
from functools import partial
from handout import Arg, Cluster, Host, HostView, Inventory, Warm, current, evaluate, Output, execute, later, options, run
from handout.joblib import Backend
from handout.testing import Faults
g.add(total, [1])       # 1-E1
g.add(total, raw)   # 1-E2
g.add(scale, 1.5, 2)    # 1-E3
g.add(load, "x")             # 1-E4
g.add(scale, 1, 2)         # 1-E5
g.add(scale, 1, 2.0)   # 1-E6
g.add(kwdef, 1, depth=4)  # 1-E7
g.add(kwdef, 1, depth=5)  # 1-E8
g.add(load, "x", retries=2)  # 1-E9
g.add(load, "x", retries=3)  # 1-E10
g.add(merge, [raw])  # 1-E11
g.add(wants_floats, m.pick(lambda m: m["weights"]))  # 1-E12
g.map(total, [[1]]) # 1-E13
decorated(1) # 1-E14
g.add(total, Arg(raw, load=sorted)) # 1-E15
for x in [raw]: pass # 1-E16
g.add(kwonly, 1, depth=1) # 1-E17
raw in [raw] # 1-E18
HostView("a", {"cpu": 1}, state="lost")  # 1-E19
Host("a", env=["TOKEN"]) # 1-E20
Host("a", env={"THREADS": "4"}) # 1-E21
evaluate(g, given={raw: [1]})  # 1-E22
async def accepted(out: Output[DModel], n: Output[int]) -> None:
    g.map(load, ["a"], retries=2)                                   # 2-E1
    g.map(partial(scale, by=3), [1.0])                              # 2-E2
    g.map(load, ["a"], retries=3)                                   # 2-E3
    g.map(total, [raw])                                             # 2-E4
    g.map(load, ["3"])                                              # 2-E5
    g.map(load, map(str, range(3)))                                 # 2-E6
    g.map(scale, [1.0], n)                                          # 2-E7
    g.map(scale, [1.0, 2], n)                                       # 2-E8
    g.map(partial(kwdef, depth=4), [1])                             # 2-E9
    g.map(partial(scale, by=later(n)), [1.0])                       # 2-E10
    g.map(fetch, ["a"])[0].pick(lambda page: page[0])               # 2-E11
    g.reduce(first_list, outs, width=4)                             # 2-E12
    g.add(load, await text("u"))                                    # 2-E13
    out.pick(lambda r: r.score)                                     # 2-E14
    out.pick(lambda r: r.weights)                                   # 2-E15
    g.add(lambda x: x + 1, n)                                       # 2-E16
    g.add(lambda x: 1 - x, n)                                       # 2-E17
    g.add(lambda x: x < 3, n)                                       # 2-E18
    g.add(len, raw)                                                 # 2-E19
    a, b = raw[0], raw[1]                                           # 2-E20
    g.add(float, n)                                                 # 2-E21
    g.add(scale, n, n)                                              # 2-E22
    (await execute(g))[n]                                           # 2-E23
    g.add(lambda xs: [1, *xs], raw)                                 # 2-E24
    g.add(open, g.add(str, 1))                                      # 2-E25
    g.add("-".join, [g.add(str, 1)])                                # 2-E26
    await execute(g, timeout_s=60)                                  # 2-E27
    run(g, retries=2)                                               # 2-E28
    Host("pod", python="/usr/bin/python3")                          # 2-E29
    Inventory([Host("a")], shared={"api": 10})                      # 2-E30
    Arg(n, load=str)                                                # 2-E31
def libraries(c: Cluster) -> None:
    Backend(c, retries=2)                                           # 3-E1
    Backend(c, retries=3)                                           # 3-E2
    Backend(c, cost={"cpu": 1})                                     # 3-E3
    c.executor(retries=2)                                           # 3-E4
    c.executor().submit(scaled, 1.0, 2.0)                           # 3-E5
    c.executor().submit(scaled, 1.0, by=2)                          # 3-E6
async def warm(c: Cluster, n: Output[int], f: Faults) -> None:
    await c.call(predict, Warm(load_model, "p"), 1)                 # 4-E1
    await c.call(predict, Warm(load_model, "p", bits=4), n)         # 4-E2
    await c.call(options(retries=2)(load), "1")                     # 4-E3
    Warm(load_model, "q")                                           # 4-E4
    Warm(load_model, "3")                                           # 4-E5
    Warm(load_model, "p", bits=5)                                   # 4-E6
    g.add(predict, Warm(load_model, "p"), n)                        # 4-E7
    g.map(predict, Warm(load_model, "p"), [1])                      # 4-E8
    [x for x in [Warm(load_model, "p")]]                            # 4-E9
    g.add(lambda model: model.scored(1), Warm(load_model, "p"))     # 4-E10
    Warm(Scorer)                                                    # 4-E11
    current().report(0.5)                                           # 4-E12
    current().report(0.5, loss=1.0)                                 # 4-E13
    i: int = current().restore(3)                                   # 4-E14
    current().checkpoint(i)                                         # 4-E15
    f.lose("gpu1", during=load)                                     # 4-E16
    f.fail(load, ValueError("boom"))                                # 4-E17
    Backend(c)                                                      # 4-E18
class Scorer:
    def scored(self, x: int) -> float: return x / 2
def load_model(path: str, *, bits: int = 8) -> Scorer: return Scorer()
def predict(model: Scorer, x: int) -> float: return model.scored(x)
def scaled(number: float, by: float) -> float: return number * by
def first_list(parts: list[list[int]]) -> list[int]: return parts[0]
async def text(url: str) -> str: return url
