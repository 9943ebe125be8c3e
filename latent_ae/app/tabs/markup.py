"""HTML of what Gradio has no component for: notes, figures, tables, charts. All text is escaped here."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from types import MappingProxyType

Bin = tuple[float, float, float]
"""middle, share seen, share expected"""


def note(text: str) -> str:
    """A remark, read out when the screen reader is idle."""
    return f'<p class="note" role="status">{escape(text)}</p>'


def lead(text: str) -> str:
    """The line that says the most."""
    return f'<p class="lead">{escape(text)}</p>'


def notice(text: str) -> str:
    """Something to know before the results below are looked at."""
    return f'<p class="note notice" role="status">{escape(text)}</p>'


def error(text: str) -> str:
    """An error, read out at once by a screen reader."""
    return f'<p class="note failed" role="alert">{escape(text)}</p>'


def title(text: str, more: str = "") -> str:
    """The heading of a part of the results, and a line below it."""
    return f'<h2 class="part">{escape(text)}</h2>' + (f'<p class="note">{escape(more)}</p>' if more else "")


def paragraph(text: str) -> str:
    """A paragraph of text."""
    return f'<p class="text">{escape(text)}</p>'


def placeholder(title: str, text: str) -> str:
    """Shown where there is no result yet."""
    return f'<div class="placeholder"><strong>{escape(title)}</strong><span>{escape(text)}</span></div>'


def header(title: str, text: str) -> str:
    """The page's name and purpose."""
    return f'<header class="masthead"><h1>{escape(title)}</h1><p>{escape(text)}</p></header>'


def facts(triples: Sequence[tuple[str, str, str]]) -> str:
    """Names and values in one line that wraps, with their meanings as tooltips."""
    cells = "".join(
        f"<div{_tooltip(meaning)}><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value, meaning in triples
    )
    return f'<dl class="facts">{cells}</dl>'


def figures(triples: Sequence[tuple[str, str, str]]) -> str:
    """Large figures: name, value and meaning."""
    cells = "".join(
        f'<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><dd class="meaning">{escape(meaning)}</dd></div>'
        for name, value, meaning in triples
    )
    return f'<dl class="figures">{cells}</dl>'


def _tooltip(text: str) -> str:
    return f' title="{escape(text)}"' if text else ""


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    notes: Sequence[str] = (),
    meanings: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """A table whose first column names its rows; it scrolls by itself where it is wide.

    `meanings` are tooltips of names of columns and rows.
    """

    def name(scope: str, text: str) -> str:
        return f'<th scope="{scope}"{_tooltip(meanings.get(text, ""))}>{escape(text)}</th>'

    head = "".join(name("col", column) for column in columns)
    body = "".join(
        f"<tr>{name('row', row[0])}" + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    below = "".join(f"<p>{escape(each)}</p>" for each in notes)
    return (
        f'<figure class="table"><figcaption class="part">{escape(caption)}</figcaption>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{below}</figure>"
    )


def histogram(caption: str, bins: Sequence[Bin], *, seen: str, expected: str) -> str:
    """Bars of the shares seen below a curve of the shares expected."""
    width, height, low = 640.0, 200.0, 22.0
    top = max(max(share, normal) for _, share, normal in bins) or 1.0
    step = width / len(bins)

    def up(share: float) -> float:
        return (height - 8.0) * share / top

    bars = "".join(
        f'<rect x="{i * step + 0.5:.2f}" y="{height - up(share):.2f}" width="{step - 1:.2f}" height="{up(share):.2f}">'
        f"<title>{middle:+.2f}: {share:.2%}, {expected} {normal:.2%}</title></rect>"
        for i, (middle, share, normal) in enumerate(bins)
    )
    curve = " ".join(f"{(i + 0.5) * step:.2f},{height - up(normal):.2f}" for i, (_, _, normal) in enumerate(bins))
    ticks = "".join(
        f'<text x="{(value - bins[0][0]) / (bins[-1][0] - bins[0][0]) * (width - step) + step / 2:.2f}" '
        f'y="{height + 16:.0f}">{value}</text>'
        for value in range(math.ceil(bins[0][0]), math.floor(bins[-1][0]) + 1)
    )
    return (
        f'<figure class="chart"><figcaption class="part">{escape(caption)}</figcaption>'
        f'<p class="legend"><span class="seen">{escape(seen)}</span>'
        f'<span class="expected">{escape(expected)}</span></p>'
        f'<svg viewBox="0 0 {width:.0f} {height + low:.0f}" role="img" aria-label="{escape(caption)}">{bars}'
        f'<line x1="0" y1="{height}" x2="{width}" y2="{height}"/><polyline points="{curve}"/>{ticks}</svg></figure>'
    )


def columns(caption: str, counts: Sequence[int], *, seen: str) -> str:
    """Counts as an outline, the largest first."""
    width, height = 640.0, 140.0
    ordered = sorted(counts, reverse=True)
    top = max(ordered[0], 1) if ordered else 1
    step = width / max(1, len(ordered))
    outline = " ".join(
        f"{x:.2f},{height - (height - 8) * count / top:.2f}"
        for i, count in enumerate(ordered)
        for x in (i * step, (i + 1) * step)
    )
    return (
        f'<figure class="chart"><figcaption class="part">{escape(caption)}</figcaption>'
        f'<p class="legend"><span class="seen">{escape(seen)}</span></p>'
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(caption)}">'
        f'<polygon points="0,{height} {outline} {width},{height}"/>'
        f'<line x1="0" y1="{height}" x2="{width}" y2="{height}"/></svg></figure>'
    )
