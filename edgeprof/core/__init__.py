"""Types, errors, units, registry and schema versions; imports nothing heavy."""
