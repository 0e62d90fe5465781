"""What a user picked on the command line, before a suite fills in the rest."""

from dataclasses import dataclass, field

DimValue = int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The cells asked for; None means "as the suite says".

    ``dims`` maps a dimension's name to the values it shall take in every operator that has it. ``ring_bytes`` are
    working sets of ``streaming`` cells.
    """

    suite: str = "quick"
    ops: tuple[str, ...] | None = None
    runtimes: tuple[str, ...] | None = None
    dtypes: tuple[str, ...] | None = None
    kv_dtypes: tuple[str, ...] | None = None
    phases: tuple[str, ...] | None = None
    q_lens: tuple[int, ...] | None = None
    kv_lens: tuple[int, ...] | None = None
    batches: tuple[int, ...] | None = None
    threads: tuple[int, ...] | None = None
    cache_states: tuple[str, ...] | None = None
    ring_bytes: tuple[int, ...] | None = None
    dims: dict[str, tuple[DimValue, ...]] = field(default_factory=dict)
    device: str = "local"
