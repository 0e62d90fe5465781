"""What ``edgeprof bench`` does: check the store, find the roof, run a session, report; and the same for rings as such."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprof.bench.plan import check_rings_fit
from edgeprof.bench.prepare import Reporter
from edgeprof.bench.recorder import Host, Recorder
from edgeprof.bench.report import Report, build_report
from edgeprof.bench.session import Session
from edgeprof.bench.trace import run_traces
from edgeprof.core.types import BenchCase, InstanceRecord, MeasureProtocol, RingPlan
from edgeprof.devices.base import Device, fingerprint
from edgeprof.runtimes.trace import TraceRun
from edgeprof.store import Store


def run_bench(
    cases: list[BenchCase],
    *,
    device: Device,
    store: Store,
    protocol: MeasureProtocol,
    reporter: Reporter,
    fresh: bool = False,
) -> Report:
    """Measures what the store lacks of ``cases`` and reports on all of them; ``fresh`` reports on this session alone.

    Raises:
        UsageError: the store cannot be read or written.
    """
    recorder = _recorder(device, store, protocol)
    Session(recorder, reporter, fresh=fresh).run(cases)

    def poolable(record: InstanceRecord, case: BenchCase) -> bool:
        mine = not fresh or record.session_id == recorder.session_id
        return mine and recorder.poolable(record, case)

    device_id = recorder.host.device_id
    return build_report(device_id, store.records(device_id), cases, poolable)


@dataclass(frozen=True, slots=True, kw_only=True)
class RingRun:
    """A session over rings. ``failed`` says by case key why a case has no times; its rings were not measured."""

    session_id: str
    failed: dict[str, str]


def run_rings(
    rings: Sequence[RingPlan],
    *,
    device: Device,
    store: Store,
    protocol: MeasureProtocol,
    reporter: Reporter,
    fresh: bool = False,
) -> RingRun:
    """Measures the rings that the store lacks rounds of; ``fresh`` measures all of them anew, so that a group is paired.

    Raises:
        UsageError: a ring does not fit the device, or the store cannot be read or written.
    """
    check_rings_fit(rings, free_bytes=device.free_bytes(), cpus=len(device.allowed_cpus()))
    recorder = _recorder(device, store, protocol)
    Session(recorder, reporter, fresh=fresh).run(rings=rings)
    return RingRun(session_id=recorder.session_id, failed=recorder.failed)


def trace_cases(
    cases: Sequence[BenchCase], *, device: Device, store: Store, protocol: MeasureProtocol, reporter: Reporter
) -> dict[str, TraceRun]:
    """How long the parts of whole models take inside them, by case key; nothing of it goes into the store.

    Raises:
        UsageError: the store or the cache cannot be written.
    """
    return run_traces(cases, _recorder(device, store, protocol), reporter)


def _recorder(device: Device, store: Store, protocol: MeasureProtocol) -> Recorder:
    environment = device.environment()
    host = Host(
        device_id=device.profile().id,
        environment=environment,
        fingerprint=fingerprint(environment),
        pick_cpus=lambda n: list(device.pick_cpus(n)),
    )
    return Recorder(store, host, protocol)
