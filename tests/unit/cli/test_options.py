"""The options that pick cells: repeatable, separated by commas, in ranges."""

import inspect

import pytest

from edgeprof.bench.selection import Selection
from edgeprof.cli.options import completer, make_selection, with_options, with_selection
from edgeprof.core.errors import UsageError


def test_no_option_leaves_everything_to_the_suite() -> None:
    assert make_selection() == Selection(suite="quick", device="local")


def test_options_repeat_and_take_lists() -> None:
    selection = make_selection(op=["short_conv,gqa", "swa", "gqa"], kv_len=["1k-4k*2", "100"], ring=["64MiB,1GiB"])
    assert selection.ops == ("short_conv", "gqa", "swa")
    assert selection.kv_lens == (1024, 2048, 4096, 100)
    assert selection.ring_bytes == (2**26, 2**30)


def test_dims_are_collected_by_name() -> None:
    selection = make_selection(d_model=["512,1024"], qk_norm=False, vocab=["64k"])
    assert selection.dims == {"d_model": (512, 1024), "vocab": (65536,), "qk_norm": (False,)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": ["0"]}, "--threads: 0 is not a number of threads; use 1 or more"),
        ({"batch": ["-1"]}, "--batch: -1 is not a batch size; use 1 or more"),
        ({"n_kv_heads": ["x"]}, "--n-kv-heads: 'x' is not a size or a range; "),
        ({"ring": ["big"]}, "--ring: 'big' is not a number of bytes; write 256MiB, 1.5GiB or plain bytes"),
        ({"op": ["gqa,"]}, "--op: a value is empty; "),
    ],
)
def test_a_wrong_value_names_its_option(options: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_selection(**options)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


def test_a_command_gets_its_selection_and_keeps_its_own_options() -> None:
    seen = {}

    def command(selection: Selection, fresh: bool = False) -> None:
        seen.update(selection=selection, fresh=fresh)

    wrapped = with_options("op", "kv_len")(command)
    assert list(inspect.signature(wrapped).parameters) == ["op", "kv_len", "fresh", "verbose"]
    wrapped(op=["gqa"], kv_len=None, fresh=True)
    assert seen == {"selection": Selection(ops=("gqa",)), "fresh": True}
    everything = inspect.signature(with_selection(command)).parameters
    assert set(everything) == {*inspect.signature(make_selection).parameters, "fresh", "verbose"}


def test_the_last_of_several_names_is_completed() -> None:
    complete = completer(lambda: ["fp32", "int4", "int8"])
    assert complete("") == ["fp32", "int4", "int8"]
    assert complete("fp32,in") == ["fp32,int4", "fp32,int8"]
