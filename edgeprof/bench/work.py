"""What a session is asked for, and what is left of it when some has failed or is stored already."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from edgeprof.bench.rings import AssembledRing, planned_ring, streaming_rings
from edgeprof.core.types import BenchCase, RingPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Single cases, and rings that are asked for as such.

    A ring of streaming cases goes on without a case that has failed; one that is asked for is whole or it is not measured.
    """

    cases: tuple[BenchCase, ...]
    plans: tuple[RingPlan, ...]

    def hot(self) -> list[BenchCase]:
        """The cases that are measured each on its own."""
        return [case for case in self.cases if case.cache_state == "hot"]

    def rings(self) -> list[AssembledRing]:
        """Every ring."""
        streaming = (case for case in self.cases if case.cache_state == "streaming")
        return [*streaming_rings(streaming), *map(planned_ring, self.plans)]

    def all_cases(self) -> list[BenchCase]:
        """Every case once, in the order in which it was asked for."""
        return list(_by_key([*self.cases, *(case for plan in self.plans for case in plan.cases)]).values())

    def without(self, failed: Container[str]) -> "Work":
        """What can still be measured when the cases with these keys cannot."""
        return Work(
            cases=tuple(case for case in self.cases if case.key not in failed),
            plans=tuple(plan for plan in self.plans if not any(case.key in failed for case in plan.cases)),
        )

    def lacking(self, missing: Mapping[str, int]) -> "Work":
        """What is not complete: a case that lacks instances, with all that share its ring."""
        wanted = {case.key for case in self.hot() if missing[case.key]}
        for ring in self.rings():
            if any(missing[key] for key in ring.per_round):
                wanted |= ring.per_round.keys()
        return Work(
            cases=tuple(case for case in self.cases if case.key in wanted),
            plans=tuple(plan for plan in self.plans if any(missing[case.key] for case in plan.cases)),
        )


def _by_key(cases: Iterable[BenchCase]) -> dict[str, BenchCase]:
    return {case.key: case for case in cases}
