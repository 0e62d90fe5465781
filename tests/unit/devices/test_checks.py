"""Each check tells a machine that has what it looks for from one that has not."""

import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from edgeprof.devices import checks
from edgeprof.devices.checks import Check
from edgeprof.devices.linux import LinuxFacts

GOOD = {
    "sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never",
    "proc/meminfo": "MemAvailable: 9000000 kB",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance",
    "proc/stat": "cpu  100 0 0 100 0 0 0 0 0 0",
}
BAD = {
    "sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]",
    "proc/meminfo": "MemAvailable: 900000 kB",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave",
    "proc/stat": "cpu  100 0 0 100 0 0 0 20 0 0",
}


def system_checks(root: Path, files: dict[str, str]) -> list[Check]:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return list(checks.check_system(LinuxFacts(root)))


def test_a_well_set_machine_passes_every_check(tmp_path: Path) -> None:
    assert {c.name: c.status for c in system_checks(tmp_path, GOOD)} == dict.fromkeys(
        ("huge pages", "free memory", "governor", "steal time"), "ok"
    )


@pytest.mark.parametrize("files", [BAD, {}])
def test_a_badly_set_or_unreadable_machine_is_degraded_with_a_line_that_fixes_it(
    tmp_path: Path, files: dict[str, str]
) -> None:
    found = system_checks(tmp_path, files)
    assert [(c.status, bool(c.fix)) for c in found] == [("degraded", True)] * 4


def completed(code: int, stdout: str = "", stderr: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.CompletedProcess([], code, stdout, stderr)


def test_a_runtime_that_starts_and_confirms_its_thread_is_ok() -> None:
    found = checks.check_runtimes(lambda arguments: completed(0, "a banner\n1\n"))
    assert {c.status for c in found} == {"ok"}
    assert [c.name for c in found][:2] == ["runtime torch_eager", "runtime torch_compile"]


def test_a_runtime_that_ignores_its_thread_count_is_degraded() -> None:
    found = checks.check_runtimes(lambda arguments: completed(0, "8\n"))
    assert {c.status for c in found} == {"degraded"}
    assert found[0].found.endswith("says 8 threads when told 1")


def test_a_runtime_that_cannot_be_imported_is_missing_and_says_why() -> None:
    error = "Traceback\nImportError: libgomp.so.1: cannot open shared object file"
    found = checks.check_runtimes(lambda arguments: completed(1, "", error))
    assert {c.status for c in found} == {"missing"}
    assert found[0].found.endswith("does not start: ImportError: libgomp.so.1: cannot open shared object file")


def test_a_runtime_that_hangs_is_missing() -> None:
    def hang(arguments: list[str]) -> "subprocess.CompletedProcess[str]":
        raise subprocess.TimeoutExpired(arguments, 120)

    assert {c.status for c in checks.check_runtimes(hang)} == {"missing"}


def test_a_runtime_that_is_not_installed_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(checks, "version", absent)
    found = checks.check_runtimes(lambda arguments: completed(0, "1"))
    assert [(c.status, c.found, c.fix) for c in found][2] == ("missing", "not installed", "pip install onnxruntime")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["rich>=14", "no-such-package<2,>=1", 'pytest>=8; extra == "dev"']
    monkeypatch.setattr(checks, "requires", lambda name: declared)
    found = checks.check_packages()
    assert (found.status, found.fix) == ("missing", "pip install no-such-package")


def test_a_compiler_is_looked_for_where_torch_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "c++"))
    assert checks.check_compiler().status == "missing"
    (tmp_path / "c++").touch(mode=0o755)
    assert checks.check_compiler() == Check(name="C++ compiler", status="ok", found=str(tmp_path / "c++"))


def test_the_process_checks_leave_the_affinity_as_it_was() -> None:
    import os

    before = os.sched_getaffinity(0)
    found = {c.name: c for c in checks.check_process(cpus=len(before))}
    assert os.sched_getaffinity(0) == before
    assert set(found) == {"load", "peak memory", "pinning", "perf counters"}
    assert all(c.fix for c in found.values() if c.status != "ok")


def test_load_is_judged_by_the_number_of_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.os, "getloadavg", lambda: (1.5, 0.0, 0.0))
    assert [next(iter(checks.check_process(cpus=n))).status for n in (2, 4)] == ["degraded", "ok"]
