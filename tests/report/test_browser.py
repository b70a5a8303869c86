"""The report in a real browser: languages, hover, switches, print, hostile names, and not one request.

Needs Debian's chromium (or ``SABUN_CHROMIUM``) and Playwright; skipped with a message where either is absent.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from sabun.report import html
from sabun.report.money import Prices

from .cases import report

CHROMIUM = os.environ.get("SABUN_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed: the browser tests are skipped"
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: the browser tests are skipped"),
]
HOSTILE = {
    "study": "</script><script>window.pwned=1</script>",
    "momentum": '<img src=x onerror="window.pwned=1"> & "quotes" \'single\'',
    "look-ahead": "🚀 <b>bold</b> <svg onload=window.pwned=1>",
    "nesterov-adam": "\u202eevil عربي עברית",
    "euler": "x" * 300,
    "taylor-4": "'-window.pwned=1-' {{7*7}}",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        launched = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


class Visit:
    """A page opened from a file, with everything that it said or asked for."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **context}
        )
        self.page = self.context.new_page()
        self.console: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.console.append(message.text))
        self.page.on("pageerror", lambda error: self.console.append(str(error)))
        self.blocked: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.blocked.append(f"{request.url} {request.failure}"))
        self.page.goto(path.as_uri())

    def shown(self, selector: str) -> str:
        found = self.page.locator(selector)
        assert found.is_visible()
        return " ".join(found.inner_text().split())

    def settle(self, target: Any) -> None:
        """Scroll to ``target`` and let the page's scroll events pass: they hide what is shown beside the pointer."""
        target.scroll_into_view_if_needed()
        self.page.evaluate("() => new Promise(go => requestAnimationFrame(() => requestAnimationFrame(go)))")

    def chart_words(self) -> list[str]:
        """The texts that the first learning curve shows."""
        script = "s => [...s.querySelectorAll('text')].filter(t => t.getBBox().width).map(t => t.textContent)"
        return list(self.page.locator("svg.curves:visible").first.evaluate(script))

    def end(self) -> None:
        self.context.close()
        assert self.console == []
        asked = [url for url in self.requests if not url.startswith("data:")]
        assert len(asked) == 1, asked
        assert asked[0].startswith("file://")


@pytest.fixture(scope="module")
def pages(case: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("report")
    found = {}
    for name, more in (("plain", {}), ("hostile", {"names": HOSTILE, "note": "<script>window.pwned=1</script>"})):
        c = case(**more)
        r = report(c, prices=Prices(600, 200, hours_per_job=3.0))
        found[name] = folder / f"{name}.html"
        found[name].write_text(html.render(r), encoding="utf-8")
    return found


def test_the_language_switch_changes_page_title_and_charts(browser: Any, pages: dict[str, Path]) -> None:
    visit = Visit(browser, pages["plain"])
    assert visit.shown("h1").startswith("Adopt look-ahead")
    assert "epoch" in visit.chart_words()
    visit.page.click("[data-set-lang=ja]")
    assert "採用を推奨します" in visit.shown("h1")
    assert visit.page.title().startswith("PoC報告書")
    assert visit.page.evaluate("document.documentElement.lang") == "ja"
    assert "エポック" in visit.chart_words()
    assert "epoch" not in visit.chart_words()
    visit.page.click("[data-set-lang=en]")
    assert visit.shown("h1").startswith("Adopt look-ahead")
    visit.end()


def test_it_reads_without_javascript(browser: Any, pages: dict[str, Path]) -> None:
    visit = Visit(browser, pages["plain"], java_script_enabled=False)
    assert visit.shown("h1").startswith("Adopt look-ahead")
    assert visit.page.locator("svg.chart:visible").count() >= 8
    assert visit.page.locator(".switch").is_hidden()
    visit.end()


def test_hovering_a_curve_shows_the_recorded_values(
    browser: Any, pages: dict[str, Path], case: Callable[..., Any]
) -> None:
    visit = Visit(browser, pages["plain"])
    hit = visit.page.locator("[data-curves=epoch]:visible")
    visit.settle(hit)
    box = hit.bounding_box()
    visit.page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    tip = visit.shown("#tip")
    assert tip.startswith("epoch 10")
    summary = case().assessment.arms["look-ahead"]
    assert f"look-ahead {summary.loss_median[10]:.4g}"[:16] in tip
    visit.page.mouse.move(5, 5)
    assert visit.page.locator("#tip").is_hidden()
    dot = visit.page.locator("svg.strip:visible >> nth=0").locator("circle.dot").last
    visit.settle(dot)
    dot.hover()
    assert visit.shown("#tip").startswith("taylor-4 seed 9: 0.1")
    visit.end()


def test_arms_can_be_switched_off_by_mouse_and_keyboard(browser: Any, pages: dict[str, Path]) -> None:
    visit = Visit(browser, pages["plain"])
    button = visit.page.locator("[data-toggle='1']")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    opacity = "document.querySelector('.curves [data-series=\"1\"]').classList.contains('off')"
    assert visit.page.evaluate(opacity) is True
    visit.page.locator("[data-curves=epoch]:visible").focus()
    visit.page.keyboard.press("ArrowLeft")
    tip = visit.shown("#tip")
    assert tip.startswith("epoch 19")
    assert "look-ahead" not in tip
    assert "momentum" in tip
    button.press("Enter")
    assert visit.page.evaluate(opacity) is False
    visit.end()


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_no_glyph_is_missing(browser: Any, pages: dict[str, Path], lang: str) -> None:
    """Chromium names the font of each run of text that it drew. A glyph that no font has is drawn as "last resort"; and
    where the system has a Japanese font, Japanese text must be drawn in one."""
    visit = Visit(browser, pages["plain"])
    visit.page.click(f"[data-set-lang={lang}]")
    session = visit.context.new_cdp_session(visit.page)
    session.send("DOM.enable")
    session.send("CSS.enable")
    document = session.send("DOM.getDocument", {"depth": 0})["root"]["nodeId"]
    nodes = session.send("DOM.querySelectorAll", {"nodeId": document, "selector": "h1,h2,h3,p,li,td,th,svg text"})[
        "nodeIds"
    ]
    fonts: dict[str, int] = {}
    for node in nodes:
        for font in session.send("CSS.getPlatformFontsForNode", {"nodeId": node})["fonts"]:
            fonts[font["familyName"]] = fonts.get(font["familyName"], 0) + int(font["glyphCount"])
    assert fonts
    assert not [name for name in fonts if "last resort" in name.lower() or not name]
    # A missing glyph is a box of the same shape whatever the character: two different characters must not look alike.
    letters = sorted(set(visit.page.locator("main").inner_text()) - set(" \n\t\u202e"))
    script = """letters => {
      const canvas = document.createElement('canvas'); canvas.width = canvas.height = 40;
      const pen = canvas.getContext('2d', {willReadFrequently: true});
      pen.font = '28px ' + getComputedStyle(document.body).fontFamily; pen.textBaseline = 'top';
      const draw = (c) => {
        pen.clearRect(0, 0, 40, 40); pen.fillText(c, 2, 2);
        return pen.getImageData(0, 0, 40, 40).data.join();
      };
      const tofu = draw('\\u{10FFFD}'); const blank = draw(' ');
      return letters.filter((c) => { const d = draw(c); return d === tofu || d === blank; });
    }"""
    japanese = subprocess.run(["fc-list", ":lang=ja"], capture_output=True, text=True, check=False).stdout
    if not japanese:
        letters = [c for c in letters if ord(c) < 0x2E80]
    assert visit.page.evaluate(script, letters) == []
    visit.end()


def test_hostile_names_neither_run_nor_break(browser: Any, pages: dict[str, Path]) -> None:
    visit = Visit(browser, pages["hostile"])
    for lang in ("en", "ja"):
        visit.page.click(f"[data-set-lang={lang}]")
        assert visit.page.evaluate("window.pwned") is None
        assert visit.page.locator("main img, main b, main [onload]").count() == 0
        assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert HOSTILE["momentum"] in visit.page.locator("main").inner_text()
    hit = visit.page.locator("[data-curves=epoch]:visible")
    visit.settle(hit)
    hit.hover()
    assert "<b>bold</b>" in visit.page.locator("#tip").inner_text()
    assert visit.page.locator("#tip b").count() == 1
    assert visit.page.evaluate("window.pwned") is None
    visit.end()


def test_an_injected_script_is_refused_by_the_page_itself(browser: Any, pages: dict[str, Path], tmp_path: Path) -> None:
    """Even if escaping failed: the policy in the page lets only its own script run, and nothing be fetched."""
    source = pages["plain"].read_text(encoding="utf-8")
    attack = "<script>window.pwned=1</script><img src='https://example.invalid/x.png' onerror='window.pwned=1'>"
    path = tmp_path / "attack.html"
    path.write_text(source.replace("<footer>", attack + "<footer>"), encoding="utf-8")
    visit = Visit(browser, path)
    assert visit.page.evaluate("window.pwned") is None
    assert [url for url in visit.requests if url.startswith("http")] == ["https://example.invalid/x.png"]
    assert visit.blocked == ["https://example.invalid/x.png csp"]
    assert visit.console
    visit.context.close()


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_screen(browser: Any, pages: dict[str, Path], width: int) -> None:
    visit = Visit(browser, pages["plain"], viewport={"width": width, "height": 800})
    for lang in ("en", "ja"):
        visit.page.click(f"[data-set-lang={lang}]")
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        small = visit.page.evaluate(
            "[...document.querySelectorAll('svg.chart text')].filter(t => t.getBBox().width)"
            ".map(t => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a).filter(px => px < 9)"
        )
        assert small == []
    visit.end()


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_no_figure_is_cut_in_print(browser: Any, pages: dict[str, Path], lang: str, tmp_path: Path) -> None:
    """Lay the page out as A4 and find the pages on which each figure begins (its heading) and ends (its chart)."""
    pdftotext = shutil.which("pdftotext")
    if pdftotext is None:
        pytest.skip("poppler-utils is not installed: the print test is skipped")
    visit = Visit(browser, pages["plain"])
    visit.page.click(f"[data-set-lang={lang}]")
    count = visit.page.evaluate(
        """() => {
          const figures = [...document.querySelectorAll('figure')];
          figures.forEach((figure, n) => {
            figure.querySelector('h3').prepend(`top${n}mark `);
            figure.querySelectorAll('svg.chart').forEach((svg) => {
              const t = document.createElementNS('http://www.w3.org/2000/svg', 'text');
              t.setAttribute('x', 60); t.setAttribute('y', svg.viewBox.baseVal.height); t.textContent = `end${n}mark`;
              svg.append(t);
            });
          });
          return figures.length; }"""
    )
    target = tmp_path / "report.pdf"
    visit.page.pdf(path=str(target), prefer_css_page_size=True, print_background=True)
    visit.end()
    pages_of = subprocess.run([pdftotext, str(target), "-"], capture_output=True, text=True, check=True).stdout.split(
        "\f"
    )
    where = {w: i for i, page in enumerate(pages_of) for w in re.findall(r"(?:top|end)\d+mark", page)}
    assert count >= 8
    for n in range(count):
        assert where[f"top{n}mark"] == where[f"end{n}mark"], f"figure {n} is cut"
    assert len(pages_of) - 1 <= 6
    assert "packages.numpy" not in "".join(pages_of)  # raw numbers and the environment are for the screen
    size = subprocess.run(["pdfinfo", str(target)], capture_output=True, text=True, check=True).stdout
    assert "(A4)" in size


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_one_sheet_has_verdict_kpis_money_and_sentences(
    browser: Any, pages: dict[str, Path], lang: str, tmp_path: Path
) -> None:
    pdftotext = shutil.which("pdftotext")
    if pdftotext is None:
        pytest.skip("poppler-utils is not installed: the print test is skipped")
    visit = Visit(browser, pages["plain"])
    visit.page.click(f"[data-set-lang={lang}]")
    visit.page.evaluate("() => { window.print = () => dispatchEvent(new Event('beforeprint')); }")
    visit.page.click("[data-paper=one]")
    target = tmp_path / "sheet.pdf"
    visit.page.pdf(path=str(target), prefer_css_page_size=True, print_background=True)
    visit.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert visit.page.evaluate("document.documentElement.dataset.paper") is None
    visit.end()
    said = subprocess.run([pdftotext, str(target), "-"], capture_output=True, text=True, check=True).stdout
    assert said.count("\f") == 1
    words = {
        "en": ("Return on investment", "Summary for a meeting", "Owner"),
        "ja": ("投資対効果", "会議で使えるフレーズ", "担当"),
    }
    assert all(word in said for word in words[lang])


def test_a_chart_can_be_enlarged_and_still_shows_its_values(browser: Any, pages: dict[str, Path]) -> None:
    visit = Visit(browser, pages["plain"])
    figure = visit.page.locator("#curves figure").first
    small = figure.locator("svg.chart:visible").bounding_box()["width"]
    figure.locator("[data-zoom]").click()
    large = visit.page.locator("#zoom svg.chart:visible")
    assert large.bounding_box()["width"] > 1.4 * small
    box = large.locator("[data-curves]").bounding_box()
    visit.page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    assert visit.shown("#tip").startswith("epoch 10")
    on_top = "() => { const b = document.getElementById('tip').getBoundingClientRect();"
    on_top += " return !!document.getElementById('tip').closest('dialog') && b.width > 0; }"
    assert visit.page.evaluate(on_top)
    visit.page.locator("#zoom [data-close]").click()
    assert visit.page.locator("#zoom").is_hidden()
    assert visit.page.locator("#tip").is_hidden()
    visit.end()


def test_the_scale_of_the_loss_can_be_changed(browser: Any, pages: dict[str, Path]) -> None:
    visit = Visit(browser, pages["plain"])
    figure = visit.page.locator("#curves figure").first
    before = visit.chart_words()
    assert "validation loss (log scale)" in before
    figure.locator("[data-switch-scale]").click()
    after = visit.chart_words()
    assert "validation loss" in after
    assert "validation loss (log scale)" not in after
    figure.locator("[data-switch-scale]").click()
    assert visit.chart_words() == before
    visit.end()


def test_single_seeds_are_drawn_where_their_losses_are(
    browser: Any, pages: dict[str, Path], case: Callable[..., Any]
) -> None:
    """Ten curves for each of six arms; the last point of each is at the height of its loss on the axis."""
    visit = Visit(browser, pages["plain"])
    figure = visit.page.locator("#curves figure").first
    figure.locator("[data-seeds]").click()
    svg = figure.locator("svg.chart:visible")
    assert svg.locator(".seed").count() == 60
    hit = svg.locator("[data-curves]").evaluate(
        "h => ({...h.dataset, top: h.y.baseVal.value, size: h.height.baseVal.value})"
    )
    low, high = math.log(float(hit["low"])), math.log(float(hit["high"]))
    assert hit["log"] == "1"
    shown = svg.locator('[data-series="1"] .seed').evaluate_all("all => all.map(p => p.getAttribute('d'))")
    runs = [run for run in case().runs if run.arm == "look-ahead" and run.phase == "evaluate"]
    for drawn, run in zip(shown, sorted(runs, key=lambda run: run.seed), strict=True):
        share = (math.log(run.final_loss) - low) / (high - low)
        assert float(drawn.split()[-1]) == pytest.approx(hit["top"] + hit["size"] * (1 - share), abs=0.2)
    figure.locator("[data-seeds]").click()
    assert svg.locator(".seed").count() == 0
    visit.end()


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_every_chart_can_be_saved_as_svg_and_png(
    browser: Any, pages: dict[str, Path], lang: str, tmp_path: Path
) -> None:
    visit = Visit(browser, pages["plain"])
    visit.page.click(f"[data-set-lang={lang}]")
    figures = visit.page.locator("figure:has(svg.chart)")
    names = set()
    for n in range(figures.count()):
        figure = figures.nth(n)
        assert figure.locator("[data-zoom]").count() == figure.locator('[data-save="png"]').count() == 1
        with visit.page.expect_download() as saved:
            figure.locator('[data-save="svg"]').click()
        names.add(saved.value.suggested_filename)
        saved.value.save_as(tmp_path / f"{n}.svg")
        root = ElementTree.parse(tmp_path / f"{n}.svg").getroot()
        texts = [node for node in root.iter() if node.tag.endswith("}text")]
        assert texts
        assert {node.get("lang", lang) for node in texts} == {lang}
        assert not [node for node in root.iter() if node.get("class")]
    assert len(names) == figures.count() >= 8
    with visit.page.expect_download() as saved:
        figures.first.locator('[data-save="png"]').click()
    saved.value.save_as(tmp_path / "x.png")
    raw = (tmp_path / "x.png").read_bytes()
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(raw[16:20], "big") == 3 * 360
    visit.context.close()


@pytest.mark.parametrize(("width", "hint"), [(390, True), (1280, False)])
def test_a_table_that_is_wider_than_the_screen_says_so(
    browser: Any, pages: dict[str, Path], width: int, hint: bool
) -> None:
    visit = Visit(browser, pages["plain"], viewport={"width": width, "height": 800})
    swipe = visit.page.locator("#learned .swipe")
    assert swipe.is_visible() == hint
    box = visit.page.locator("#learned .scroll")
    assert ("more" in box.get_attribute("class").split()) == hint
    if hint:
        box.evaluate("b => { b.scrollLeft = b.scrollWidth; }")
        visit.page.wait_for_selector("#learned .scroll:not(.more)")  # the page forbids to evaluate a function
    visit.end()


def test_dark_and_light_follow_the_reader_and_paper_is_white(browser: Any, pages: dict[str, Path]) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        visit = Visit(browser, pages["plain"], color_scheme=scheme)
        colours[scheme] = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        visit.page.emulate_media(media="print")
        assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert visit.page.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(27, 33, 48)"
        visit.end()
    assert colours["light"] != colours["dark"]


@pytest.mark.parametrize(("locale", "starts"), [("ja-JP", "look-ahead の採用"), ("en-GB", "Adopt"), ("fr-FR", "Adopt")])
def test_the_browser_decides_the_first_language(browser: Any, pages: dict[str, Path], locale: str, starts: str) -> None:
    visit = Visit(browser, pages["plain"], locale=locale)
    assert visit.shown("h1").startswith(starts)
    visit.end()


def test_a_language_that_was_asked_for_stays(browser: Any, case: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "ja.html"
    path.write_text(html.render(report(case()), "ja"), encoding="utf-8")
    visit = Visit(browser, path, locale="en-US")
    assert visit.shown("h1").startswith("look-ahead の採用")
    visit.end()


@pytest.mark.parametrize(
    ("zone", "ja", "en"),
    [("Asia/Tokyo", "2026年11月24日 10:09", "10:09"), ("America/New_York", "2026年11月23日 20:09", "08:09")],
)
def test_times_are_in_the_zone_of_the_reader(browser: Any, pages: dict[str, Path], zone: str, ja: str, en: str) -> None:
    """The last run of the synthetic study ended at 01:09:09 UTC on 24 November."""
    visit = Visit(browser, pages["plain"], timezone_id=zone)
    assert en in visit.shown(".hero time")
    visit.page.click("[data-set-lang=ja]")
    assert ja in visit.shown(".hero time")
    visit.end()
    visit = Visit(browser, pages["plain"], java_script_enabled=False)
    assert "24 November 2026, 01:09 UTC" in visit.shown(".hero time")
    visit.end()
