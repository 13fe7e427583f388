"""How far the scoring is: a bar on a terminal, a line now and then elsewhere."""

import logging
import time
from datetime import timedelta

from tqdm import tqdm

from reward_modeling.common.screen import shows_bars

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0


class RowProgress:
    """Rows of how many, rows a second and the time that is left."""

    def __init__(self, total: int, done: int, *, speaks: bool, seconds: float = SECONDS_BETWEEN_LINES):
        """
        Args:
            done: rows that an earlier run has scored, which are no part of the rate.
            speaks: whether this process shows it.
        """
        self.total, self.done, self.begun_with = total, done, done
        self.speaks, self.seconds = speaks, seconds
        self.started = self.said = time.monotonic()
        hidden = not (speaks and shows_bars())
        self.bar = tqdm(total=total, initial=done, desc="Scoring", unit=" rows", disable=hidden, smoothing=0.1)

    def within(self, share: float, rows: int) -> None:
        """A share of the window's rows is about done."""
        self.bar.update(max(0, self.done + int(min(share, 1.0) * rows) - self.bar.n))
        self._say(self.done + int(min(share, 1.0) * rows))

    def finish(self, rows: int) -> None:
        """A window's rows are written."""
        self.done += rows
        self.bar.update(max(0, self.done - self.bar.n))
        self._say(self.done)

    def close(self) -> None:
        self.bar.close()

    def _say(self, done: int) -> None:
        now = time.monotonic()
        if not self.speaks or shows_bars() or now - self.said < self.seconds or done <= self.begun_with:
            return
        self.said = now
        rate = (done - self.begun_with) / (now - self.started)
        left = timedelta(seconds=round((self.total - done) / rate))
        logger.info(
            "Scored %s of %s rows (%.1f%%): %.1f rows/s, %s left.",
            *(f"{done:,}", f"{self.total:,}", 100 * done / self.total, rate, left),
        )
