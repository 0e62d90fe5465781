"""Whole models: their configuration, their accounting, and blocks and models as operators made of operators."""
