"""What ``edgeprof check`` does with two sides: ask them, prepare them, measure blocks, judge; and judge a recording again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgeprof.bench.prepare import Reporter
from edgeprof.core.types import BenchCase
from edgeprof.devices.base import Device
from edgeprof.regress.check import Blocks, Check, needed_seconds
from edgeprof.regress.explain import environment_changes, where_time_went
from edgeprof.regress.preparation import check_comparable, needed_cases, prepare
from edgeprof.regress.recording import Recorded, Recording, read_recording
from edgeprof.regress.result import CheckResult, size_rows, time_rows
from edgeprof.regress.sequential import Plan
from edgeprof.regress.side_by_side import SideBySide
from edgeprof.regress.sides import Side, SideFacts, SideName, ask, with_own_cache
from edgeprof.regress.verdict import Verdict, judge

MOST_EXPLAINED = 5
"""Slower cases that are traced: a change that slows all of them shows in the first few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a check is to do. ``only_changed`` leaves cases that are the same artifact on both sides unmeasured."""

    cases: tuple[BenchCase, ...]
    plan: Plan
    budget_s: float
    seed: int
    with_memory: bool = True
    only_changed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Two sides that have answered."""

    sides: Mapping[SideName, Side]
    facts: Mapping[SideName, SideFacts]


def ask_both(base: Side, head: Side, cases: Sequence[BenchCase]) -> Asked:
    """Asks both sides what they are; one whose packages differ from the other's gets a cache of its own, and is asked again.

    Raises:
        UsageError: a side cannot be started.
        BaselineError: the sides sample in different ways.
    """
    needed = needed_cases(cases)
    facts: dict[SideName, SideFacts] = {"base": ask(base, needed), "head": ask(head, needed)}
    check_comparable(facts)
    own = with_own_cache(base, facts["base"], facts["head"])
    if own != base:
        facts["base"] = ask(own, needed)
    return Asked(sides={"base": own, "head": head}, facts=facts)


def run_side_by_side(asked: Asked, wanted: Wanted, *, device: Device, folder: Path, reporter: Reporter) -> CheckResult:
    """Measures both sides and judges; everything measured is in a recording below ``folder`` as soon as it is.

    Raises:
        UsageError: the folder cannot be written.
        KeyboardInterrupt: names the recording.
    """
    recording = Recording(folder)
    sides = {name: side.label for name, side in asked.sides.items()}
    facts = {name: {"edgeprof": f.edgeprof, "packages": f.packages} for name, f in asked.facts.items()}
    cases = {case.key: case for case in wanted.cases}
    head = asked.facts["head"]
    recording.begin(
        wanted.plan,
        cases,
        sides=sides,
        facts=facts,
        device_id=head.device_id,
        environment=head.environment,
        seed=wanted.seed,
        budget_s=wanted.budget_s,
        with_memory=wanted.with_memory,
    )
    try:
        _measure(asked, wanted, device, recording, reporter)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"what was measured is in {recording.path}; edgeprof check --replay shows what it says"
        ) from None
    finally:
        recording.close()
    return _explained(replay(recording.path), asked, device)


def _explained(result: CheckResult, asked: Asked, device: Device) -> CheckResult:
    """The result with the parts of each case that got slower; seconds a case, and only where there is something to explain."""
    slower = [row.case for row in result.rows if row.quantity == "time" and row.verdict.outcome == "regressed"]
    parts = {
        case.key: where_time_went(asked.sides, asked.facts, case, cpus=list(device.pick_cpus(case.n_threads)))
        for case in slower[:MOST_EXPLAINED]
    }
    return replace(result, parts=parts)


def _measure(asked: Asked, wanted: Wanted, device: Device, recording: Recording, reporter: Reporter) -> None:
    prepared = prepare(
        asked.sides,
        asked.facts,
        wanted.cases,
        with_memory=wanted.with_memory,
        recording=recording,
        reporter=reporter,
    )
    untimed = prepared.identical if wanted.only_changed else frozenset[str]()
    recording.prepared(identical=sorted(prepared.identical), untimed=sorted(untimed), file_bytes=prepared.file_bytes)
    timed = [case for case in wanted.cases if case.key not in prepared.failures and case.key not in untimed]
    cpus = {n: list(device.pick_cpus(n)) for n in {case.n_threads for case in timed}}
    source = SideBySide(asked.sides, asked.facts, timed, cpus=cpus, recording=recording, seed=wanted.seed)
    check = Check(source, [case.key for case in timed], wanted.plan, budget_s=wanted.budget_s, reporter=reporter)
    blocks = check.run()
    recording.end(seconds=blocks.seconds, seconds_a_block=blocks.seconds_a_block)


def replay(path: Path) -> CheckResult:
    """What a recording says; the same that was said when it was made.

    Raises:
        UsageError: it cannot be read, or is none of a check.
    """
    return result_of(read_recording(path), path)


def result_of(recorded: Recorded, path: Path) -> CheckResult:
    """Judges a recording: every planned case has its row, whatever became of it."""
    cases = [case for key, case in recorded.cases.items()]
    timed = [key for key in recorded.cases if key not in recorded.untimed]
    measured, again = recorded.blocks(1), recorded.blocks(2)
    first = {key: measured.get(key, []) for key in timed}
    verdicts = judge(first, recorded.plan, again)
    verdicts |= {key: _not_measured(key, recorded.plan) for key in recorded.untimed}
    blocks = Blocks(
        first=first,
        again=again,
        seconds=recorded.seconds,
        seconds_a_block=recorded.seconds_a_block,
    )
    rows = time_rows(cases, verdicts, recorded.failures, recorded.p50_ns)
    header = recorded.header
    peaks = recorded.memory if header["with_memory"] else {}
    rows += size_rows(cases, recorded.identical, peaks, recorded.file_bytes)
    return CheckResult(
        base=header["sides"]["base"],
        head=header["sides"]["head"],
        device_id=header["device_id"],
        rows=tuple(rows),
        plan=recorded.plan,
        seconds=recorded.seconds,
        needed_s=needed_seconds(blocks, recorded.plan),
        recording=path,
        changes=environment_changes(header["facts"]["base"], header["facts"]["head"]),
        n_blocks=max(map(len, first.values()), default=0),
    )


def _not_measured(key: str, plan: Plan) -> Verdict:
    return Verdict(
        case_key=key,
        ratio=None,
        ratio_ci95=None,
        p=None,
        p_corrected=None,
        outcome="unchanged",
        n_blocks=0,
        floor=plan.floor,
        reason="the same artifact, code and packages on both sides: not measured",
    )
