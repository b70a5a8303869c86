"""The site builds without a warning, shows every public name, and asks the network for nothing."""

from __future__ import annotations

import ast
import functools
import http.server
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import griffe
import pytest
import yaml
from filelock import FileLock

import reference  # docs/tools, see conftest.py
import sabun
from sabun.schemes import SCHEMES

ROOT = Path(__file__).parents[2]
CHROMIUM = os.environ.get("SABUN_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def source() -> griffe.Module:
    """The package as text, which keeps what is said of constants."""
    loaded = griffe.load("sabun", search_paths=[str(ROOT / "src")])
    assert isinstance(loaded, griffe.Module)
    return loaded


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly; once, however many workers there are."""
    own = tmp_path_factory.getbasetemp()
    out = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "site"
    with FileLock(f"{out}.lock"):
        if not out.exists():
            done = subprocess.run(
                [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
                cwd=ROOT,
                env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                shutil.rmtree(out, ignore_errors=True)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "WARNING" not in done.stderr
    return out


def stated(path: Path) -> list[str]:
    """``__all__`` of the module at ``path``, with its full name."""
    module = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [f"{module}.{name}" for name in ast.literal_eval(node.value)]
    return []


def public() -> list[str]:
    """Full names of all that the reference documents, without an import of what integrations need."""
    names = []
    for package in reference.PACKAGES:
        folder = ROOT / "src" / "sabun" / package
        own = stated(folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py"))
        names += own or [name for path in sorted(folder.rglob("*.py")) for name in stated(path)]
    return names + [name for module in ("errors", "audit") for name in stated(ROOT / "src" / "sabun" / f"{module}.py")]


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    _, body = (site / "objects.inv").read_bytes().split(b"zlib.\n", 1)
    listed = {line.split(" ")[0] for line in zlib.decompress(body).decode().splitlines()}
    names = public()
    assert len(names) > 200
    assert {name for package in reference.PACKAGES for name in reference.symbols(package)} <= set(names)
    assert not [name for name in names if name not in listed]
    front = (site / "reference" / "index.html").read_text(encoding="utf-8")
    assert all(f"sabun.{name}" in front for name in sabun.__all__)


@functools.cache
def told_elsewhere() -> set[str]:
    """Methods whose meaning is said once for all who have them: by a protocol, or, of tasks, by
    sabun.poc.tasks.task."""
    protocols = [c for c in map(resolve, public()) if inspect.isclass(c) and getattr(c, "_is_protocol", False)]
    said = {name for c in protocols for name, method in vars(c).items() if getattr(method, "__doc__", None)}
    return {name for name in said if not name.startswith("_")} | {"model", "data", "loss", "metric"}


def resolve(name: str) -> object:
    module, _, symbol = name.rpartition(".")
    return getattr(importlib.import_module(module), symbol)


@pytest.mark.parametrize("name", public())
def test_every_public_name_says_what_it_is(name: str, source: griffe.Module) -> None:
    """A docstring of its own: on the symbol, and on the public methods and properties of a class."""
    value, symbol = resolve(name), name.rpartition(".")[2]
    written = source[name.removeprefix("sabun.")]
    assert (written.final_target if written.is_alias else written).has_docstring, name
    if inspect.isclass(value) and value.__module__.startswith("sabun"):
        assert (value.__doc__ or "").strip(), name
        assert not (value.__doc__ or "").startswith(f"{symbol}("), f"{name}: only what dataclass writes by itself"
        for member, thing in vars(value).items():
            documented = thing.fget if isinstance(thing, property) else getattr(thing, "func", thing)
            documented = getattr(documented, "__func__", documented)
            if member.startswith("_") or not inspect.isfunction(documented):
                continue
            protocol = getattr(value, "_is_protocol", False)
            if protocol or member not in told_elsewhere():
                assert inspect.getdoc(getattr(value, member)) or documented.__doc__, f"{name}.{member}"
    elif inspect.isfunction(value):
        assert (value.__doc__ or "").strip(), name


class Asked(HTMLParser):
    """What a page makes the browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        wanted = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}.get(tag)
        if wanted and given.get(wanted) and given.get("rel") not in ("canonical", "alternate", "next", "prev"):
            self.urls.append(str(given[wanted]))


def test_no_page_fetches_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        asked = Asked()
        asked.feed(page.read_text(encoding="utf-8"))
        assert asked.urls
        outside = [url for url in asked.urls if re.match(r"(\w+:)?//", url)]
        assert not outside, page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:|@import", sheet.read_text(encoding="utf-8")), sheet


def test_pages_from_data_hold_all_of_it(site: Path) -> None:
    catalogue = (site / "catalogue.html").read_text(encoding="utf-8")
    assert all(f"<code>{name}" in catalogue for name in [*SCHEMES, *sabun.presets(), *sabun.optim.OPTIONS])
    commands = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    assert "...</li>" not in commands  # no summary is cut
    assert all(
        f"sabun {name}" in commands for name in ("schemes", "explain", "bench", "poc calibrate", "rollout verify")
    )


def test_every_page_stands_in_the_navigation_once() -> None:
    pages: list[str] = []

    def walk(entry: object) -> None:
        if isinstance(entry, str):
            pages.append(entry)
        for below in entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else ():
            walk(below)

    walk(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert len(pages) == len(set(pages))
    assert set(pages) >= {str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md")}


def test_no_markup_is_left_over(site: Path) -> None:
    """Emphasis, code and links that Markdown did not take for such stand on the page as they were typed."""
    for page in site.rglob("*.html"):
        text = re.sub(r"<(pre|code|script)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        marks = r"\*\*|(?<!\w)`|\]\(|[\u3000-\u9fff]\*|\*[\u3000-\u9fff]"
        found = re.findall(rf".{{0,30}}(?:{marks}).{{0,30}}", re.sub(r"<[^>]+>", "", text))
        assert not found, page


def test_the_architecture_names_every_module(site: Path) -> None:
    page = (site / "architecture.html").read_text(encoding="utf-8")
    for path in (ROOT / "src" / "sabun").rglob("*.py"):
        name = (
            f"{path.parent.relative_to(ROOT / 'src')}/" if path.name == "__init__.py" else f"<code>{path.name}</code>"
        )
        assert name in page
    layers = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("```text\nsrc/sabun/")[2]
    for package in (path for path in (ROOT / "src" / "sabun").iterdir() if (path / "__init__.py").exists()):
        assert f"  {package.name}/" in layers


def test_the_course_shows_what_was_measured(site: Path) -> None:
    for lang in ("en", "ja"):
        pages = sorted(p for p in site.glob(f"course/{lang}/[0-9]-*.html") if not p.stem.endswith("-slides"))
        assert len(pages) == 7
        for page in pages[:-1]:
            text = page.read_text(encoding="utf-8")
            assert text.count('class="output"') >= 4, page
            assert text.count('<details class="success"') == 3, page
        assert "<details" not in pages[-1].read_text(encoding="utf-8")  # the quiz
        assert len(list(site.glob(f"course/{lang}/*.ipynb"))) == 14
        assert len(list(site.glob(f"course/{lang}/*.svg"))) >= 6
        shown = re.findall(r'class="output".*?</pre>', "".join(p.read_text(encoding="utf-8") for p in pages), re.DOTALL)
        # A cell that shows sentences must ask for the language itself: what was asked before was asked for the other.
        assert any(re.search("[\u3041-\u30ff]", text) for text in shown) == (lang == "ja")
    japanese = (site / "course" / "ja" / "3-stability.html").read_text(encoding="utf-8")
    assert "学習に使えません" in japanese  # a certificate speaks the language of the page
    assert not re.search(r"[\u3041-\u30ff]\n[\u3041-\u30ff]", re.sub(r"<pre.*?</pre>", "", japanese, flags=re.DOTALL))


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Silent, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@contextmanager
def quiet_page(start: str) -> Iterator[Any]:
    """A page of a browser that must report no error and ask nobody but ``start``."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if not request.url.startswith(start) else None)
        yield page
        browser.close()
        assert said == []


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: the browser tests are skipped")
def test_a_browser_shows_the_site_and_asks_nobody_else(address: str, tmp_path: Path) -> None:
    """Pages load without an error or a request to another host; the guides print on at most four A4 pages each."""
    with quiet_page(address) as page:
        for path in ("index", "course/en/4-look-ahead", "course/ja/1-forward-euler", "reference/optim"):
            page.goto(f"{address}/{path}.html", wait_until="networkidle")
            assert page.locator("h1").first.is_visible()
            broken = "() => [...document.images].filter(i => !i.complete || i.naturalWidth < 50).map(i => i.src)"
            assert page.evaluate(broken) == []
        for lang in ("en", "ja"):
            page.goto(f"{address}/guide/{lang}.html", wait_until="networkidle")
            made = page.pdf(path=tmp_path / f"{lang}.pdf", format="A4", prefer_css_page_size=True)
            sheets = len(re.findall(rb"/Type\s*/Page\b(?!s)", made))
            assert 3 <= sheets <= 4, f"{lang}: {sheets} pages"


JAPANESE = (
    "投資対効果", "見送り", "計算コスト", "学習曲線", "段階的導入", "再現性",
    "最終精度", "導入難易度", "損失低下速度", "概念実証",
)  # fmt: skip
ENGLISH = (
    "optimizer", "preconditioner", "learning rate", "roll-out", "kill switch", "look-ahead", "stability", "budget",
    "notebook", "verdict",
)  # fmt: skip


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: the browser tests are skipped")
@pytest.mark.parametrize("served", [False, True], ids=["disk", "server"])
def test_the_search_finds_words_of_both_languages(site: Path, address: str, served: bool) -> None:
    """The first page found has the word. Pages are opened from the disk and from a server, and ask nobody else."""
    expect = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed").expect
    start = address if served else site.as_uri()
    with quiet_page(start) as page:
        page.goto(f"{start}/index.html")
        asked = page.locator("input[data-md-component=search-query]")
        asked.focus()
        for word in (*JAPANESE, *ENGLISH):
            asked.fill(word)
            asked.press("End")  # the search listens to keys
            # Pages contain what they are found by: a result of the word before is no result of this one.
            first = page.locator("li.md-search-result__item").first.locator("mark").first
            expect(first).to_have_text(re.compile(re.split("[ -]", word)[0], re.IGNORECASE), timeout=20_000)
            link = page.locator("li.md-search-result__item a").first.get_attribute("href")
            assert link is not None
            found = site / re.sub(r"[?#].*", "", link).removeprefix(start).lstrip("/")
            text = re.sub(r"<[^>]+>", "", found.read_text(encoding="utf-8")).lower()
            assert word in text, (word, link)
        asked.fill("ない言葉")
        asked.press("End")
        expect(page.locator("li.md-search-result__item")).to_have_count(0, timeout=20_000)
