"""The memory bandwidth that floors are computed with: given by the user, or this or another device's measured roof."""

import re
from dataclasses import dataclass
from pathlib import Path

from edgeprof.core.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth:
    """Bytes that memory delivers a second, and where the figure comes from.

    ``cache_bytes`` is the device's largest cache: what fits into it need not come from memory. None where it is not known.
    """

    bytes_per_s: float
    measured: bool
    device_id: str | None = None
    n_threads: int | None = None
    measured_at: str | None = None
    cache_bytes: int | None = None


_RATE = re.compile(r"(.+?)\s*(?:/s|ps)", re.IGNORECASE)


def given_bandwidth(text: str) -> Bandwidth:
    """The bandwidth in ``text``, such as 84.8GB/s or 60GiB/s.

    Raises:
        UsageError: it is none.
    """
    from edgeprof.core.units import parse_bytes

    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"--bandwidth: {text!r:.60} is not bytes a second; write 84.8GB/s or 60GiB/s")
    return Bandwidth(bytes_per_s=parse_bytes(match[1], field="--bandwidth"), measured=False)


def measured_bandwidth(root: Path, device: str | None, n_threads: int | None) -> Bandwidth | None:
    """The latest roof stored of a device (this machine unless told otherwise), with so many threads or else the fastest.

    None where this machine has none and nobody asked for one.

    Raises:
        UsageError: a device or a number of threads was asked for, and there is no such roof.
    """
    from edgeprof.devices.local import LOCAL
    from edgeprof.store import Store

    store, here = Store(root), LOCAL.profile()
    device_id = here.id if device in (None, "local") else str(device)
    records = sorted(store.records(device_id), key=lambda r: r.started_at)
    roofs = {r.roof.n_threads: (r.roof, r.started_at) for r in records if r.roof is not None}
    if not roofs and device is None and n_threads is None:
        return None
    if not roofs:
        known = ", ".join(store.devices()) or "none"
        raise UsageError(
            f"--device: no roof of {device_id} is stored in {root} (devices there: {known}); run edgeprof bench"
        )
    if n_threads is not None and n_threads not in roofs:
        known = " or ".join(map(str, sorted(roofs)))
        raise UsageError(f"--threads: no roof of {device_id} was measured with {n_threads}; choose {known}")
    roof, measured_at = max(roofs.values(), key=lambda r: r[0].bytes_per_s) if n_threads is None else roofs[n_threads]
    return Bandwidth(
        bytes_per_s=roof.bytes_per_s,
        measured=True,
        device_id=device_id,
        n_threads=roof.n_threads,
        measured_at=measured_at,
        cache_bytes=max((c.size_bytes for c in here.caches), default=None) if device_id == here.id else None,
    )
