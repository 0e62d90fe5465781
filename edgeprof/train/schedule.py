"""The learning rate at each step, as a share of its highest: a function of the step alone, which a resumed run goes on with."""

import math

from edgeprof.train.settings import Settings


def lr_share(settings: Settings, step: int) -> float:
    """The share of the highest learning rate that step ``step`` (from 0) takes.

    ``wsd`` warms up, stays, and falls by one minus a root over the last ``decay`` share of the steps; ``cosine`` falls from
    the end of the warm-up on. Both end at ``final_lr``.

    Sources: warm-up, stable, decay: MiniCPM, arXiv 2404.06395; the shape of its fall: Hägele et al., arXiv 2405.18392;
    cosine: Loshchilov and Hutter, SGDR, arXiv 1608.03983, equation 5.
    """
    total = settings.steps
    warm = math.ceil(settings.warmup * total)
    if step < warm:
        return (step + 1) / warm
    if settings.schedule == "cosine":
        return _between(0.5 + 0.5 * math.cos(math.pi * _progress(step, warm, total)), settings.final_lr)
    begin = max(warm, total - math.ceil(settings.decay * total))
    if step < begin:
        return 1.0
    return _between(1 - math.sqrt(_progress(step, begin, total)), settings.final_lr)


def _progress(step: int, begin: int, end: int) -> float:
    """From 0 at the first step of a stretch towards 1 after its last."""
    return (step - begin) / max(1, end - begin)


def _between(share: float, final: float) -> float:
    return final + (1 - final) * share
