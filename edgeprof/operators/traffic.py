"""What a measured case touches in memory: the working set that decides where its bytes come from."""

from collections.abc import Iterable

from edgeprof.core.types import BenchCase
from edgeprof.operators.registry import make_spec


def case_bytes(case: BenchCase) -> int:
    """Bytes of weights and state that one call of the case touches."""
    spec = make_spec(case.op, case.dims)
    weights = spec.weight_bytes_moved(batch=case.batch, q_len=case.q_len, dtype=case.dtype)
    return weights + spec.state_bytes_moved(
        batch=case.batch, q_len=case.q_len, kv_len=case.kv_len, kv_dtype=case.kv_dtype
    )


def working_set_bytes(cases: Iterable[BenchCase]) -> int:
    """Bytes that one call of each case touches: the working set of a pass over them."""
    return sum(map(case_bytes, cases))
