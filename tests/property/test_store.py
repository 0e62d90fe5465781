import dataclasses
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprof.core.types import BenchCase, InstanceRecord, Memory
from edgeprof.store import Store
from edgeprof.store.schema import RecordError, parse_line, to_line

COUNT = st.integers(1, 2**20)
NS = st.integers(1, 10**14)
BYTES = st.integers(0, 2**45)
TEXT = st.text(max_size=20)
SHARE = st.floats(0, 1)


def optional(strategy):
    return st.none() | strategy


CASES = st.builds(
    lambda q_len, past, **rest: BenchCase(q_len=q_len, kv_len=q_len + past, **rest),
    op=TEXT,
    op_version=st.integers(0, 99),
    phase=st.sampled_from(["prefill", "decode"]),
    dims=st.dictionaries(TEXT, st.integers(-(2**30), 2**30) | st.floats(-1e9, 1e9) | st.booleans(), max_size=4),
    batch=COUNT,
    q_len=COUNT,
    past=st.integers(0, 2**20),
    dtype=TEXT,
    kv_dtype=TEXT,
    runtime=TEXT,
    n_threads=COUNT,
    cache_state=st.sampled_from(["hot", "streaming"]),
    ring_bytes=optional(BYTES),
)
ENVIRONMENTS = st.dictionaries(
    TEXT, st.none() | st.booleans() | st.integers(-(2**60), 2**60) | TEXT | st.lists(st.floats(-1e9, 1e9), max_size=3)
)
RECORDS = st.builds(
    InstanceRecord,
    id=TEXT,
    kind=st.sampled_from(["latency", "probe", "sentinel"]),
    session_id=TEXT,
    round=st.integers(0, 1000),
    case_key=TEXT,
    case=optional(CASES),
    runtime_version=TEXT,
    device_id=st.just("host"),
    environment=ENVIRONMENTS,
    fingerprint=TEXT,
    started_at=TEXT,
    status=st.sampled_from(["ok", "unsupported", "wrong_output", "timeout", "device_lost", "error"]),
    reason=optional(TEXT),
    load_ns=optional(NS),
    samples_ns=st.lists(NS, min_size=1, max_size=5),
    settled=optional(st.booleans()),
    ring=st.lists(TEXT, max_size=3),
    memory=optional(st.builds(Memory, peak_rss_delta_bytes=optional(BYTES))),
    delegated_share=optional(SHARE),
    max_rel_error=optional(st.floats(0, 1e9)),
)


@given(RECORDS)
def test_a_record_comes_back_from_its_line(record):
    line = to_line(record)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    back = parse_line(line)
    assert back == record
    assert to_line(back) == line  # also true and 1, 1 and 1.0 keep their types
    assert record.case is None or back.case.key == record.case.key


@settings(max_examples=25, deadline=None)
@given(st.lists(RECORDS, min_size=1, max_size=4), st.data())
def test_a_file_cut_anywhere_keeps_its_whole_lines_and_takes_the_next(records, data):
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        for record in records:
            store.append(record)
        path = store.root / "host" / "instances.jsonl"
        content = path.read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        path.write_bytes(content[:cut])
        whole = content[:cut].count(b"\n")
        assert store.records("host") == records[:whole]
        extra = dataclasses.replace(records[0], id="extra")
        store.append(extra)
        assert store.records("host") == [*records[:whole], extra]


@given(RECORDS, st.data())
def test_an_unknown_field_anywhere_is_refused_by_its_path(record, data):
    line = json.loads(to_line(record))
    places = [p for p in ("case", "memory") if line[p] is not None] + [None]
    place = data.draw(st.sampled_from(places))
    (line if place is None else line[place])["surprise"] = 1
    path = "surprise" if place is None else f"{place}.surprise"
    with pytest.raises(RecordError, match=f"^{path}: an unknown field$"):
        parse_line(json.dumps(line))
