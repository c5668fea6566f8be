"""The ledger of a host: the amounts that the host has, and the claims on them.

All amounts are integers, in parts (see `handout.resources.units`). The controller's core and the agent each keep a
ledger of the host and do the same arithmetic. A ledger does not know which task a claim belongs to. It handles all
amounts alike except ``gpu`` and ``gpu_memory``, which it claims on particular devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["PARTS", "Claim", "Ledger"]

#: Number of parts in one unit. `handout.resources.units`, which this package may not import, has the same number.
PARTS = 10_000


class Claim:
    """Amounts that were claimed from a ledger. Pass each claim to `Ledger.release` exactly once.

    Attributes:
        need: The claimed amounts, in parts by name. The mapping must not change while the claim is held.
        devices: Indices of the devices that the claim uses.
    """

    __slots__ = ("devices", "need")

    def __init__(self, need: Mapping[str, int], devices: tuple[int, ...] = ()) -> None:
        self.need = need
        self.devices = devices

    def __repr__(self) -> str:
        return f"Claim({dict(self.need)}, devices={self.devices})"


class _Device:
    """One GPU. A claim holds the whole device, or else a fraction of it, some of its memory, or both."""

    __slots__ = ("claims", "memory", "present", "used_memory", "used_share", "whole")

    def __init__(self, memory: int) -> None:
        #: All memory of the device, in parts.
        self.memory = memory
        #: Memory that claims hold, in parts. Claims on the whole device do not count.
        self.used_memory = 0
        #: The sum of the fractions that claims hold, in parts. `PARTS` is the whole device.
        self.used_share = 0
        #: Number of claims on the device.
        self.claims = 0
        #: True if one claim holds the whole device.
        self.whole = False
        #: False once the host does not have the device any more. Claims may still hold parts of it.
        self.present = True


class Ledger:
    """Amounts and devices of one host, and the claims on them.

    After `resize`, free amounts can be negative, because claims stay.

    Args:
        amounts: All amounts of the host, in parts by name.
        devices: Memory of each device, in parts.
    """

    __slots__ = ("_devices", "_free", "_total", "claims")

    def __init__(self, amounts: Mapping[str, int], devices: Iterable[int] = ()) -> None:
        self._total = dict(amounts)
        self._free = dict(amounts)
        self._devices = [_Device(memory) for memory in devices]
        #: How many claims are held.
        self.claims = 0

    @property
    def total(self) -> Mapping[str, int]:
        """All amounts except those of devices, in parts by name."""
        return self._total

    @property
    def free(self) -> Mapping[str, int]:
        """The free amounts except those of devices, in parts by name."""
        return self._free

    @property
    def used(self) -> dict[str, int]:
        """The claimed amounts except those of devices, in parts by name. Amounts of 0 are left out."""
        total, free = self._total, self._free
        used = {name: total.get(name, 0) - left for name, left in free.items()}
        return {name: parts for name, parts in used.items() if parts}

    @property
    def devices(self) -> tuple[int, ...]:
        """Memory of each present device, in parts."""
        return tuple(device.memory for device in self._devices if device.present)

    @property
    def free_devices(self) -> tuple[int, ...]:
        """Free memory of each present device, in parts. Devices that a claim holds as a whole are left out."""
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
        """Claim the amounts of a need, in parts by name. If the need does not fit, claim nothing.

        A ``gpu`` of ``2 * PARTS`` claims two whole devices, which must have no other claims. A ``gpu`` below ``PARTS``
        claims a fraction of one device. If the need also has ``gpu_memory``, each of these devices must have that much
        free memory, and the claim takes it. A need with ``gpu_memory`` and without ``gpu`` claims memory of one device.

        Returns:
            The claim, or None if the need does not fit.
        """
        free = self._free
        if len(need) == 1 and "cpu" in need:
            # A shortcut for speed: most tasks need only CPU cores, and the core and the agent call this for each task.
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
            ValueError: The claim was released before.
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
                    raise ValueError(f"{name} was released twice")
        self.claims -= 1

    def resize(self, amounts: Mapping[str, int], devices: Iterable[int] = ()) -> None:
        """Replace the host's amounts and devices. Claims stay, even if they exceed the new amounts.

        A device keeps its index. A device that the host does not have any more gets no further claims.
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
        """Return how many claims of this need `claim` would grant now, one after another, but at most ``limit``."""
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
        """Return a copy of the ledger. Claims can be tried on the copy."""
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
                raise ValueError(f"device {index} was released twice")
            device.claims -= 1
            if share >= PARTS:
                device.whole = False
            else:
                device.used_share -= share
                device.used_memory -= claim.need.get("gpu_memory", 0)

    def _choose(self, need: Mapping[str, int]) -> tuple[int, ...] | None:
        """Return the indices of the devices for a need. Return () if it needs no device, and None if too few are free.

        Of the devices that suffice, choose the fullest and smallest, so that the others stay free for larger needs.
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
    """Return the amounts of a need that are not zero, except those of devices."""
    return [(name, parts) for name, parts in need.items() if parts and name != "gpu" and name != "gpu_memory"]
