"""Each line of the files of rejected calls, without its mistake."""
from accepted_calls import *
from functools import partial
from handout import Arg, Cluster, Host, HostView, Inventory, evaluate, Output, execute, later, run
from handout.joblib import Backend
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
def scaled(number: float, by: float) -> float: return number * by
def first_list(parts: list[list[int]]) -> list[int]: return parts[0]
async def text(url: str) -> str: return url
