"""The tasks that a worker gets from the agent, as it reads them from a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, repeat
from typing import NamedTuple

from handout.protocol import codec, frames, messages

__all__ = ["ReadBatch", "WorkerTask", "read_batch"]


class WorkerTask(NamedTuple):
    """A task of a batch; see `Batch`."""

    number: int
    fn: int
    call: frames.Buffer
    inputs: Sequence[int]
    outputs: Sequence[int]
    #: Small inputs that came with the batch, by key.
    sent: dict[int, frames.Buffer]
    name: str
    attempt: int
    variant: int
    #: Key of the checkpoint that the task may restore; 0 if there is none.
    checkpoint: int


class ReadBatch(NamedTuple):
    """A `Batch` message, taken apart."""

    tasks: Iterator[WorkerTask]
    #: The bytes of the functions that the worker does not have yet, by the number of the function.
    functions: dict[int, bytes]


def read_batch(batch: messages.Batch, payload: memoryview) -> ReadBatch:
    """Take a `Batch` message and its payload apart."""
    pieces = codec.parts(payload, [*batch.new_function_sizes, *batch.object_sizes, *batch.call_sizes])
    functions = {number: bytes(next(pieces)) for number in batch.new_functions}
    sent: dict[int, frames.Buffer] = {key: next(pieces) for key in batch.objects}
    columns = zip(
        count(batch.first_number),
        batch.functions,
        pieces,
        batch.inputs,
        batch.outputs,
        repeat(sent),
        batch.names,
        batch.attempt_numbers,
        batch.variants,
        repeat(0) if batch.checkpoints is None else batch.checkpoints,
    )
    return ReadBatch(map(WorkerTask._make, columns), functions)
