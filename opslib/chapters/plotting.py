"""How the chapters' plots look: one size, one palette, Japanese in every font, readable without colour.

Lines differ by dash and marker, bars by hatch, so that a page printed in black and white says the same. Colours are those of Okabe and Ito
(https://jfly.uni-koeln.de/color/), which colour-blind readers can tell apart. Figures are made without pyplot: nothing stays open, and a
chapter can be drawn in a thread.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Any

from opslib.findings import Severity, Unit
from opslib.messages import Text, one_line, text_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Blue first and yellow last: yellow is hard to see on paper.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo", "--")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (7, 3)))
GREY = "#666666"


def new_figure(title: Text = "", *, width: float = 9.6, height: float = 3.4, x_label: Text = "", y_label: Text = "") -> tuple[Figure, Axes]:
    """A figure with one set of axes.

    Parameters
    ----------
    title, x_label, y_label
        Texts for people, shown in the current language.
    width, height
        Inches; at 100 dots an inch a figure of the usual size is 960 by 340 pixels and about 30 KB.
    """
    import matplotlib
    from matplotlib.figure import Figure

    _use_fonts()
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    axes = figure.subplots()
    plain(axes)
    axes.set_axisbelow(True)
    if title:
        axes.set_title(label(title, 100), loc="left", fontsize=11)
    if x_label:
        axes.set_xlabel(label(x_label), fontsize=9)
    if y_label:
        axes.set_ylabel(label(y_label), fontsize=9)
    matplotlib.rcParams["hatch.linewidth"] = 0.6
    return figure, axes


def plain(axes: Axes) -> None:
    """The look of all plots: a light grid, no frame above and at the right, small figures."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.tick_params(labelsize=9)


def stacked_figure(title: Text, count: int, *, width: float = 9.6, row_height: float = 0.75) -> tuple[Figure, list[Axes]]:
    """A figure with `count` low sets of axes above each other, which share the x axis."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    _use_fonts()
    figure = Figure(figsize=(width, 0.8 + row_height * count), dpi=100, layout="constrained")
    stacked = list(figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0])
    for axes in stacked:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    figure.suptitle(label(title, 100), x=0.01, ha="left", fontsize=11)
    return figure, stacked


def label(text: object, width: int = 48) -> str:
    """Text for a plot, on one line: a message in the reader's language, or data from outside.

    A dollar sign stays one (matplotlib would read formulas between two of them), and a character that no font has is written as its number,
    never as an empty box.
    """
    known = _known_characters()
    line = one_line(text_of(text), width)
    return "".join(char if ord(char) in known else f"U+{ord(char):04X}" for char in line).replace("$", r"\$")


def line_style(number: int) -> dict[str, Any]:
    """Keyword arguments of ``axes.plot`` for the n-th series."""
    return {
        "color": PALETTE[number % len(PALETTE)],
        "linestyle": DASHES[number % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 4,
        "markevery": 0.12,
        "linewidth": 1.4,
    }


def bar_style(number: int) -> dict[str, Any]:
    """Keyword arguments of ``axes.bar`` or ``axes.barh`` for the n-th series."""
    return {"color": PALETTE[number % len(PALETTE)], "hatch": HATCHES[number % len(HATCHES)], "edgecolor": "white", "linewidth": 0.5}


def severity_style(severity: Severity) -> dict[str, Any]:
    """Keyword arguments of ``axes.bar`` or ``axes.barh`` for something that bad: the worse, the denser the hatch."""
    color, hatch = {
        Severity.OK: ("#009E73", ""),
        Severity.INFO: ("#56B4E9", ""),
        Severity.WARNING: ("#E69F00", "///"),
        Severity.UNKNOWN: ("#999999", "..."),
        Severity.CRITICAL: ("#D55E00", "xxx"),
    }[severity]
    return {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}


def horizontal_bars(axes: Axes, names: Sequence[object], series: Mapping[Text, Sequence[float | None]]) -> None:
    """Bars from the left, the first name on top; several series stand beside each other and get a legend. None: no bar."""
    import math

    thickness = 0.8 / max(1, len(series))
    for number, (name, values) in enumerate(series.items()):
        places = [row + (number - (len(series) - 1) / 2) * thickness for row in range(len(names))]
        axes.barh(places, [math.nan if value is None else value for value in values], thickness, label=label(name), **bar_style(number))
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")
    if len(series) > 1:
        legend(axes)


def threshold(axes: Axes, value: float, text: Text, *, vertical: bool = False) -> None:
    """A named limit across the plot: `vertical` for a value on the x axis."""
    if vertical:
        axes.axvline(value, color="black", linestyle=(0, (4, 2)), linewidth=1)
        axes.annotate(
            label(text), (value, 1), xycoords=("data", "axes fraction"), xytext=(2, -2), textcoords="offset points", fontsize=8, va="top"
        )
    else:
        axes.axhline(value, color="black", linestyle=(0, (4, 2)), linewidth=1)
        axes.annotate(label(text), (0, value), xycoords=("axes fraction", "data"), xytext=(2, 2), textcoords="offset points", fontsize=8)


def marks(axes: Axes, events: Sequence[tuple[datetime, Text]], *, named: bool = True) -> None:
    """Upright lines at moments within the plot, each with its text; texts of neighbours stand below each other.

    Call it once the limits of the x axis are set.
    """
    from matplotlib.dates import date2num, num2date

    left, right = axes.get_xlim()
    shown = [(moment, text) for moment, text in sorted(events, key=lambda event: event[0]) if left <= date2num(moment) <= right]  # type: ignore[no-untyped-call]
    for number, (moment, text) in enumerate(shown):
        axes.axvline(moment, color="black", linestyle=(0, (4, 2)), linewidth=1)  # type: ignore[arg-type]
        late = moment > num2date(left + 0.7 * (right - left))  # type: ignore[no-untyped-call]
        if named:
            axes.annotate(
                label(text), (moment, 1), xycoords=("data", "axes fraction"), xytext=(-2 if late else 2, -2 - 11 * (number % 4)),
                textcoords="offset points", fontsize=8, va="top", ha="right" if late else "left",
            )  # fmt: skip


def legend(axes: Axes) -> None:
    """The legend, outside on the right, where it hides nothing."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, frameon=False, borderaxespad=0)


def time_axis(axes: Axes, zone: tzinfo) -> None:
    """The x axis shows times in `zone`; values are aware datetimes."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(tz=zone, maxticks=8)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    # Digits alone: names of months would be English in every language.
    formats = ["%Y", "%Y-%m", "%m-%d", "%H:%M", "%H:%M", "%H:%M:%S"]
    offsets = ["%Z", "%Y %Z", "%Y-%m %Z", "%Y-%m-%d %Z", "%Y-%m-%d %Z", "%Y-%m-%d %H:%M %Z"]
    zeros = ["", "%Y", "%Y-%m", "%m-%d", "%H:%M", "%H:%M"]
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=zone, formats=formats, offset_formats=offsets, zero_formats=zeros))  # type: ignore[no-untyped-call]


def unit_axis(axis: Axis, unit: Unit) -> None:
    """The axis shows its values as `unit` says: ratios as per cent, bytes in binary steps, the rest with metric prefixes."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, PercentFormatter

    if unit is Unit.RATIO:
        axis.set_major_formatter(PercentFormatter(xmax=1))
    elif unit is Unit.BYTES:
        axis.set_major_formatter(FuncFormatter(lambda value, _position: _bytes(value)))
    elif unit is not Unit.TEXT:
        axis.set_major_formatter(EngFormatter(sep=""))


def no_data(axes: Axes, text: Text) -> None:
    """An empty plot that says why it is empty."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, label(text, 120), transform=axes.transAxes, ha="center", va="center", color=GREY)


def _bytes(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            return f"{value:g} {unit}" if value == int(value) else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


@functools.cache
def _font_files() -> tuple[str, str]:
    """DejaVu Sans, which comes with matplotlib, and a Japanese font that comes with a dependency."""
    from importlib.resources import files

    import matplotlib

    return f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", str(files("matplotlib_fontja").joinpath("fonts/ipaexg.ttf"))


@functools.cache
def _known_characters() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(code for name in _font_files() for code in FT2Font(name).get_charmap())


def _use_fonts() -> None:
    """Latin text in DejaVu Sans, Japanese in IPAex Gothic. Set at every figure: texts look it up when they are made."""
    import matplotlib
    from matplotlib import font_manager

    japanese = _font_files()[1]
    if not any(font.fname == japanese for font in font_manager.fontManager.ttflist):
        font_manager.fontManager.addfont(japanese)
    matplotlib.rcParams["font.family"] = ["DejaVu Sans", "IPAexGothic"]
