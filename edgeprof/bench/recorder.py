"""Turns what a session finds into records, and knows which cases have failed in it."""

import datetime
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgeprof.core.errors import UsageError
from edgeprof.core.types import BenchCase, InstanceRecord, MeasureProtocol, Status
from edgeprof.devices.base import Environment
from edgeprof.runtimes.artifact import artifact_spec
from edgeprof.runtimes.base import RUNTIMES, runtime_version
from edgeprof.store import Store
from edgeprof.store.pooling import same_build, same_conditions
from edgeprof.store.store import RESULTS_VARIABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The device as a session sees it: who it is, what decides pooling, and how threads are placed."""

    device_id: str
    environment: Environment
    fingerprint: str
    pick_cpus: Callable[[int], list[int]]


class Recorder:
    """Writes the records of one session. ``failed`` says of each case that will have no times why not."""

    def __init__(self, store: Store, host: Host, protocol: MeasureProtocol) -> None:
        self.store = store
        self.host = host
        self.protocol = protocol
        self.session_id = uuid.uuid4().hex[:12]
        self.failed: dict[str, str] = {}

    def check_writable(self) -> None:
        """Looks whether records could be written, before minutes are spent on what they are about.

        Raises:
            UsageError: they could not.
        """
        folder = self.store.root / self.host.device_id
        place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            raise UsageError(
                f"{folder}: cannot be written; correct the permissions of {place}, or choose another folder with "
                f"--results or {RESULTS_VARIABLE}"
            )

    def poolable(self, record: InstanceRecord, case: BenchCase) -> bool:
        """Whether a stored record may be pooled with this session's."""
        return same_conditions(record, case, self.protocol.version, self.host.fingerprint)

    def same_cell(self, record: InstanceRecord, case: BenchCase) -> bool:
        """Whether a stored record is of the same load and call as ``case``, whatever ring either of them is timed in."""
        other = record.case
        return (
            other is not None
            and (other.kv_len, other.n_threads) == (case.kv_len, case.n_threads)
            and same_build(record, case, self.protocol.version, self.host.fingerprint)
        )

    def fail(self, case: BenchCase, status: Status, reason: str | None, **facts: Any) -> None:
        """Records why a case has no times; it is not tried again in this session."""
        self.failed[case.key] = f"{status}: {reason}"
        self.append(case, kind="probe", status=status, reason=reason, **facts)

    def append(self, case: BenchCase, *, number: int = 0, **facts: Any) -> None:
        """Stores one record of a case; ``number`` is its round."""
        self._append(case.runtime, number, facts, case_key=case.key, case=case, artifact_key=artifact_spec(case).key)

    def append_host(self, runtime: str, *, number: int = 0, **facts: Any) -> None:
        """Stores one record about the host itself: a sentinel or a roof, taken in a worker of ``runtime``."""
        self._append(runtime, number, facts, case_key=str(facts["kind"]), case=None, artifact_key=None)

    def _append(
        self,
        runtime: str,
        number: int,
        facts: dict[str, Any],
        *,
        case_key: str,
        case: BenchCase | None,
        artifact_key: str | None,
    ) -> None:
        record = InstanceRecord(
            id=uuid.uuid4().hex[:16],
            session_id=self.session_id,
            round=number,
            case_key=case_key,
            case=case,
            protocol_version=self.protocol.version,
            runtime_version=runtime_version(RUNTIMES.get(runtime)),
            artifact_key=artifact_key,
            device_id=self.host.device_id,
            environment=self.host.environment,
            fingerprint=self.host.fingerprint,
            started_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            **facts,
        )
        self.store.append(record)
