"""Logs calls that send many bytes over a network before their tasks can begin."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from handout.resources import Inventory
from handout.serialization.printable import printable
from handout.submission.bulk import BULK_BYTES, describe_bulk_call
from handout.submission.single_call import EncodedCall

__all__ = ["BulkCalls"]

logger = logging.getLogger("handout")


class BulkCalls:
    """Logs the first such call of each function.

    Args:
        inventory: Returns the present hosts.
    """

    def __init__(self, inventory: Callable[[], Inventory]) -> None:
        self._inventory = inventory
        self._told: set[str] = set()

    def look_at(self, call: EncodedCall, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Log a call if its arguments take long to send. Any thread may call this method."""
        if not call.bytes.values or call.qualified_name in self._told:
            return
        values = [value for value in call.bytes.values if isinstance(value, Sequence)]
        total = sum(memoryview(segment).nbytes for value in values for segment in value)
        if total >= BULK_BYTES and not all(host.is_local for host in self._inventory().values()):
            self._told.add(call.qualified_name)
            logger.warning("%s", printable(describe_bulk_call(call.name, total, args, kwargs)))
