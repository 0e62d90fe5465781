"""What ``edgeprof check`` compares with, how it measures, and when it fails: its options in three groups."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprof.core.errors import UsageError

if TYPE_CHECKING:
    from edgeprof.regress.sequential import Plan

AGAINST = "What to compare with"
MEASURING = "How to measure"
GATE = "When to fail"

SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
MAX_BUDGET_S = 24 * 3600.0
_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)\s*([a-z]*)")
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*(%?)")


def parse_duration(text: str, *, field: str) -> float:
    """Seconds in ``300s``, ``5m`` or ``1h``.

    Raises:
        UsageError: it is no time, or an absurd one.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None or match[2] not in SECONDS:
        raise UsageError(f"{field}: {text[:80]!r} is no time; write 300s, 5m or 1h")
    value = float(match[1]) * SECONDS[match[2]]
    if not 0 < value <= MAX_BUDGET_S:
        raise UsageError(f"{field}: {text[:80]} is no time to measure; use more than 0 and at most 24h")
    return value


def parse_share(text: str, *, field: str) -> float:
    """A share such as ``2.5%`` or ``0.025``.

    Raises:
        UsageError: it is none below 100 %.
    """
    match = _SHARE.fullmatch(text.strip())
    value = None if match is None else float(match[1]) / (100 if match[2] else 1)
    if value is None or not 0 <= value < 1:
        raise UsageError(f"{field}: {text[:80]!r} is no share below 100 %; write 2.5% or 0.025")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """What to compare with: exactly one of a revision, two environments, a stored baseline, and a recording."""

    base: str | None = None
    base_python: Path | None = None
    head_python: Path | None = None
    baseline: Path | None = None
    replay: Path | None = None


def make_against(
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="REVISION",
            help="A revision, beside the checkout as it is, changed or not.",
            rich_help_panel=AGAINST,
        ),
    ] = None,
    base_python: Annotated[
        Path | None,
        typer.Option("--base-python", metavar="PYTHON", help="The base's environment.", rich_help_panel=AGAINST),
    ] = None,
    head_python: Annotated[
        Path | None,
        typer.Option("--head-python", metavar="PYTHON", help="The head's environment.", rich_help_panel=AGAINST),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline", metavar="FILE.jsonl", help="What edgeprof baseline save wrote.", rich_help_panel=AGAINST
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay", metavar="FILE.jsonl", help="Measure nothing; judge a recording again.", rich_help_panel=AGAINST
        ),
    ] = None,
) -> Against:
    """The one thing that the options ask to compare with.

    Raises:
        UsageError: they ask for none, for several, or for half of one.
    """
    if (base_python is None) != (head_python is None):
        raise UsageError("--base-python and --head-python: give both, an environment for each side")
    given = [x for x in (base, base_python, baseline, replay) if x is not None]
    if len(given) != 1:
        what = "nothing to compare with" if not given else "too much to compare with"
        raise UsageError(f"{what}: give --base REVISION, or --base-python and --head-python, or --baseline FILE")
    return Against(base=base, base_python=base_python, head_python=head_python, baseline=baseline, replay=replay)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured, and of what."""

    budget_s: float
    seed: int
    memory: bool
    only_changed: bool


def make_effort(
    time_budget: Annotated[
        str,
        typer.Option(
            "--time-budget", metavar="TIME", help="Longest time of timing: 300s, 5m, 1h.", rich_help_panel=MEASURING
        ),
    ] = "5m",
    memory: Annotated[
        bool,
        typer.Option(
            "--memory/--no-memory", help="Compare peak memory where artifacts differ.", rich_help_panel=MEASURING
        ),
    ] = True,
    only_changed: Annotated[
        bool,
        typer.Option(
            "--only-changed",
            help="Do not time cases whose artifact, code and packages are the same on both sides.",
            rich_help_panel=MEASURING,
        ),
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Of the coins that order blocks.", rich_help_panel=MEASURING, show_default="new"),
    ] = None,
) -> Effort:
    """The effort that the options ask for.

    Raises:
        UsageError: the time is none.
    """
    import secrets

    return Effort(
        budget_s=parse_duration(time_budget, field="--time-budget"),
        seed=secrets.randbits(31) if seed is None else seed,
        memory=memory,
        only_changed=only_changed,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """When the check fails. ``accepted`` is the project's file, which need not exist unless it was named."""

    floor: float
    alpha: float
    pass_inconclusive: bool
    accepted: Path | None
    budgets: bool

    def plan(self, n_cases: int) -> "Plan":
        """What is fixed before the run."""
        from edgeprof.regress.sequential import Plan

        return Plan(alpha=self.alpha, floor=self.floor, n_cases=n_cases)


def make_gate(
    floor: Annotated[
        str, typer.Option("--floor", metavar="SHARE", help="Least change worth telling.", rich_help_panel=GATE)
    ] = "2.5%",
    alpha: Annotated[
        float, typer.Option("--alpha", help="False alarms among alarms, at most.", rich_help_panel=GATE)
    ] = 0.05,
    pass_inconclusive: Annotated[
        bool, typer.Option("--pass-inconclusive", help="Exit with 0 where a case stays open.", rich_help_panel=GATE)
    ] = False,
    accepted: Annotated[
        Path | None,
        typer.Option(
            "--accepted",
            metavar="FILE.toml",
            help="Accepted regressions and budgets.",
            rich_help_panel=GATE,
            show_default="edgeprof-accepted.toml, if there is one",
        ),
    ] = None,
    budgets: Annotated[
        bool, typer.Option("--budgets/--no-budgets", help="Measure the file's budgets too.", rich_help_panel=GATE)
    ] = True,
) -> Gate:
    """The gate that the options ask for.

    Raises:
        UsageError: a share is none, or the named file does not exist.
    """
    if accepted is not None and not accepted.is_file():
        raise UsageError(f"--accepted: {accepted} is no file; edgeprof check accept writes one")
    share = parse_share(floor, field="--floor")
    return Gate(floor=share, alpha=alpha, pass_inconclusive=pass_inconclusive, accepted=accepted, budgets=budgets)
