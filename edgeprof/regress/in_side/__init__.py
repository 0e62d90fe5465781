"""Scripts that run in the environment of one side: given by path to that side's Python, they import that side's edgeprof.

They use little of it, and only what has been there since cells are measured by jobs, so that an old revision can be a base.
"""
