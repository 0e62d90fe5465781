"""Quantiles, intervals over instances, and comparisons: pure functions over numpy and scipy."""
