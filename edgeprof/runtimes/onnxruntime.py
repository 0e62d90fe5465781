"""ONNX Runtime on the CPU: hand-written graphs of its fused operators, 4-bit weights by MatMulNBits."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprof.core.types import Artifact, ArtifactSpec, BenchCase
from edgeprof.operators.arrays import Array, Weights
from edgeprof.operators.attribute import form
from edgeprof.operators.base import OperatorSpec
from edgeprof.operators.registry import make_spec
from edgeprof.runtimes.base import Built, Call

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, IOBinding, SessionOptions

# onnx.helper's Identity from x to y, float[1], opset 21: what it takes to open a session and count its threads.
_SMALLEST_MODEL = (
    b'\x08\n:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x15"
)
ROPE_MULTIPLE = 16
PROVIDERS = ["CPUExecutionProvider"]
_TASKS = Path("/proc/self/task")
_NUMPY_DTYPES = {"tensor(float)": "float32", "tensor(int8)": "int8", "tensor(int64)": "int64"}


class OnnxRuntime:
    """Runs one graph for each operator; the graph serves every context length, batch and number of tokens."""

    name = "onnxruntime"
    distribution = "onnxruntime"
    dtypes = (("fp32", "fp32"), ("int4", "fp32"), ("fp32", "int8"), ("int4", "int8"))

    def __init__(self) -> None:
        self.n_threads = 1

    def unsupported(self, case: BenchCase) -> str | None:
        """Formats that the CPU kernels do not compute in, and sizes of any operator inside that they refuse."""
        if (case.dtype, case.kv_dtype) not in self.dtypes:
            return f"{self.name} computes on the CPU with fp32 or int4 weights and an fp32 or int8 KV cache"
        operator = make_spec(case.op, case.dims)
        leaves = operator.leaves()
        alone = leaves == (operator,)
        if alone and case.kv_dtype == "int8" and not operator.state_rows(case.kv_len):
            return f"{case.op} has no KV cache; only GroupQueryAttention's is stored in int8"
        return next(filter(None, (_refused(leaf, case.dtype) for leaf in leaves)), None)

    def capacity(self, case: BenchCase) -> int:
        """The cache's length is open until a cell is loaded for its case."""
        return 0

    def build(self, operator: OperatorSpec, spec: ArtifactSpec, weights: Weights, folder: Path) -> Built:
        """Writes the graph of the operator's form and its weights' file."""
        from edgeprof.operators.onnx_graph import operator_graph

        emit = form(operator, "onnx")
        graph = operator_graph(operator, emit, weights, dtype=spec.dtype, kv_dtype=spec.kv_dtype)
        saved = graph.save(folder)
        effective = graph.effective if spec.dtype != "fp32" else None
        return Built(files=saved.files, weight_bytes=saved.weight_bytes, effective=effective, fresh=saved.fresh)

    def start(self, n_threads: int) -> int:
        """Sets the threads of the sessions to come and returns how many a session really has.

        ONNX Runtime does not tell: a session of the smallest model is opened and the threads that the process gains are
        counted, the caller's own included. Where the platform has no /proc, it is the number that was asked for.
        """
        import onnxruntime

        self.n_threads = n_threads
        if not _TASKS.is_dir():
            return n_threads
        before = _count_tasks()
        session = onnxruntime.InferenceSession(_SMALLEST_MODEL, session_options(n_threads), providers=PROVIDERS)
        gained = _count_tasks() - before
        del session
        return 1 + gained

    def load(self, operator: OperatorSpec, artifact: Artifact, folder: Path, capacity: int) -> "OnnxCell":
        """Opens a session of its own on the artifact."""
        import onnxruntime

        model = str(folder / artifact.files["model"])
        session = onnxruntime.InferenceSession(model, session_options(self.n_threads), providers=PROVIDERS)
        return OnnxCell(session, artifact.spec.batch, capacity)


class OnnxCell:
    """A session with its state, bound in place: ``k`` before a call and ``k.next`` after it are the same memory.

    The graph's metadata say which inputs are state, what the RoPE tables hold, and how many tokens a run should take at
    most: longer calls are split into runs that follow each other, as in any deployment's chunked prefill.
    """

    def __init__(self, session: "InferenceSession", batch: int, capacity: int) -> None:
        import numpy as np
        import onnxruntime

        self._value = onnxruntime.OrtValue.ortvalue_from_numpy
        self._session = session
        self._inputs = {i.name: i for i in session.get_inputs()}
        self._output = session.get_outputs()[0]
        sizes = {"batch": batch, "rows": capacity}
        properties = session.get_modelmeta().custom_metadata_map
        self._after: dict[str, str] = json.loads(properties["states"])
        self._tokens_per_run: int = json.loads(properties["tokens_per_run"])
        self._state: dict[str, Array] = {}
        for name in self._after:
            shape = [sizes[d] if isinstance(d, str) else d for d in self._inputs[name].shape]
            self._state[name] = np.empty(shape, _NUMPY_DTYPES[self._inputs[name].type])
        tables = {
            name: rope_table(kind, size, theta, capacity)
            for name, (kind, size, theta) in json.loads(properties["rope"]).items()
        }
        self._bound = {name: self._value(a) for name, a in (self._state | tables).items()}
        self._results: list[Array] = []
        self.reset()

    def reset(self) -> None:
        """Writes zeros over the state."""
        for array in self._state.values():
            array.fill(0)

    def fill(self, seed: int) -> None:
        """Writes random values over the state: unit normal ones, or half of int8's range."""
        import numpy as np

        rng = np.random.default_rng(seed)
        for array in self._state.values():
            if array.dtype == np.int8:
                array[...] = rng.integers(-64, 64, array.shape, np.int8)
            else:
                rng.standard_normal(out=array, dtype=np.float32)

    def bind(self, x: Array, pos: int) -> Call:
        """A call on ``x`` at ``pos``; inputs, outputs and state are bound here, so that the call itself only runs."""
        step = self._tokens_per_run
        runs = [
            self._bind_run(x[:, begin : begin + step], pos + begin, is_last=begin + step >= x.shape[1])
            for begin in range(0, x.shape[1], step)
        ]
        results = [y for _, y in runs]
        run = self._session.run_with_iobinding
        if len(runs) == 1:
            only = runs[0][0]

            def call() -> None:
                run(only)
                self._results = results

        else:
            bindings = [binding for binding, _ in runs]

            def call() -> None:
                for binding in bindings:
                    run(binding)
                self._results = results

        return call

    def output(self) -> Array:
        """The last call's output."""
        import numpy as np

        assert self._results, "output() before any call"
        return np.concatenate(self._results, axis=1)

    def _bind_run(self, x: Array, pos: int, *, is_last: bool) -> "tuple[IOBinding, Array]":
        import numpy as np

        batch, tokens = x.shape[:2]
        total = pos + tokens
        wanted = np.full(1 if is_last else 0, -1)
        call = {
            "x": np.ascontiguousarray(x),
            "seqlens_k": np.full(batch, total - 1, np.int32),
            "total_sequence_length": np.array(total, np.int32),
            "query_seqlens": np.full(batch, tokens, np.int32),
            "wanted": wanted,
        }
        outputs = len(wanted) if "wanted" in self._inputs else tokens
        y = np.zeros((batch, outputs, self._output.shape[-1]), np.float32)
        binding = self._session.io_binding()
        for name, array in call.items():
            if name in self._inputs:
                binding.bind_ortvalue_input(name, self._value(array))
        for name, value in self._bound.items():
            binding.bind_ortvalue_input(name, value)
        for name, after in self._after.items():
            binding.bind_ortvalue_output(after, self._bound[name])
        binding.bind_ortvalue_output(self._output.name, self._value(y))
        return binding, y


def rope_table(kind: str, head_dim: int, theta: float, positions: int) -> Array:
    """Cosines ("cos") or sines ("sin") of RoPE's angles, (positions, head_dim / 2)."""
    import numpy as np

    angles = np.outer(np.arange(positions), theta ** (-np.arange(0, head_dim, 2) / head_dim))
    table: Array = getattr(np, kind)(angles).astype(np.float32)
    return table


def session_options(n_threads: int) -> "SessionOptions":
    """Options of a session with ``n_threads`` threads that sleep when idle."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # failures are raised; the log would print them a second time
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _refused(leaf: OperatorSpec, dtype: str) -> str | None:
    """Why a kernel refuses the operator's sizes, or None."""
    dims = leaf.dims()
    if int(dims.get("head_dim", ROPE_MULTIPLE)) % ROPE_MULTIPLE:
        return f"GroupQueryAttention rotates heads of a multiple of {ROPE_MULTIPLE} values only"
    if dtype == "int4" and leaf.name == "embedding" and int(dims["d_model"]) % 2:
        return "GatherBlockQuantized packs two 4-bit values a byte and wants an even d_model"
    return None


def _count_tasks() -> int:
    return sum(1 for _ in _TASKS.iterdir())


RUNTIME = OnnxRuntime()
