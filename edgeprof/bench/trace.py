"""Traces of whole models: fresh processes of their own beside the timed ones, as a tracer slows every call."""

from collections.abc import Sequence

from edgeprof.bench.jobs import Item
from edgeprof.bench.prepare import Reporter, build_missing, describe, do_alone
from edgeprof.bench.recorder import Recorder
from edgeprof.core.types import BenchCase
from edgeprof.runtimes.artifact import artifact_spec
from edgeprof.runtimes.trace import Trace, TraceRun, why_no_trace

PROCESSES = 5
"""Fresh processes that trace a call: a load's luck with memory must not look like a part's own cost."""


def run_traces(cases: Sequence[BenchCase], recorder: Recorder, reporter: Reporter) -> dict[str, TraceRun]:
    """Traces every case, by its key.

    Raises:
        UsageError: the cache folder cannot be written.
    """
    refused = {case.key: why_no_trace(case.runtime) for case in cases}
    able = [case for case in cases if refused[case.key] is None]
    found = {key: TraceRun(reason=reason) for key, reason in refused.items() if reason is not None}
    if able:
        build_missing(able, recorder, reporter)
        reporter.stage("trace", len(able) * PROCESSES)
    for case in able:
        found[case.key] = _traced(case, recorder, reporter)
    return found


def _traced(case: BenchCase, recorder: Recorder, reporter: Reporter) -> TraceRun:
    """All processes of one case; the first that fails ends it, as the others would fail alike."""
    if case.key in recorder.failed:
        return TraceRun(reason=recorder.failed[case.key])
    cpus = recorder.host.pick_cpus(case.n_threads)
    traces = []
    for number in range(PROCESSES):
        item = Item(kind="trace", seed=number + 1, case=case, artifact_key=artifact_spec(case).key)
        outcome = do_alone(item, recorder, runtime=case.runtime, n_threads=case.n_threads, cpus=cpus)
        reporter.step(describe(case))
        if outcome.result is None:
            return TraceRun(reason=f"{outcome.status}: {outcome.reason}")
        traces.append(Trace(**outcome.result["trace"]))
    return TraceRun(traces=tuple(traces))
