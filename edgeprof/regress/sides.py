"""The two sides of a check: which Python runs a side, whose code it imports, and what it answers when it is asked what it is."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from edgeprof.core.canonical import plain, short_hash
from edgeprof.core.errors import UsageError
from edgeprof.core.types import ArtifactSpec, BenchCase
from edgeprof.runtimes.artifact import cache_root

SideName = Literal["base", "head"]

IN_SIDE = Path(__file__).parent / "in_side"

ANSWER_TIMEOUT_S = 300
"""A first import on a cold disk takes a minute; more is a hang."""

LOG_LINES = 15
"""Last lines of a log that are shown when something outside fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """How one side is run: ``source`` is put first on its path, None where its Python has edgeprof installed.

    ``cache`` is a cache of artifacts of its own, None for the usual one. ``label`` is what people read.
    """

    name: SideName
    label: str
    python: Path
    source: Path | None = None
    cache: Path | None = None

    def environment(self, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The variables that make a process one of this side; all others it inherits."""
        found = {key: value for key, value in inherited.items() if key != "PYTHONPATH"}
        if self.source is not None:
            found["PYTHONPATH"] = str(self.source)
        if self.cache is not None:
            found["EDGEPROF_CACHE"] = str(self.cache)
        return found

    def command(self, script: str, *arguments: str) -> list[str]:
        """The command line that runs one of the scripts of ``in_side`` there; -P keeps its folder off the path."""
        return [str(self.python), "-P", str(IN_SIDE / script), *arguments]


@dataclass(frozen=True, slots=True, kw_only=True)
class SideCase:
    """A case on one side: the artifact that it needs, or why it is ``refused`` there."""

    spec: ArtifactSpec | None = None
    artifact_key: str | None = None
    cached: bool = False
    refused: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SideFacts:
    """What a side said of itself. ``cases`` are by the key that the case has in this program."""

    edgeprof: str
    source: Path
    protocol_version: int
    python: str
    packages: dict[str, str]
    device_id: str
    environment: dict[str, Any]
    fingerprint: str
    cases: dict[str, SideCase]

    @property
    def package_hash(self) -> str:
        """Equal where everything installed is; edgeprof itself is told apart by the hash of its code in artifacts."""
        others = {name.lower(): v for name, v in self.packages.items() if name.lower() != "edgeprof"}
        return short_hash({"python": self.python, "packages": others})


def ask(side: Side, cases: Sequence[BenchCase]) -> SideFacts:
    """What a side is and would build; runs nothing but its imports.

    Raises:
        UsageError: its Python does not run, has no edgeprof, or imports another one than it was given.
    """
    question = json.dumps({"cases": [plain(case) for case in cases]})
    try:
        done = subprocess.run(
            side.command("describe.py"),
            input=question,
            capture_output=True,
            text=True,
            timeout=ANSWER_TIMEOUT_S,
            env=side.environment(),
            check=False,
        )
    except OSError as error:
        raise UsageError(f"{side.name}: {side.python} cannot be run ({error.strerror}); give a Python") from None
    except subprocess.TimeoutExpired:
        raise UsageError(f"{side.name}: {side.python} said nothing for {ANSWER_TIMEOUT_S} s; try it by hand") from None
    facts = _parsed(side, done, cases)
    if side.source is not None and facts.source.resolve() != side.source.resolve():
        raise UsageError(
            f"{side.name}: imports edgeprof from {facts.source}, not from {side.source}; nothing was timed"
        )
    return facts


def _parsed(side: Side, done: "subprocess.CompletedProcess[str]", cases: Sequence[BenchCase]) -> SideFacts:
    if done.returncode:
        hint = "; install edgeprof there" if "No module named 'edgeprof'" in done.stderr else ""
        raise UsageError(f"{side.name}: {side.label} cannot be started{hint}: {last_lines(done.stderr, 1)}")
    try:
        answer = json.loads(done.stdout)
        told = [_side_case(entry) for entry in answer.pop("cases")]
        answer["source"] = Path(answer["source"])
        return SideFacts(**answer, cases={case.key: one for case, one in zip(cases, told, strict=True)})
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{side.name}: {side.label} gave no answer that can be read ({error})") from None


def _side_case(entry: Mapping[str, Any]) -> SideCase:
    spec = ArtifactSpec(**entry["spec"]) if "spec" in entry else None
    return SideCase(**{**entry, "spec": spec})


def with_own_cache(side: Side, facts: SideFacts, usual: SideFacts) -> Side:
    """The side with a cache of its own where other packages are installed than in the ``usual`` environment.

    An artifact's key holds the version of its runtime, but not those of the packages that export to it.
    """
    if facts.package_hash == usual.package_hash:
        return side
    return replace(side, cache=cache_root() / "sides" / facts.package_hash)


def last_lines(text: str, n: int = LOG_LINES) -> str:
    """The end of a log in one line."""
    lines = [" ".join(line.split()) for line in text.strip().splitlines() if line.strip()]
    return " | ".join(lines[-n:])[-2000:] or "it said nothing"
