import dataclasses

import pandas as pd
import pytest

from edgeprof import store
from edgeprof.core.errors import UsageError
from edgeprof.core.types import BenchCase, InstanceRecord, Memory, Roof
from edgeprof.store import Store


def test_a_row_holds_the_case_the_quantiles_and_the_environment(tmp_path, make_record):
    Store(tmp_path).append(make_record())
    frame = store.load(tmp_path)
    row = frame.iloc[0]
    assert (row.op, row.phase, row.q_len, row.kv_len) == ("gqa", "decode", 1, 1024)
    assert (row.runtime, row["dtype"], row.kv_dtype) == ("onnxruntime", "int4", "fp32")
    assert (row.n_threads, row.cache_state) == (1, "streaming")
    assert (row["dims.d_model"], row["dims.qk_norm"]) == (1024, True)
    assert (row.p10_ns, row.p50_ns, row.n_samples) == (120, 200, 3)
    assert (row.ring_bytes, row["case.ring_bytes"]) == (300_000_000, 1 << 28)
    assert (row.peak_rss_delta_bytes, row.anon_delta_bytes) == (4096, -4096)
    assert (row["env.governor"], row["env.load_1min"], row["env.turbo"]) == ("performance", 0.25, True)
    assert "env.temperatures" not in frame


def test_every_field_has_a_column_of_its_own(tmp_path, make_record):
    Store(tmp_path).append(make_record())
    columns = list(store.load(tmp_path).columns)
    assert len(set(columns)) == len(columns)
    fields = [f.name for kind in (InstanceRecord, BenchCase, Memory) for f in dataclasses.fields(kind)]
    assert set(fields) - set(columns) == {"case", "memory", "roof", "environment", "samples_ns", "dims"}


def test_an_empty_store_gives_the_columns_and_no_rows(tmp_path, make_record):
    empty = store.load(tmp_path)
    assert isinstance(empty, pd.DataFrame)
    assert len(empty) == 0
    Store(tmp_path).append(make_record())
    full = store.load(tmp_path)
    assert list(empty.columns) == [c for c in full.columns if not c.startswith(("dims.", "env."))]


def test_records_without_a_case_or_samples_are_rows_too(tmp_path, make_record):
    target = Store(tmp_path)
    target.append(make_record(id="sentinel", kind="sentinel", case=None))
    target.append(make_record(id="failed", status="error", reason="it broke", samples_ns=[], memory=None))
    frame = store.load(tmp_path).set_index("id")
    assert pd.isna(frame.loc["sentinel", "op"])
    assert pd.isna(frame.loc["failed", "p50_ns"])
    assert frame.loc["failed", "n_samples"] == 0
    assert frame.loc["failed", "reason"] == "it broke"


def test_a_roof_is_columns_of_its_own(tmp_path, make_record):
    roof = Roof(n_threads=2, bytes_per_s=5e10, flops_per_s={"fp32": 3e12}, probes={"sum": 5e10})
    Store(tmp_path).append(make_record(kind="roof", case=None, samples_ns=[], roof=roof))
    row = store.load(tmp_path).iloc[0]
    assert (row["roof.n_threads"], row["roof.bytes_per_s"], row["roof.flops_per_s.fp32"]) == (2, 5e10, 3e12)


def test_a_table_survives_csv_and_parquet(tmp_path, make_record):
    target = Store(tmp_path)
    target.append(make_record())
    target.append(make_record(kind="sentinel", case=None, memory=None))
    frame = store.load(tmp_path)
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv")
    assert list(pd.read_parquet(tmp_path / "t.parquet").p50_ns) == [200, 200]
    assert list(pd.read_csv(tmp_path / "t.csv")["dims.d_model"].dropna()) == [1024]


def test_one_device_or_all(tmp_path, make_record, monkeypatch):
    target = Store(tmp_path)
    for device in ("host", "phone"):
        target.append(make_record(device_id=device))
    monkeypatch.setenv("EDGEPROF_RESULTS", str(tmp_path))
    assert list(store.load().device_id) == ["host", "phone"]
    assert list(store.load(device="phone").device_id) == ["phone"]


def test_a_misspelt_device_is_told(tmp_path, make_record):
    Store(tmp_path).append(make_record())
    with pytest.raises(UsageError, match=r"device: no results of 'hots' in .*: did you mean host\?"):
        store.load(tmp_path, device="hots")


def test_a_device_without_any_store_gives_an_empty_frame(tmp_path):
    assert store.load(tmp_path, device="host").empty
