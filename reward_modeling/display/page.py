"""Pages and cards from templates: `*.html`, in which what came from outside is escaped, and `*.md`, in which it is not.

text = render("results/templates/training.html", run=run)

display/templates has what all pages share: page.html, which a page extends, and the macros of blocks.html. A page is
one file that needs no network and has no scripts, for a phone and for a wide screen, light and dark. The same values
give the same bytes.
"""

import json
import re
from functools import partial

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from reward_modeling.display import text

PALETTE = {  # {name: (in the light, in the dark)}; a page has them as CSS variables
    "ink": ("#1b1f24", "#e6e9ee"),
    "muted": ("#59626e", "#a4adb9"),
    "line": ("#d5dae0", "#3a424d"),
    "bar": ("#0072b2", "#4aa8dd"),
    "strong": ("#004b76", "#9fd6f7"),
    "accent": ("#b84e00", "#f0a05a"),
    "page": ("#ffffff", "#14171c"),
    "card": ("#f4f6f8", "#1e232a"),
    "warn": ("#fff4e0", "#33270f"),
    # of models that are compared, in their order
    "model0": ("#0072b2", "#4aa8dd"),
    "model1": ("#b84e00", "#f0a05a"),
    "model2": ("#008060", "#3cc99b"),
    "model3": ("#9b4f96", "#cf8fcb"),
    "model4": ("#96700a", "#e0b840"),
    "model5": ("#59626e", "#a4adb9"),
    "model6": ("#c2185b", "#f06aa0"),
    "model7": ("#00838f", "#40c4d0"),
}

_UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")  # in HTML, or in UTF-8


def render(template: str, **values: object) -> str:
    """The text of a template, whose path is one below reward_modeling/, with the values that it names."""
    content = _ENVIRONMENT.get_template(template).render(values)
    return _UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", content)


def keep_intervals_together(line: str) -> Markup:
    """A line of the screen as a paragraph that does not break within an interval."""
    return Markup(re.sub(r"[\d.]+-[\d.]+", r"<span>\g<0></span>", str(escape(line[0].upper() + line[1:]))))


def escape_cell(words: str) -> str:
    """Text from outside that stays in its cell of a Markdown table, and is not read as HTML."""
    return text.make_printable(words).replace("|", "\\|").replace("<", "&lt;")


def mark_as_code(words: str) -> str:
    """Text from outside as code in a line of Markdown."""
    return f"`{text.make_printable(words).replace('`', chr(39))}`"


_ENVIRONMENT = Environment(
    loader=PackageLoader("reward_modeling", ""),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.globals["palette"] = PALETTE
_ENVIRONMENT.filters["json"] = partial(json.dumps, ensure_ascii=False)
_FILTERS = (
    *(text.count, text.number, text.short_number, text.percent, text.share, text.points, text.interval),
    *(text.duration, text.date_and_time, text.make_printable, keep_intervals_together, escape_cell, mark_as_code),
)
_ENVIRONMENT.filters |= {function.__name__: function for function in _FILTERS}
