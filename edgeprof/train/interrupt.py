"""Ctrl-C and SIGTERM while training: the step is finished and saved, then the program ends. A second one ends it at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Whether the program has been asked to end."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Takes note of a signal; the next one is no longer caught."""
        self.asked = True
        for known in SIGNALS:
            signal.signal(known, signal.default_int_handler)


@contextmanager
def noticing_interrupts() -> Iterator[Interrupt]:
    """Catches the signals while the body runs; outside the main thread, which gets them, none are."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
