from handout import Cluster
from handout.joblib import Backend
def scaled(number: float, by: float) -> float: return number * by
def refused(c: Cluster) -> None:
    Backend(c, retires=2)                           # E1 a misspelt option
    Backend(c, retries="2")                         # E2
    Backend(cost={"cpu": 1})                        # E3 without a cluster
    c.executor(retires=2)                           # E4
    c.executor().submit(scaled, 1.0)                # E5
    c.executor().submit(scaled, 1.0, by="2")        # E6
def accepted(c: Cluster) -> float:
    Backend(c, retries=2, cost={"cpu": 1})
    return c.executor(retries=2).submit(scaled, 1.0, by=2).result()
