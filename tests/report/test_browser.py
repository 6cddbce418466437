"""The report in a real browser, from disk: no errors, no network; filters, sorting, audio, dark, phone, print."""

from contextlib import contextmanager

import pytest
from browser import chromium, expect, open_page, screenshot
from report_runs import audio_data

from selfkd.report.build import ReportConfig, report
from selfkd.report.sections.audio_quality import AudioQualityConfig, audio_quality_report

pytestmark = pytest.mark.browser

# visible texts whose contrast (WCAG 2) with the nearest opaque background is too low
CONTRASTS = """() => {
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const [r, g, b, a = 1] = numbers(getComputedStyle(e).backgroundColor);
      if (a > 0) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || ["SCRIPT", "STYLE", "OPTION"].includes(e.tagName)) continue;
    const style = getComputedStyle(e);
    const ink = light(numbers(e.closest("svg") ? style.fill : style.color)), paper = light(behind(e));
    const ratio = (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} <${e.tagName} class=${e.getAttribute("class")}> ${e.textContent}`);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def path(runs, tmp_path_factory):
    return report(ReportConfig(runs, tmp_path_factory.mktemp("browser") / "report.html", items=8))


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def opened(browser, path):
    """Opens the report; fails where the page writes to its console or requests anything."""
    return lambda **settings: opened_file(browser, path, **settings)


@contextmanager
def opened_file(browser, path, **settings):
    with open_page(browser, **settings) as page:
        page.goto(path.as_uri())
        yield page
        assert page.messages == [] and page.requests == []


def widths(page):
    return page.evaluate("[document.documentElement.scrollWidth, innerWidth]")


def test_items_are_filtered_and_searched(opened):
    with opened() as page:
        shown = page.locator("#list .item:visible")
        count = page.get_by_role("status")
        expect(count).to_have_text("12 of 12 items match, 12 shown")
        expect(shown).to_have_count(12)
        page.get_by_role("combobox", name="Outcome").select_option("only text correct")
        page.get_by_label("System").select_option("Self-KD")
        expect(count).to_have_text("2 of 12 items match, 2 shown")
        expect(shown).to_have_count(2)
        page.get_by_label("System").select_option("SFT")
        expect(shown).to_have_count(8)
        screenshot(page, "report-filtered")
        page.get_by_role("button", name="Clear").click()
        expect(shown).to_have_count(12)
        page.get_by_label("Search").fill("TRANSCRIPT of world-test-7-000003")
        expect(shown).to_have_count(1)
        expect(shown).to_contain_text("world-test-7-000003")
        page.get_by_label("Search").fill("no such words")
        expect(shown).to_have_count(0)
        expect(count).to_have_text("0 of 12 items match, 0 shown")


def test_items_outside_the_window_have_inner_text(opened):
    """With content-visibility the innerText of items far from the window was empty."""
    with opened(height=300) as page:
        expect(page.get_by_role("status")).to_have_text("12 of 12 items match, 12 shown")
        last = page.locator("#list .item").last
        assert page.evaluate("scrollY") == 0 and "world-test-7-" in last.inner_text()


def test_item_id_in_a_table_finds_the_item(opened):
    with opened() as page:
        page.locator("#agreement").get_by_role("button", name="world-test-7-000011").first.click()
        shown = page.locator("#list .item:visible")
        expect(page.get_by_role("status")).to_have_text("1 of 12 items match, 1 shown")
        expect(shown).to_have_count(1)
        expect(shown).to_contain_text("world-test-7-000011")
        expect(shown).to_be_in_viewport()


def test_table_is_sorted_from_the_keyboard(opened):
    with opened() as page:
        table = page.locator("table", has=page.get_by_text("Scores by modality", exact=True))
        head = table.locator("th", has_text="Score")
        column = table.locator("tbody tr td:nth-child(5)")

        head.get_by_role("button").focus()
        page.keyboard.press("Enter")
        expect(head).to_have_attribute("aria-sort", "ascending")
        expect(column).to_have_text(["25.0%", "75.0%", "83.3%", "91.7%"])
        page.keyboard.press("Enter")
        expect(head).to_have_attribute("aria-sort", "descending")
        expect(column).to_have_text(["91.7%", "83.3%", "75.0%", "25.0%"])
        system = table.locator("th", has_text="System")
        system.get_by_role("button").click()
        expect(head).to_have_attribute("aria-sort", "none")
        expect(system).to_have_attribute("aria-sort", "ascending")
        expect(table.locator("tbody tr td:nth-child(2)").first).to_have_text("Audio, Self-KD")


def test_numbers_are_sorted_as_numbers(opened):
    with opened() as page:
        sort = "t => { document.body.insertAdjacentHTML('beforeend', t); const e = document.body.lastElementChild;"
        sort += "sortBy(e, 0, false); return [...e.tBodies[0].rows].map(r => r.textContent); }"
        cells = "".join(f"<tr><td>{c}</td></tr>" for c in ("1,200", "–", "−3.5%", "90", "+0.2 [−1, 1]", "1e-05"))
        found = page.evaluate(sort, f"<table><tbody>{cells}</tbody></table>")
        assert found == ["−3.5%", "1e-05", "+0.2 [−1, 1]", "90", "1,200", "–"]


def test_audio_plays_and_images_load(opened):
    with opened() as page:
        audio = page.locator("audio").first
        playing = (
            "new Promise(done => a.addEventListener('timeupdate', () => a.currentTime > 0.1 && done(a.currentTime)))"
        )
        assert audio.evaluate(f"a => {{ const started = {playing}; return a.play().then(() => started); }}") > 0.1
        assert audio.evaluate("a => a.duration") == pytest.approx(0.6, abs=0.1)
        assert audio.evaluate("a => a.error") is None
        images = page.locator("article img, .map img")
        images.evaluate_all("all => all.forEach(i => { i.loading = 'eager'; })")
        assert page.evaluate("Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth > 0)))")


def test_audio_quality_page(browser, tmp_path):
    config = AudioQualityConfig([str(audio_data(tmp_path / "world"))], tmp_path / "quality.html", items=3)
    with opened_file(browser, audio_quality_report(config), width=390, color_scheme="dark") as page:
        expect(page.locator("audio")).to_have_count(3)
        assert widths(page) == [390, 390]
        assert page.evaluate(CONTRASTS) == []
        screenshot(page, "audio-quality-390")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_in_light_and_dark(opened, scheme):
    with opened(color_scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert page.evaluate(CONTRASTS) == []
        screenshot(page, f"report-{scheme}")


def test_dark_switch(opened):
    with opened(color_scheme="light") as page:
        paper, switch = page.locator("body"), page.get_by_role("button", name="Dark")
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        expect(switch).to_have_attribute("aria-pressed", "false")
        switch.click()
        expect(switch).to_have_attribute("aria-pressed", "true")
        expect(paper).not_to_have_css("background-color", light)
        switch.click()
        expect(switch).to_have_attribute("aria-pressed", "false")
        expect(paper).to_have_css("background-color", light)


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_is_wider_than_the_window(opened, width):
    with opened(width=width, height=800, has_touch=True) as page:
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        found, window = widths(page)
        assert found == window == width
        screenshot(page, f"report-{width}")


def test_print_is_light_and_complete(opened):
    with opened(color_scheme="dark") as page:
        page.emulate_media(media="print")
        for hidden in (page.locator("nav"), page.locator("audio").first, page.locator("#filters")):
            expect(hidden).to_be_hidden()
        expect(page.locator("h1")).to_be_visible()
        ink = page.evaluate("getComputedStyle(document.body).color").removeprefix("rgb(").split(",")
        assert int(ink[0]) < 80, "light ink on white paper"
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate("[...document.querySelectorAll('details')].every(d => d.open)")
        assert page.pdf()[:4] == b"%PDF"


@pytest.mark.slow
def test_keyboard_navigation_and_roles(opened):
    with opened() as page:
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.locator("#theme")).to_be_focused()
        expect(page.locator("#theme")).to_have_css("outline-style", "solid")
        scrolling = page.locator(".scroll:has(table)")
        expect(page.locator(".scroll[tabindex='0'][role='region'][aria-label]")).to_have_count(scrolling.count())
        for role in ("banner", "navigation", "main", "contentinfo", "search"):
            expect(page.get_by_role(role)).to_have_count(1)
        nameless = "all => all.filter(e => !e.labels?.length && !e.textContent.trim()).length"
        assert page.locator("button, select, input").evaluate_all(nameless) == 0
