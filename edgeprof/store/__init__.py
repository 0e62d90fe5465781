"""Append-only measured records and the queries over them."""
