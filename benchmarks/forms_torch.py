"""Forms of the operators in eager torch that were tried, timed turn by turn in one process with one thread.

    python benchmarks/forms_torch.py [--rounds 7]

Sizes are LFM2-350M's: d_model 1024, 16 heads and 8 KV heads of 64, kernel 3, window 512. Each row gives the form's time over that
of the form in use, the median over rounds, with the range of the rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from edgeprof.operators.attention import attend_all, attend_causal
from edgeprof.operators.base import NORM_EPSILON
from edgeprof.operators.module import rms_norm
from edgeprof.operators.swa import module as swa

D, H, K, E, TAPS, WINDOW = 1024, 16, 8, 64, 3, 512

Forms = dict[str, Callable[[], object]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    with torch.inference_mode():
        for title, forms in (
            ("depthwise convolution, decode", convolutions(1)),
            ("depthwise convolution, prefill of 1024", convolutions(1024)),
            ("input projections, decode", projections(1)),
            ("input projections, prefill of 1024", projections(1024)),
            ("attention, decode at 1024", decode(1024)),
            ("attention, decode at 4096", decode(4096)),
            ("attention, decode at 16384", decode(16384)),
            ("windowed attention, prefill of 2048", windowed(2048)),
            ("RMSNorm, decode", norms(1)),
            ("RMSNorm, prefill of 1024", norms(1024)),
        ):
            show(title, forms, rounds)


def show(title: str, forms: Forms, rounds: int) -> None:
    """Prints a Markdown table; the first form is the one in use."""
    print(f"\n### {title}\n\n| form | µs | ratio to the form in use |\n|---|---:|---:|")
    times: dict[str, list[float]] = {name: [] for name in forms}
    for call in forms.values():
        call(), call()
    for _ in range(rounds):
        for name, call in forms.items():
            times[name].append(median_us(call))
    used = next(iter(forms))
    for name in forms:
        ratios = sorted(a / b for a, b in zip(times[name], times[used], strict=True))
        value = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        print(
            f"| {name}{' (in use)' if name == used else ''} | {statistics.median(times[name]):.0f} | {value} |",
            flush=True,
        )


def median_us(call: Callable[[], object]) -> float:
    times = []
    end = time.perf_counter() + 0.05
    while time.perf_counter() < end or len(times) < 3:
        begin = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - begin) / 1e3)
    return statistics.median(times)


def convolutions(tokens: int) -> Forms:
    gated = torch.randn(1, tokens + TAPS - 1, D)
    kernel = torch.randn(TAPS, D)
    by_channel = kernel.T[:, None].contiguous()

    def shifted() -> torch.Tensor:
        mixed = gated[:, :tokens] * kernel[0]
        for tap in range(1, TAPS):
            mixed = torch.addcmul(mixed, gated[:, tap : tap + tokens], kernel[tap])
        return mixed

    return {
        "multiply-adds over shifted views": shifted,
        "conv1d between transposes": lambda: F.conv1d(gated.transpose(1, 2), by_channel, groups=D).transpose(1, 2),
        "conv2d, channels last": lambda: F.conv2d(gated.transpose(1, 2)[:, :, None], by_channel[:, :, None], groups=D),
        "unfold and einsum": lambda: torch.einsum("btdk,kd->btd", gated.unfold(1, TAPS, 1), kernel),
    }


def projections(tokens: int) -> Forms:
    x = torch.randn(1, tokens, D)
    apart = [torch.randn(D, D) for _ in range(3)]
    packed = torch.randn(3 * D, D)
    return {
        "three linear layers": lambda: [F.linear(x, w) for w in apart],
        "one packed layer, then chunk": lambda: F.linear(x, packed).chunk(3, -1),
    }


def decode(rows: int) -> Forms:
    q = torch.randn(1, H, 1, E)
    k, v = (torch.randn(1, K, rows + 64, E)[:, :, :rows] for _ in range(2))

    def products() -> torch.Tensor:
        scores = torch.matmul(q.view(1, K, H // K, E) * E**-0.5, k.transpose(2, 3))
        return torch.matmul(torch.softmax(scores, -1), v)

    return {
        "SDPA with the group as rows": lambda: attend_all(q, k, v),
        "SDPA with enable_gqa": lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        "two products and a softmax": products,
        "SDPA over repeated heads": lambda: F.scaled_dot_product_attention(
            q, k.repeat_interleave(H // K, 1), v.repeat_interleave(H // K, 1)
        ),
    }


def windowed(tokens: int) -> Forms:
    q, k, v = (torch.randn(1, n, tokens, E) for n in (H, K, K))
    position = torch.arange(tokens)
    band = (position[None] <= position[:, None]) & (position[None] > position[:, None] - WINDOW)

    def blocks(size: int) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            parts = []
            for begin in range(0, tokens, size):
                end = min(begin + size, tokens)
                seen = slice(max(0, begin - WINDOW + 1), end)
                parts.append(attend_causal(q[:, :, begin:end], k[:, :, seen], v[:, :, seen], WINDOW))
            return torch.cat(parts, 2)

        return run

    forms: Forms = {f"blocks of {swa.BLOCK}": blocks(swa.BLOCK)}
    forms |= {f"blocks of {size}": blocks(size) for size in (64, 128, 256, 512) if size != swa.BLOCK}
    forms["a mask over everything"] = lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=band, enable_gqa=True)
    forms["full causal attention (not the operator)"] = lambda: F.scaled_dot_product_attention(
        q, k, v, is_causal=True, enable_gqa=True
    )
    return forms


def norms(tokens: int) -> Forms:
    x, scale = torch.randn(1, tokens, D), torch.randn(D)
    return {
        "rms_norm": lambda: rms_norm(x, scale, NORM_EPSILON),
        "by hand": lambda: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + NORM_EPSILON) * scale,
    }


if __name__ == "__main__":
    main()
