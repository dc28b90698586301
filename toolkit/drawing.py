"""How every plot is drawn: style, colours, and figures as PNG files or as SVG text.

Figures are plain objects drawn on the Agg and SVG canvases: no pyplot, no window, no state left behind. The SVG has no
date and a fixed salt, so the same numbers give the same bytes. Its ink, rules and series colours become CSS variables
(with the light colour as fallback), so that one drawing serves light, dark and print. Labels are data: mathematics in
`$...$` is never interpreted, and matplotlib escapes them.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from toolkit_datasets.atomic import replacing

WIDTH = 6.0  # inches; with 10 pt text it reads well from a telephone (x0.9) to a page (x1.4)
INK, RULE, PAPER = "#22262a", "#d5d9dd", "#fefefe"
# Okabe & Ito (2008), told apart by colour-blind readers; yellow left out: it vanishes on white paper.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7a7f85")
SERIES = {
    "codes": 0,
    "pixels": 1,
    "hog": 2,
    "random": 3,
    "head_size": 4,
}  # one colour and marker per feature set, in every plot
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
VARIABLES = {INK: "--ink", RULE: "--rule", PAPER: "--paper"} | {c: f"--c{i}" for i, c in enumerate(PALETTE)}

STYLE: dict[str, Any] = {
    "text.parse_math": False,  # a label such as "$x" is a name, not mathematics
    "svg.fonttype": "none",  # text stays text: searchable, small, in any script that the reader's browser knows
    "font.size": 10,
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so PNG files look the same everywhere
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "figure.constrained_layout.use": True,
}


def shorten(text: str, length: int = 22) -> str:
    """`text` in one line of at most `length` characters; what is left out in the middle is marked by an ellipsis."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    head = (length - 1) // 2 + (length - 1) % 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


@contextmanager
def styled(salt: str) -> Iterator[None]:
    """Our style inside the block only. Scripts that DejaVu lacks are no fault: the browser draws the text."""
    settings: Any = STYLE | {"svg.hashsalt": f"toolkit-{salt}"}
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new_figure(height: float) -> tuple[Figure, Axes]:
    """A figure of the common width, `height` inches high, with one axes."""
    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.add_subplot()


def look_of(name: str, order: int) -> tuple[str, str]:
    """Colour and marker of a series; `order` decides for names that have none of their own."""
    number = SERIES.get(name, len(SERIES) + order % (len(PALETTE) - len(SERIES)))  # never a colour that is spoken for
    return PALETTE[number], MARKERS[number]


def legend_above(figure: Figure, axes: Axes, *, marker_scale: float = 1.0) -> None:
    """The legend above the plot, in as many rows as it takes."""
    handles, names = axes.get_legend_handles_labels()
    rows = 1
    while rows < len(names) and _legend_width(names, rows) > 92:  # characters of 9 pt across the figure
        rows += 1
    columns = -(-len(names) // rows)
    figure.legend(handles, names, loc="outside upper left", ncols=max(1, columns), markerscale=marker_scale)


def _legend_width(names: Sequence[str], rows: int) -> int:
    """Rough width in characters; a legend is filled column by column, and a mark with its gaps takes about nine."""
    return sum(max(map(len, names[i : i + rows])) + 9 for i in range(0, len(names), rows))


def write_png(figure: Figure, out: Path) -> None:
    """The figure as a PNG file, on paper of its own."""
    figure.set_facecolor(PAPER)
    with replacing(out) as temporary:
        FigureCanvasAgg(figure)
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})


def svg_text(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element for the inside of an HTML page, without size, date, or ids of other figures."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    wanted = set(re.findall(r"(?:href=\"|url\()#([^\")]+)", text))
    # Only tags are rewritten: what stands between them is escaped text, such as a label, and stays as it is.
    return re.sub(r"<[^>]+>", lambda tag: _tidy(tag[0], name, wanted), text)


def _tidy(tag: str, name: str, wanted: set[str]) -> str:
    """One SVG tag with CSS variables for colours, the page's font, short numbers and ids that are the figure's own."""
    if tag.startswith("<svg"):
        return re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", r'<svg \1 role="img">', tag)
    tag = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in wanted else "", tag)
    tag = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", re.sub(r"font: (?:\w+ )*([\d.]+px)[^;\"]*", r"font-size: \1", tag))
    tag = re.sub(r"(\.\d\d)\d+", r"\1", tag.replace("\n", " "))
    return re.sub(
        r"#[0-9a-f]{6}(?=[;\"])", lambda m: f"var({VARIABLES[m[0]]}, {m[0]})" if m[0] in VARIABLES else m[0], tag
    )
