"""A check for programs and for the places where CI shows results: JSON, JUnit XML and a Markdown summary."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

from edgeprof.bench.plan import case_label
from edgeprof.core.errors import ExitCode
from edgeprof.core.units import format_bytes
from edgeprof.regress.project_file import Quantity
from edgeprof.regress.result import BudgetResult, CheckResult, Part, Row

MARKS = {"regressed": "🔴", "improved": "🟢", "unchanged": "⚪", "inconclusive": "🟡", "missing": "🔴"}

MOST_PARTS = 6
"""Parts that are told of a case, those with the largest change."""

MOSTLY_SEEN = 0.5
"""Share of a change below which the tracer's parts do not account for it."""

TITLES: dict[Quantity, str] = {"time": "time", "peak_memory": "peak memory", "file_size": "file size"}


def check_json(result: CheckResult, code: ExitCode) -> dict[str, Any]:
    """The check as plain data: ``cases`` hold times in ns, ``sizes`` bytes; ratios are head over base."""
    return {
        "outcome": result.outcome,
        "exit_code": int(code),
        "base": result.base,
        "head": result.head,
        "device_id": result.device_id,
        "cases": [_row_json(row) for row in result.rows if row.quantity == "time"],
        "sizes": [_row_json(row) for row in result.rows if row.quantity != "time"],
        "budgets": list(result.budgets),
        "plan": result.plan,
        "seconds": result.seconds,
        "needed_s": result.needed_s,
        "changes": list(result.changes),
        "parts": {key: list(parts) if not isinstance(parts, str) else parts for key, parts in result.parts.items()},
        "recording": None if result.recording is None else str(result.recording),
    }


def _row_json(row: Row) -> dict[str, Any]:
    verdict, accepted = row.verdict, row.accepted
    return {
        "case_key": verdict.case_key,
        "quantity": row.quantity,
        "outcome": verdict.outcome,
        "ratio": verdict.ratio,
        "ratio_ci95": None if verdict.ratio_ci95 is None else list(verdict.ratio_ci95),
        "p": verdict.p,
        "p_corrected": verdict.p_corrected,
        "floor": verdict.floor,
        "n_blocks": verdict.n_blocks,
        "base": row.base,
        "head": row.head,
        "reason": verdict.reason,
        "accepted": None if accepted is None else {"reason": accepted.reason, "expires": accepted.expires.isoformat()},
        "note": row.note,
        "case": row.case,
    }


def row_label(row: Row) -> str:
    """A row in one phrase: its case, and the quantity where it is not the time."""
    label = case_label(row.case)
    return label if row.quantity == "time" else f"{label}: {TITLES[row.quantity]}"


def row_reason(row: Row) -> str:
    """Why the outcome is what it is, and what became of an acceptance."""
    if row.accepted is not None:
        return f"accepted until {row.accepted.expires}: {row.accepted.reason}"
    return row.verdict.reason if row.note is None else f"{row.verdict.reason}; {row.note}"


def headline(result: CheckResult, code: ExitCode) -> str:
    """The check in one line."""
    counts: dict[str, int] = {}
    for row in result.rows:
        word = "accepted" if row.accepted is not None else row.verdict.outcome
        counts[word] = counts.get(word, 0) + 1
    order = ("regressed", "missing", "inconclusive", "accepted", "improved", "unchanged")
    told = ", ".join(f"{counts[word]} {word}" for word in order if word in counts) or "nothing was compared"
    broken = sum(budget.outcome in ("over", "not_measured") for budget in result.budgets)
    told += f"; {broken} of {len(result.budgets)} budgets broken" if result.budgets else ""
    return (
        f"{'passed' if code == ExitCode.OK else 'failed' if code != ExitCode.INCONCLUSIVE else 'inconclusive'}: {told}"
    )


def markdown_summary(result: CheckResult, code: ExitCode, duration: Callable[[float], str]) -> str:
    """A summary for $GITHUB_STEP_SUMMARY: the verdict, a table, and what may explain it. ``duration`` writes ns for people."""
    lines = [
        f"### edgeprof check {headline(result, code)}",
        "",
        f"Base {_cell(result.base)}, head {_cell(result.head)}, on {_cell(result.device_id)}; ratios are head over base.",
        "",
        "| | case | base | head | ratio | 95 % interval | why |",
        "|---|---|---:|---:|---:|---|---|",
    ]
    for row in result.rows:
        mark = "🔵" if row.accepted is not None else MARKS[row.verdict.outcome]
        write = duration if row.quantity == "time" else format_bytes
        values = ["-" if value is None else write(value) for value in (row.base, row.head)]
        outcome = "accepted" if row.accepted is not None else row.verdict.outcome
        why = f"**{outcome}**: {row_reason(row)}"
        cells = [f"{mark}", row_label(row), *values, ratio_text(row), interval_text(row), why]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    lines += [f"\n{line}" for line in explanations(result)]
    return "\n".join(lines) + "\n\n"


def ratio_text(row: Row) -> str:
    """The ratio of a row for people."""
    return "-" if row.verdict.ratio is None else f"{row.verdict.ratio:.3f}"


def interval_text(row: Row) -> str:
    """The interval of a row for people."""
    if row.verdict.ratio_ci95 is None:
        return "-"
    low, high = row.verdict.ratio_ci95
    return f"{low:.3f} to {high:.3f}"


def budget_text(budget: BudgetResult) -> str:
    """A budget in one sentence."""
    return f"budget {budget.name}: {budget.outcome.replace('_', ' ')} ({budget.reason})"


def explanations(result: CheckResult) -> list[str]:
    """Budgets, what differs between the environments, where the time went, and how long clarity would take."""
    lines = [budget_text(budget) for budget in result.budgets]
    if result.changes:
        lines.append("Different between the sides: " + "; ".join(result.changes) + ".")
    timed = {row.case.key: row for row in result.rows if row.quantity == "time"}
    lines += [parts_text(timed[key], parts) for key, parts in result.parts.items()]
    if any(row.verdict.outcome == "inconclusive" and row.quantity == "time" for row in result.rows):
        lines.append(_needed(result))
    return lines


def parts_text(row: Row, parts: tuple[Part, ...] | str) -> str:
    """Where the time of a slower case went, in one sentence: what the tracer sees of it, and what it does not."""
    if isinstance(parts, str):
        return f"{row_label(row)}: where the time went is not known: {parts}."
    seen = sum(part.head_ns - part.base_ns for part in parts)
    told = [f"{p.name} {p.base_ns / 1e3:.1f} to {p.head_ns / 1e3:.1f}" for p in parts[:MOST_PARTS]]
    text = f"{row_label(row)}: under the tracer the parts took {seen / 1e3:+.1f} µs ({', '.join(told)} µs)"
    if row.base is None or row.head is None:
        return f"{text}."
    whole = row.head - row.base
    text += f", the whole call {whole / 1e3:+.1f} µs"
    if abs(seen) < abs(whole) * MOSTLY_SEEN:
        text += ": most of the change lies outside of the parts, in what calls them"
    return f"{text}."


def _needed(result: CheckResult) -> str:
    if result.needed_s is None:
        return (
            "Open cases are noisier than the most blocks of a check can resolve: quieten the host, choose a larger --floor, or "
            "pass them with --pass-inconclusive."
        )
    if not result.needed_s:
        return "Open cases: say --pass-inconclusive if they shall not fail the job."
    minutes = whole_minutes(result.needed_s)
    return f"Open cases would be clear after about {minutes} min: --time-budget {minutes}m."


def whole_minutes(seconds: float) -> int:
    """Whole minutes that hold that many seconds."""
    return -int(-seconds // 60)


def _cell(text: str) -> str:
    """Text that cannot break out of a table's cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def junit_xml(result: CheckResult, code: ExitCode, *, pass_inconclusive: bool) -> bytes:
    """A test case for each row and budget: regressions fail, what is missing is an error, open cases fail or are skipped."""
    suite = ET.Element("testsuite", name="edgeprof check", time=f"{result.seconds:.1f}")
    for row in result.rows:
        outcome = "accepted" if row.accepted is not None else row.verdict.outcome
        _testcase(suite, f"edgeprof.{row.quantity}", row_label(row), outcome, row_reason(row), pass_inconclusive)
    names = {"over": "regressed", "not_measured": "missing", "inconclusive": "inconclusive", "kept": "unchanged"}
    for budget in result.budgets:
        _testcase(suite, "edgeprof.budget", budget.name, names[budget.outcome], budget.reason, pass_inconclusive)
    for kind in ("failure", "error", "skipped"):
        suite.set(f"{kind}s" if kind != "skipped" else kind, str(len(suite.findall(f"testcase/{kind}"))))
    suite.set("tests", str(len(suite.findall("testcase"))))
    properties = ET.Element("properties")
    for name, value in (("base", result.base), ("head", result.head), ("exit_code", str(int(code)))):
        ET.SubElement(properties, "property", name=name, value=_xml_text(value))
    suite.insert(0, properties)
    ET.indent(suite)
    return bytes(ET.tostring(suite, encoding="utf-8", xml_declaration=True)) + b"\n"


def _testcase(suite: ET.Element, group: str, name: str, outcome: str, reason: str, pass_inconclusive: bool) -> None:
    case = ET.SubElement(suite, "testcase", classname=group, name=_xml_text(name))
    tags = {"regressed": "failure", "missing": "error", "inconclusive": "skipped" if pass_inconclusive else "failure"}
    if outcome in tags:
        found = ET.SubElement(case, tags[outcome], message=_xml_text(reason))
        if tags[outcome] != "skipped":
            found.set("type", outcome)
    else:
        ET.SubElement(case, "system-out").text = _xml_text(f"{outcome}: {reason}")


def _xml_text(text: str) -> str:
    """Text without the control characters that XML 1.0 has no way to write."""
    return "".join(c if c >= " " and c not in "\ufffe\uffff" and not "\ud800" <= c <= "\udfff" else " " for c in text)
