"""Many cases are looked at, so some p is small by chance: the false discovery rate over the suite."""

from collections.abc import Mapping


def corrected(p_values: Mapping[str, float]) -> dict[str, float]:
    """Benjamini-Hochberg's corrected p by case: calling those below q regressed keeps the expected share of false ones below q.

    Every case that was planned belongs in it, with a p of 1 where nothing could be said: what was left out cannot help the rest.
    Cases of a suite share processes, so their errors are positively dependent, which the procedure allows.

    Source: Y. Benjamini and Y. Hochberg, Journal of the Royal Statistical Society B 57 (1995), 289; dependence: Y. Benjamini and
    D. Yekutieli, Annals of Statistics 29 (2001), 1165.

    Raises:
        ValueError: a p is not between 0 and 1.
    """
    if not p_values:
        return {}
    from scipy import stats

    values = stats.false_discovery_control(list(p_values.values()), method="bh")
    return dict(zip(p_values, (float(value) for value in values), strict=True))
