"""The machine this program runs on."""

import functools
import math
import os
import platform
import subprocess
from pathlib import Path

import psutil

from edgeprof.core.errors import UsageError
from edgeprof.core.version import VERSION
from edgeprof.devices.base import DeviceProfile, Environment, slug
from edgeprof.devices.linux import LinuxFacts

WORKER_TUNABLES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""A worker's environment: malloc asks for huge pages, which removes most of the luck of where pages come to lie."""

SOURCE_FOLDER = Path(__file__).parents[2]


class LocalDevice:
    """The host's own CPU."""

    name = "local"

    def __init__(self, facts: LinuxFacts | None = None) -> None:
        self.facts = facts or LinuxFacts()

    def profile(self) -> DeviceProfile:
        """What the machine is, from the kernel's own files."""
        facts = self.facts
        soc = facts.cpu_name() or platform.machine()
        ram = facts.ram_bytes() or psutil.virtual_memory().total
        n_cpus = len(facts.cpu_list("present")) or os.cpu_count() or 1
        # MemTotal is what firmware and kernel left over; rounding up gives the size that was bought
        parts = (slug(soc), slug(facts.cpu_stepping()), f"{n_cpus}cpu", f"{math.ceil(ram / 2**30)}gib")
        return DeviceProfile(
            id="-".join(p for p in parts if p),
            kind="host",
            soc=soc,
            machine=platform.machine(),
            clusters=facts.clusters(),
            isa=facts.isa(),
            ram_bytes=ram,
            caches=facts.caches(),
            virtualised=facts.virtualised(),
            transport=self.name,
            source="read from /proc and /sys",
        )

    def environment(self) -> Environment:
        """The state the machine is in now."""
        facts = self.facts
        commit, dirty = source_state()
        return {
            "edgeprof": VERSION,
            "commit": commit,
            "dirty": dirty,
            "python": platform.python_version(),
            "python_minor": ".".join(platform.python_version_tuple()[:2]),
            "os": _os_name(),
            "kernel": platform.release(),
            "glibc": platform.libc_ver()[1] or None,
            "tunables": WORKER_TUNABLES["GLIBC_TUNABLES"],
            "cpu_model": facts.cpu_name(),
            "microcode": facts.cpuinfo().get("microcode"),
            "cpus_online": list(facts.cpu_list("online")),
            "cpus_allowed": list(self.allowed_cpus()),
            "governor": facts.governor(),
            "turbo": facts.turbo(),
            "transparent_hugepages": facts.transparent_hugepages(),
            "load_average": [round(x, 2) for x in os.getloadavg()],
            "temperature_c": temperature_c(),
            "battery": battery(),
            "free_bytes": self.free_bytes(),
        }

    def allowed_cpus(self) -> tuple[int, ...]:
        """CPUs that this process may run on."""
        return tuple(sorted(os.sched_getaffinity(0)))

    def pick_cpus(self, n_threads: int) -> tuple[int, ...]:
        """CPUs for ``n_threads`` threads: one on each core before any core gets two, the fastest cores first.

        Raises:
            UsageError: this process may run on fewer.
        """
        allowed = self.allowed_cpus()
        if not 1 <= n_threads <= len(allowed):
            raise UsageError(
                f"threads: {n_threads} is not a number of threads for this machine; use 1 to {len(allowed)}"
            )
        taken: dict[tuple[str, str], int] = {}
        rank: dict[int, tuple[int, int]] = {}
        for cpu in allowed:
            core = self.facts.physical_core(cpu)
            rank[cpu] = (taken.get(core, 0), -(self.facts.max_khz(cpu) or 0))
            taken[core] = taken.get(core, 0) + 1
        return tuple(sorted(sorted(allowed, key=rank.__getitem__)[:n_threads]))

    def free_bytes(self) -> int:
        """Memory that this process can have without swapping."""
        return self.facts.free_bytes() or psutil.virtual_memory().available


@functools.cache
def source_state() -> tuple[str | None, bool | None]:
    """The commit this code was checked out from and whether it was changed since; None where it is no checkout."""
    if not (SOURCE_FOLDER / ".git").exists():
        return None, None
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=no", "--", "edgeprof")
    return commit, None if status is None else bool(status)


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(SOURCE_FOLDER), *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def temperature_c() -> float | None:
    """The hottest sensor of the CPU, or of the machine where none is known to be the CPU's; None without sensors."""
    sensors = psutil.sensors_temperatures()
    cpu = [s for name in ("coretemp", "k10temp", "zenpower", "cpu_thermal") for s in sensors.get(name, [])]
    readings = [s.current for s in cpu or [s for group in sensors.values() for s in group]]
    return max(readings) if readings else None


def battery() -> dict[str, float | bool | None] | None:
    """Charge and whether mains power is there; None without a battery."""
    found = psutil.sensors_battery()
    return None if found is None else {"percent": found.percent, "plugged": found.power_plugged}


LOCAL = LocalDevice()
