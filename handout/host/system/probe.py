"""Finds the capabilities of this host: amounts that this process may use, such as memory, and facts about the system.

If a control group allows less than the machine has, the lower number counts. The same holds for the affinity mask,
which says on which processors this process may run. A capability that the system does not report is left out.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from typing import Any

_NVIDIA_TIMEOUT_S = 5.0


def probe(folder: str) -> dict[str, Any]:
    """Return the capabilities of this host by name. The values are numbers (sizes in bytes), texts or lists of texts.

    Args:
        folder: A folder on the disk to which objects are written. The free space there is the capability ``disk``.
    """
    found: dict[str, Any] = {"cpu": cpu_count(), "memory": memory_limit(), "disk": _free(folder)}
    devices = gpus()
    if devices:
        found["gpu"] = len(devices)
        if known := [memory for _, memory in devices if memory]:
            found["gpu_memory"] = min(known)
        found["gpu_name"] = sorted({name for name, _ in devices})
    found["python"] = f"{sys.version_info[0]}.{sys.version_info[1]}"
    found["machine"] = platform.machine()
    found["system"] = platform.system()
    found["kernel"] = platform.release()
    found["hostname"] = platform.node()
    kind = container()
    if kind:
        found["container"] = kind
    return {name: value for name, value in found.items() if value is not None}


def _free(folder: str) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def read_text(path: str) -> str | None:
    """Return the content of a small file without surrounding whitespace; None if the file cannot be read."""
    try:
        with open(path) as file:
            return file.read().strip()
    except (OSError, ValueError):
        return None


def read_value(path: str, name: str) -> int | None:
    """Return the number in the line ``name number`` of a file; None if the file has no such line."""
    for line in (read_text(path) or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return None


def own_cgroups() -> dict[str, str]:
    """Return the path of this process's control group for each cgroup controller, by name of the cgroup controller.

    A cgroup controller is a part of the kernel, such as ``memory``. In version 2 of control groups, all of them have
    the same group, and the key is ``""``.
    """
    groups: dict[str, str] = {}
    for line in (read_text("/proc/self/cgroup") or "").splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            for name in parts[1].split(","):
                groups[name] = parts[2]
    return groups


def cgroup_folders(controller: str) -> list[str]:
    """Return the folders of this process's control group and of the groups above it.

    The folders of version 1 of control groups come first, then those of version 2. In each version, the innermost group
    comes first.

    Args:
        controller: Name of the cgroup controller.
    """
    groups = own_cgroups()
    folders: list[str] = []
    for key, base in ((controller, f"/sys/fs/cgroup/{controller}"), ("", "/sys/fs/cgroup")):
        path = groups.get(key)
        if path is None:
            continue
        while True:
            folders.append(base + (path if path != "/" else ""))
            if path in ("/", ""):
                break
            path = os.path.dirname(path)
    return folders


def cpu_count() -> int:
    """Return how many processors this process may use, according to its affinity mask and its control groups.

    If a control group allows a fraction of a processor, the number is rounded up.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:  # pragma: no cover - macOS
        count = os.cpu_count() or 1
    for folder in cgroup_folders("cpu"):
        quota = _quota(folder)
        if quota is not None:
            count = min(count, max(1, -int(-quota // 1)))
    return count


def _quota(folder: str) -> float | None:
    """Return how many processors a control group may use; None if the group has no quota."""
    both = (read_text(f"{folder}/cpu.max") or "").split()
    if len(both) != 2:
        both = [read_text(f"{folder}/cpu.cfs_quota_us") or "", read_text(f"{folder}/cpu.cfs_period_us") or ""]
    try:
        quota, period = float(both[0]), float(both[1])
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def memory_limit() -> int | None:
    """Return how many bytes of memory this process may use: the machine's memory, or less if a control group limits it.

    Return None if the system does not report its memory.
    """
    try:
        total: int | None = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        total = None
    for folder in cgroup_folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = read_text(f"{folder}/{name}")
            if text and text.isdigit() and (total is None or 0 < int(text) < total):
                total = int(text)
    return total


def gpus() -> list[tuple[str, int]]:
    """Return the name and the memory in bytes of each GPU that ``nvidia-smi`` lists.

    Return an empty list if ``nvidia-smi`` is absent, fails, or does not end within 5 seconds.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_NVIDIA_TIMEOUT_S,
            check=False,
            text=True,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return []
    return parse_gpus(done.stdout, os.environ.get("CUDA_VISIBLE_DEVICES")) if done.returncode == 0 else []


def parse_gpus(text: str, visible: str | None = None) -> list[tuple[str, int]]:
    """Return the name and the memory in bytes of each GPU that a task may use.

    Args:
        text: Lines of the form ``uuid, name, MiB``. Other lines are skipped. If the driver does not tell the memory of
            a device, the device has 0 bytes.
        visible: The value of ``CUDA_VISIBLE_DEVICES``: indices or beginnings of UUIDs, with commas between them. Like
            CUDA, this function ignores all entries after one that no GPU has, and finds nothing if an entry is there
            twice. A MIG instance has 0 bytes, because the lines do not tell its memory. None: every GPU is visible.
    """
    devices: list[tuple[str, tuple[str, int]]] = []
    for line in text.splitlines():
        uuid, _, rest = line.partition(",")
        name, _, memory = rest.rpartition(",")
        if name:
            devices.append((uuid.strip(), (name.strip(), int(memory) << 20 if memory.strip().isdigit() else 0)))
    if visible is None:
        return [device for _, device in devices]
    found: dict[str, tuple[str, int]] = {}
    for entry in map(str.strip, visible.split(",")):
        if entry.startswith("MIG-"):
            uuid, device = entry, ("MIG instance", 0)
        else:
            chosen = [
                pair
                for index, pair in enumerate(devices)
                if entry and (entry == str(index) or pair[0].startswith(entry))
            ]
            if not chosen:
                break
            uuid, device = chosen[0]
        if uuid in found:
            return []
        found[uuid] = device
    return list(found.values())


def container() -> str | None:
    """Return the kind of container that this process runs in; None if there is no sign of a container."""
    if os.path.exists("/.dockerenv"):
        return "docker"
    if os.path.exists("/run/.containerenv"):
        return "podman"
    return os.environ.get("container") or None


def processes_outlive_login() -> bool:
    """Return False if systemd kills this user's processes when the login that started them ends."""
    if os.getuid() == 0 or not _logind_kills():
        return True
    try:
        import pwd

        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return False
    return os.path.exists(f"/var/lib/systemd/linger/{name}")


def _logind_kills() -> bool:
    """Return True if the setting ``KillUserProcesses`` of systemd-logind is on; see logind.conf(5).

    If several files contain the setting, the last one counts.
    """
    kills = False
    for folder in ("/usr/lib/systemd", "/etc/systemd", "/run/systemd"):
        paths = [f"{folder}/logind.conf"]
        try:
            paths += sorted(f"{folder}/logind.conf.d/{name}" for name in os.listdir(f"{folder}/logind.conf.d"))
        except OSError:
            pass
        for line in (line for path in paths for line in (read_text(path) or "").splitlines()):
            key, _, value = line.partition("=")
            if key.strip() == "KillUserProcesses":
                kills = value.strip().lower() in ("yes", "true", "1", "on")
    return kills
