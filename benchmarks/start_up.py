"""Times `edgeprof --help` against `pip --version`, turn by turn.

python benchmarks/start_up.py [--pairs 9]
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    options = parser.parse_args()
    ours = [str(BIN / "edgeprof"), "--help"]
    theirs = [str(BIN / "pip"), "--version"]
    seconds(ours), seconds(theirs)
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(options.pairs)]
    a, b = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    ratios = sorted(x / y for x, y in pairs)
    times = f"edgeprof --help {1e3 * a:.0f} ms, pip --version {1e3 * b:.0f} ms"
    print(f"{times}, ratio of medians {a / b:.2f} (pairs: {ratios[0]:.2f}-{ratios[-1]:.2f})")


def seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
