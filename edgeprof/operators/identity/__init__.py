"""The null operator."""
