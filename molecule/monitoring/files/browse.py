"""Opens a page in Debian's Chromium over the DevTools pipe and reports what a person would see.

Reads {"url", "authorization", "width", "height", "language", "seconds"} from standard input and writes {"text",
"paths", "overflow", "errors", "picture"} to standard output: the visible text, the number of lines drawn, by how many
pixels the page is wider than the screen, the console's errors, and a PNG of the whole page in Base64.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

MEASURE = """({
  text: document.body.innerText,
  paths: [...document.querySelectorAll('svg path')].filter(path => path.getAttribute('d').includes('L')).length,
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
})"""


class Browser:
    """Chromium, spoken to over two pipes: JSON messages that end with a zero byte."""

    def __init__(self, profile: str) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # The browser wants to read from 3 and write to 4.
        shell = f'exec 3<&{to_browser} 4>&{from_browser}; exec "$@"'
        options = ["--headless", "--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        command = ["bash", "-c", shell, "bash", "chromium", *options]
        self.process = subprocess.Popen(command, pass_fds=(to_browser, from_browser), stderr=subprocess.DEVNULL)
        self._buffer = b""
        self._number = 0
        self.session: str | None = None
        self.errors: list[str] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command; events that come meanwhile are looked through for errors."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                return dict(answer["result"])
            self._note(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            chunk = os.read(self._in, 1 << 16)
            if not chunk:
                sys.exit("the browser ended")
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(message))

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(parameters["exceptionDetails"]["text"])
        elif event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in {"error", "warning"}:
            self.errors.append(str(parameters["args"]))
        elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] in {"error", "warning"}:
            self.errors.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")


def look(task: dict[str, Any], profile: str) -> dict[str, Any]:
    """Does what the module says."""
    browser = Browser(profile)
    agent = browser.call("Browser.getVersion")["userAgent"]
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    browser.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
        browser.call(f"{domain}.enable")
    screen = {"width": task["width"], "height": task["height"], "deviceScaleFactor": 1, "mobile": task["width"] < 600}
    browser.call("Emulation.setDeviceMetricsOverride", **screen)
    browser.call("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=task["language"])
    if task["authorization"]:
        browser.call("Network.setExtraHTTPHeaders", headers={"Authorization": task["authorization"]})
    browser.call("Page.navigate", url=task["url"])
    time.sleep(task["seconds"])
    seen = browser.call("Runtime.evaluate", expression=MEASURE, returnByValue=True)["result"]["value"]
    picture = browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
    browser.process.kill()
    browser.process.wait()
    return {**seen, "errors": browser.errors, "picture": picture}


with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    print(json.dumps(look(json.load(sys.stdin), folder)))
