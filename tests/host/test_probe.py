"""The capabilities that a host reports."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from handout.host.system import probe


def test_this_machine_has_what_every_machine_has(tmp_path: Path) -> None:
    found = probe.probe(str(tmp_path))
    assert 1 <= found["cpu"] <= (os.cpu_count() or 1)
    assert found["memory"] > 1 << 26
    assert found["disk"] > 0
    assert found["machine"]
    assert found["python"].startswith("3.")


def test_devices_are_counted_with_the_memory_of_the_smallest() -> None:
    text = "GPU-a1, NVIDIA A100-SXM4-40GB, 40960\nGPU-b2, Tesla T4, 15360\n\nnonsense\n"
    assert probe.parse_gpus(text) == [("NVIDIA A100-SXM4-40GB", 40960 << 20), ("Tesla T4", 15360 << 20)]


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("2,0", "CA"),
        ("GPU-b", "B"),
        ("1,7,0", "B"),
        ("", ""),
        ("-1", ""),
        ("NoDevFiles", ""),
        (" 1 , GPU-c3", "BC"),
        ("0,0,1", ""),
    ],
)
def test_devices_that_the_login_hides_are_not_counted(visible: str, names: str) -> None:
    text = "GPU-a1, A, [N/A]\nGPU-b2, B, 2\nGPU-c3, C, 3\n"
    assert "".join(name for name, _ in probe.parse_gpus(text, visible)) == names


def test_devices_without_a_known_memory_are_counted() -> None:
    assert probe.parse_gpus("GPU-a1, A, [N/A]\n") == [("A", 0)]
    assert probe.parse_gpus("GPU-a1, A, 1\n", "MIG-1,MIG-2") == [("MIG instance", 0)] * 2


@pytest.mark.parametrize("script", ["exit 9", "printf '\\377\\376'", "echo 'No devices were found'"])
def test_a_broken_tool_means_no_devices(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert shutil.which("nvidia-smi") == str(tool)
    assert probe.gpus() == []


def test_a_tool_that_does_not_end_means_no_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexec sleep 1000\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(probe, "_NVIDIA_TIMEOUT_S", 0.05)
    assert probe.gpus() == []


def test_an_affinity_mask_bounds_the_processors() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert probe.cpu_count() == 1
    finally:
        os.sched_setaffinity(0, before)
