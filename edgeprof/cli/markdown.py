"""Reports as Markdown, and the part of a file that is generated from them."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprof.core.errors import UsageError

if TYPE_CHECKING:
    from edgeprof.bench.report import Measurement, Report

BEGIN = re.compile(r"<!-- results:begin\b[^>]*-->")
END = "<!-- results:end -->"


def report_markdown(report: "Report") -> str:
    """The tables of a report with what was measured where, and the sentences under them.

    Columns that say nothing in a table are left out. Tables of hot weights are folded: what a model feels is streaming.
    """
    from edgeprof.cli.table import grouped, sentences

    open_tables: list[str] = []
    folded: list[str] = []
    for title, rows in grouped(report).items():
        hot = rows[0].case.cache_state == "hot"
        (folded if hot else open_tables).append(f"**{_sentence(title)}**\n\n{_table(rows, report)}")
    parts = [provenance(report), *open_tables]
    if folded and not open_tables:
        parts += folded
    elif folded:
        parts += ["<details><summary>The same with hot weights</summary>", *folded, "</details>"]
    parts.append("\n".join(f"- {line}" for line in sentences(report)))
    return "\n\n".join(parts) + "\n"


def provenance(report: "Report") -> str:
    """The device, the runtimes' versions and the days of the measurements."""
    measured = [m for m in report.measurements if m.instances]
    versions = sorted({f"{m.case.runtime} {m.runtime_version}" for m in measured})
    instances = [r for m in measured for r in m.instances]
    cpus = sorted({str(r.environment["cpu_model"]) for r in instances if r.environment.get("cpu_model")})
    days = sorted({r.started_at[:10] for r in instances})
    when = f"measured {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "") if days else "not measured"
    return "; ".join([f"`{report.device_id}`", *([", ".join(cpus)] if cpus else []), *versions, when]) + "."


def _table(rows: "list[Measurement]", report: "Report") -> str:
    from edgeprof.cli.table import COLUMNS, NUMBERS, row_cells

    names = COLUMNS.split()
    cells = [row_cells(m, report) for m in rows]
    kept = [i for i in range(len(names)) if any(row[i] not in ("", "-") for row in cells)]
    lines = [
        [names[i].replace("_", " ") for i in kept],
        ["---:" if names[i] in NUMBERS.split() else ":---" for i in kept],
        *([_escaped(row[i]) for i in kept] for row in cells),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _sentence(title: str) -> str:
    return title[:1].upper() + title[1:]


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def replace_marked(path: Path, text: str) -> None:
    """Replaces what stands between the two result markers of a Markdown file by ``text``.

    Raises:
        UsageError: the file cannot be read or written, or does not hold each marker once and in order.
    """
    from edgeprof.cli.files import write_whole

    try:
        content = path.read_bytes().decode()
    except OSError as error:
        raise UsageError(f"--into: {path} cannot be read ({error.strerror}); give a Markdown file") from None
    except UnicodeDecodeError:
        raise UsageError(f"--into: {path} is not text in UTF-8; give a Markdown file") from None
    begins, ends = [m.end() for m in BEGIN.finditer(content)], [m.start() for m in re.finditer(END, content)]
    if len(begins) != 1 or len(ends) != 1 or begins[0] > ends[0]:
        raise UsageError(
            f"--into: {path} needs one line <!-- results:begin --> and, below it, one line {END}; add them"
        )
    newline = "\r\n" if "\r\n" in content else "\n"
    generated = f"\n\n{text.strip()}\n\n".replace("\n", newline)
    write_whole(path, (content[: begins[0]] + generated + content[ends[0] :]).encode(), field="--into")
