"""Memory growth as /proc tells it."""

import ctypes
from pathlib import Path

import pytest

from edgeprof.bench import memory
from edgeprof.bench.memory import MemoryWatch, code_bytes, status_bytes

SMAPS = """\
5581-5582 r-xp 00001000 fe:00 11   /usr/lib/libkernels.so
Size:   900 kB
Rss:   {code} kB
Pss:    10 kB
5590-5600 rw-p 00000000 00:00 0
Rss:    70 kB
6000-6001 r--p 00000000 fe:00 12   /artifact/weights.bin
Rss:   500 kB
7000-7001 rw-p 00000000 00:00 0    [heap]
Rss:    40 kB
"""
STATUS = "Name:\tpython\nVmHWM:\t{hwm} kB\nVmRSS:\t{rss} kB\nRssAnon:\t{anon} kB\nRssFile:\t{file} kB\n"


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a process's status; the counters can be reset."""
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "clear_refs")
    monkeypatch.setattr(memory, "SMAPS", tmp_path / "smaps")

    def write(code: int = 0, **kb: int) -> None:
        (tmp_path / "status").write_text(STATUS.format(**kb))
        (tmp_path / "smaps").write_text(SMAPS.format(code=code))

    return write


def test_a_field_is_found_in_bytes() -> None:
    text = STATUS.format(hwm=30, rss=20, anon=15, file=5)
    assert status_bytes(text, "VmRSS") == 20 * 1024
    assert status_bytes(text, "RssShmem") is None
    assert status_bytes("XVmRSS:\t1 kB\n", "VmRSS") is None


def test_the_peak_grows_from_what_was_resident_and_the_shares_from_themselves(proc, tmp_path: Path) -> None:
    proc(hwm=900, rss=100, anon=60, file=40)
    watch = MemoryWatch(Path("/artifact"))
    assert (tmp_path / "clear_refs").read_text() == "5"
    proc(hwm=350, rss=300, anon=210, file=30, code=7)
    assert watch.deltas() == {
        "peak_rss_delta_bytes": 250 * 1024,
        "anon_delta_bytes": 150 * 1024,
        "file_delta_bytes": -10 * 1024,
        "code_delta_bytes": 7 * 1024,
    }


def test_code_is_what_is_mapped_from_other_files_than_the_artifacts() -> None:
    assert code_bytes(SMAPS.format(code=30), Path("/artifact")) == 30 * 1024
    assert code_bytes(SMAPS.format(code=30), Path("/other")) == 530 * 1024


def test_without_a_reset_the_peak_is_not_known(proc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "missing" / "clear_refs")
    proc(hwm=900, rss=100, anon=60, file=40)
    watch = MemoryWatch(Path("/artifact"))
    proc(hwm=900, rss=300, anon=70, file=40)
    deltas = watch.deltas()
    assert deltas["peak_rss_delta_bytes"] is None
    assert deltas["anon_delta_bytes"] == 10 * 1024


def test_without_proc_nothing_is_known_and_nothing_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none" / "status")
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path / "none" / "clear_refs")
    monkeypatch.setattr(memory, "SMAPS", tmp_path / "none" / "smaps")
    assert set(MemoryWatch(Path("/artifact")).deltas().values()) == {None}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_memory_that_was_given_back_still_shows_in_the_peak() -> None:
    watch = MemoryWatch(Path("/artifact"))
    block = bytearray(b"\1" * (48 << 20))
    del block
    peak = watch.deltas()["peak_rss_delta_bytes"]
    if not watch.can_reset:
        pytest.skip("this kernel does not reset the peak")
    assert peak is not None
    assert peak > 40 << 20


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_what_is_taken_from_the_heaps_free_pages_shows() -> None:
    """Blocks of 16 KiB come from the heap; every other one freed leaves holes that the next ones fill."""
    size, count = 16 << 10, 1000
    blocks = [bytearray(size) for _ in range(2 * count)]
    del blocks[::2]
    watch = MemoryWatch(Path("/artifact"))
    blocks += [bytearray(b"\1" * size) for _ in range(count)]
    grown = watch.deltas()["anon_delta_bytes"]
    assert grown is not None
    assert grown > size * count // 2
