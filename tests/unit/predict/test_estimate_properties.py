"""A prediction adds up: over layers, in whatever order they come."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprof.predict.estimate import TermCost, add_up
from edgeprof.predict.plan import CellCount, cells, decode_call
from edgeprof.predict.types import ModelCall

PROCESSES = [("s", number) for number in range(5)]
CALL_NS = 100.0

costs_of = st.lists(st.floats(10.0, 1e7), min_size=5, max_size=5)
counts = st.integers(1, 200)


def term(name: str, count: int, costs: list[float], case) -> TermCost:
    cell = CellCount(label=name, call=ModelCall(phase="decode", q_len=1, kv_len=64), case=case, count=count)
    per_process = dict(zip(PROCESSES, costs, strict=True))
    return TermCost(cell=cell, costs=per_process, call_ns=dict.fromkeys(PROCESSES, CALL_NS), interpolated=False)


@pytest.fixture(scope="module")
def case():
    from edgeprof.core.types import BenchCase

    return BenchCase(
        op="identity", op_version=1, phase="decode", dims={"d_model": 8}, q_len=1, kv_len=1, dtype="fp32",
        kv_dtype="fp32", runtime="torch_eager", n_threads=1, cache_state="streaming",
    )  # fmt: skip


@given(a=st.floats(10.0, 1e7), b=st.floats(10.0, 1e7), m=counts, n=counts)
def test_equal_processes_add_up_exactly(case, a: float, b: float, m: int, n: int) -> None:
    total = add_up([term("a", m, [a] * 5, case), term("b", n, [b] * 5, case)])
    assert total.ns == pytest.approx(m * a + n * b + CALL_NS)
    assert total.half == pytest.approx(0.0, abs=1e-6)


@given(first=costs_of, second=costs_of, m=counts, n=counts)
def test_the_order_of_terms_does_not_matter(case, first: list, second: list, m: int, n: int) -> None:
    a, b = term("a", m, first, case), term("b", n, second, case)
    there, back = add_up([a, b]), add_up([b, a])
    assert there.ns == pytest.approx(back.ns)
    assert there.half == pytest.approx(back.half)


@given(costs=costs_of, m=counts, n=counts)
def test_a_count_is_as_good_as_repetition(case, costs: list, m: int, n: int) -> None:
    together = add_up([term("a", m + n, costs, case)])
    apart = add_up([term("a", m, costs, case), term("a", n, costs, case)])
    assert together.ns == pytest.approx(apart.ns)


@given(costs=costs_of, calls=st.integers(1, 50))
def test_every_call_has_its_boundary(case, costs: list, calls: int) -> None:
    lo, hi = min(costs) + calls * CALL_NS, max(costs) + calls * CALL_NS
    assert lo * 0.999 <= add_up([term("a", 1, costs, case)], calls).ns <= hi * 1.001


@settings(max_examples=20, deadline=None)
@given(pattern=st.text("CSG", min_size=1, max_size=12), chance=st.randoms(use_true_random=False))
def test_the_order_of_layers_does_not_matter(make_target, pattern: str, chance) -> None:
    shuffled = "".join(chance.sample(pattern, len(pattern)))

    def counted(p: str) -> dict[str, int]:
        return {c.case.key: c.count for c in cells(make_target(p), decode_call(64))}

    assert counted(pattern) == counted(shuffled)
    assert sum(counted(pattern).values()) == len(pattern) + 2
