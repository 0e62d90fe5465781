"""Kills a measuring edgeprof with SIGKILL at random moments and checks that no stored instance is ever lost.

Before each kill the whole lines of the store are noted; after it every one of them must still be there, byte for byte, and the
next run must go on from them. What a kill may cost is the load in flight, which was never stored.

    python benchmarks/kills.py [--kills 50] [--seed 0]
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ARGUMENTS = ["--runtime", "onnxruntime", "--dtype", "fp32", "--d-model", "256", "--kv-len", "512"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    lost = torn = 0
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        command = [sys.executable, "-m", "edgeprof", "bench", *ARGUMENTS, "--results", str(results)]
        # what comes before timing is done once, so that the kills meet loads being measured; --fresh never finds all of it done
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for number in range(options.kills):
            process = subprocess.Popen(
                [*command, "--effort", "thorough", "--fresh"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            time.sleep(chance.uniform(1.5, 3.5))
            before = whole_lines(results)
            os.killpg(process.pid, signal.SIGKILL)
            finished = process.wait() == 0
            after = whole_lines(results)
            lost += len(before - after)
            torn += any(not p.read_bytes().endswith(b"\n") for p in results.glob("*/instances.jsonl"))
            print(
                f"kill {number + 1}: {len(after)} instances stored{', run had finished' if finished else ''}",
                flush=True,
            )
    print(
        f"{options.kills} kills: {lost} stored instances lost, {torn} torn last lines left for the next run to repair"
    )


def whole_lines(results: Path) -> set[bytes]:
    lines: set[bytes] = set()
    for path in results.glob("*/instances.jsonl"):
        content = path.read_bytes()
        lines |= set(content[: content.rfind(b"\n") + 1].splitlines())
    return lines


if __name__ == "__main__":
    main()
