"""What a host has, what of it is taken, and whether more fits: the one place where this is computed.

Exact integers throughout, in parts (see `handout.resources.units`). The controller's core and the agent both keep
a ledger of the same host and do the same arithmetic. Knows nothing of tasks, nor of what the names mean, except
that ``gpu`` and ``gpu_memory`` lie on devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["PARTS", "Claim", "Ledger"]

#: Parts that one unit is divided into; the same number as in `handout.resources.units`.
PARTS = 10_000


class Claim:
    """What was taken: give it back with `Ledger.release`, once.

    Attributes:
        need: What was asked for, in parts by name; must not be changed while the claim is held.
        devices: Indices of the devices that it lies on.
    """

    __slots__ = ("devices", "need")

    def __init__(self, need: Mapping[str, int], devices: tuple[int, ...] = ()) -> None:
        self.need = need
        self.devices = devices

    def __repr__(self) -> str:
        return f"Claim({dict(self.need)}, devices={self.devices})"


class _Device:
    """One device: claims with a fraction of it, with some of its memory, or with all of it."""

    __slots__ = ("claims", "memory", "present", "used_memory", "used_share", "whole")

    def __init__(self, memory: int) -> None:
        #: All of its memory, in parts.
        self.memory = memory
        #: Parts of memory that claims hold.
        self.used_memory = 0
        #: Parts of the device that claims of a fraction hold.
        self.used_share = 0
        #: How many claims lie on it.
        self.claims = 0
        #: Whether the one claim on it has all of it.
        self.whole = False
        #: False when the host says that it is gone; it stays while claims lie on it.
        self.present = True


class Ledger:
    """Amounts and devices of one host, and the claims on them.

    Free amounts can be negative after `resize`: what was taken stays taken.

    Args:
        amounts: All that there is, in parts by name.
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
        """All amounts, in parts by name; devices apart."""
        return self._total

    @property
    def free(self) -> Mapping[str, int]:
        """What is left of the amounts, in parts by name; devices apart."""
        return self._free

    @property
    def used(self) -> dict[str, int]:
        """What is taken of the amounts, in parts by name, without zeros; devices apart."""
        total, free = self._total, self._free
        used = {name: total.get(name, 0) - left for name, left in free.items()}
        return {name: parts for name, parts in used.items() if parts}

    @property
    def devices(self) -> tuple[int, ...]:
        """Memory of each device that is there, in parts."""
        return tuple(device.memory for device in self._devices if device.present)

    @property
    def free_devices(self) -> tuple[int, ...]:
        """Free memory in parts of each device that no claim has whole."""
        return tuple(d.memory - d.used_memory for d in self._devices if d.present and not d.whole)

    @property
    def idle_devices(self) -> int:
        """How many devices no claim lies on."""
        return sum(1 for device in self._devices if device.present and not device.claims)

    def fits(self, need: Mapping[str, int]) -> bool:
        """Whether `claim` would grant it now."""
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
        """Take it, or take nothing and answer None.

        Two whole devices are ``gpu=2 * PARTS``; less than one shares a device; ``gpu_memory`` is asked of each
        device, and alone it shares one that has room. Nobody else is let on a device that is claimed whole.
        """
        free = self._free
        if len(need) == 1 and "cpu" in need:
            # Nearly every task asks for cores alone; this is on the hot path of both ends.
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
        """Give a claim back.

        Raises:
            ValueError: More came back than was taken: the claim was released before.
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
        """Say anew what there is; claims that are held stay, also where less is left than they took.

        A device keeps its index; one that is gone is given to nobody any more.
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
        """How many claims of that size would be granted now, one after the other; at most ``limit``."""
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
        """The same state, to try things out on."""
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
        """The devices for a need, () where it asks for none, None where there are not enough.

        Fullest first, and the smallest that serves: what is left over stays of use to larger needs.
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
    """The part of a need that does not lie on devices, without zeros."""
    return [(name, parts) for name, parts in need.items() if parts and name != "gpu" and name != "gpu_memory"]
