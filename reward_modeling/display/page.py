"""What the pages of this project share: their style and the blocks they are made of.

text = page("gemma2b_rm: training", kicker="Reward model training", heading="gemma2b_rm", line="...", blocks=[...])
write_page(Path("report.html"), text)

A page is one file that needs no network and has no scripts, for a phone and for a wide screen, light and dark. What
came from outside is escaped here, by the block that it goes through; only `content` and `blocks` are taken as HTML.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # HTML has no way to write these

PAGE_CSS = """
:root{color-scheme:light dark;--ink:#1b1f24;--muted:#59626e;--line:#d5dae0;--page:#fff;--card:#f4f6f8;
--bar:#0072b2;--strong:#004b76;--accent:#b84e00;--warn:#fff4e0;
--model0:#0072b2;--model1:#b84e00;--model2:#008060;--model3:#9b4f96;--model4:#96700a;--model5:#59626e;
--model6:#c2185b;--model7:#00838f}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ee;--muted:#a4adb9;--line:#3a424d;--page:#14171c;--card:#1e232a;
--bar:#4aa8dd;--strong:#9fd6f7;--accent:#f0a05a;--warn:#33270f;
--model0:#4aa8dd;--model1:#f0a05a;--model2:#3cc99b;--model3:#cf8fcb;--model4:#e0b840;--model5:#a4adb9;
--model6:#f06aa0;--model7:#40c4d0}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1160px;padding:16px;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 4px}
h2{font-size:1.25rem;margin:0}
h3{font-size:1rem;margin:16px 0 4px}
p{margin:4px 0}
.muted,figcaption,summary{color:var(--muted);font-size:.875rem}
.cards,.plots{display:grid;gap:16px;margin:16px 0}
.cards{gap:12px;grid-template-columns:repeat(auto-fill,minmax(max(min(100%,150px),15%),1fr))}
.cards>div{background:var(--card);border-radius:8px;padding:10px 12px}
.cards b{display:block;font-size:clamp(1.1rem,5vw,1.4rem);line-height:1.3;font-variant-numeric:tabular-nums}
.warnings{background:var(--warn);border-left:4px solid var(--accent);padding:10px 14px;margin:16px 0}
.warnings ul{margin:4px 0;padding-left:20px}
section{border-top:1px solid var(--line);margin-top:28px;padding-top:20px}
.plots{grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));grid-auto-flow:dense;align-items:start}
figure{margin:0;max-width:480px}
figure.tall{grid-row:span 2}
figcaption b{display:block;color:var(--ink);font-size:1rem}
svg{display:block;width:100%;height:auto;max-width:480px;margin-top:4px}
svg *{stroke-linejoin:round}
svg text{fill:var(--ink);font-family:inherit!important;font-variant-numeric:tabular-nums}
.line span{white-space:nowrap}
.scroll{overflow-x:auto}
.scroll+.scroll{margin-top:12px}
table{border-collapse:collapse;overflow-wrap:normal;font-size:.8125rem;font-variant-numeric:tabular-nums}
th,td{padding:3px 8px 3px 0;text-align:right;border-bottom:1px solid var(--line);vertical-align:top}
td+td{white-space:nowrap}
th:first-child,td:first-child,.text td,.text th{text-align:left}
.text td+td{white-space:normal;overflow-wrap:anywhere}
.text td:first-child{overflow-wrap:normal;min-width:7em}
.words td:first-child{min-width:11em}
.words td:nth-last-child(-n+2){white-space:normal;min-width:12em}
.words th:nth-last-child(-n+2),.words td:nth-last-child(-n+2){text-align:left;padding-left:8px}
.matrix{width:100%;max-width:480px;table-layout:fixed}
.matrix th,.matrix td{padding:6px 4px;text-align:center;font-weight:normal;white-space:normal}
.matrix th{color:var(--muted);font-size:.8rem;overflow-wrap:normal}
details{margin:8px 0}
summary{cursor:pointer;padding:4px 0}
pre{overflow-x:auto;font-size:.75rem;background:var(--card);padding:10px;border-radius:8px}
"""


def page(title: str, *, kicker: str, heading: str, line: str, blocks: Iterable[str], css: str = "") -> str:
    """A whole page.

    Args:
        title: what the browser's tab says.
        kicker, heading, line: what kind of page it is, of what, and a line about that.
        blocks: HTML, one below the other.
        css: of this kind of page alone.
    """
    whole = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{PAGE_CSS}{css}</style></head><body>",
        f'<header><p class="muted">{escape(kicker)}</p><h1>{escape(heading)}</h1>',
        f'<p class="muted">{escape(line)}</p></header>',
        *blocks,
        "</body></html>\n",
    ]
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", "\n".join(whole))


def cards(figures: Iterable[tuple[str, str, Sequence[str]]]) -> str:
    """The numbers to see first, each with its title and lines about it."""
    drawn = (
        f'<div>{escape(title)}<b>{escape(value)}</b><span class="muted">{"<br>".join(map(escape, notes))}</span></div>'
        for title, value, notes in figures
    )
    return f'<div class="cards">{"".join(drawn)}</div>'


def warnings_block(messages: Iterable[str]) -> str:
    """Nothing where there is none."""
    items = "".join(f"<li>{escape(message)}</li>" for message in messages)
    return f'<div class="warnings" role="alert"><b>WARNING</b><ul>{items}</ul></div>' if items else ""


def section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def folded(title: str, content: str) -> str:
    """What is opened by who wants to see it."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def figure_block(title: str, caption: str, content: str, tall: bool = False) -> str:
    kind = ' class="tall"' if tall else ""
    return f"<figure{kind}><figcaption><b>{escape(title)}</b>{escape(caption)}</figcaption>{content}</figure>"


def plots_block(figures: Iterable[str]) -> str:
    """Figures side by side where there is room."""
    return f'<div class="plots">{"".join(figures)}</div>'


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table that scrolls in itself.

    Args:
        kind: "text" has words in all columns, "words" in the first and in the last two.
    """
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    named = f' class="{kind}"' if kind else ""
    return f'<div class="scroll"><table{named}><tr>{top}</tr>{body}</table></div>'


def sentence(line: str) -> str:
    """A line of the screen as a paragraph that does not break within an interval."""
    text = re.sub(r"[\d.]+-[\d.]+", r"<span>\g<0></span>", escape(line[0].upper() + line[1:]))
    return f'<p class="line">{text}</p>'


def settings_table(values: Mapping[str, object]) -> str:
    """Names with their values; what is no text is shown as JSON."""
    rows = ((str(key), value if isinstance(value, str) else json.dumps(value)) for key, value in values.items())
    return html_table(("", ""), rows, "text")


def shown_date(date: str | None) -> str:
    """2026-11-22T22:30:00+00:00 as 2026-11-22 22:30 UTC."""
    if date is None:
        return "undated"
    day, _, time = date.partition("T")
    return f"{day} {time[:5]} UTC" if time.endswith(("+00:00", "Z")) else date
