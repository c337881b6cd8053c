"""The only room that knows diffusers' pipelines: it asks them, and never imitates them.

A `session.Session` runs a pipeline's own `__call__` on a shallow copy; `interception` is the one place that
installs anything on it, and removes it; `discover` finds out once what there is to know.
"""
