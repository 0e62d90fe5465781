"""``edgeprof distill prepare``: lets a teacher read a data set once, and stores what it expects after every token."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprof.cli.eval_options import EvalDeviceOption, EvalDtypeOption, EvalThreadsOption
from edgeprof.cli.options import JsonOption
from edgeprof.core.errors import UsageError

if TYPE_CHECKING:
    from edgeprof.train.distill.prepare import Order
    from edgeprof.train.distill.stored_index import StoredIndex

INTERRUPTED = "finished shards are kept; the same command goes on from there"


def prepare(
    teacher: Annotated[
        Path,
        typer.Option("--teacher", metavar="DIR", help="Hugging Face folder of the teacher.", show_default=False),
    ],
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="Folder of edgeprof data prepare.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to make.", show_default=False)],
    seq_len: Annotated[
        int | None,
        typer.Option("--seq-len", metavar="N", help="Tokens of a sequence, as in training. Default: 256."),
    ] = None,
    k: Annotated[int, typer.Option("--k", metavar="K", help="Likeliest tokens that are kept.")] = 32,
    device: EvalDeviceOption = "auto",
    threads: EvalThreadsOption = None,
    dtype: EvalDtypeOption = "fp32",
    as_json: JsonOption = False,
) -> None:
    """Store a teacher's top-K probabilities after every token of a data set, for distillation.

    The teacher must have the data's own tokenizer. An interrupted run goes on where it was.
    """
    from edgeprof.cli.progress import ProgressReporter
    from edgeprof.train.distill.prepare import prepare as make

    order = _order(teacher, data, out, seq_len, k, device, threads, dtype)
    try:
        with ProgressReporter() as reporter:
            index = make(order, reporter)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(INTERRUPTED) from None
    _show(index, out, as_json=as_json)


def _order(
    teacher: Path, data: Path, out: Path, seq_len: int | None, k: int, device: str, threads: int | None, dtype: str
) -> "Order":
    """What the options ask for.

    Raises:
        UsageError: an option cannot be met.
    """
    import torch

    from edgeprof.train.data.dataset import open_data
    from edgeprof.train.distill.prepare import Order
    from edgeprof.train.distributed import find_device
    from edgeprof.train.settings import DEFAULT_SEQ_LEN

    if threads is not None:
        torch.set_num_threads(threads)
    if dtype not in ("fp32", "bf16"):
        raise UsageError(f"--dtype: {dtype!r:.40} is none; use fp32 or bf16")
    return Order(
        teacher=teacher,
        data=open_data(data),
        out=out,
        seq_len=DEFAULT_SEQ_LEN if seq_len is None else seq_len,
        k=k,
        dtype="bf16" if dtype == "bf16" else "fp32",
        device=find_device(device),
    )


def _show(index: "StoredIndex", out: Path, *, as_json: bool) -> None:
    from edgeprof.cli.output import make_table, print_json, print_table, stdout_console
    from edgeprof.core.units import format_bytes

    size_bytes = index.samples * index.seq_len * index.record.itemsize
    document = {
        "out": str(out),
        "teacher": index.teacher,
        "teacher_fingerprint": index.teacher_fingerprint,
        "data_fingerprint": index.data_fingerprint,
        "seq_len": index.seq_len,
        "k": index.k,
        "sequences": index.samples,
        "tokens": index.samples * index.seq_len,
        "size_bytes": size_bytes,
    }
    if as_json:
        print_json(document)
        return
    columns = "sequences seq_len k bytes/token size"
    table = make_table(f"What {index.teacher} expects, in {out}", columns, right=columns)
    table.add_row(
        f"{index.samples:,}", f"{index.seq_len:,}", f"{index.k}", f"{index.record.itemsize}", format_bytes(size_bytes)
    )
    print_table(table)
    stdout_console().print(
        f"To train with it: edgeprof train ... --data DIR --seq-len {index.seq_len} --teacher {out}",
        markup=False,
        soft_wrap=True,
    )
