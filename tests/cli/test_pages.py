"""No sentence of a page that ``--lang`` translates stays in English: shown with a pseudo-language made from English."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from sabun import schemes
from sabun.cli import app
from sabun.messages import languages

Capture = pytest.CaptureFixture[str]
BOLD = str.maketrans(
    {chr(ord(first) + i): chr(0x1D400 + 26 * (first == "a") + i) for first in "Aa" for i in range(26)}
)  # mathematical bold letters


def pseudo(value: Any) -> Any:
    """``value`` of a language file with every letter outside of placeholders replaced."""
    if isinstance(value, Mapping):
        return {key: pseudo(item) for key, item in value.items()}
    if isinstance(value, list):
        return [pseudo(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"(\{[^{}]*\})|([^{}]+)", lambda found: found[1] or found[2].translate(BOLD), value)
    return value


def as_toml(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if not isinstance(value, Mapping):
            yield f"{key} = {json.dumps(value, ensure_ascii=False)}"
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield f"[{prefix}{key}]"
            yield from as_toml(value, f"{prefix}{key}.")


@pytest.fixture(scope="module")
def lang(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A language whose every sentence is written in mathematical bold letters."""
    source = resources.files("sabun.messages").joinpath("en.toml").read_text(encoding="utf-8")
    file = tmp_path_factory.mktemp("languages") / "xx.toml"
    file.write_text("\n".join(as_toml(pseudo(tomllib.loads(source)))), encoding="utf-8")
    before = dict(languages._LANGUAGES)
    yield languages.add_language(file)
    languages._LANGUAGES.clear()
    languages._LANGUAGES.update(before)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    where = tmp_path_factory.mktemp("studies")
    command = ["poc", "run", "--task", "digits", "--baseline", "torch.optim:SGD", "--epochs", "1", "--quiet"]
    for name, more in (("one", ["euler", "--seeds", "6"]), ("two", ["euler", "--candidate", "adamw", "--seeds", "2"])):
        assert app.run([*command, "--trials", "0", "--candidate", *more, "--out", str(where / name)]) == 0
    return where / "one", where / "two"


def untranslated(shown: str, *names: str) -> list[str]:
    """The words in ``shown`` that are neither translated nor among ``names``."""
    for name in sorted(names, key=len, reverse=True):
        shown = shown.replace(name, " ")
    return re.findall(r"[A-Za-z]{2,}", shown)


def printed(capsys: Capture, *arguments: str) -> str:
    assert app.run(list(arguments)) == 0
    return capsys.readouterr().out


def test_the_pseudo_language_can_fail() -> None:
    assert untranslated("𝐎𝐧𝐞 of 𝐭𝐡𝐫𝐞𝐞: euler", "euler") == ["of"]


def test_the_catalogue(lang: str, capsys: Capture) -> None:
    names = [entry.build().name for entry in schemes.SCHEMES.values()]
    assert untranslated(printed(capsys, "schemes", "--lang", lang), *names) == []


@pytest.mark.parametrize("scheme", [*schemes.SCHEMES, "look-ahead(0.9, 2)"])
@pytest.mark.parametrize("lr", [(), ("--lr", "0.1")])
def test_an_explanation(lang: str, scheme: str, lr: tuple[str, ...], capsys: Capture) -> None:
    found = schemes.get(scheme)
    certificate = schemes.certify(found)
    shown = printed(capsys, "explain", scheme, *lr, "--lang", lang)
    code = ("torch.optim.SGD(lr=", "lr·", "momentum=", "nesterov=True")
    assert untranslated(" ".join(shown.split()), found.name, certificate.source, *schemes.SCHEMES, *code) == []


def test_a_report_and_a_comparison(lang: str, studies: tuple[Path, Path], capsys: Capture) -> None:
    one, two = studies
    for study in studies:
        shown = printed(capsys, "poc", "report", str(study), "--lang", lang)
        head = json.loads((study / "report.json").read_text(encoding="utf-8"))["audit"]["log_head"]
        names = ["digits", "SGD", "euler", "adamw", head, str(study / "report.html")]
        assert untranslated(shown, *names) == []
    shown = printed(capsys, "poc", "compare", str(one), str(two), "--lang", lang)
    # The names of settings are those of the study file.
    assert untranslated(shown, "digits", "SGD", "euler", "adamw", "seeds", "arms", "packages") == []
    shown = printed(capsys, "poc", "compare", str(one), str(one), "--lang", lang)
    assert untranslated(shown, "digits", "euler") == []
