"""The ledger of a host: the amounts that the host has, and the claims on them.

A claim holds amounts for one task, or for one worker that runs similar tasks one after another. A need is a mapping
from names to the amounts to claim. All amounts are integers, in parts. A unit, such as one CPU core or one byte, has
10,000 parts.

For each host, the scheduler in the controller and the agent on the host each keep a ledger, and do the same arithmetic.
A ledger does not know which task a claim belongs to. It handles all amounts alike except ``gpu`` and ``gpu_memory``,
which it claims on particular devices. A device is one GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["PARTS", "Claim", "Ledger"]

#: Number of parts in one unit. `handout.resources.units` has the same number. This module cannot import it from there,
#: because this package travels to hosts without ``handout.resources``.
PARTS = 10_000


class Claim:
    """Amounts that were claimed from a ledger. Pass each claim to `Ledger.release` exactly once.

    Attributes:
        need: The claimed amounts in parts, by name. The mapping must not change until the claim is released.
        devices: Indices of the devices that the claim uses.
    """

    __slots__ = ("devices", "need")

    def __init__(self, need: Mapping[str, int], devices: tuple[int, ...] = ()) -> None:
        self.need = need
        self.devices = devices

    def __repr__(self) -> str:
        return f"Claim({dict(self.need)}, devices={self.devices})"


class _Device:
    """One GPU. A claim holds either the whole GPU or less: a fraction, some memory, or a fraction and some memory."""

    __slots__ = ("claims", "memory", "present", "used_memory", "used_share", "whole")

    def __init__(self, memory: int) -> None:
        #: All memory of the device, in parts.
        self.memory = memory
        #: Memory that claims hold, in parts. A claim on the whole device does not change this number.
        self.used_memory = 0
        #: The sum of the fractions that claims hold, in parts, at most `PARTS`. A claim on the whole device does not
        #: change this number either.
        self.used_share = 0
        #: Number of claims on the device.
        self.claims = 0
        #: True if one claim holds the whole device.
        self.whole = False
        #: False once the host does not have the device any more. There may still be claims on the device.
        self.present = True


class Ledger:
    """Amounts and devices of one host, and the claims on them.

    After `resize`, free amounts can be negative, because claims stay.

    Args:
        amounts: All amounts of the host except those of devices, in parts, by name.
        devices: Memory of each device, in parts.
    """

    __slots__ = ("_devices", "_free", "_total", "claims")

    def __init__(self, amounts: Mapping[str, int], devices: Iterable[int] = ()) -> None:
        self._total = dict(amounts)
        self._free = dict(amounts)
        self._devices = [_Device(memory) for memory in devices]
        #: How many claims have not been released.
        self.claims = 0

    @property
    def total(self) -> Mapping[str, int]:
        """All amounts except those of devices, in parts, by name."""
        return self._total

    @property
    def free(self) -> Mapping[str, int]:
        """The free amounts except those of devices, in parts, by name."""
        return self._free

    @property
    def used(self) -> dict[str, int]:
        """The claimed amounts except those of devices, in parts, by name. Amounts of 0 are left out."""
        total, free = self._total, self._free
        used = {name: total.get(name, 0) - left for name, left in free.items()}
        return {name: parts for name, parts in used.items() if parts}

    @property
    def devices(self) -> tuple[int, ...]:
        """Memory of each device that the host still has, in parts."""
        return tuple(device.memory for device in self._devices if device.present)

    @property
    def free_devices(self) -> tuple[int, ...]:
        """Free memory, in parts, of each device that the host still has and that no claim holds as a whole."""
        return tuple(d.memory - d.used_memory for d in self._devices if d.present and not d.whole)

    def fits(self, need: Mapping[str, int]) -> bool:
        """Return True if `claim` would grant this need now."""
        free = self._free
        if "gpu" in need or "gpu_memory" in need:
            if self._choose(need) is None:
                return False
            return all(parts <= free.get(name, 0) for name, parts in _plain(need))
        for name, parts in need.items():
            if parts > free.get(name, 0) and parts:
                return False
        return True

    def claim(self, need: Mapping[str, int]) -> Claim | None:
        """Claim all amounts of a need. If they do not all fit, claim nothing.

        A ``gpu`` of ``2 * PARTS`` claims two whole devices, which must have no other claims. A ``gpu`` below ``PARTS``
        claims a fraction of one device. If the need also has ``gpu_memory``, each claimed device must have that much
        free memory, and the claim takes this memory. If the need has ``gpu_memory`` but no ``gpu``, it claims memory of
        one device.

        Args:
            need: Amounts in parts, by name.

        Returns:
            The claim, or None if the need does not fit.
        """
        free = self._free
        if len(need) == 1 and "cpu" in need:
            # This shortcut saves time, because most tasks need only ``cpu``, and this method is called for each task.
            parts = need["cpu"]
            left = free.get("cpu", 0) - parts
            if left < 0 and parts:
                return None
            free["cpu"] = left
            self.claims += 1
            return Claim(need)
        if "gpu" in need or "gpu_memory" in need:
            return self._claim_with_devices(need)
        for name, parts in need.items():
            if parts > free.get(name, 0) and parts:
                return None
        for name, parts in need.items():
            if parts:
                free[name] -= parts
        self.claims += 1
        return Claim(need)

    def release(self, claim: Claim) -> None:
        """Free the amounts of a claim.

        Raises:
            ValueError: More was released than was claimed, because a claim was released twice.
        """
        free, total = self._free, self._total
        need = claim.need
        if claim.devices:
            self._release_devices(claim)
            need = dict(_plain(need))
        for name, parts in need.items():
            if parts:
                free[name] += parts
                if free[name] > total.get(name, 0):
                    raise ValueError(f"a claim on {name} was released twice; release each claim only once")
        self.claims -= 1

    def release_part(self, claim: Claim, name: str) -> Claim:
        """Free one amount of a claim, but none of a device. Return a claim of the rest, which replaces the claim."""
        rest = dict(claim.need)
        parts = rest.pop(name, 0)
        if parts:
            self._free[name] += parts
        return Claim(rest, claim.devices)

    def exchange(self, claim: Claim, need: Mapping[str, int]) -> Claim | None:
        """Change a claim to one of another need, with the same devices.

        Returns:
            A claim of the need, which replaces the claim. None if the need does not fit, or needs more or less of the
            devices. The claim is then as it was.
        """
        old, new = dict(_plain(claim.need)), dict(_plain(need))
        if any(claim.need.get(name, 0) != need.get(name, 0) for name in ("gpu", "gpu_memory")):
            return None
        more = {name: new.get(name, 0) - old.get(name, 0) for name in {**old, **new}}
        if any(parts > max(self._free.get(name, 0), 0) for name, parts in more.items()):
            return None
        for name, parts in more.items():
            self._free[name] -= parts
        return Claim(need, claim.devices)

    def resize(self, amounts: Mapping[str, int], devices: Iterable[int] = ()) -> None:
        """Replace the host's amounts and devices. Claims stay, even if they exceed the new amounts.

        Each device keeps its index and its claims, and gets the new memory for that index. If there are fewer new
        devices than old ones, the last old devices get no further claims.
        """
        used = self.used
        self._total = dict(amounts)
        self._free = {name: parts - used.get(name, 0) for name, parts in amounts.items()}
        for name, parts in used.items():
            if name not in self._free:
                self._free[name] = -parts
        memories = list(devices)
        for device, memory in zip(self._devices, memories):
            device.memory, device.present = memory, True
        for device in self._devices[len(memories) :]:
            device.present = False
        self._devices.extend(_Device(memory) for memory in memories[len(self._devices) :])

    def room(self, need: Mapping[str, int], limit: int = 1 << 30) -> int:
        """Return how many times in a row `claim` would grant this need now, but at most ``limit``."""
        for name, parts in _plain(need):
            limit = max(0, min(limit, self._free.get(name, 0) // parts))
        if not (need.get("gpu") or need.get("gpu_memory")):
            return limit
        trial = self.copy()
        count = 0
        while count < limit and trial.claim(need) is not None:
            count += 1
        return count

    def copy(self) -> Ledger:
        """Return a copy of the ledger. Claims on the copy do not change the ledger itself."""
        other = Ledger(self._total)
        other._free = dict(self._free)
        other.claims = self.claims
        for device in self._devices:
            twin = _Device(device.memory)
            for slot in _Device.__slots__:
                setattr(twin, slot, getattr(device, slot))
            other._devices.append(twin)
        return other

    def _claim_with_devices(self, need: Mapping[str, int]) -> Claim | None:
        chosen = self._choose(need)
        if chosen is None:
            return None
        plain = dict(_plain(need))
        free = self._free
        if any(parts > free.get(name, 0) for name, parts in plain.items()):
            return None
        for name, parts in plain.items():
            free[name] -= parts
        share = need.get("gpu", 0)
        for index in chosen:
            device = self._devices[index]
            device.claims += 1
            if share >= PARTS:
                device.whole = True
            else:
                device.used_share += share
                device.used_memory += need.get("gpu_memory", 0)
        self.claims += 1
        return Claim(need, chosen)

    def _release_devices(self, claim: Claim) -> None:
        share = claim.need.get("gpu", 0)
        for index in claim.devices:
            device = self._devices[index]
            if not device.claims:
                raise ValueError(f"a claim on GPU {index} was released twice; release each claim only once")
            device.claims -= 1
            if share >= PARTS:
                device.whole = False
            else:
                device.used_share -= share
                device.used_memory -= claim.need.get("gpu_memory", 0)

    def _choose(self, need: Mapping[str, int]) -> tuple[int, ...] | None:
        """Return the indices of the devices for a need. Return () if it needs no device, and None if too few are free.

        If the need is for whole devices, choose those with the least memory that suffices. Otherwise, choose the device
        that is claimed most and still has room. Either choice keeps the other devices free for larger needs.
        """
        share, memory = need.get("gpu", 0), need.get("gpu_memory", 0)
        if share <= 0 and memory <= 0:
            return ()
        devices = self._devices
        if share >= PARTS:
            count = -(-share // PARTS)
            idle = [(d.memory, i) for i, d in enumerate(devices) if d.present and not d.claims and d.memory >= memory]
            return tuple(sorted(i for _, i in sorted(idle)[:count])) if len(idle) >= count else None
        best = min(
            (
                (not d.claims, -d.used_share, d.memory - d.used_memory, i)
                for i, d in enumerate(devices)
                if d.present and not d.whole and d.used_share + share <= PARTS and d.used_memory + memory <= d.memory
            ),
            default=None,
        )
        return None if best is None else (best[3],)


def _plain(need: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the name and the amount for each amount of a need that is not zero, except those of devices."""
    return [(name, parts) for name, parts in need.items() if parts and name != "gpu" and name != "gpu_memory"]
