"""Facts are read from the kernel's files, and what cannot be read is not made up."""

from pathlib import Path

from edgeprof.devices.base import CacheLevel, Cluster
from edgeprof.devices.linux import LinuxFacts, parse_cpu_list

PHONE_CPUINFO = """\
processor\t: 0
Features\t: fp asimd aes asimddp i8mm bf16
CPU implementer\t: 0x51
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0x001
CPU revision\t: 4

Hardware\t: Snapdragon 8 Elite
"""

VM_CPUINFO = """\
processor\t: 0
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC 9R14
stepping\t: 1
microcode\t: 0xa101148
flags\t\t: fpu avx2 avx512f avx512_vnni hypervisor
"""


def tree(root: Path, files: dict[str, str]) -> LinuxFacts:
    """A root folder with these files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return LinuxFacts(root)


def cpu(name: str) -> str:
    return f"sys/devices/system/cpu/{name}"


def test_a_phone_shows_its_clusters_fastest_first(tmp_path: Path) -> None:
    khz = {n: "3532800" if n < 6 else "4320000" for n in range(8)}
    files = {cpu(f"cpu{n}/cpufreq/cpuinfo_max_freq"): khz[n] for n in khz}
    facts = tree(tmp_path, {"proc/cpuinfo": PHONE_CPUINFO, cpu("present"): "0-7", **files})
    assert facts.clusters() == (
        Cluster(cpus=(6, 7), max_khz=4320000),
        Cluster(cpus=(0, 1, 2, 3, 4, 5), max_khz=3532800),
    )
    assert facts.isa() == ("neon", "dotprod", "i8mm", "bf16")
    assert (facts.cpu_name(), facts.cpu_stepping()) == ("Snapdragon 8 Elite", "a8v0x3r4")
    assert facts.virtualised() is None


def test_a_virtual_machine_without_frequencies_is_one_cluster(tmp_path: Path) -> None:
    facts = tree(tmp_path, {"proc/cpuinfo": VM_CPUINFO, cpu("present"): "0-1"})
    assert facts.clusters() == (Cluster(cpus=(0, 1), max_khz=None),)
    assert facts.isa() == ("avx2", "avx512f", "avx512_vnni")
    assert (facts.cpu_name(), facts.cpu_stepping(), facts.virtualised()) == ("AMD EPYC 9R14", "f25m17s1", True)


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    facts = LinuxFacts(tmp_path)
    assert [
        facts.cpu_name(),
        facts.governor(),
        facts.turbo(),
        facts.transparent_hugepages(),
        facts.ram_bytes(),
        facts.free_bytes(),
        facts.steal_share(),
        facts.virtualised(),
        facts.max_khz(0),
    ] == [None] * 9
    assert (facts.caches(), facts.isa(), facts.clusters()) == ((), (), ())


def test_caches_come_with_kind_size_and_sharers(tmp_path: Path) -> None:
    files = {}
    for index, (level, kind, size, shared) in enumerate(
        [("1", "Data", "32K", "0"), ("1", "Instruction", "64K", "0"), ("3", "Unified", "32M", "0-7,16-23")]
    ):
        names = {"level": level, "type": kind, "size": size, "shared_cpu_list": shared}
        files |= {cpu(f"cpu0/cache/index{index}/{name}"): text for name, text in names.items()}
    assert tree(tmp_path, files).caches() == (
        CacheLevel(name="L1d", size_bytes=32 * 2**10, shared_by=1),
        CacheLevel(name="L1i", size_bytes=64 * 2**10, shared_by=1),
        CacheLevel(name="L3", size_bytes=32 * 2**20, shared_by=16),
    )


def test_governor_turbo_and_huge_pages(tmp_path: Path) -> None:
    facts = tree(
        tmp_path,
        {
            cpu("cpu0/cpufreq/scaling_governor"): "performance",
            cpu("cpu1/cpufreq/scaling_governor"): "powersave",
            cpu("intel_pstate/no_turbo"): "1",
            "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
        },
    )
    assert (facts.governor(), facts.turbo(), facts.transparent_hugepages()) == (
        "performance,powersave",
        False,
        "madvise",
    )
    assert tree(tmp_path / "amd", {cpu("cpufreq/boost"): "1"}).turbo() is True


def test_free_memory_is_what_the_control_group_still_allows(tmp_path: Path) -> None:
    meminfo = "MemTotal:  8000000 kB\nMemAvailable:  4000000 kB"
    host = tree(tmp_path / "host", {"proc/meminfo": meminfo, "sys/fs/cgroup/memory.max": "max"})
    assert host.free_bytes() == 4_000_000 * 1024
    container = tree(
        tmp_path / "container",
        {
            "proc/meminfo": meminfo,
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/memory.max": "1000000",
            "sys/fs/cgroup/memory.current": "700000",
            "sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 200000",
        },
    )
    assert container.free_bytes() == 500_000


def test_steal_is_a_share_of_all_time(tmp_path: Path) -> None:
    assert tree(tmp_path, {"proc/stat": "cpu  50 0 30 10 0 0 0 10 7 0\ncpu0 1"}).steal_share() == 0.1


def test_cpu_lists_have_ranges_and_single_numbers() -> None:
    assert parse_cpu_list("0-3,8,10-11\n") == (0, 1, 2, 3, 8, 10, 11)
    assert parse_cpu_list("") == ()
