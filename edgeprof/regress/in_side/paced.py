"""A worker that waits before each item until it is told to go on, so that several of them can take turns on one CPU.

The items are done by the side's own worker. What waits is the function that it tells its events to, so nothing runs between
the word to go on and the end of an item but that item, and no signal has to hit the right moment.

Started with the number of a file descriptor that holds the job. Each line on stdin is one word to go on.
"""

import json
import os
import sys
from typing import Any

from edgeprof.bench.jobs import job_from_json
from edgeprof.bench.worker import Worker, die_with_parent
from edgeprof.core.canonical import canonical_json


def main() -> None:
    """Does the job, item by item, as it is told to."""
    die_with_parent()
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not break the events
    with os.fdopen(int(sys.argv[1])) as given:
        job = job_from_json(json.load(given))

    def emit(event: dict[str, Any]) -> None:
        events.write(canonical_json(event) + "\n")
        events.flush()
        if event["event"] == "begin" and not sys.stdin.readline():
            sys.exit("nobody is there to say when to go on")

    Worker(job, emit).run()


if __name__ == "__main__":
    main()
