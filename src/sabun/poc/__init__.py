"""The proof of concept: one optimizer against another on the same task, from a frozen specification to a verdict.

    spec → resolved (arms, task) → schedule, tuning → executors, training → evidence → judgement

:func:`sabun.poc.study.run` runs a :class:`~sabun.poc.spec.Study` and returns its evidence. Everything in
:mod:`sabun.poc.judgement` is a pure function of the evidence. Modules are imported by name; this package loads nothing.
"""
