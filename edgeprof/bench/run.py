"""What ``edgeprof bench`` does: check the store, find the roof, run a session, report."""

from edgeprof.bench.prepare import Reporter
from edgeprof.bench.recorder import Host, Recorder
from edgeprof.bench.report import Report, build_report
from edgeprof.bench.session import Session
from edgeprof.core.types import BenchCase, InstanceRecord, MeasureProtocol
from edgeprof.devices.base import Device, fingerprint
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
    environment = device.environment()
    host = Host(
        device_id=device.profile().id,
        environment=environment,
        fingerprint=fingerprint(environment),
        pick_cpus=lambda n: list(device.pick_cpus(n)),
    )
    recorder = Recorder(store, host, protocol)
    Session(recorder, reporter, fresh=fresh).run(cases)

    def poolable(record: InstanceRecord, case: BenchCase) -> bool:
        mine = not fresh or record.session_id == recorder.session_id
        return mine and recorder.poolable(record, case)

    return build_report(host.device_id, store.records(host.device_id), cases, poolable)
