"""The machine this runs on: an id that stays, an environment that pools, CPUs that are picked well."""

import json
import os
import re
from pathlib import Path

import pytest

from edgeprof.core.canonical import canonical_json
from edgeprof.core.errors import UsageError
from edgeprof.devices.base import DEVICES, POOLING_KEYS, fingerprint, slug
from edgeprof.devices.linux import LinuxFacts
from edgeprof.devices.local import LOCAL, LocalDevice


def machine(root: Path, *, cores: list[int], khz: list[int] | None = None, mem_kb: int = 24_684_084) -> LocalDevice:
    """A machine whose CPU n is a thread of core ``cores[n]``."""
    files = {
        "proc/cpuinfo": "cpu family: 26\nmodel: 36\nmodel name: AMD Ryzen AI 9 HX 370 w/ Radeon 890M\nstepping: 0",
        "proc/meminfo": f"MemTotal: {mem_kb} kB",
        "sys/devices/system/cpu/present": f"0-{len(cores) - 1}",
    }
    for n, core in enumerate(cores):
        files[f"sys/devices/system/cpu/cpu{n}/topology/core_id"] = str(core)
        files[f"sys/devices/system/cpu/cpu{n}/topology/physical_package_id"] = "0"
        if khz:
            files[f"sys/devices/system/cpu/cpu{n}/cpufreq/cpuinfo_max_freq"] = str(khz[n])
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return LocalDevice(LinuxFacts(root))


def allow(monkeypatch: pytest.MonkeyPatch, cpus: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cpus)))


def test_the_id_is_made_of_what_does_not_change_across_boots(tmp_path: Path) -> None:
    expected = "amd-ryzen-ai-9-hx-370-w-radeon-890m-f26m36s0-4cpu-24gib"
    assert machine(tmp_path / "a", cores=[0, 1, 2, 3]).profile().id == expected
    after_an_update = machine(tmp_path / "b", cores=[0, 1, 2, 3], mem_kb=24_600_000)  # the kernel kept more for itself
    assert after_an_update.profile().id == expected


def test_this_machines_profile_names_a_folder_and_is_plain_data() -> None:
    profile = LOCAL.profile()
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", profile.id)
    assert profile == LOCAL.profile()
    assert json.loads(canonical_json(profile))["id"] == profile.id
    assert sum(len(c.cpus) for c in profile.clusters) >= len(LOCAL.allowed_cpus())


@pytest.mark.parametrize("text", ["Intel(R) Xeon(R) @ 2.50GHz", "..weird--name..", "Snapdragon® 8"])
def test_a_slug_is_lower_case_and_safe(text: str) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*[a-z0-9]", slug(text))


def test_distinct_cores_come_before_second_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, 4)
    device = machine(tmp_path, cores=[0, 0, 1, 1])
    assert [device.pick_cpus(n) for n in (1, 2, 3, 4)] == [(0,), (0, 2), (0, 1, 2), (0, 1, 2, 3)]


def test_fast_cores_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, 4)
    device = machine(tmp_path, cores=[0, 1, 2, 3], khz=[3_300_000, 3_300_000, 5_100_000, 5_100_000])
    assert [device.pick_cpus(n) for n in (1, 2, 3)] == [(2,), (2, 3), (0, 2, 3)]


def test_only_cpus_that_this_process_may_use_are_picked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 3})
    assert machine(tmp_path, cores=[0, 1, 2, 3]).pick_cpus(2) == (1, 3)


@pytest.mark.parametrize("n_threads", [0, 3])
def test_no_threads_and_more_threads_than_cpus_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_threads: int
) -> None:
    allow(monkeypatch, 2)
    with pytest.raises(
        UsageError, match=rf"^threads: {n_threads} is not a number of threads for this machine; use 1 to 2$"
    ):
        machine(tmp_path, cores=[0, 1]).pick_cpus(n_threads)


def test_the_environment_is_plain_json_with_everything_that_pooling_needs() -> None:
    environment = LOCAL.environment()
    assert json.loads(canonical_json(environment)) == environment
    assert set(POOLING_KEYS) <= set(environment)


@pytest.mark.parametrize(
    "key", ["load_average", "temperature_c", "commit", "dirty", "battery", "cpus_allowed", "free_bytes"]
)
def test_what_changes_from_minute_to_minute_does_not_hinder_pooling(key: str) -> None:
    environment = LOCAL.environment()
    assert fingerprint({**environment, key: "other"}) == fingerprint(environment)


@pytest.mark.parametrize("key", POOLING_KEYS)
def test_what_changes_the_figures_hinders_pooling(key: str) -> None:
    environment = LOCAL.environment()
    assert fingerprint({**environment, key: "other"}) != fingerprint(environment)


def test_the_registry_knows_this_machine_and_no_other() -> None:
    assert DEVICES.get("local") is LOCAL
    with pytest.raises(UsageError, match=r"unknown device 'locall': did you mean local\?"):
        DEVICES.get("locall")
