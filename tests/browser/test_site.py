"""In a real browser the page sorts, filters, remembers, asks the network for nothing, and runs only its own script."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaderboards.build import build

webdriver = pytest.importorskip("selenium.webdriver")
axe = pytest.importorskip("axe_core_python")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
)
AXE = Path(axe.__file__).with_name("axe.min.js")
DEMO = runpy.run_path(str(Path(__file__).parents[1] / "leaderboards" / "demo.py"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[webdriver.Chrome]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(executable_path=DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    """The demo with hostile names in a model, a class and a message."""
    run, results = DEMO["demo"]()
    hostile = f"{DEMO['HOSTILE']}{DEMO['HOSTILE_ATTRIBUTE']}"
    results = [r.model_copy(update={"title": f"ConVIRT {hostile}"}) if r.title == "ConVIRT" else r for r in results]
    run = run.model_copy(update={"dataset": run.dataset.model_copy(update={"classes": (hostile, "Low back pain")})})
    maps = DEMO["maps"](results, phrase=f"canal {hostile}")
    return build(run, results, tmp_path_factory.mktemp("site"), maps, DEMO["analysis"](results)).as_uri()


@pytest.fixture
def page(browser, address) -> Iterator[webdriver.Chrome]:
    """The page as a reader first opens it; afterwards, a console that stayed empty."""
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(address)
    yield browser
    assert browser.get_log("browser") == []


def column(page, key: str, table: str = "all") -> list[str]:
    """Texts of a column in the ranked rows that are shown, as the reader sees them."""
    return page.execute_script(
        """const table = document.querySelector(`table[data-table=${arguments[0]}]`);
        const index = [...table.tHead.rows[0].cells].findIndex((th) => th.dataset.key === arguments[1]);
        return [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[index].dataset.v);""",
        table,
        key,
    )


def heading(page, key: str, table: str = "all"):
    return page.find_element(By.CSS_SELECTOR, f"table[data-table={table}] th[data-key='{key}']")


def press(page, element) -> None:
    """Click by script: what is tested is the page, not the browser's scrolling."""
    page.execute_script("arguments[0].click()", element)


def test_opens_sorted_by_the_primary_metric_with_nothing_asked_of_the_network(page):
    """Best first, no resource but the document itself, and the tools of the script are in place."""
    values = [float(v) for v in column(page, "primary")]
    assert len(values) == 35
    assert values == sorted(values, reverse=True)
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert page.find_element(By.CSS_SELECTOR, "[data-filter=regime]").is_displayed()
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_sorts_by_click_and_back_with_undefined_last(page):
    """A click sorts best first, the next worst first; the one undefined figure is last both times."""
    button = heading(page, "probe_standard-mcc").find_element(By.TAG_NAME, "button")
    for direction in ("descending", "ascending"):
        press(page, button)
        values = column(page, "probe_standard-mcc")
        assert values[-1] == ""
        numbers = [float(v) for v in values[:-1]]
        assert numbers == sorted(numbers, reverse=direction == "descending")
        assert heading(page, "probe_standard-mcc").get_attribute("aria-sort") == direction
        assert heading(page, "primary").get_attribute("aria-sort") == "none"


def test_sorts_by_keyboard(page):
    """Enter on a focused heading sorts; words sort as words, and only that table is sorted."""
    best = column(page, "model", "best")
    heading(page, "model").find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    names = column(page, "model")
    assert names == sorted(names)
    assert len(set(names)) == 4
    assert column(page, "model", "best") == best


def test_references_stay_below_whatever_is_sorted(page):
    """The row that reads the report is never sorted in among those that read the picture."""
    press(page, heading(page, "primary").find_element(By.TAG_NAME, "button"))
    assert "text" not in column(page, "reads")
    below = page.find_element(By.CSS_SELECTOR, "table[data-table=all] tbody.references")
    assert "TF-IDF on the report" in below.text


def test_filters_together_and_clears(page):
    """Model text and regime narrow the rows together, the count follows, and clearing brings all back."""
    page.find_element(By.CSS_SELECTOR, "[data-filter=q]").send_keys("SWIN")
    Select(page.find_element(By.CSS_SELECTOR, "[data-filter=regime]")).select_by_value("full")
    assert column(page, "regime") == ["full"] * 4
    assert set(column(page, "model")) == {"lumbarclip swin"}
    output = page.find_element(By.CSS_SELECTOR, "[data-matches]")
    assert output.text == "4 of 38 rows"
    assert not page.find_element(By.CSS_SELECTOR, "table[data-table=all] tr.divider").is_displayed()
    press(page, page.find_element(By.CSS_SELECTOR, "[data-clear]"))
    assert output.text == "38 of 38 rows"
    assert page.execute_script("return location.hash") == ""


def test_address_restores_filters_sorting_and_columns(page, address):
    """What was set is in the address, and a reload, or the address alone, brings the same view back."""
    Select(page.find_element(By.CSS_SELECTOR, "[data-filter=augmentation]")).select_by_value("eda")
    press(page, page.find_element(By.CSS_SELECTOR, "[data-columns=cost]"))
    speed = heading(page, "images_per_s")
    press(page, speed.find_element(By.TAG_NAME, "button"))
    seen = column(page, "model"), column(page, "images_per_s")
    link = page.current_url
    assert len(seen[0]) == 15
    assert [float(v) for v in seen[1]] == sorted(map(float, seen[1]), reverse=True)
    for reopen in (page.refresh, lambda: (page.get("about:blank"), page.get(link))):
        reopen()
        assert (column(page, "model"), column(page, "images_per_s")) == seen
        assert heading(page, "images_per_s").is_displayed()
        assert heading(page, "images_per_s").get_attribute("aria-sort") == "descending"
        assert (
            Select(page.find_element(By.CSS_SELECTOR, "[data-filter=augmentation]")).first_selected_option.text == "eda"
        )


def test_section_links_keep_the_view(page):
    """Following a link within the page does not undo a filter."""
    Select(page.find_element(By.CSS_SELECTOR, "[data-filter=regime]")).select_by_value("heads")
    press(page, page.find_element(By.CSS_SELECTOR, "a[href='#reading']"))
    assert set(column(page, "regime")) == {"heads"}


def test_nonsense_in_the_address_is_ignored(page, address):
    """Unknown keys, values and columns leave the page as it opens, without an error."""
    page.get("about:blank")
    page.get(f"{address}#regime=%22%3E%3Cimg&sort-all=nothing.up&columns=none&x=%E0%A4%A")
    assert len(column(page, "primary")) == 35
    assert not heading(page, "probe_standard-mcc").is_displayed()


def test_column_groups_show_and_hide_in_both_tables(page):
    """One choice serves both tables; what is not chosen is not shown."""
    shown = {"quality": "probe_standard-mcc", "calibration": "probe_standard-ece"}

    def visible() -> set[str]:
        return {group for group, key in shown.items() for t in ("best", "all") if heading(page, key, t).is_displayed()}

    assert visible() == set()
    press(page, page.find_element(By.CSS_SELECTOR, "[data-toolbar=best] [data-columns=quality]"))
    assert visible() == {"quality"}
    press(page, page.find_element(By.CSS_SELECTOR, "[data-toolbar=all] [data-columns=calibration]"))
    press(page, page.find_element(By.CSS_SELECTOR, "[data-toolbar=all] [data-columns=quality]"))
    assert visible() == {"calibration"}


def test_hostile_names_are_shown_and_do_nothing(page):
    """Markup in names and messages is visible text: no script ran, no image or element came of it."""
    assert page.title == "Lumbar phantom: leaderboard"
    assert page.find_elements(By.TAG_NAME, "img") == []
    assert len(page.find_elements(By.TAG_NAME, "script")) == 1
    assert page.find_element(By.ID, "failed").text.count(DEMO["HOSTILE"]) == 2
    assert DEMO["HOSTILE_ATTRIBUTE"] in page.find_element(By.ID, "best").text


def test_policy_refuses_any_other_script(browser, address):
    """A script that someone manages to insert does not run: the policy names the only one that may."""
    browser.get(address)
    browser.execute_script(
        """const script = document.createElement("script");
        script.textContent = "window.ran = 1";
        document.body.append(script);"""
    )
    assert browser.execute_script("return window.ran") is None
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(page, scheme):
    """Text and muted text reach the 4.5 : 1 of WCAG AA on every background, in both colour schemes."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    colours = page.execute_script(
        """const probe = document.body.appendChild(document.createElement("i"));
        const names = ["ink", "muted", "accent", "amber", "red", "page", "surface", "soft"];
        const found = names.map((name) => {
          probe.style.color = `var(--${name})`;
          return [name, getComputedStyle(probe).color.match(/\\d+/g).map(Number)];
        });
        probe.remove();
        return Object.fromEntries(found);"""
    )
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert (luminance(colours["page"]) < 0.2) == (scheme == "dark")
    for text, behind in [
        *((text, behind) for text in ("ink", "muted") for behind in ("page", "surface", "soft")),
        ("accent", "page"),
        ("amber", "surface"),
        ("red", "page"),
    ]:
        a, b = sorted((luminance(colours[text]), luminance(colours[behind])))
        assert (b + 0.05) / (a + 0.05) >= 4.5, (text, behind)


def luminance(rgb: list[int]) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2)."""
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_phone_width_needs_no_sideways_scrolling(page):
    """At 390 px only tables and charts scroll, and the model's name stays in view while they do."""
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") == 390
        left = page.execute_script(
            """const box = document.querySelector("#rows .scroll");
            box.scrollLeft = 300;
            const name = box.querySelector("tbody th.model");
            return [box.scrollLeft, name.getBoundingClientRect().left - box.getBoundingClientRect().left];"""
        )
        assert left[0] == 300
        assert abs(left[1]) <= 2
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


# ------------------------------------------------------------------------------------------ thousands of rows


def test_of_thousands_of_rows_the_first_are_laid_out_and_the_others_found(browser, tmp_path):
    """Filters count all rows, lay out a hundred, and a button shows the rest; sorting decides which are the first."""
    run, results = DEMO["many"](1200)
    browser.get(build(run, results, tmp_path).as_uri())

    def shown() -> int:
        return browser.execute_script("return document.querySelectorAll('#rows tr[data-model]:not([hidden])').length")

    assert shown() == 100
    search = browser.find_element(By.CSS_SELECTOR, "[data-filter=q]")
    search.send_keys("convirt")
    matching = sum(r.spec.model == "convirt" and r.status == "done" for r in results)
    assert browser.find_element(By.CSS_SELECTOR, "[data-matches]").text.startswith(f"{matching} of ")
    assert shown() == 100
    press(browser, heading(browser, "primary").find_element(By.TAG_NAME, "button"))
    first = [float(v) for v in column(browser, "primary")]
    assert first == sorted(first)
    press(browser, browser.find_element(By.CSS_SELECTOR, "[data-more]"))
    assert shown() == matching


# ------------------------------------------------------------------------------------------ the whole site

PAGES = (
    *("index.html", "ablation.html", "data.html", "protocol.html", "reported.html"),
    *("model-lumbarclip-vit.html", "model-convirt.html"),
)


def test_every_link_of_every_page_leads_to_a_page_that_asks_for_nothing(page, address):
    """From the front page on, each link is followed once: pages and places in them exist, and none requests a thing."""
    todo, seen = [address], set()
    while todo:
        here = todo.pop()
        page.get(here)
        seen.add(here)
        assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
        assert page.title
        links = page.execute_script(
            "return [...document.querySelectorAll('a[href]:not([download])')].map((a) => a.href)"
        )
        for link in links:
            target, _, place = link.partition("#")
            assert target.startswith(address.removesuffix("index.html"))
            if place and target == here:
                assert page.find_elements(By.ID, place)
            todo += [] if target in seen or target in todo else [target]
    names = {link.rpartition("/")[2] for link in seen}
    assert names >= set(PAGES)


@pytest.mark.parametrize("file", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_axe_finds_nothing(page, address, file, scheme, width):
    """The accessibility rules of axe-core, on every kind of page, in both colour schemes, at both widths."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    try:
        page.get(address.replace("index.html", file))
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        page.execute_script(AXE.read_text(encoding="utf-8"))
        found = page.execute_async_script("axe.run(document).then(arguments[0])")
        assert [f"{v['id']}: {[node['html'][:120] for node in v['nodes']]}" for v in found["violations"]] == []
        assert len(found["passes"]) > 10
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


# ------------------------------------------------------------------------------------------ pages of models

MODELS = ("lumbarclip-resnet50", "lumbarclip-vit", "lumbarclip-swin", "convirt", "majority", "metadata-only")


def test_every_model_is_reached_from_the_leaderboard_and_leads_back(page, address):
    """Each name in the table of the best is a link; no page asks for anything or says a word to the console."""
    links = [a.get_attribute("href") for a in page.find_elements(By.CSS_SELECTOR, "#best th.model a")]
    assert {link.rpartition("/")[2] for link in links} >= {f"model-{name}.html" for name in MODELS}
    for link in links:
        page.get(link)
        assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert page.find_elements(By.TAG_NAME, "script") == []
        press(page, page.find_element(By.CSS_SELECTOR, ".eyebrow a"))
        assert page.current_url == address


def test_maps_are_drawn_over_their_pictures_and_open_by_keyboard(page, address):
    """Pictures and maps have a size, maps lie exactly over their pictures, and the folded ones open with Enter."""
    page.get(address.replace("index.html", "model-lumbarclip-vit.html"))
    page.execute_script("document.querySelector('#maps').scrollIntoView()")
    boxes = page.execute_script(
        """return [...document.querySelectorAll(".variant-maps[open] .seen img")].map((map) => {
          const box = map.getBoundingClientRect(), seen = map.parentElement.getBoundingClientRect();
          const drawn = getComputedStyle(map.parentElement).backgroundImage.startsWith('url("data:image/png');
          return [map.naturalWidth, box.width, Math.abs(box.left - seen.left), box.height - seen.height, drawn];
        });"""
    )
    assert len(boxes) == 3
    for natural, width, left, height, drawn in boxes:
        assert natural == 4
        assert width >= 100
        assert abs(left) < 1
        assert abs(height) < 1
        assert drawn
    folded = page.find_element(By.CSS_SELECTOR, ".variant-maps:not([open])")
    folded.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    assert folded.get_attribute("open") is not None


def test_hostile_phrases_stay_text_on_a_models_page(page, address):
    page.get(address.replace("index.html", "model-convirt.html"))
    assert DEMO["HOSTILE"] in page.find_element(By.ID, "maps").text
    assert "owned" not in page.title.replace(DEMO["HOSTILE"], "")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_models_page_fits_a_phone_in_both_colour_schemes(page, address, scheme):
    """At 390 px nothing but tables and charts scrolls sideways, and the screenshot is no empty sheet."""
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    try:
        page.get(address.replace("index.html", "model-lumbarclip-vit.html"))
        assert page.execute_script("return document.documentElement.scrollWidth") == 390
        page.execute_script("document.querySelector('.picture-maps').scrollIntoView()")
        assert len(page.get_screenshot_as_png()) > 20_000
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
