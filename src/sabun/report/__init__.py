"""The report: one frozen value, rendered as HTML, JSON, Markdown and for the terminal, in every language.

    StudyEvidence, Assessment → build.build → facts.Report → html | json | markdown | terminal

``narrative`` chooses the sentences, ``method`` gives the numerical methods, ``money`` the costs and savings, ``charts``
the figures of the HTML page. ``compare`` puts two reports side by side, ``records_table`` exports the records.
``scheme_charts`` and ``look_ahead_plane`` draw schemes rather than studies. The modules are imported by name.
"""
