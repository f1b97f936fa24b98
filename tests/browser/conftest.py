"""Chromium and the playground's page for the tests of the extra; ./test.sh does not come here.

    apt-get install chromium chromium-driver
    python -m pip install -r requirements-dev.txt -r requirements-playground.txt
    python -m pytest tests/browser
"""

import json
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

SECONDS = 120  # a shared machine may be slow
LOOK = 0.05  # seconds between two looks; short, so that a press follows at once on what is seen
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)


class Browser:
    """One person's Chromium, with a profile of its own."""

    def __init__(self, profile, width=1400, dark=False):
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get("about:blank")
        self.driver.get_log("performance")  # what Chromium's own first page asked for

    def wait(self, condition, what):
        """Wait until condition() holds."""
        WebDriverWait(self.driver, SECONDS, LOOK, ignored_exceptions=(Exception,)).until(
            lambda _: condition(), what
        )

    def open(self, url):
        """Open the page and wait for its button."""
        self.driver.get(url)
        self.wait(lambda: self.find("#go") and self.find("#question textarea"), "no page")
        return self

    def find(self, selector):
        """All elements of a CSS selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def status(self):
        """The line under the buttons."""
        return self.find("#status")[0].text

    def set(self, selector, text):
        """Put a text into a text box at once, as pasting does."""
        self.driver.execute_script(
            "const set = Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, 'value')"
            ".set; set.call(arguments[0], arguments[1]);"
            "arguments[0].dispatchEvent(new Event('input', {bubbles: true}));",
            self.find(f"{selector} textarea")[0], text,
        )

    def press(self, selector):
        """Click a button, which gives the page the keyboard too."""
        button = self.find(selector)[0]
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()

    def key(self, key, times=1):
        """Press a key; returns the element that has the keyboard then."""
        ActionChains(self.driver).send_keys(key * times).perform()
        return self.driver.switch_to.active_element

    def ask(self, **texts):
        """Put texts into the boxes of those names, press Answer and wait for the end."""
        for name, text in texts.items():
            self.set(f"#{name}", text)
        # Two answers may take the same time and end in the same words.
        self.driver.execute_script(
            "document.querySelectorAll('#status .pg-note').forEach(n => n.dataset.old = 1)"
        )
        self.press("#go")
        # Gradio hides its tracker when the end has arrived; a press before that would be lost.
        self.wait(lambda: self.find("#status .pg-note:not([data-old])") and "Done" in self.status()
                  and self.find("#status [data-testid=status-tracker].hide"),
                  "never ended")

    def style(self, selector, name):
        """The computed style of the first element of a selector."""
        return self.find(selector)[0].value_of_css_property(name)

    def requests(self):
        """The addresses of all requests since the last call."""
        entries = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        return {
            entry["params"]["request"]["url"]
            for entry in entries
            if entry["method"] == "Network.requestWillBeSent"
        }


@pytest.fixture
def browser(tmp_path):
    """browser(width, dark): a Chromium of its own; all are closed at the end."""
    opened = []

    def start(width=1400, dark=False):
        opened.append(Browser(tmp_path / f"profile{len(opened)}", width, dark))
        return opened[-1]

    yield start
    for one in opened:
        one.driver.quit()
