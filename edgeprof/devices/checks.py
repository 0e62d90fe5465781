"""What a machine needs to be measured well: each check says what it found and the line that fixes it."""

import ctypes
import errno
import os
import platform
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Literal

from edgeprof.core.units import format_bytes
from edgeprof.devices.linux import LinuxFacts
from edgeprof.runtimes.base import RUNTIMES

CheckStatus = Literal["ok", "degraded", "missing"]

ENOUGH_MEMORY_BYTES = 4 * 2**30
"""The shipped suites' largest cells, with their builds, stay below this."""

BUSY_LOAD_PER_CPU = 0.5
MUCH_STEAL = 0.01
START_TIMEOUT_S = 120
START_PROGRAM = "import sys; from edgeprof.runtimes.base import RUNTIMES; print(RUNTIMES.get(sys.argv[1]).start(1))"
PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
"""The system call's number; arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What a check found. ``missing`` means that something cannot be used, ``degraded`` that figures are less good."""

    name: str
    status: CheckStatus
    found: str
    fix: str | None = None


Runner = Callable[[list[str]], "subprocess.CompletedProcess[str]"]


def run_program(arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    """Runs a program without input and takes what it prints."""
    return subprocess.run(
        arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False
    )


def check_runtimes(run: Runner = run_program) -> list[Check]:
    """Starts every runtime in a process of its own, with one thread that it must confirm."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(lambda name: _check_runtime(name, run), RUNTIMES))


def _check_runtime(name: str, run: Runner) -> Check:
    distribution = RUNTIMES.get(name).distribution
    title, install = f"runtime {name}", f"pip install --force-reinstall {distribution}"
    try:
        found = version(distribution)
    except PackageNotFoundError:
        return Check(name=title, status="missing", found="not installed", fix=f"pip install {distribution}")
    try:
        done = run([sys.executable, "-c", START_PROGRAM, name])
    except subprocess.TimeoutExpired:
        return Check(name=title, status="missing", found=f"{found} does not start in {START_TIMEOUT_S} s", fix=install)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Check(name=title, status="missing", found=f"{found} does not start: {last}", fix=install)
    threads = (done.stdout.strip().splitlines() or ["no"])[-1]
    if threads != "1":
        return Check(name=title, status="degraded", found=f"{found} says {threads} threads when told 1")
    return Check(name=title, status="ok", found=f"{distribution} {found}")


def check_packages() -> Check:
    """The packages that the installed program declares."""
    try:
        declared = [r for r in requires("edgeprof") or [] if "extra ==" not in r]
    except PackageNotFoundError:
        return Check(name="packages", status="degraded", found="edgeprof runs uninstalled", fix="pip install .")
    names = [_requirement_name(r) for r in declared]
    missing = [name for name in names if not _installed(name)]
    if missing:
        fix = f"pip install {' '.join(missing)}"
        return Check(name="packages", status="missing", found=f"without {', '.join(missing)}", fix=fix)
    return Check(name="packages", status="ok", found=f"all {len(names)} are installed")


def _requirement_name(requirement: str) -> str:
    name = requirement
    for separator in ";[<>=!~ (":
        name = name.split(separator)[0]
    return name


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def check_compiler() -> Check:
    """The C++ compiler that torch_compile calls: CXX, or g++."""
    wanted = os.environ.get("CXX") or "g++"
    path = shutil.which(wanted)
    if path is None:
        fix = "apt install g++ (or set CXX to a C++ compiler)"
        return Check(name="C++ compiler", status="missing", found=f"no {wanted}: torch_compile cannot build", fix=fix)
    return Check(name="C++ compiler", status="ok", found=path)


def check_system(facts: LinuxFacts) -> Iterator[Check]:
    """What the kernel's files tell."""
    yield _check_hugepages(facts)
    yield _check_memory(facts)
    yield _check_governor(facts)
    yield _check_steal(facts)


def _check_hugepages(facts: LinuxFacts) -> Check:
    policy = facts.transparent_hugepages()
    if policy in ("always", "madvise"):
        return Check(name="huge pages", status="ok", found=policy)
    found = "cannot be read" if policy is None else policy
    fix = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
    return Check(name="huge pages", status="degraded", found=f"{found}: loads differ more", fix=fix)


def _check_memory(facts: LinuxFacts) -> Check:
    free = facts.free_bytes()
    if free is None:
        return Check(name="free memory", status="degraded", found="cannot be read", fix="mount /proc")
    if free < ENOUGH_MEMORY_BYTES:
        fix = "end other programs, or use smaller sizes"
        return Check(name="free memory", status="degraded", found=format_bytes(free), fix=fix)
    return Check(name="free memory", status="ok", found=format_bytes(free))


def _check_governor(facts: LinuxFacts) -> Check:
    governor = facts.governor()
    if governor is None:
        fix = "measure on the bare machine to hold the frequency"
        return Check(name="governor", status="degraded", found="cannot be read: the host decides", fix=fix)
    if governor != "performance":
        fix = "sudo cpupower frequency-set -g performance"
        return Check(name="governor", status="degraded", found=f"{governor}: the clock varies with load", fix=fix)
    return Check(name="governor", status="ok", found=governor)


def _check_steal(facts: LinuxFacts) -> Check:
    share = facts.steal_share()
    if share is None:
        return Check(name="steal time", status="degraded", found="cannot be read", fix="mount /proc")
    found = f"{share:.2%} of the time since boot went to other guests"
    if share > MUCH_STEAL:
        return Check(name="steal time", status="degraded", found=found, fix="use a machine with CPUs of its own")
    return Check(name="steal time", status="ok", found=found)


def check_process(cpus: int) -> Iterator[Check]:
    """What this process may do."""
    yield _check_load(os.getloadavg()[0], cpus)
    yield _check_peak_reset()
    yield _check_affinity()
    yield _check_counters()


def _check_load(load: float, cpus: int) -> Check:
    found = f"{load:.2f} on {cpus} CPUs"
    if load > BUSY_LOAD_PER_CPU * cpus:
        return Check(name="load", status="degraded", found=found, fix="end other programs and wait a minute")
    return Check(name="load", status="ok", found=found)


def _check_peak_reset() -> Check:
    """Whether a process can reset its peak memory, which memory figures rest on."""
    try:
        with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123  # write_text would truncate, which /proc refuses
            file.write("5")
    except OSError as e:
        found = f"cannot be reset ({e.strerror}): memory columns stay empty"
        return Check(name="peak memory", status="degraded", found=found, fix="run outside the sandbox that hides /proc")
    return Check(name="peak memory", status="ok", found="can be reset")


def _check_affinity() -> Check:
    """Pins this process to one CPU, reads that back, and undoes it."""
    before = os.sched_getaffinity(0)
    one = {min(before)}
    try:
        os.sched_setaffinity(0, one)
        seen = os.sched_getaffinity(0)
        os.sched_setaffinity(0, before)
    except OSError as e:
        fix = "allow sched_setaffinity in the container"
        return Check(name="pinning", status="degraded", found=f"refused: {e.strerror}", fix=fix)
    if seen != one:
        return Check(
            name="pinning", status="degraded", found=f"asked for CPU {one}, got {seen}", fix="leave the container"
        )
    return Check(name="pinning", status="ok", found="CPUs can be picked and read back")


def _check_counters() -> Check:
    """Asks the kernel for a counter of this process's cycles."""
    code = _open_cycle_counter()
    if code == 0:
        return Check(name="perf counters", status="ok", found="cycles can be counted")
    if code in (errno.EACCES, errno.EPERM):
        fix = "sudo sysctl kernel.perf_event_paranoid=1"
        return Check(name="perf counters", status="degraded", found="not permitted", fix=fix)
    fix = "none is needed: nothing here rests on them (virtual machines often have none)"
    return Check(name="perf counters", status="degraded", found=f"none ({errno.errorcode.get(code, code)})", fix=fix)


def _open_cycle_counter() -> int:
    """0 if the hardware counter of cycles opens, else the error number."""
    number = PERF_EVENT_OPEN.get(platform.machine())
    if number is None:
        return errno.ENOSYS
    # struct perf_event_attr, version 0 (64 bytes): type hardware, size, config cycles, 3 words of zeros,
    # flags disabled | exclude_kernel | exclude_hv, and the rest zero; include/uapi/linux/perf_event.h
    attributes = ctypes.create_string_buffer(struct.pack("=IIQQQQQQQ", 0, 64, 0, 0, 0, 0, 0b1100001, 0, 0), 64)
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(ctypes.c_long(number), attributes, 0, -1, -1, 0)
    if descriptor < 0:
        return ctypes.get_errno()
    os.close(descriptor)
    return 0
