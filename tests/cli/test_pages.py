"""No sentence that ``--lang`` translates stays in English in the output of ``poc run``, ``report`` and ``compare``.

``schemes`` and ``explain`` are tested in tests/report/test_one_place.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sabun.cli import app, console
from sabun.messages import languages

from .. import pseudo

NAMES = ("digits", "SGD", "euler", "adamw")
RUN = ["poc", "run", "--task", "digits", "--baseline", "torch.optim:SGD", "--candidate", "euler", "--epochs", "1"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def lang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The pseudo-language, on lines that are long enough to keep every sentence in one piece."""
    monkeypatch.setattr(console, "WIDTH", 4000)
    before = dict(languages._LANGUAGES)
    yield languages.add_language(pseudo.write(tmp_path))
    languages._LANGUAGES.clear()
    languages._LANGUAGES.update(before)


def test_no_sentence_of_a_report_or_comparison_is_left_untranslated(lang: str, tmp_path: Path, capsys: Capture) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for study, more in ((one, ["--seeds", "6"]), (two, ["--candidate", "adamw", "--seeds", "2"])):
        for command in ([*RUN, "--trials", "0", *more, "--out", str(study)], ["poc", "report", str(study)]):
            assert app.run([*command, "--lang", lang]) == 0
            head = json.loads((study / "report.json").read_text(encoding="utf-8"))["audit"]["log_head"]
            shown = capsys.readouterr().out
            assert shown.count("⟦") > 10
            assert pseudo.untranslated(shown, (*NAMES, head, str(study / "report.html"))) == []
    for other, settings in ((two, ("seeds",)), (one, ())):  # settings have their names in the study file
        assert app.run(["poc", "compare", str(one), str(other), "--lang", lang]) == 0
        shown = capsys.readouterr().out
        assert shown.count("⟦") > 5
        assert pseudo.untranslated(shown, (*NAMES, *settings)) == []
