"""What the gated short convolution costs."""

from dataclasses import dataclass
from typing import ClassVar

from edgeprof.core.dtypes import kv_itemsize
from edgeprof.operators.base import OperatorSpec, Weight, linear_flops


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortConvSpec(OperatorSpec):
    """Gated short convolution of LFM2: two input-dependent gates around a depthwise causal convolution.

    ``b, c, h = x W_b, x W_c, x W_h;  v = b * h;  z_t = sum_j kernel_j * v_{t-k+1+j};  y = (c * z) W_out``; no activation.

    Source: LFM2 technical report, arXiv 2511.23404, section 2.
    """

    name: ClassVar[str] = "short_conv"
    meaning: ClassVar[str] = "gated short convolution (LFM2)"
    module: ClassVar[str] = "edgeprof.operators.short_conv.module:ShortConv"
    reference: ClassVar[str] = "edgeprof.operators.short_conv.reference:short_conv"
    forms: ClassVar[dict[str, str]] = {
        "onnx": "edgeprof.operators.short_conv.onnx:emit",
        "executorch": "edgeprof.operators.short_conv.executorch:ShortConvForm",
    }

    d_model: int
    kernel_size: int = 3

    def weights(self) -> dict[str, Weight]:
        """Three input projections, the depthwise kernel (kernel_size, d_model), the output projection."""
        d = self.d_model
        square = Weight(shape=(d, d))
        kernel = Weight(shape=(self.kernel_size, d), kind="vector")
        return {"w_b": square, "w_c": square, "w_h": square, "kernel": kernel, "w_out": square}

    def flops(self, *, batch: int, q_len: int, kv_len: int) -> int:
        """Four d x d projections, the convolution's taps and the two gates; does not depend on kv_len."""
        tokens = batch * q_len
        d = self.d_model
        return linear_flops(tokens, 4 * d * d, self.kernel_size * d) + 2 * tokens * d

    def state_bytes(self, *, batch: int, kv_len: int, kv_dtype: str) -> int:
        """The last kernel_size - 1 gated inputs, shape (batch, kernel_size - 1, d_model); does not grow with kv_len."""
        return batch * (self.kernel_size - 1) * self.d_model * kv_itemsize(kv_dtype)

    def state_bytes_moved(self, *, batch: int, q_len: int, kv_len: int, kv_dtype: str) -> int:
        """The state is read and written whole."""
        return 2 * self.state_bytes(batch=batch, kv_len=kv_len, kv_dtype=kv_dtype)
