"""A headless Chromium from the system's packages, asked over its pipe: how a page looks, and what it loads.

with Browser() as browser:
    seen = browser.look(page, width=360, dark=True, screenshot=tmp_path / "phone.png")
"""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
    "--remote-debugging-pipe",
]

# What a page is asked, with everything unfolded: whether it scrolls sideways, which elements stick out of it, and which
# texts of a plot lie over each other.
QUESTIONS = """(() => {
  document.querySelectorAll("details").forEach(one => one.open = true);
  const wide = document.documentElement.clientWidth;
  const inScroller = e => e.closest(".scroll, pre, .said");
  const out = [...document.body.querySelectorAll("*")].filter(e =>
    !inScroller(e) && e.getClientRects().length && e.getBoundingClientRect().right > wide + 1);
  const clashes = [];
  for (const svg of document.querySelectorAll("svg")) {
    const texts = [...svg.querySelectorAll("text")].filter(t => t.textContent.trim());
    const boxes = texts.map(t => t.getBoundingClientRect());
    for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++) {
      const a = boxes[i], b = boxes[j];
      const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (x > 1 && y > 0.35 * Math.min(a.height, b.height))
        clashes.push([svg.getAttribute("aria-label"), texts[j].textContent, texts[i].textContent]);
    }
  }
  return {scroll_width: document.documentElement.scrollWidth, inner_width: innerWidth,
          sticking_out: out.map(e => e.tagName + ": " + e.textContent.slice(0, 40)), clashes,
          background: getComputedStyle(document.body).backgroundColor, title: document.title};
})()"""


@dataclass
class Seen:
    """A page as it was laid out."""

    scroll_width: int
    inner_width: int
    sticking_out: list[str]
    clashes: list[list[str]]
    background: str
    title: str
    requests: list[str]
    """Every address that it asked for, its own first."""


class Browser:
    """One process for all the pages of a test."""

    def __enter__(self) -> "Browser":
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        (to_read, self._commands), (self._answers, to_write) = os.pipe(), os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4, which must not be one of the pipes' own.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, to_write)]
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}', "bash", *command],
            pass_fds=ends,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (to_read, to_write, *ends):
            os.close(end)
        self._buffer, self._number, self._events = b"", 0, []
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._commands)  # which ends it
        self._process.terminate()
        self._process.wait()
        os.close(self._answers)
        self._profile.cleanup()

    def call(self, method: str, **params: object) -> dict:
        """A command of the DevTools protocol, and its answer; what happens meanwhile is kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self._events.append(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _read(self) -> dict:
        while b"\0" not in self._buffer:
            more = os.read(self._answers, 1 << 20)
            assert more, "Chromium has ended"
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def look(self, page: Path, *, width: int, dark: bool, screenshot: Path | None = None, height: int = 800) -> Seen:
        """Lay the page out, and take a picture of all of it if asked to."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        self._events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._read())
        if screenshot is not None:
            picture = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=self._whole(width))
            screenshot.write_bytes(base64.b64decode(picture["data"]))
        answer = self.call("Runtime.evaluate", expression=QUESTIONS, returnByValue=True)
        sent = [event["params"] for event in self._events if event["method"] == "Network.requestWillBeSent"]
        return Seen(**answer["result"]["value"], requests=[one["request"]["url"] for one in sent])

    def _whole(self, width: int) -> dict[str, float]:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": width, "height": size["height"], "scale": 1}
