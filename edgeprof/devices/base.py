"""What a device is: the facts about it, and what must be known before and while something is measured on it."""

import re
from dataclasses import dataclass
from typing import Any, Protocol

from edgeprof.core.canonical import short_hash
from edgeprof.core.registry import Registry

Environment = dict[str, Any]
"""The state a device is in when something is measured, by name; None where it cannot be read."""

POOLING_KEYS = (
    "kernel",
    "cpu_model",
    "microcode",
    "cpus_online",
    "governor",
    "turbo",
    "transparent_hugepages",
    "python_minor",
    "glibc",
    "tunables",
)
"""What must be equal for measurements to be pooled; load, temperature and commit are recorded and decide nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """CPUs of the same kind: their numbers and their highest frequency, where it can be read."""

    cpus: tuple[int, ...]
    max_khz: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLevel:
    """A kind of cache: the size of one instance and how many CPUs share it."""

    name: str
    size_bytes: int
    shared_by: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """What a device is. ``id`` names its folder in the store and stays the same across boots.

    ``isa`` lists the extensions that decide which kernels run. ``virtualised`` is None where it cannot be told.
    ``source`` says where the facts come from.
    """

    id: str
    kind: str
    soc: str
    machine: str
    clusters: tuple[Cluster, ...]
    isa: tuple[str, ...]
    ram_bytes: int
    caches: tuple[CacheLevel, ...]
    virtualised: bool | None
    transport: str
    source: str


class Device(Protocol):
    """A device that operators are measured on."""

    name: str

    def profile(self) -> DeviceProfile:
        """What the device is."""

    def environment(self) -> Environment:
        """The state it is in now."""

    def allowed_cpus(self) -> tuple[int, ...]:
        """CPUs that a measurement may run on."""

    def pick_cpus(self, n_threads: int) -> tuple[int, ...]:
        """The CPUs to pin ``n_threads`` threads to.

        Raises:
            UsageError: there are fewer.
        """

    def free_bytes(self) -> int:
        """Memory that can be had without swapping."""


DEVICES: Registry[Device] = Registry("device")
DEVICES.add("local", "edgeprof.devices.local:LOCAL")


def fingerprint(environment: Environment) -> str:
    """Hash of what decides whether measurements may be pooled."""
    return short_hash({key: environment.get(key) for key in POOLING_KEYS})


def slug(text: str) -> str:
    """``text`` as a part of a device's id: lower-case letters, digits and single dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")
