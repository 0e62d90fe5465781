"""Where a worker runs: transports, facts and telemetry."""
