"""The report in a real browser, from disk: no errors, no network; filters, sorting, sound, dark, phone, print."""

from contextlib import contextmanager

import pytest
from browser import chromium_page, expect, screenshot
from report_runs import all_question_types, spoken_data

from selfkd.report.build import ReportConfig, report
from selfkd.report.sections.audio_quality import AudioReportConfig, speech_report

# of every text that is seen: its contrast (WCAG 2) with the nearest background that is not see-through
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
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    return report(ReportConfig(all_question_types(folder), folder / "report.html", items=8))


@contextmanager
def opened(path, **settings):
    """The page, which must end without a word on its console and without a request."""
    with chromium_page(**settings) as page:
        page.goto(path.as_uri())
        yield page
        assert page.messages == [] and page.requests == []


def wide(page):
    return page.evaluate("[document.documentElement.scrollWidth, innerWidth]")


def test_items_are_filtered_and_found(path):
    with opened(path) as page:
        shown = page.locator("#list .item:visible")
        count = page.get_by_role("status")
        expect(count).to_have_text("12 of 12 items fit, 12 shown")
        expect(shown).to_have_count(12)
        page.get_by_label("Outcome").select_option("only written right")
        page.get_by_label("System").select_option("Self-KD")
        expect(count).to_have_text("2 of 12 items fit, 2 shown")
        expect(shown).to_have_count(2)
        page.get_by_label("System").select_option("SFT")
        expect(shown).to_have_count(8)
        screenshot(page, "report-filtered")
        page.get_by_role("button", name="Clear").click()
        expect(shown).to_have_count(12)
        page.get_by_label("Words").fill("HEARD world-test-7-000003")
        expect(shown).to_have_count(1)
        expect(shown).to_contain_text("world-test-7-000003")
        page.get_by_label("Words").fill("no such words")
        expect(shown).to_have_count(0)
        expect(count).to_have_text("0 of 12 items fit, 0 shown")


def test_what_an_item_says_is_there_for_scripts_wherever_the_window_stands(path):
    """Items used to be laid out only near the window (content-visibility); their innerText was empty till then."""
    with opened(path, height=300) as page:
        expect(page.get_by_role("status")).to_have_text("12 of 12 items fit, 12 shown")
        last = page.locator("#list .item").last
        assert page.evaluate("scrollY") == 0 and "world-test-7-" in last.inner_text()


def test_an_item_that_a_table_names_is_one_step_away(path):
    with opened(path) as page:
        page.locator("#agreement").get_by_role("button", name="world-test-7-000011").first.click()
        shown = page.locator("#list .item:visible")
        expect(page.get_by_role("status")).to_have_text("1 of 12 items fit, 1 shown")
        expect(shown).to_have_count(1)
        expect(shown).to_contain_text("world-test-7-000011")
        expect(shown).to_be_in_viewport()


def test_a_table_is_sorted_from_the_keyboard(path):
    with opened(path) as page:
        table = page.locator("table", has=page.get_by_text("Scores of each view", exact=True))
        head = table.locator("th", has_text="Score")
        column = table.locator("tbody tr td:nth-child(5)")

        head.get_by_role("button").focus()
        page.keyboard.press("Enter")
        expect(head).to_have_attribute("aria-sort", "ascending")
        expect(column).to_have_text(["25.0%", "75.0%", "83.3%", "91.7%"])
        page.keyboard.press("Enter")
        expect(head).to_have_attribute("aria-sort", "descending")
        expect(column).to_have_text(["91.7%", "83.3%", "75.0%", "25.0%"])
        by = table.locator("th", has_text="Answered by")
        by.get_by_role("button").click()
        expect(head).to_have_attribute("aria-sort", "none")
        expect(by).to_have_attribute("aria-sort", "ascending")
        expect(table.locator("tbody tr td:nth-child(2)").first).to_have_text("Cascade")


def test_numbers_are_sorted_as_numbers(path):
    with opened(path) as page:
        sort = "t => { document.body.insertAdjacentHTML('beforeend', t); const e = document.body.lastElementChild;"
        sort += "sortBy(e, 0, false); return [...e.tBodies[0].rows].map(r => r.textContent); }"
        cells = "".join(f"<tr><td>{c}</td></tr>" for c in ("1,200", "–", "−3.5%", "90", "+0.2 [−1, 1]", "1e-05"))
        found = page.evaluate(sort, f"<table><tbody>{cells}</tbody></table>")
        assert found == ["−3.5%", "1e-05", "+0.2 [−1, 1]", "90", "1,200", "–"]


def test_speech_plays(path):
    with opened(path) as page:
        audio = page.locator("audio").first
        goes_on = (
            "new Promise(done => a.addEventListener('timeupdate', () => a.currentTime > 0.1 && done(a.currentTime)))"
        )
        assert audio.evaluate(f"a => {{ const heard = {goes_on}; return a.play().then(() => heard); }}") > 0.1
        assert audio.evaluate("a => a.duration") == pytest.approx(0.6, abs=0.1)
        assert audio.evaluate("a => a.error") is None
        images = page.locator("article img, .map img")
        images.evaluate_all("all => all.forEach(i => { i.loading = 'eager'; })")
        assert page.evaluate("Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth > 0)))")


def test_the_page_on_speech_is_such_a_page(tmp_path):
    config = AudioReportConfig([str(spoken_data(tmp_path / "world"))], tmp_path / "speech.html", items=3)
    with opened(speech_report(config), width=390, color_scheme="dark") as page:
        expect(page.locator("audio")).to_have_count(3)
        assert wide(page) == [390, 390]
        assert page.evaluate(CONTRASTS) == []
        screenshot(page, "speech-390")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_can_be_read(path, scheme):
    with opened(path, color_scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        assert page.evaluate(CONTRASTS) == []
        screenshot(page, f"report-{scheme}")


def test_dark_is_a_switch(path):
    with opened(path, color_scheme="light") as page:
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
def test_nothing_is_wider_than_the_window(path, width):
    with opened(path, width=width, height=800, has_touch=True) as page:
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        found, window = wide(page)
        assert found == window == width
        screenshot(page, f"report-{width}")


def test_printed_it_is_light_and_whole(path):
    with opened(path, color_scheme="dark") as page:
        page.emulate_media(media="print")
        for gone in (page.locator("nav"), page.locator("audio").first, page.locator("#filters")):
            expect(gone).to_be_hidden()
        expect(page.locator("h1")).to_be_visible()
        ink = page.evaluate("getComputedStyle(document.body).color").removeprefix("rgb(").split(",")
        assert int(ink[0]) < 80, "light ink on white paper"
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate("[...document.querySelectorAll('details')].every(d => d.open)")
        assert page.pdf()[:4] == b"%PDF"


def test_the_keyboard_reaches_everything_and_is_seen(path):
    with opened(path) as page:
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="To the content")).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.locator("#theme")).to_be_focused()
        expect(page.locator("#theme")).to_have_css("outline-style", "solid")
        scrolling = page.locator(".scroll:has(table)")
        expect(page.locator(".scroll[tabindex='0'][role='region'][aria-label]")).to_have_count(scrolling.count())
        for role in ("banner", "navigation", "main", "contentinfo", "search"):
            expect(page.get_by_role(role)).to_have_count(1)
        nameless = "all => all.filter(e => !e.labels?.length && !e.textContent.trim()).length"
        assert page.locator("button, select, input").evaluate_all(nameless) == 0
