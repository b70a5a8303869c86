"""The proof of concept: one optimizer against another on the same task, from a frozen specification to a verdict.

    spec → arms, tasks → training, tuning → store → kpis, statistics, verdict → assess

:mod:`sabun.poc.study` runs a :class:`~sabun.poc.spec.Study` and leaves records; everything after the store is a pure
function of them. Modules are imported by name: nothing is loaded here.
"""
