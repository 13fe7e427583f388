"""What all plots share: their size, their colours, and how they become part of a page or a file of their own.

def draw(values) -> Figure:
    figure = new_figure(height=150)
    axes = new_axes(figure, left=36, top=14, width=WIDTH - 44, height=106)
    ...
    return figure

plot = make_plot("Title", "What it shows, and how to read it.", draw, values)

An SVG stands in the page itself, so that it takes the page's colours and font, in the light and in the dark: matplotlib
draws in placeholder colours, which are then replaced by the page's CSS variables. Text stays text: small, selectable,
and as sharp as the page's. Same figures, same bytes.
"""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reward_modeling.display.page import PALETTE

WIDTH = 260  # points; a phone shows them at 1.3 px each, a wide screen at 1.8 px
PNG_DPI = 200

# The palette that a plot is drawn in: placeholders for the page's variables, or the page's colours in the light.
_PLACEHOLDERS = {f"#{place:02x}0b0b": name for place, name in enumerate(PALETTE)}
_LIGHT = [light for light, _ in PALETTE.values()]
INK, MUTED, GRID, BAR, STRONG, ACCENT, PAGE, _, _, *MODELS = (f"C{place}" for place in range(len(PALETTE)))
_SETTINGS = matplotlib.rc_params_from_file(
    Path(__file__).parent / "templates/plots.mplstyle", use_default_template=False
)


def new_figure(height: float) -> Figure:
    """A figure of the width that all have, `height` points high."""
    return Figure(figsize=(WIDTH / 72, height / 72), facecolor="none")


def new_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place given in points from the upper left corner."""
    whole = 72 * figure.get_figheight()
    return figure.add_axes((left / WIDTH, 1 - (top + height) / whole, width / WIDTH, height / whole))


@dataclass(frozen=True)
class Plot:
    """A plot of a page with its caption."""

    title: str
    caption: str
    svg: Markup
    tall: bool


def make_plot(
    title: str,
    caption: str,
    draw: Callable[..., Figure],
    *args: object,
    label: str | None = None,
    tall: bool = False,
    **options: object,
) -> Plot:
    """The figure that `draw(*args, **options)` returns, as a plot of a page.

    Args:
        label: what the plot shows, for those who do not see it; the title unless given. Distinct within one page: ids
            are made from it.
        tall: whether it takes the height of two.
    """
    label, buffer = label or title, io.StringIO()
    with _style(list(_PLACEHOLDERS), {"svg.hashsalt": label}):
        figure = draw(*args, **options)
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    _, _, body = buffer.getvalue().partition("</defs>")  # before it: prologue, size, and a style for the whole page
    # Tags alone: a subset's name may look like an id or a colour.
    body = re.sub("<[^>]*>", _clean_tag, body)
    box = f'viewBox="0 0 {WIDTH} {72 * figure.get_figheight():g}" role="img" aria-label="{escape(label)}"'
    return Plot(title, caption, Markup(f"<svg {box}><title>{escape(label)}</title>{body}"), tall)


def _clean_tag(tag: re.Match) -> str:
    """Without the ids that only number matplotlib's parts (other plots have the same), and with the page's colours."""
    text = re.sub(r' id="[A-Za-z2.]+_\d+"', "", tag[0])
    return re.sub("#[01][0-9a-f]0b0b", lambda color: f"var(--{_PLACEHOLDERS[color[0]]})", text)


def draw_png(draw: Callable[..., Figure], *args: object, **options: object) -> bytes:
    """The figure that `draw` returns as a file: in the page's light colours, on white, sharp on any screen."""
    buffer = io.BytesIO()
    with _style(_LIGHT, {}):
        figure = draw(*args, **options)
        figure.savefig(buffer, format="png", dpi=PNG_DPI, facecolor=PAGE, metadata={"Software": None})
    return buffer.getvalue()


@contextmanager
def _style(palette: Sequence[str], settings: Mapping):
    """matplotlib's settings while a plot is made, and no others afterwards."""
    cycle = {"axes.prop_cycle": matplotlib.cycler(color=palette)}
    with matplotlib.rc_context({**cycle, **_SETTINGS, **settings}), warnings.catch_warnings():
        # The browser has the letters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield
