"""The report in a real browser, from disk: no errors, no network; four answers first and the rest folded, meanings of
terms, CSV, filters, sorting, audio, dark, phone, print."""

import csv
from contextlib import contextmanager
from pathlib import Path

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
    """Opens the report, and its sections unless `folded`; fails where the page writes to its console or requests
    anything."""
    return lambda **settings: opened_file(browser, path, **settings)


@contextmanager
def opened_file(browser, path, folded=False, **settings):
    with open_page(browser, **settings) as page:
        page.goto(path.as_uri())
        if not folded:
            page.evaluate("document.querySelectorAll('details.part').forEach(d => { d.open = true; })")
        yield page
        assert page.messages == [] and page.requests == []


def widths(page):
    return page.evaluate("[document.documentElement.scrollWidth, innerWidth]")


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_first_screen_is_four_answers(opened, width, height):
    with opened(folded=True, width=width, height=height, has_touch=width == 390) as page:
        answers = page.locator("#answers .answer")
        expect(answers).to_have_count(4)
        expect(answers.last).to_be_in_viewport(ratio=1)
        expect(answers.locator(".short")).to_have_text(
            ["Audio loses 66.7 points", "Self-KD closes 75.0%", "No clear difference", "Both, neither clearly more"]
        )
        expect(page.locator("details[open]")).to_have_count(0)
        assert widths(page) == [width, width]
        assert page.evaluate("document.documentElement.scrollHeight") < 2 * height + 100
        screenshot(page, f"report-first-{width}")
        screenshot(page, f"report-folded-{width}", full_page=True)


def test_links_open_folded_sections(opened):
    with opened(folded=True) as page:
        scores = page.locator("#scores table").first
        expect(scores).to_be_hidden()
        page.get_by_role("link", name="Scores").click()
        expect(scores).to_be_visible()
        expect(page.get_by_role("heading", name="Scores", exact=True)).to_be_in_viewport()
        page.goto(page.url.partition("#")[0] + "#training")
        expect(page.locator("#training .chart").first).to_be_visible()
        page.locator("#items summary").first.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_be_visible()


def test_meaning_of_a_term_on_hover_focus_and_tap(opened):
    with opened(folded=True) as page:
        tip, gap = page.get_by_role("tooltip"), page.locator("#answers .term", has_text="gap").first
        expect(tip).to_be_hidden()
        gap.hover()
        expect(tip).to_contain_text("The score with text queries minus the score with audio queries")
        page.locator("h1").hover()
        expect(tip).to_be_hidden()
        gap.focus()
        expect(tip).to_be_visible()
        expect(gap).to_have_accessible_description(tip.text_content())
        page.keyboard.press("Escape")
        expect(tip).to_be_hidden()
        page.keyboard.press("Tab")
        expect(page.locator("#answers .term").nth(1)).to_be_focused()
        expect(tip).to_be_visible()
    with opened(width=390, height=844, has_touch=True) as page:
        tip = page.get_by_role("tooltip")
        page.locator("#answers .term", has_text="95% interval").first.tap()
        expect(tip).to_contain_text("The range in which the true value")
        box = tip.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and widths(page) == [390, 390]
        head = page.locator("#scores th button", has_text="Chance").first
        head.tap()
        expect(tip).to_contain_text("best constant answer")
        page.locator("#answers .short").first.tap()
        expect(tip).to_be_hidden()


def test_every_term_has_its_meaning_on_the_page(opened):
    with opened() as page:
        found = page.locator("[data-term]").evaluate_all(
            "all => all.map(e => [e.dataset.term, e.getAttribute('aria-describedby'), e.tabIndex])"
        )
        assert len(found) > 40 and all(term == described and index == 0 for term, described, index in found)
        assert all(page.locator(f"#terms dd#{term}").count() == 1 for term in {term for term, *_ in found})


def test_each_table_is_downloaded_as_csv(opened):
    with opened(accept_downloads=True) as page:
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        tables = page.locator("table.sortable")
        links = page.get_by_role("link", name="CSV of ")
        expect(links).to_have_count(tables.count())
        with page.expect_download() as downloading:
            page.get_by_role("link", name="CSV of Scores by modality").click()
        assert downloading.value.suggested_filename == "scores-by-modality.csv"
        with Path(downloading.value.path()).open(newline="") as file:
            head, *rows = csv.reader(file)
        table = page.locator("table", has=page.get_by_text("Scores by modality", exact=True))
        assert head == table.locator("th").all_inner_texts() and head[:3] == ["Benchmark", "System", "n"]
        assert [row[:5] for row in rows] == [
            ["world", "Text", "12", "11", "91.7%"],
            ["world", "Audio, SFT", "12", "3", "25.0%"],
            ["world", "Audio, Self-KD", "12", "9", "75.0%"],
            ["world", "Cascade", "12", "10", "83.3%"],
        ]


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
    with opened(folded=True) as page:
        page.get_by_role("link", name="Agreement").click()
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
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        expect(page.locator("details.part[open]")).to_have_count(9)
        expect(page.locator("#answers details[open]")).to_have_count(0)


def test_print_shows_folded_parts_without_a_script(browser, path):
    """The style alone: some browsers send no event before printing."""
    with open_page(browser, java_script_enabled=False) as page:
        page.goto(path.as_uri())
        expect(page.locator("#scores table").first).to_be_hidden()
        page.emulate_media(media="print")
        expect(page.locator("#scores table").first).to_be_visible()


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
