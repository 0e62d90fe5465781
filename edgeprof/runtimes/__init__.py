"""Runtimes that build an operator into an artifact, and load and call that artifact."""
