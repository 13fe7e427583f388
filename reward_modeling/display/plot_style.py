"""What all plots share: their size, their colours, and how they become part of a page or a file of their own.

with svg_style(label):
    figure = new_figure(height=150)
    axes = new_axes(figure, left=36, top=14, width=WIDTH - 44, height=106)
    ...
    return as_svg(figure, label)

An SVG stands in the page itself, so that it takes the page's colours and font, in the light and in the dark: matplotlib
draws in the placeholder colours below, and `_inlined` puts the page's CSS variables in their place. Text stays text:
small, selectable, and as sharp as the page's. Same figures, same bytes.
"""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from html import escape

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 260  # points; a phone shows them at 1.3 px each, a wide screen at 1.8 px
PNG_DPI = 200

_NAMES = ("ink", "muted", "line", "bar", "strong", "accent", "page", *(f"model{i}" for i in range(8)))
_VARIABLES = {f"#{f'0{i:x}' * 3}": name for i, name in enumerate(_NAMES)}
# Of the palette that a plot is drawn in: placeholders for the page's variables, or colours.
INK, MUTED, GRID, BAR, STRONG, ACCENT, PAGE, *MODELS = (f"C{i}" for i in range(len(_NAMES)))
LIGHT = (  # the page's, by day
    *("#1b1f24", "#59626e", "#d5dae0", "#0072b2", "#004b76", "#b84e00", "#ffffff"),
    *("#0072b2", "#b84e00", "#008060", "#9b4f96", "#96700a", "#59626e", "#c2185b", "#00838f"),
)
_SETTINGS = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same measures on every machine
    "font.size": 8,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a "$" in a subset's name is a dollar
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.labelsize": 7.5,
}


def new_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place given in points from the upper left corner, without the frame's upper and right side."""
    whole = 72 * figure.get_figheight()
    axes = figure.add_axes((left / WIDTH, 1 - (top + height) / whole, width / WIDTH, height / whole))
    axes.spines[["top", "right"]].set_visible(False)
    axes.patch.set_visible(False)
    axes.tick_params(length=2, pad=2, width=0.6)
    return axes


@contextmanager
def svg_style(label: str):
    """matplotlib's settings while a plot is made, and no others afterwards."""
    with _style(tuple(_VARIABLES), {"svg.hashsalt": label}):
        yield


@contextmanager
def png_style():
    """As `svg_style`, for a file of its own: in the colours that a page has by day."""
    with _style(LIGHT, {}):
        yield


@contextmanager
def _style(palette: Sequence[str], settings: Mapping):
    cycle = {"axes.prop_cycle": matplotlib.cycler(color=palette)}
    with matplotlib.rc_context({**cycle, **_SETTINGS, **settings}), warnings.catch_warnings():
        # The browser has the letters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new_figure(height: float) -> Figure:
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    figure.patch.set_visible(False)
    return figure


def as_svg(figure: Figure, label: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _inlined(buffer.getvalue(), label, 72 * figure.get_figheight())


def as_png(figure: Figure) -> bytes:
    """On a white ground, sharp on any screen."""
    figure.patch.set(visible=True, facecolor=PAGE)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _inlined(svg: str, label: str, height: float) -> str:
    """The SVG as it can stand in a page: no prologue, no style of its own, no ids but those it refers to."""
    body = svg[svg.index("<svg") :]
    body = body[body.index(">") + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style.*?</style>", "", body, count=1, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', body))

    def cleaned(tag: re.Match) -> str:  # tags alone: a subset's name may look like any of this
        text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", tag[0])
        text = re.sub(r"#0([0-9a-e])(?:0\1){2}", lambda found: f"var(--{_VARIABLES[found[0]]})", text)
        return text.replace("'DejaVu Sans', sans-serif", "sans-serif").replace(" xlink:href=", " href=")

    body = re.sub(r"<[^>]*>", cleaned, body)
    box = f'viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(label)}"'
    return f"<svg {box}><title>{escape(label)}</title>{body}"
