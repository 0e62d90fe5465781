import logging
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

import edgeprof.store.store
from edgeprof.core.errors import ExitCode, UsageError
from edgeprof.store import Store, results_root

FILE = Path("host", "instances.jsonl")


def test_records_come_back_in_the_order_of_writing(tmp_path, make_record):
    store = Store(tmp_path / "new" / "results")
    written = [make_record(id=str(n), round=n) for n in range(3)]
    for record in written:
        store.append(record)
    assert store.records("host") == written
    assert store.devices() == ["host"]
    assert (store.root / FILE).read_bytes().count(b"\n") == 3


def test_an_empty_store_has_no_devices_and_no_records(tmp_path):
    store = Store(tmp_path / "nothing")
    assert store.devices() == []
    assert store.records("host") == []
    assert not store.root.exists()


def test_folders_that_are_no_devices_are_left_alone(tmp_path, make_record):
    Store(tmp_path).append(make_record())
    (tmp_path / "Not A Device").mkdir()
    (tmp_path / "Not A Device" / "instances.jsonl").touch()
    (tmp_path / "empty").mkdir()
    assert Store(tmp_path).devices() == ["host"]


@pytest.mark.parametrize("device_id", ["", ".", "..", "../host", "a/b", "Host", "-x", "a" * 81, "a\n", "ho\0st"])
def test_a_device_id_that_is_no_file_name_is_refused(tmp_path, make_record, device_id):
    store = Store(tmp_path / "results")
    for use in (lambda: store.append(make_record(device_id=device_id)), lambda: store.records(device_id)):
        with pytest.raises(UsageError, match=r"device_id: .*is not a device id; use 1 to 80"):
            use()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("torn", [b'{"id":', b"{}", b"\0\0\0", b'{"half":1\n', b"\0\0\n", b"\n"])
def test_a_torn_last_line_is_repaired_by_the_next_append(tmp_path, make_record, caplog, torn):
    store = Store(tmp_path)
    store.append(make_record(id="first"))
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes() + torn)

    with caplog.at_level(logging.WARNING):
        assert [r.id for r in store.records("host")] == ["first"]
    assert "torn and left out" in caplog.text
    assert path.read_bytes().endswith(torn)  # reading repairs nothing

    caplog.clear()
    store.append(make_record(id="second"))
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "cut off a torn last line" in caplog.text
    assert [r.id for r in store.records("host")] == ["first", "second"]
    assert path.with_name("instances.torn").read_bytes() == torn + b"\n"


def test_a_file_that_is_one_torn_line_starts_anew(tmp_path, make_record):
    store = Store(tmp_path)
    (tmp_path / "host").mkdir()
    (tmp_path / FILE).write_bytes(b'{"id"')
    store.append(make_record(id="only"))
    assert [r.id for r in store.records("host")] == ["only"]


def test_a_torn_line_longer_than_a_read_is_cut_off_whole(tmp_path, make_record):
    store = Store(tmp_path)
    long = make_record(id="long", samples_ns=[10**9] * 30_000)
    store.append(long)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole + whole[:-1])
    store.append(make_record(id="next"))
    assert [r.id for r in store.records("host")] == ["long", "next"]


@pytest.mark.parametrize(
    ("corrupt", "problem"),
    [
        (b"{torn", "not JSON"),
        (b"[]", "a record is a JSON object, not list"),
        (b"{}", "schema_version: None is not a version"),
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_a_corrupt_record_in_the_middle_is_named_and_nothing_is_touched(tmp_path, make_record, corrupt, problem):
    store = Store(tmp_path)
    store.append(make_record(id="first"))
    path = tmp_path / FILE
    line = path.read_bytes()
    path.write_bytes(line + corrupt + b"\n" + line)
    before = path.read_bytes()
    with pytest.raises(UsageError) as caught:
        store.records("host")
    assert str(caught.value).startswith(f"{path}:2: {problem}")
    assert "correct this line or remove it" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == ExitCode.USAGE
    assert path.read_bytes() == before


def test_a_record_of_a_newer_edgeprof_asks_for_an_upgrade(tmp_path, make_record):
    store = Store(tmp_path)
    store.append(make_record())
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes().replace(b'"schema_version":1', b'"new":0,"schema_version":99'))
    with pytest.raises(UsageError, match=r"instances.jsonl:1: schema_version: 99 is newer.*upgrade edgeprof"):
        store.records("host")


def test_a_record_in_another_devices_folder_is_refused(tmp_path, make_record):
    store = Store(tmp_path)
    store.append(make_record())
    (tmp_path / "host").rename(tmp_path / "phone")
    with pytest.raises(UsageError, match="device_id: 'host' lies in the folder of 'phone'"):
        store.records("phone")


def test_an_absurd_record_is_not_stored(tmp_path, make_record):
    with pytest.raises(UsageError, match=r"record x: samples_ns\[1\]: -5 is not between"):
        Store(tmp_path).append(make_record(id="x", samples_ns=[1, -5]))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_takes_the_partial_line_back(tmp_path, make_record):
    """RLIMIT_FSIZE makes the kernel write part of the line and refuse the rest, as a full disk does."""
    store = Store(tmp_path)
    store.append(make_record(id="first"))
    path = tmp_path / FILE
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
    try:
        with pytest.raises(UsageError) as caught:
            store.append(make_record(id="second"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path / "host") in str(caught.value)
    assert "free some space" in str(caught.value)
    assert "--results" in str(caught.value)
    assert path.read_bytes() == before
    store.append(make_record(id="third"))
    assert [r.id for r in store.records("host")] == ["first", "third"]


def test_a_line_that_never_reached_the_disk_is_taken_back(tmp_path, make_record, monkeypatch):
    store = Store(tmp_path)
    store.append(make_record(id="first"))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UsageError, match="No space left on device"):
            store.append(make_record(id="second"))
    assert [r.id for r in store.records("host")] == ["first"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path, make_record):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file.host: cannot be written \(.*\); correct its permissions, or choose"):
        Store(tmp_path / "file").append(make_record())


def test_a_results_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / FILE).mkdir(parents=True)
    with pytest.raises(UsageError, match=r"host: cannot be read \(Is a directory\)"):
        Store(tmp_path).records("host")


def test_a_lock_that_is_never_released_is_told(tmp_path, make_record, monkeypatch):
    monkeypatch.setattr(edgeprof.store.store, "LOCK_TIMEOUT_S", 0)
    (tmp_path / "host").mkdir()
    holder = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]): print(1, flush=True); sys.stdin.read()"
    lock = str(tmp_path / "host" / "instances.lock")
    with subprocess.Popen(
        [sys.executable, "-c", holder, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"1\n"
        with pytest.raises(UsageError, match=r"still locked.*end the other edgeprof"):
            Store(tmp_path).append(make_record())
    with FileLock(lock, timeout=10):
        assert not (tmp_path / FILE).exists()


def test_the_option_goes_before_the_variable_and_that_before_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEPROF_RESULTS", str(tmp_path))
    assert results_root(Path("here")) == Path("here")
    assert results_root(None) == tmp_path
    monkeypatch.setenv("EDGEPROF_RESULTS", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert results_root(None) == tmp_path / "data" / "edgeprof" / "results"


def test_importing_the_store_imports_nothing_heavy():
    heavy = "pandas", "numpy", "scipy", "pydantic", "torch"
    code = f"import sys, edgeprof.store; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=child_environment()
    )
    assert done.stdout.strip() == "[]"


def child_environment():
    root = Path(edgeprof.store.store.__file__).parents[2]
    return {**os.environ, "PYTHONPATH": str(root)}
