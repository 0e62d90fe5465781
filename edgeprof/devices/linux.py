"""Facts about a Linux machine, read from /proc and /sys below any root (so that tests can bring their own)."""

import math
import re
from pathlib import Path

from edgeprof.devices.base import CacheLevel, Cluster

ISA_FLAGS: dict[str, str] = {
    "avx2": "avx2",
    "avx512f": "avx512f",
    "avx_vnni": "avx_vnni",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_tile": "amx",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    "asimd": "neon",
    "neon": "neon",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}
"""The kernel's names of the extensions that matrix kernels are chosen by, and the names shown here.

Source: arch/x86/include/asm/cpufeatures.h and Documentation/arch/arm64/elf_hwcaps.rst of the Linux kernel.
"""


class LinuxFacts:
    """Reads facts below ``root``; what is missing or unreadable is None or empty, never guessed."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.cpu_folder = root / "sys/devices/system/cpu"

    def text(self, path: str | Path) -> str | None:
        """A file's stripped text, or None."""
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except OSError:
            return None

    def cpuinfo(self) -> dict[str, str]:
        """The fields of /proc/cpuinfo's first processor, and those after the last one (Arm names the SoC there)."""
        found: dict[str, str] = {}
        for line in (self.text("proc/cpuinfo") or "").splitlines():
            key, colon, value = line.partition(":")
            if colon:
                found.setdefault(key.strip(), value.strip())
        return found

    def cpu_name(self) -> str | None:
        """The CPU's name: its model on x86, the board or the core's part number on Arm."""
        info = self.cpuinfo()
        board = self.text("proc/device-tree/model")
        part = f"arm {info['CPU implementer']} {info['CPU part']}" if "CPU part" in info else None
        return info.get("model name") or info.get("Hardware") or (board.rstrip("\0") if board else None) or part

    def cpu_stepping(self) -> str:
        """Family, model and stepping as ``f25m17s1``; variant and revision on Arm; empty where unknown."""
        info = self.cpuinfo()
        for keys, letters in (
            (("cpu family", "model", "stepping"), "fms"),
            (("CPU architecture", "CPU variant", "CPU revision"), "avr"),
        ):
            if all(k in info for k in keys):
                return "".join(letter + info[k] for letter, k in zip(letters, keys, strict=True))
        return ""

    def isa(self) -> tuple[str, ...]:
        """The extensions of ISA_FLAGS that the CPU has."""
        info = self.cpuinfo()
        flags = set((info.get("flags") or info.get("Features") or "").split())
        return tuple(dict.fromkeys(name for flag, name in ISA_FLAGS.items() if flag in flags))

    def virtualised(self) -> bool | None:
        """Whether a hypervisor shows itself; None where the kernel says nothing either way."""
        flags = self.cpuinfo().get("flags")
        if flags is None:
            return True if self.text("sys/hypervisor/type") else None
        return "hypervisor" in flags.split()

    def ram_bytes(self) -> int | None:
        """All memory that the kernel manages."""
        return self.meminfo("MemTotal")

    def meminfo(self, key: str) -> int | None:
        """A field of /proc/meminfo in bytes."""
        match = re.search(rf"^{key}:\s+([0-9]+) kB", self.text("proc/meminfo") or "", re.MULTILINE)
        return int(match[1]) * 1024 if match else None

    def free_bytes(self) -> int | None:
        """Memory that can be had without swapping: the kernel's estimate, within what the control group allows."""
        free = [f for f in (self.meminfo("MemAvailable"), self._cgroup_free()) if f is not None]
        return min(free) if free else None

    def _cgroup_free(self) -> int | None:
        """What this process's control group may still allocate, page cache counted as free; version 2, then 1."""
        for limit_file, usage_file, stat_file in self._cgroup_files():
            limit, usage = self.text(limit_file), self.text(usage_file)
            if limit and usage and limit.isdigit() and usage.isdigit():
                cache = re.search(r"^(?:total_)?inactive_file ([0-9]+)", self.text(stat_file) or "", re.MULTILINE)
                return max(0, int(limit) - int(usage) + (int(cache[1]) if cache else 0))
        return None

    def _cgroup_files(self) -> list[tuple[str, str, str]]:
        """Paths of limit, usage and statistics, this process's own group before the root that a container sees."""
        own = [
            line.split(":", 2)[2].strip("/")
            for line in (self.text("proc/self/cgroup") or "").splitlines()
            if line[:3] == "0::"
        ]
        v2 = [f"sys/fs/cgroup/{group}/memory" if group else "sys/fs/cgroup/memory" for group in (*own, "")]
        v1 = "sys/fs/cgroup/memory/memory"
        return [(f"{p}.max", f"{p}.current", f"{p}.stat") for p in v2] + [
            (f"{v1}.limit_in_bytes", f"{v1}.usage_in_bytes", f"{v1}.stat")
        ]

    def cpu_list(self, name: str) -> tuple[int, ...]:
        """A list of CPUs that the kernel keeps: ``present``, ``online``, or a file of one CPU."""
        return parse_cpu_list(self.text(self.cpu_folder / name) or "")

    def max_khz(self, cpu: int) -> int | None:
        """A CPU's highest frequency."""
        text = self.text(self.cpu_folder / f"cpu{cpu}/cpufreq/cpuinfo_max_freq")
        return int(text) if text and text.isdigit() else None

    def clusters(self) -> tuple[Cluster, ...]:
        """CPUs grouped by their highest frequency, the fastest first; one group where frequencies cannot be read."""
        groups: dict[int | None, list[int]] = {}
        for cpu in self.cpu_list("present") or self.cpu_list("online"):
            groups.setdefault(self.max_khz(cpu), []).append(cpu)
        order = sorted(groups, key=lambda khz: -math.inf if khz is None else khz, reverse=True)
        return tuple(Cluster(cpus=tuple(groups[khz]), max_khz=khz) for khz in order)

    def physical_core(self, cpu: int) -> tuple[str, str]:
        """What two CPUs share if they are threads of one core; each CPU is its own core where this cannot be read."""
        folder = self.cpu_folder / f"cpu{cpu}/topology"
        package, core = self.text(folder / "physical_package_id"), self.text(folder / "core_id")
        return (package or "", core) if core is not None else ("cpu", str(cpu))

    def caches(self) -> tuple[CacheLevel, ...]:
        """The caches that CPU 0 sees."""
        levels = []
        for index in sorted((self.root / self.cpu_folder).glob("cpu0/cache/index*")):
            level, kind, size = (self.text(index / name) for name in ("level", "type", "size"))
            if not (level and kind and size):
                continue
            letter = {"Data": "d", "Instruction": "i"}.get(kind, "")
            shared = parse_cpu_list(self.text(index / "shared_cpu_list") or "")
            levels.append(
                CacheLevel(name=f"L{level}{letter}", size_bytes=_cache_bytes(size), shared_by=max(1, len(shared)))
            )
        return tuple(levels)

    def governor(self) -> str | None:
        """The frequency governors in use, several joined by commas."""
        files = sorted(self.cpu_folder.glob("cpu[0-9]*/cpufreq/scaling_governor"))
        found = sorted({text for f in files if (text := self.text(f))})
        return ",".join(found) or None

    def turbo(self) -> bool | None:
        """Whether the CPU may go beyond its base frequency."""
        for name, on in (("intel_pstate/no_turbo", "0"), ("cpufreq/boost", "1")):
            text = self.text(self.cpu_folder / name)
            if text in ("0", "1"):
                return text == on
        return None

    def transparent_hugepages(self) -> str | None:
        """The kernel's policy: ``always``, ``madvise`` or ``never``."""
        match = re.search(r"\[(\w+)\]", self.text("sys/kernel/mm/transparent_hugepage/enabled") or "")
        return match[1] if match else None

    def steal_share(self) -> float | None:
        """Share of the CPU time since boot that the hypervisor gave to others."""
        line = next((x for x in (self.text("proc/stat") or "").splitlines() if x.startswith("cpu ")), "")
        ticks = [int(t) for t in line.split()[1:9]]
        total = sum(ticks)
        return ticks[7] / total if len(ticks) == 8 and total > 0 else None


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """The CPUs of the kernel's list format, ``0-3,8``."""
    cpus: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return tuple(cpus)


def _cache_bytes(text: str) -> int:
    """A size as sysfs writes it, ``32K`` or ``1M``."""
    factor = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1], 1)
    return int(text.rstrip("KMG")) * factor
