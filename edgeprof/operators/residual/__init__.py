"""Residual addition."""
