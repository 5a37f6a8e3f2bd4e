"""Measures performance: load generators, a sink, the installed peers and the runner. Most import nothing of the engine.

Run a program as `python -m perf.<name>`; each explains itself with `--help` and runs in a moment with `--smoke`.
"""
