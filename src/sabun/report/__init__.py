"""The report: one frozen value, rendered as HTML, JSON, Markdown and for the terminal, in English and Japanese.

    study, assessment, environment → model.build → Report → html | json | markdown | terminal

Modules are imported by name: nothing is loaded here. A renderer reads the Report and computes nothing.
"""
