"""Whether a change made something slower or larger: sequential tests, corrections, verdicts."""
