"""Progress of a session on stderr: the stage, the cell, done and total, and an ETA; plain lines where there is no terminal."""

import sys
import time
from types import TracebackType
from typing import Self

LINE_EVERY_S = 20
"""Seconds between progress lines in a log, where a bar cannot redraw itself."""


class ProgressReporter:
    """A bar for each stage of a session."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        from edgeprof.cli.output import stderr_console

        self.console = stderr_console()
        self.live = self.console.is_terminal
        columns = ("{task.fields[stage]}", BarColumn(bar_width=24))
        self.progress = Progress(
            *(TextColumn(c) if isinstance(c, str) else c for c in columns),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[cell]}"),
            console=self.console,
            disable=not self.live,
        )
        self.name, self.total, self.done = "", 0, 0
        self.began = self.said = time.monotonic()

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def stage(self, name: str, total: int) -> None:
        """A stage of ``total`` steps begins."""
        self.name, self.total, self.done = name, total, 0
        self.began = self.said = time.monotonic()
        self.task = self.progress.add_task(name, total=total, stage=name, cell="")
        if not self.live:
            self._say("begins")

    def step(self, label: str) -> None:
        """One step is done."""
        self.done += 1
        self.progress.update(self.task, advance=1, cell=label)
        now = time.monotonic()
        if not self.live and (now - self.said > LINE_EVERY_S or self.done == self.total):
            self.said = now
            left = (now - self.began) / self.done * (self.total - self.done)
            self._say(f"{label}, ETA {left:.0f} s" if self.done < self.total else f"done in {now - self.began:.0f} s")

    def _say(self, text: str) -> None:
        sys.stderr.write(f"{self.name} {self.done}/{self.total}: {text}\n")
