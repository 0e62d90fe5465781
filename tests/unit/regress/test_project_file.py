import datetime
import tomllib

import pytest

from edgeprof.core.errors import UsageError
from edgeprof.regress.project_file import Acceptance, ProjectFile, load_project_file, with_acceptance

ONE = Acceptance(
    case_key="0123456789abcdef",
    case="gqa decode",
    quantity="time",
    max_ratio=1.25,
    reason='a "safer" kernel \\ slower',
    expires=datetime.date(2027, 3, 31),
)

BUDGET = """
[[budget]]
config = "lfm2-350m"
dtype = "int4"
max_tpot = "12ms@1024"
max_peak_memory = "300MiB"
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "edgeprof-accepted.toml"
        path.write_text(text)
        return path

    return write


def test_no_file_accepts_nothing(tmp_path):
    assert load_project_file(tmp_path / "edgeprof-accepted.toml") == ProjectFile()


def test_what_is_added_is_read_back(written):
    assert load_project_file(written(with_acceptance("", ONE))).accepted == (ONE,)


def test_adding_keeps_what_was_written_by_hand(written):
    text = "schema_version = 1 # ours\n" + BUDGET
    longer = with_acceptance(text, ONE)
    assert longer.startswith(text.rstrip())
    found = load_project_file(written(longer))
    assert (found.accepted, len(found.budgets)) == ((ONE,), 1)
    assert tomllib.loads(with_acceptance(longer, ONE))["accepted"][1]["reason"] == ONE.reason


def test_a_budget_keeps_its_limits_as_written(written):
    (line,) = load_project_file(written("schema_version = 1" + BUDGET)).budgets
    assert line.limits == {"tpot": "12ms@1024", "peak_memory": "300MiB"}
    assert (line.config, line.runtime, line.n_threads, line.device) == ("lfm2-350m", "onnxruntime", 1, None)


ACCEPTED = with_acceptance("", ONE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "schema_version: write schema_version = 1"),
        ("schema_version = 2", "schema_version: write schema_version = 1"),
        ("schema_version = 1\nx =", "edgeprof-accepted.toml"),
        ("schema_version = 1\n[[budget]]\nconfig = 'a'", "budget[0]: limits nothing"),
        ("schema_version = 1\n[[budget]]\nmax_tpot = '1ms'", "budget[0].config"),
        (ACCEPTED.replace("expires = 2027-03-31", 'expires = "soon"'), "accepted[0].expires"),
        (ACCEPTED.replace("expires = 2027-03-31", ""), "accepted[0].expires: is missing"),
        (ACCEPTED.replace("max_ratio = 1.25", "max_ratio = 0.9"), "accepted[0].max_ratio"),
        (ACCEPTED.replace("0123456789abcdef", "gqa"), "accepted[0].case_key"),
        (ACCEPTED.replace('"time"', '"speed"'), "accepted[0].quantity"),
    ],
)
def test_a_bad_file_names_the_field(written, text, said):
    with pytest.raises(UsageError) as caught:
        load_project_file(written(text))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
