"""From measured cells to whole models: TTFT, TPOT and peak memory with intervals, and the check against the real thing."""
