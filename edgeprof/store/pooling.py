"""Which stored records may stand for a case as it would be measured now."""

from dataclasses import dataclass

from edgeprof.core.types import BenchCase, InstanceRecord
from edgeprof.runtimes.artifact import artifact_spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What must be equal, besides the case, for records to be pooled; ``build_of`` makes it once for many records."""

    protocol_version: int
    fingerprint: str
    runtime_version: str
    artifact_key: str | None

    def made(self, record: InstanceRecord) -> bool:
        """Whether the record's cell was built and run like this."""
        return self == Build(
            protocol_version=record.protocol_version,
            fingerprint=record.fingerprint,
            runtime_version=record.runtime_version,
            artifact_key=record.artifact_key,
        )


def build_of(case: BenchCase, protocol_version: int, fingerprint: str) -> Build:
    """How ``case`` would be built and run now: protocol, environment, runtime version, and artifact (so the same code)."""
    spec = artifact_spec(case)
    return Build(
        protocol_version=protocol_version,
        fingerprint=fingerprint,
        runtime_version=spec.runtime_version,
        artifact_key=spec.key,
    )


def same_conditions(record: InstanceRecord, case: BenchCase, protocol_version: int, fingerprint: str) -> bool:
    """Whether a stored record may be pooled with what is measured now for ``case``: the same case, built and run alike."""
    return record.case_key == case.key and same_build(record, case, protocol_version, fingerprint)


def same_build(record: InstanceRecord, case: BenchCase, protocol_version: int, fingerprint: str) -> bool:
    """The same without the case itself: a cell measured in another ring was still built and run alike."""
    return build_of(case, protocol_version, fingerprint).made(record)
