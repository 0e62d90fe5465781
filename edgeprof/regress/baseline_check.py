"""A session of this environment, and what it says against stored sessions of the same device.

Base and head were not measured together, so nothing cancels: how sessions differ has to be known, and is part of the interval.
It is known from three stored sessions on; before that nothing is told. Where the sentinel, the same work in every process,
ran at another speed than in the stored sessions, the interval holds both answers: that the host's speed explains the
difference as much as it does there, and that it does not. What stays beyond the floor then is measured once more.
"""

import datetime
import math
import statistics
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgeprof.bench.jobs import Job
from edgeprof.bench.prepare import Reporter
from edgeprof.bench.report import MIN_DRIFT_SESSIONS
from edgeprof.bench.session import SILENCE_S, MisplacedError
from edgeprof.core.types import BenchCase
from edgeprof.devices.base import Device
from edgeprof.devices.worker_process import WorkerLostError
from edgeprof.regress.baselines import Stored, baseline_text, comparable, conditions_of, read_baseline
from edgeprof.regress.environments import own_side
from edgeprof.regress.paced import PacedWorker
from edgeprof.regress.preparation import needed_cases, prepare
from edgeprof.regress.recording import process_time
from edgeprof.regress.result import CheckResult, time_rows
from edgeprof.regress.run import Wanted
from edgeprof.regress.sequential import Decision, Plan
from edgeprof.regress.side_by_side import PROTOCOL, loads_of, units_of
from edgeprof.regress.sides import Side, SideFacts, SideName, ask
from edgeprof.regress.verdict import NOT_RERUN, Verdict, judge_decisions, rerun_plan

PROCESSES = 12
"""Fresh processes of a session, as many as normal effort takes; below 9 a side a gate has little to say."""


@dataclass(slots=True, kw_only=True)
class SessionRun:
    """What a session measured, by case key, and why a case has nothing."""

    stored: dict[str, Stored] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


class Laboratory:
    """This environment, asked and prepared, and ready for sessions."""

    def __init__(self, cases: Sequence[BenchCase], *, device: Device, reporter: Reporter) -> None:
        self.side: Side = own_side()
        self.facts: SideFacts = ask(self.side, needed_cases(cases))
        self._device = device
        self._reporter = reporter
        prepared = prepare(
            {"head": self.side}, {"head": self.facts}, cases, with_memory=False, recording=None, reporter=reporter
        )
        self.failures = prepared.failures
        self.cases = [case for case in cases if case.key not in self.failures]

    def conditions(self) -> dict[str, dict[str, object]]:
        """The conditions of each case here and now."""
        found = {}
        for case in self.cases:
            spec = self.facts.cases[case.key].spec
            assert spec is not None
            found[case.key] = conditions_of(
                case,
                self.facts.environment,
                device_id=self.facts.device_id,
                runtime_version=spec.runtime_version,
                affinity=self._device.pick_cpus(case.n_threads),
            )
        return found

    def session(self, cases: Sequence[BenchCase], processes: int) -> SessionRun:
        """Measures each case in so many fresh processes, all cases of a runtime and number of threads in the same ones."""
        run = SessionRun(failures=dict(self.failures))
        loads: dict[str, list[tuple[int, ...]]] = {}
        sentinels: dict[str, list[int]] = {}
        groups: dict[tuple[str, int], list[BenchCase]] = {}
        for case in cases:
            groups.setdefault((case.runtime, case.n_threads), []).append(case)
        self._reporter.stage("measure", processes * len(groups))
        for _ in range(processes):
            for group in groups.values():
                left = [case for case in group if case.key not in run.failures]
                if left:
                    self._one_process(left, run, loads, sentinels)
                self._reporter.step(f"{group[0].runtime}, {len(left)} cases")
        conditions = self.conditions()
        session, at = uuid.uuid4().hex[:12], datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        environment = self.facts.environment
        for case in cases:
            if case.key in loads and case.key not in run.failures:
                run.stored[case.key] = Stored(
                    case_key=case.key,
                    case=case,
                    session=session,
                    at=at,
                    commit=environment.get("commit"),
                    dirty=environment.get("dirty"),
                    conditions=conditions[case.key],
                    processes=tuple(loads[case.key]),
                    sentinel_ns=tuple(sentinels[case.key]),
                )
        return run

    def _one_process(
        self,
        cases: Sequence[BenchCase],
        run: SessionRun,
        loads: dict[str, list[tuple[int, ...]]],
        sentinels: dict[str, list[int]],
    ) -> None:
        """One fresh process; a case that fails in it has failed, and a process that is lost fails the case it was at."""
        first = cases[0]
        facts: Mapping[SideName, SideFacts] = {"head": self.facts}
        units = units_of(cases, facts)
        items = [item for unit in units for item in unit.items["head"]]
        cpus = list(self._device.pick_cpus(first.n_threads))
        job = Job(
            runtime=first.runtime, n_threads=first.n_threads, cpus=cpus, items=items, protocol=PROTOCOL, sentinel=True
        )
        at: Sequence[str] = [case.key for case in cases]
        found: dict[str, tuple[int, ...]] = {}
        try:
            with PacedWorker(self.side, job, silence_s=SILENCE_S) as worker:
                worker.wait_until_ready()
                for unit in units:
                    at = unit.case_keys
                    events = [worker.step() for _ in unit.items["head"]]
                    bad = next((event["reason"] for event in events if event["event"] == "failed"), None)
                    for key in unit.case_keys:
                        if bad is not None:
                            run.failures[key] = bad
                        else:
                            samples = loads_of(events, unit.items["head"][0], key)
                            found[key] = tuple(round(statistics.median(load)) for load in samples)
                sentinel = round(statistics.median([*worker.ready["sentinel_ns"], *worker.end()["sentinel_ns"]]))
        except (WorkerLostError, MisplacedError) as error:
            run.failures |= dict.fromkeys(at, str(error))
            return
        for key, medians_ns in found.items():
            loads.setdefault(key, []).append(medians_ns)
            sentinels.setdefault(key, []).append(sentinel)


def run_against_baseline(
    path: Path, wanted: Wanted, *, device: Device, folder: Path, reporter: Reporter
) -> CheckResult:
    """Measures a session, compares it with the stored ones, and measures what looks slower once more.

    Every session is kept in a file below ``folder``, of the same form as a baseline.

    Raises:
        BaselineError: there is no baseline, or it is of another device or of other conditions: says what differs.
        UsageError: the file is corrupt, or the folder cannot be written.
    """
    stored = read_baseline(path)
    lab = Laboratory(wanted.cases, device=device, reporter=reporter)
    base = comparable(stored, lab.conditions(), path)
    begin = datetime.datetime.now(datetime.UTC)
    able = [case for case in lab.cases if case.key in base]
    first = lab.session(able, PROCESSES)
    kept = keep_session(first, folder)
    decisions = {case.key: _decision(case.key, first, base, wanted.plan) for case in wanted.cases}
    suspect = [key for key, v in judge_decisions(decisions, wanted.plan, {}).items() if v.reason == NOT_RERUN]
    fresh: dict[str, Decision] = {}
    if suspect:
        again = lab.session([case for case in able if case.key in suspect], PROCESSES)
        keep_session(again, folder)
        fresh = {key: _decision(key, again, base, rerun_plan(wanted.plan)) for key in suspect}
    verdicts = judge_decisions(decisions, wanted.plan, fresh)
    verdicts = {key: _in_words(verdict, base.get(key, []), first) for key, verdict in verdicts.items()}
    failures = {**{c.key: f"{path} has no such case" for c in lab.cases if c.key not in base}, **first.failures}
    p50: dict[str, dict[SideName, list[int]]] = {
        key: {
            "base": [min(loads) for one in base[key] for loads in one.processes],
            "head": [min(loads) for loads in one.processes],
        }
        for key, one in first.stored.items()
    }
    n_sessions = len({one.session for sessions in base.values() for one in sessions})
    return CheckResult(
        base=f"{path} ({n_sessions} sessions)",
        head=lab.side.label,
        device_id=lab.facts.device_id,
        rows=tuple(time_rows(wanted.cases, verdicts, failures, p50)),
        plan=wanted.plan,
        seconds=(datetime.datetime.now(datetime.UTC) - begin).total_seconds(),
        needed_s=0.0,
        recording=kept,
    )


def keep_session(run: SessionRun, folder: Path) -> Path:
    """Writes a session's lines to a file of their own, and returns its path."""
    now = datetime.datetime.now(datetime.UTC)
    path = folder / "checks" / f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}-session.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(baseline_text(run.stored.values()))
    return path


def _decision(key: str, run: SessionRun, base: Mapping[str, Sequence[Stored]], plan: Plan) -> Decision:
    head = run.stored.get(key)
    if head is None or key not in base:
        return Decision(state="go_on", n_blocks=0, ratio=None, ratio_ci95=None, p=1.0, floor=plan.floor)
    return compare_sessions(base[key], head, plan)


def compare_sessions(base: Sequence[Stored], head: Stored, plan: Plan) -> Decision:
    """One session against earlier ones; without a bound where fewer than MIN_DRIFT_SESSIONS tell how sessions differ.

    Student's t over the sessions' means: a new session scatters as the stored ones do, and their mean does too; the head's own
    processes add their standard error where they scatter more than the sessions.

    Source: the prediction interval of one more value, G. J. Hahn and W. Q. Meeker, Statistical Intervals (1991), section 4.7.
    """
    from scipy import stats

    means = [statistics.fmean(_times(one)) for one in base]
    own = _times(head)
    change = statistics.fmean(own) - statistics.fmean(means)
    n = len(own)
    if len(means) < MIN_DRIFT_SESSIONS or n < 2:
        return Decision(state="go_on", n_blocks=n, ratio=math.exp(change), ratio_ci95=None, p=1.0, floor=plan.floor)
    spread = max(statistics.stdev(means), statistics.stdev(own) / math.sqrt(n))
    error = max(spread * math.sqrt(1 + 1 / len(means)), 1e-12)
    half = float(stats.t.ppf(1 - plan.alpha / 2, len(means) - 1)) * error
    shift = sentinel_shift(base, head)
    low, high = min(change, change - shift) - half, max(change, change - shift) + half
    nearest = 0.0 if change * (change - shift) <= 0 else min(abs(change), abs(change - shift))
    p = min(1.0, 2 * float(stats.t.sf(nearest / error, len(means) - 1)))
    least = math.log1p(plan.floor)
    inside = max(-low, high) < least
    state = "equivalence" if inside else "regression" if low > least else "improvement" if high < -least else "go_on"
    return Decision(
        state=state,  # type: ignore[arg-type]
        n_blocks=n,
        ratio=math.exp(change),
        ratio_ci95=(math.exp(low), math.exp(high)),
        p=p,
        floor=plan.floor,
    )


def _times(stored: Stored) -> list[float]:
    return [process_time([[ns] for ns in loads]) for loads in stored.processes]


def sentinel_shift(base: Sequence[Stored], head: Stored) -> float:
    """Logarithm of how much slower the host itself was than in the stored sessions, 0 where a side has no sentinel."""
    before = [math.log(statistics.median(one.sentinel_ns)) for one in base if one.sentinel_ns]
    if not before or not head.sentinel_ns:
        return 0.0
    return math.log(statistics.median(head.sentinel_ns)) - statistics.fmean(before)


def _in_words(verdict: Verdict, base: Sequence[Stored], run: SessionRun) -> Verdict:
    """The verdict with reasons that speak of sessions."""
    head = run.stored.get(verdict.case_key)
    if head is None:
        return verdict
    if verdict.ratio_ci95 is None:
        reason = (
            f"how sessions differ is known from {MIN_DRIFT_SESSIONS} on, and {len(base)} are stored: save the baseline again at "
            "other times"
        )
        return replace(verdict, reason=reason)
    shift = math.expm1(sentinel_shift(base, head))
    return replace(
        verdict, reason=f"{verdict.reason}; {len(base)} sessions, the host's own speed changed by {-shift:+.1%}"
    )
