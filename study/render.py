"""Parts of a report, and their two forms: one HTML file that needs no other, and Markdown."""

import base64
import html
import importlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; } svg, img { max-width: 100%; height: auto; image-rendering: pixelated; }
figcaption, .small { color: #555; font-size: 13px; }
"""


class Table(NamedTuple):
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


class Figure(NamedTuple):
    """A drawing as SVG or PNG, with its file's name in the Markdown report."""

    name: str
    content: bytes
    caption: str


Part = str | Table | Figure | list[str]


def as_html(title: str, parts: Sequence[Part]) -> str:
    """A page with everything in it."""
    body = "\n".join(_part_as_html(part) for part in parts)
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
    head += f"<style>{_STYLE}</style>"
    return f"{head}\n{body}\n</html>\n"


def _part_as_html(part: Part) -> str:
    if isinstance(part, Table):
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in part.header)
        rows = "\n".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in part.rows
        )
        note = f'<p class="small">{_inline(part.note)}</p>' if part.note else ""
        return f"<table><thead><tr>{head}</tr></thead>\n{rows}</table>{note}"
    if isinstance(part, Figure):
        content = part.content.decode() if part.name.endswith(".svg") else None
        encoded = base64.b64encode(part.content).decode()
        shown = content or f'<img alt="" src="data:image/png;base64,{encoded}">'
        return f"<figure>{shown}<figcaption>{_inline(part.caption)}</figcaption></figure>"
    if isinstance(part, list):
        return "<ul>" + "".join(f"<li>{_inline(one)}</li>" for one in part) + "</ul>"
    level = len(part) - len(part.lstrip("#"))
    return f"<h{level}>{_inline(part[level:].strip())}</h{level}>" if level else f"<p>{_inline(part)}</p>"


def _inline(text: str) -> str:
    pieces = html.escape(text).split("`")
    return "".join(piece if place % 2 == 0 else f"<code>{piece}</code>" for place, piece in enumerate(pieces))


def as_markdown(parts: Sequence[Part], folder: str = "") -> str:
    """Text, whose figures are files in a folder."""
    blocks = []
    for part in parts:
        if isinstance(part, Table):
            lines = [part.header, ["---"] + ["---:"] * (len(part.header) - 1), *part.rows]
            blocks.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
            if part.note:
                blocks.append(part.note)
        elif isinstance(part, Figure):
            blocks.append(f"![{part.caption}]({folder}{part.name})")
        elif isinstance(part, list):
            blocks.append("\n".join(f"- {one}" for one in part))
        else:
            blocks.append(part)
    return "\n\n".join(blocks) + "\n"


def canvas(columns: int, width: float) -> tuple[Any, list[Any]]:
    """A figure of matplotlib with axes side by side, each `width` inches wide.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        module = importlib.import_module("matplotlib.figure")
    except ImportError:
        raise ValueError("the report needs matplotlib: pip install -c constraints.txt -e '.[plot]'") from None
    figure = module.Figure(figsize=(width * columns, 2.8), layout="constrained")
    axes = [figure.add_subplot(1, columns, number + 1) for number in range(columns)]
    for one in axes:
        one.tick_params(labelsize=7)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def as_svg(figure: Any) -> bytes:
    """A figure of matplotlib without anything that names its making."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue().decode()
    return text[text.index("<svg") :].encode()
