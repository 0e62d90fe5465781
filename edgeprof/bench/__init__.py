"""Planning, protocol, worker, numerics gate and session."""
