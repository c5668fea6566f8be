"""What this host offers: processors, memory, disk and devices as the process may use them, and what it is.

Limits of control groups and of the affinity mask count, not what the machine has. Everything is best effort:
what cannot be found out is left out.
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
    """The capabilities of this host: plain numbers, sizes in bytes, texts.

    Args:
        folder: Where objects spill to: its file system's free space is the ``disk``.
    """
    found: dict[str, Any] = {"cpu": cpu_count(), "memory": memory_limit(), "disk": _free(folder)}
    devices = gpus()
    if devices:
        found["gpu"] = len(devices)
        found["gpu_memory"] = min(memory for _, memory in devices)
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
    """What a small file says, without the space around it; None where it cannot be read."""
    try:
        with open(path) as file:
            return file.read().strip()
    except (OSError, ValueError):
        return None


def read_value(path: str, name: str) -> int | None:
    """The number behind a name in a file with a name and a number on each line; None where there is none."""
    for line in (read_text(path) or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return None


def own_cgroups() -> dict[str, str]:
    """The control group of this process by controller; the unified hierarchy is ``""``."""
    groups: dict[str, str] = {}
    for line in (read_text("/proc/self/cgroup") or "").splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            for name in parts[1].split(","):
                groups[name] = parts[2]
    return groups


def cgroup_folders(controller: str) -> list[str]:
    """Folders of this process's group and of those above it, for one controller; version 1, then 2."""
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
    """Processors that this process may use: affinity, and the quota of its control group rounded up."""
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
    both = (read_text(f"{folder}/cpu.max") or "").split()
    if len(both) != 2:
        both = [read_text(f"{folder}/cpu.cfs_quota_us") or "", read_text(f"{folder}/cpu.cfs_period_us") or ""]
    try:
        quota, period = float(both[0]), float(both[1])
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def memory_limit() -> int | None:
    """Bytes of memory that this process may use: the machine's, or the limit of its control group."""
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
    """Name and memory in bytes of each device, as ``nvidia-smi`` says; none where it is absent or stuck."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
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
    return parse_gpus(done.stdout) if done.returncode == 0 else []


def parse_gpus(text: str) -> list[tuple[str, int]]:
    """Read ``name, MiB`` lines; lines that say anything else are passed over."""
    devices: list[tuple[str, int]] = []
    for line in text.splitlines():
        name, _, memory = line.rpartition(",")
        if name and memory.strip().isdigit():
            devices.append((name.strip(), int(memory) << 20))
    return devices


def container() -> str | None:
    """The kind of container that this is, where it says so."""
    if os.path.exists("/.dockerenv"):
        return "docker"
    if os.path.exists("/run/.containerenv"):
        return "podman"
    return os.environ.get("container") or None


def processes_outlive_login() -> bool:
    """Whether processes outlive the login here: systemd may be told to kill them with it."""
    if os.getuid() == 0:
        return True
    killing = False
    folders = ["/usr/lib/systemd", "/etc/systemd", "/run/systemd"]
    for folder in folders:
        paths = [f"{folder}/logind.conf"]
        try:
            paths += sorted(f"{folder}/logind.conf.d/{n}" for n in os.listdir(f"{folder}/logind.conf.d"))
        except OSError:
            pass
        for path in paths:
            for line in (read_text(path) or "").splitlines():
                key, _, value = line.partition("=")
                if key.strip() == "KillUserProcesses":
                    killing = value.strip().lower() in ("yes", "true", "1", "on")
    if not killing:
        return True
    try:
        import pwd

        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return False
    return os.path.exists(f"/var/lib/systemd/linger/{name}")
