"""Comparison of optimizers over families of tasks: tasks, arms, search, records, scores and page.

``benchmarks/suite.py`` is the command. The protocol is in docs/benchmark.md.
"""
