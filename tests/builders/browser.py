"""A headless Chromium that opens pages without a network, and says what it saw: over its debugging pipe, so that no driver is needed."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions", "--hide-scrollbars"),
    *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost", "--remote-debugging-pipe", "about:blank"),
)  # fmt: skip
PATIENCE = 60.0
SETTLED = (
    "new Promise(done => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 100))"
)
WIDER = """(() => {
  const wide = element => element.scrollWidth - element.clientWidth;
  const boxes = [...document.querySelectorAll("body *")].filter(one => /auto|scroll/.test(getComputedStyle(one).overflowX));
  return {page: wide(document.documentElement), boxes: boxes.filter(one => wide(one) > 1).map(one => one.outerHTML.slice(0, 120))};
})()"""
FAINT = """(() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(one => one / 255)
    .map(one => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
    .reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = element => {
    for (let one = element; one; one = one.parentElement) {
      const colour = parts(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] > 0.99) return colour;
    }
    return matchMedia("(prefers-color-scheme: dark)").matches && /dark/.test(getComputedStyle(document.documentElement).colorScheme)
      ? [18, 18, 18] : [255, 255, 255];
  };
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const box = node.parentElement.getBoundingClientRect();
    if (!node.data.trim() || !box.width || /^(STYLE|SCRIPT)$/.test(node.parentElement.tagName)) continue;
    const [one, other] = [light(parts(getComputedStyle(node.parentElement).color)), light(behind(node.parentElement))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 3) found.add(contrast.toFixed(2) + " " + node.data.trim().slice(0, 60));
  }
  return [...found];
})()"""


def installed() -> str | None:
    """The path of a browser, if one is installed."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@dataclass
class Shown:
    """What a browser did with a page."""

    requests: list = field(default_factory=list)
    errors: list = field(default_factory=list)
    wider: int = 0
    boxes: list = field(default_factory=list)
    faint: list = field(default_factory=list)
    text: str = ""
    pictures: dict = field(default_factory=dict)
    screenshot: bytes = b""


class Browser:
    """One process, one tab for each page."""

    def __init__(self, profile):
        hear, self._say = os.pipe()
        self._hear, say = os.pipe()
        # The browser reads its orders from descriptor 3 and answers on 4.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{hear} 4>&{say}', "browser", installed(), *FLAGS[:-1], f"--user-data-dir={profile}", FLAGS[-1]],
            pass_fds=(hear, say), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(hear)
        os.close(say)
        self._numbers = itertools.count(1)
        self._rest = b""
        self._events = []

    def close(self):
        self.call("Browser.close")
        self._process.wait(PATIENCE)
        os.close(self._say)
        os.close(self._hear)

    def _message(self):
        while b"\0" not in self._rest:
            part = os.read(self._hear, 1 << 20)
            assert part, "the browser ended"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        return json.loads(text)

    def call(self, method, session=None, **parameters):
        number = next(self._numbers)
        order = {
            "id": number,
            "method": method,
            "params": parameters,
            **({"sessionId": session} if session else {}),
        }
        os.write(self._say, json.dumps(order).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            message = self._message()
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self._events.append(message)
        raise TimeoutError(method)

    def _wait(self, method, session):
        while not any(
            one.get("method") == method and one.get("sessionId") == session for one in self._events
        ):
            self._events.append(self._message())

    def evaluate(self, session, script):
        done = self.call(
            "Runtime.evaluate", session, expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def show(self, address, width, dark=False, screenshot=False, height=900):
        """Open a page in a window of this width, and say what happened."""
        self._events.clear()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable", session)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            session,
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", session, features=[scheme])
        self.call("Page.navigate", session, url=address)
        self._wait("Page.loadEventFired", session)
        self.evaluate(session, SETTLED)
        shown = Shown(text=self.evaluate(session, "document.body.innerText"))
        size = self.evaluate(session, WIDER)
        shown.wider, shown.boxes = size["page"], size["boxes"]
        shown.faint = self.evaluate(session, FAINT)
        broken = "[...document.images].filter(one => one.complete && !one.naturalWidth).length"
        shown.pictures = {
            "all": self.evaluate(session, "document.images.length"),
            "broken": self.evaluate(session, broken),
        }
        if screenshot:
            taken = self.call("Page.captureScreenshot", session, captureBeyondViewport=screenshot == "whole")
            shown.screenshot = base64.b64decode(taken["data"])
        for event in self._events:
            self._note(event, address, shown)
        self.call("Target.closeTarget", targetId=target)
        return shown

    def _note(self, event, address, shown):
        method, about = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            url = about["request"]["url"]
            if url != address and not url.startswith("data:"):
                shown.requests.append(url)
        elif method == "Runtime.exceptionThrown":
            shown.errors.append(about["exceptionDetails"]["text"])
        elif method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            shown.errors.append(about["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            shown.errors.append(str(about["args"]))


@contextmanager
def open_browser():
    """A browser for the time of this context."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(Path(profile))
        try:
            yield browser
        finally:
            browser.close()
