from types import SimpleNamespace

import pytest

from edgeprof.cli.check_budgets import budget_result, limits_of, target_of
from edgeprof.core.errors import UsageError
from edgeprof.regress.project_file import BudgetLine


def line(**changes):
    fields = {
        "field": "f.toml: budget[0]",
        "config": "lfm2-350m",
        "runtime": "onnxruntime",
        "dtype": "int4",
        "n_threads": 1,
        "device": None,
        "limits": {"tpot": "12ms@1024", "ttft": "900ms@256", "peak_memory": "300MiB"},
    }
    return BudgetLine(**{**fields, **changes})


def row(phase, context, measured, ci95=None):
    return SimpleNamespace(phase=phase, context=context, measured_ns=measured, measured_ci95_ns=ci95)


ROWS = [
    row("decode", 1024, 11e6, (10e6, 11.5e6)),
    row("decode", 4096, 99e6, (98e6, 99.5e6)),
    row("prefill", 256, 950e6, (940e6, 960e6)),
    row("memory", 1024, 200 * 2**20),
]


def test_each_limit_is_held_against_the_models_own_measured_value():
    results = [budget_result(line(), budget, ROWS) for budget in limits_of(line())]
    assert [(r.name, r.outcome) for r in results] == [
        ("lfm2-350m tpot@1024", "kept"),
        ("lfm2-350m ttft@256", "over"),
        ("lfm2-350m peak_memory", "kept"),
    ]


def test_a_limit_that_was_not_measured_is_not_kept():
    (budget,) = limits_of(line(limits={"tpot": "12ms@2048"}))
    assert budget_result(line(), budget, ROWS).outcome == "not_measured"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"limits": {"tpot": "12"}}, "budget[0].max_tpot"),
        ({"limits": {"tpot": "12ms"}}, "budget[0].max_tpot"),
        ({"config": "lfm9"}, "budget[0]: "),
        ({"runtime": "onnx"}, "budget[0]: unknown runtime"),
        ({"dtype": "int3"}, "budget[0]: unknown"),
    ],
)
def test_a_bad_table_is_named(changes, said):
    check = limits_of if "limits" in changes else target_of
    with pytest.raises(UsageError) as caught:
        check(line(**changes))
    assert said in str(caught.value)
