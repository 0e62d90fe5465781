"""What ``edgeprof verify`` has measured: rings, traces, and the pairs of neighbours that a trace made suspect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from edgeprof.bench.run import RingRun
    from edgeprof.cli.targets import Place
    from edgeprof.core.types import MeasureProtocol, RingPlan
    from edgeprof.predict.neighbours import PairResult
    from edgeprof.predict.predict import Knowledge
    from edgeprof.predict.types import ModelCall, Target, VerifyRow
    from edgeprof.runtimes.trace import TraceRun
    from edgeprof.store import Store


@dataclass(frozen=True)
class Laboratory:
    """The device at hand with its store, and how much is measured."""

    place: "Place"
    store: "Store"
    protocol: "MeasureProtocol"

    @property
    def folder(self) -> "Path":
        """The device's results."""
        return self.store.root / self.place.device_id

    def knowledge(self) -> "Knowledge":
        """Everything stored of the device by now."""
        from edgeprof.cli.targets import knowledge_of

        return knowledge_of(self.place, self.store)

    def measure(self, rings: "Sequence[RingPlan]") -> "RingRun":
        """A session over the rings, all of them measured anew."""
        from edgeprof.bench.run import run_rings
        from edgeprof.cli.progress import ProgressReporter

        device = self.place.device
        assert device is not None
        with ProgressReporter() as reporter:
            return run_rings(
                rings, device=device, store=self.store, protocol=self.protocol, reporter=reporter, fresh=True
            )

    def trace(self, target: "Target", calls: "Sequence[ModelCall]") -> "dict[str, TraceRun]":
        """Traces of the whole model in each call, by the model's case key."""
        from edgeprof.bench.run import trace_cases
        from edgeprof.cli.progress import ProgressReporter
        from edgeprof.predict.plan import model_case

        device = self.place.device
        assert device is not None
        cases = [model_case(target, call) for call in calls]
        with ProgressReporter() as reporter:
            return trace_cases(cases, device=device, store=self.store, protocol=self.protocol, reporter=reporter)

    def look_at_neighbours(
        self,
        target: "Target",
        calls: "Sequence[ModelCall]",
        rows: "Sequence[VerifyRow]",
        traced: "Mapping[str, TraceRun]",
    ) -> "list[PairResult]":
        """Measures the pairs that the traces made suspect; those that are not additive go into the device's list."""
        from edgeprof.predict.evidence import Conditions
        from edgeprof.predict.neighbours import append_neighbours, judge, pair_ring, to_neighbours
        from edgeprof.predict.plan import model_case
        from edgeprof.predict.verify import group_of, noise_of, suspects

        looked = [
            (call, pair)
            for call in calls
            for pair in suspects(target, call, rows, traced[model_case(target, call).key])
        ]
        if not looked:
            return []
        run = self.measure([pair_ring(target, call, pair, group_of(target)) for call, pair in looked])
        known = self.knowledge()
        conditions = Conditions(fingerprint=self.place.fingerprint, only_session=run.session_id)
        evidence = known.evidence().under(conditions)
        found = [judge(target, call, pair, evidence, noise_of(rows, call), run.failed) for call, pair in looked]
        append_neighbours(self.folder, [to_neighbours(one, run.session_id) for one in found if one.is_term])
        return found
