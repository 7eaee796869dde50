"""Reports in a real browser, on a laptop and on a phone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)

# Elements that stick out of the window, unless an ancestor of theirs scrolls or cuts them.
OUTSIDE = """
return [...document.body.querySelectorAll('*')].filter(element => {
  const box = element.getBoundingClientRect();
  if (box.width === 0 || (box.left >= -0.5 && box.right <= innerWidth + 0.5)) return false;
  for (let up = element.parentElement; up; up = up.parentElement)
    if (['auto', 'scroll'].includes(getComputedStyle(up).overflowX)) return false;
  return true;
}).map(element => element.outerHTML.slice(0, 120));
"""
BROKEN = """
return [...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).map(i => i.alt);
"""
OVERFLOW = "return document.documentElement.scrollWidth - innerWidth"
# Text on its own background, by WCAG's contrast ratio; both as the browser computes them.
CONTRAST = """
const rgb = text => text.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255)
  .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const ground = element => {
  for (let up = element; up; up = up.parentElement) {
    const colour = rgb(getComputedStyle(up).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
return [...document.querySelectorAll('p, li, td, th, dd, dt, a, summary, figcaption, span, pre')]
  .filter(element => element.innerText && element.innerText.trim())
  .map(element => {
    const a = luminance(rgb(getComputedStyle(element).color)), b = luminance(ground(element));
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.outerHTML.slice(0, 80)];
  }).filter(([ratio]) => ratio < 4.5);
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    for program in (CHROMIUM, DRIVER):
        if not program.exists():
            pytest.skip(f"{program} is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def page(any_report: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(any_report, encoding="utf-8")
    return path


def show(browser: Any, page: Path, *, width: int, scheme: str = "light") -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    browser.get(page.as_uri())
    # Folded parts count too.
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_page_fits_the_window_and_is_complete(
    browser: Any, page: Path, width: int, scheme: str
) -> None:
    browser.get_log("browser")
    show(browser, page, width=width, scheme=scheme)
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script(OVERFLOW) <= 0
    assert browser.execute_script(OUTSIDE) == []
    assert browser.execute_script(BROKEN) == []
    assert browser.execute_script("return document.images.length") > 0
    assert browser.get_log("browser") == []


def test_only_the_file_itself_is_requested(browser: Any, page: Path) -> None:
    browser.get_log("performance")
    show(browser, page, width=1280)
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser: Any, page: Path, scheme: str) -> None:
    show(browser, page, width=390, scheme=scheme)
    assert browser.execute_script(CONTRAST) == []


def test_dark_page_shows_dark_images(browser: Any, page: Path) -> None:
    images = "return [...document.images].map(i => i.currentSrc)"
    show(browser, page, width=390)
    light = browser.execute_script(images)
    show(browser, page, width=390, scheme="dark")
    dark = browser.execute_script(images)
    assert all(a != b for a, b in zip(light, dark, strict=True))


def test_text_of_images_is_never_shrunk_below_nine_pixels(browser: Any, page: Path) -> None:
    show(browser, page, width=390)
    scales = browser.execute_script(
        "return [...document.images].map(i => i.width / i.getAttribute('width'))"
    )
    assert all(12 * scale >= 9 for scale in scales)


def test_printed_page_shows_every_gene(browser: Any, page: Path) -> None:
    show(browser, page, width=1280)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    hidden = browser.execute_script(
        "return [...document.querySelectorAll('.scroll, pre')]"
        ".filter(e => e.clientHeight + 1 < e.scrollHeight).length"
    )
    assert hidden == 0
