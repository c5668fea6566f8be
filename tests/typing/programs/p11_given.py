from __future__ import annotations
import asyncio
import handout
from handout import Given, Graph, Results
from handout.events import TaskEnded, TaskNotReused

def load(path: str) -> list[int]: return [1, 2, 3]
def train(data: list[int], lr: float) -> dict[str, float]: return {"w": sum(data) * lr}

async def main() -> None:
    before = Graph()
    model = before.add(train, before.add(load, "data.csv"), 0.1)
    first = await handout.execute(before, outputs=[model])
    after = Graph()
    data = after.add(load, "data.csv")
    changed = after.add(train, data, 0.5)
    given: Given = first
    async with handout.start(after, given=given) as execution:
        async for event in execution.events():
            match event:
                case TaskNotReused(id=id, reason=reason): print(id, reason)
                case TaskEnded(id=id, outcome="reused", reason=reason): print(id, reason)
                case _: pass
        second: Results = await execution.results()
    assert changed not in second.reused and "train" in second.reused.anew
    reused: dict[str, str] = dict(second.reused)
    why: str = second.reused.anew["train"]
    print(reused, why, handout.evaluate(after, given={data: [1]})[changed], handout.evaluate(after, given={"load": [1]})[changed])
    print(handout.evaluate(after, given={changed["w"]: 1.0}, outputs=[changed["w"]])["train['w']"])

if __name__ == "__main__":
    asyncio.run(main())
