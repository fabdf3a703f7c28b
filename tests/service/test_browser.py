"""The web page in a real browser: what a person types is ranked and shown, and nothing else happens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.service.conftest import Running
from tests.service.titled import TITLE

from prerank.serving.preranker import PreRanker

PROGRAMS = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
MISSING = [name for name, path in PROGRAMS.items() if path is None]
pytestmark = [
    pytest.mark.xdist_group("service"),
    pytest.mark.skipif(
        bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (apt install chromium chromium-driver)"
    ),
    pytest.mark.filterwarnings("default::ResourceWarning"),
]
selenium = pytest.importorskip("selenium.webdriver")

PHONE = {"width": 360, "height": 740, "pixelRatio": 2.0}
WAIT = 60


class Page:
    """The page in a browser."""

    def __init__(self, browser: Any, server: Running) -> None:
        self.browser = browser
        self.server = server
        browser.get(f"http://127.0.0.1:{server.port}/")

    def at(self, name: str) -> Any:
        return self.browser.find_element("id", name)

    def type(self, name: str, text: str) -> None:
        self.at(name).clear()
        self.at(name).send_keys(text)

    def wait(self, condition: Callable[[], Any]) -> None:
        from selenium.webdriver.support.wait import WebDriverWait  # noqa: PLC0415

        WebDriverWait(self.browser, WAIT).until(lambda _: condition())

    def rank(self) -> None:
        self.at("rank").click()
        self.wait(lambda: self.at("rank").is_enabled())

    def ranked(self) -> list[list[str]]:
        """The cells of the list."""
        script = (
            "return [...document.querySelectorAll('#ranked tbody tr')].map(r => [...r.cells].map(c => c.innerText))"
        )
        rows: list[list[str]] = self.browser.execute_script(script)
        return rows

    def width(self) -> tuple[int, int]:
        """Of what is laid out, and of the window."""
        both = self.browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        return both[0], both[1]

    def console(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] != "DEBUG"]

    def hosts(self) -> set[str]:
        """Whom the browser has asked for anything on behalf of the page."""
        sent = (json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance"))
        urls = (each["params"]["request"]["url"] for each in sent if each["method"] == "Network.requestWillBeSent")
        return {urlsplit(url).netloc for url in urls if not url.startswith(("chrome", "data:"))}  # not its own


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Opens the page of a server; browsers end with the test."""
    from selenium.webdriver.chrome.service import Service  # noqa: PLC0415

    browsers: list[Any] = []

    def start(server: Running, *, phone: bool = False, dark: bool = False) -> Page:
        options = selenium.ChromeOptions()
        options.binary_location = PROGRAMS["chromium"]
        for option in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1280,900",
        ):
            options.add_argument(option)
        options.add_argument(f"--user-data-dir={tmp_path / str(len(browsers))}")
        if phone:
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": PHONE})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        browser = selenium.Chrome(options=options, service=Service(PROGRAMS["chromedriver"]))
        browsers.append(browser)
        if dark:
            feature = {"name": "prefers-color-scheme", "value": "dark"}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        page = Page(browser, server)
        page.wait(lambda: page.at("state").text != "connecting")
        return page

    yield start
    for browser in browsers:
        browser.quit()


def test_a_user_is_typed_in_and_the_list_is_shown(opened: Callable[..., Page], titles: Running, titled: Path) -> None:
    page = opened(titles)
    page.wait(lambda: page.at("state").text == "ready")
    page.type("user.user_id", "7")
    page.type("user.city", "city-1")
    page.type("user.tags", "a, b")
    page.type("context.hour", "13")
    page.type("history", "item-0020, item-0021")
    ids = [f"item-{number:04}" for number in range(30)]
    page.type("candidates", "\n".join([*ids, "gone"]))
    page.type("k", "10")
    page.rank()
    expected = PreRanker.load(titled).rank(
        {"user_id": "7", "city": "city-1", "tags": ["a", "b"]},
        [*ids, "gone"],
        10,
        history=["item-0020", "item-0021"],
        context={"hour": 13},
    )
    shown = page.ranked()
    assert [row[1].split("\n")[0] for row in shown] == expected.ids
    named = [TITLE if item == "item-0000" else f"The {item}" for item in expected.ids]
    assert [row[1].split("\n")[1] for row in shown] == named
    assert [float(row[2]) for row in shown] == pytest.approx(expected.scores, rel=1e-3)
    summary = page.at("summary").text
    assert (
        "10 of 31 candidates" in summary and "96.8" in summary and expected.generation in summary and "gone" in summary
    )
    page.wait(lambda: "response" in page.at("latency-summary").text)
    facts = page.at("facts").text
    assert "80" in facts and "float32" in facts and "200: " in facts
    assert page.console() == []
    assert page.hosts() == {f"127.0.0.1:{titles.port}"}


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone(opened: Callable[..., Page], titles: Running, dark: bool) -> None:
    page = opened(titles, phone=True, dark=dark)
    page.at("sample").click()
    page.wait(lambda: page.at("candidates").get_property("value"))
    page.rank()
    assert len(page.ranked()) == 20
    assert page.width() == (360, 360)
    back = page.browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, back[4:-1].split(", "))) < 60) == dark
    assert page.console() == []


def test_the_same_request_as_json(opened: Callable[..., Page], titles: Running) -> None:
    page = opened(titles)
    page.type("candidates", "item-0000, item-0001")
    page.type("user.city", "city-2")
    page.browser.execute_script("document.querySelector('input[value=json]').click()")
    body = json.loads(page.at("json").get_property("value"))
    assert body["user"] == {"city": "city-2"} and body["candidates"] == ["item-0000", "item-0001"]
    body |= {"columns": {"bid": [1, 2]}, "ranking": "ecpm"}
    page.browser.execute_script("arguments[0].value = arguments[1]", page.at("json"), json.dumps(body))
    page.rank()
    assert len(page.ranked()) == 2 and len(page.ranked()[0]) == 4  # a value and a score
    page.browser.execute_script("document.querySelector('input[value=fields]').click()")
    assert page.at("ranking").get_property("value") == "ecpm"
    assert page.console() == []


def test_what_is_wrong_is_said(opened: Callable[..., Page], titles: Running) -> None:
    page = opened(titles)
    page.rank()
    assert page.at("problem").text.startswith("candidates: none given")
    page.type("candidates", "item-0000")
    page.type("context.hour", "noon")
    page.rank()
    assert page.at("problem").text == "context.hour: expected a number, got noon"
    page.type("context.hour", "12")
    page.type("ranking", "ecpm")
    page.rank()
    assert "unknown column 'bid'" in page.at("problem").text
    page.type("ranking", "score")
    page.rank()
    assert not page.at("problem").is_displayed() and len(page.ranked()) == 1
    assert page.ranked()[0][1] == f"item-0000\n{TITLE}"  # shown, not run


def test_the_keyboard_is_enough(opened: Callable[..., Page], titles: Running) -> None:
    from selenium.webdriver.common.keys import Keys  # noqa: PLC0415

    page = opened(titles)
    page.wait(lambda: page.at("state").text == "ready")
    order = []
    for _ in range(12):
        page.browser.switch_to.active_element.send_keys(Keys.TAB)
        order.append(page.browser.switch_to.active_element.get_attribute("id"))
    reached = [
        "user.user_id",
        "user.city",
        "user.tags",
        "context.hour",
        "history",
        "sample",
        "candidates",
        "k",
        "ranking",
    ]
    assert [name for name in order if name in reached] == reached and "rank" in order
    page.at("candidates").send_keys("item-0001", Keys.CONTROL, Keys.ENTER)
    page.wait(lambda: len(page.ranked()) == 1)


def test_a_token_is_typed_in(opened: Callable[..., Page], guarded: Running) -> None:
    page = opened(guarded)
    page.wait(lambda: page.at("access").is_displayed())
    assert page.at("state").text == "token needed"
    page.type("token", "wrong")
    page.at("token").submit()
    page.wait(lambda: page.at("problem").text == "The token is not the right one.")
    page.type("token", "open-sesame")
    page.at("token").submit()
    page.wait(lambda: page.at("state").text == "ready")
    assert not page.at("access").is_displayed()
    page.type("candidates", "item-0001")
    page.rank()
    assert len(page.ranked()) == 1
    kept = "return [localStorage.length, sessionStorage.length, document.cookie, location.href.includes('sesame')]"
    assert page.browser.execute_script(kept) == [0, 0, "", False]


def test_a_service_that_is_gone_is_noticed(opened: Callable[..., Page], titles: Running) -> None:
    page = opened(titles)
    gone = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    page.browser.execute_cdp_cmd("Network.enable", {})
    page.browser.execute_cdp_cmd("Network.emulateNetworkConditions", gone)
    page.type("candidates", "item-0001")
    page.rank()
    assert page.at("problem").text == "The service cannot be reached." and page.at("state").text == "not reached"
