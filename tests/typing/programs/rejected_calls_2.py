from accepted_calls import *
from functools import partial
from handout import Arg, Host, Inventory, Output, execute, run
async def refused(out: Output[DModel], n: Output[int]) -> None:
    g.map(load, ["a"], retires=2)                                   # E1 a misspelt option
    g.map(scale, [1.0], by=3)                                       # E2 a value that all calls share is bound by partial
    g.map(load, ["a"], retries="2")                                 # E3 an option's type
    g.map(total, raw)                                               # E4 an output is one value, and no iterable
    g.map(load, 3)                                                  # E5
    g.map(load)                                                     # E6 nothing to map over
    g.map(scale, [1.0], raw)                                        # E7 another thing than a float is shared
    g.map(scale, ["a"], n)                                          # E8 an item that the function does not take
    g.map(kwdef, [1], depth=4)                                      # E9
    g.map(partial(scale, on=3.0), [1.0])                            # E10 partial takes no such keyword
    g.map(fetch, ["a"])[0].pick(lambda page: page.score)            # E11 of bytes
    g.reduce(merge, outs, widht=4)                                  # E12
    g.add(load, fetch("u"))                                         # E13 a coroutine
    out.score                                                       # E14 pick
    out.pick("score")                                               # E15
    n + 1                                                           # E16
    1 - n                                                           # E17
    n < 3                                                           # E18
    len(raw)                                                        # E19
    a, b = raw                                                      # E20
    float(n)                                                        # E21
    n()                                                             # E22
    await n                                                         # E23
    raw[0] = 1                                                      # E24
    open(g.add(str, 1))                                             # E25
    "-".join([g.add(str, 1)])                                       # E26
    await execute(g, progress=True)                                 # E27
    run(g, retires=2)                                               # E28
    Host("pod", command="docker exec -i pod")                       # E29
    Inventory([Host("a")], shared={"api": (10, "s")})               # E30
    Arg(3, load=str)                                                # E31 an Arg converts an output
