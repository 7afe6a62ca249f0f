"""How figures look and are saved: colours, marks and sizes, four files, an alternative text, and the same bytes twice.

Colours are Okabe and Ito's colour-blind-safe set; a marker (points) or hatch (bars) carries the same distinction, so
that no figure depends on hue.  ``BM`` and the control ``EN`` have angular markers.  Names of languages come from the
code book; a code that has none is its own label.  Every figure of the book goes through :func:`save_figure`, which
refuses one without alternative text, writes the drawing as SVG, PDF and PNG and the numbers behind it as CSV, and
leaves dates, random ids and program versions out.  One SVG serves light and dark: its own style sheet turns paper,
ink and the darker colours (:data:`DARK`) where the page around it is dark.  Widths have names (:data:`SIZES`, in
inches), typed only here.  Run ``pytest tests/figures`` to see the guarantees checked.
"""

import base64
import html
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import matplotlib as mpl
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from textreg.data.codes import code_book
from textreg.errors import InputError, did_you_mean
from textreg.figures.tables import ENGLISH

SIZES = MappingProxyType(
    {"column": (3.75, 2.8), "page": (5.0, 3.4), "tall": (5.0, 5.2), "long": (5.0, 7.2), "wide": (5.0, 2.6)}
)
MINIMUM_ALT_WORDS = 6
# Matplotlib writes dates and its own version into files unless told not to.
METADATA = MappingProxyType(
    {
        "svg": {"Date": None, "Creator": "textreg"},
        "pdf": {"CreationDate": None, "Creator": "textreg", "Producer": "textreg"},
        "png": {"Software": "textreg"},
    }
)


@dataclass(frozen=True)
class Mark:
    """Appearance of one system, arm or measure."""

    label: str
    colour: str
    marker: str
    hatch: str = ""
    line: str = "-"


SYSTEMS = MappingProxyType(
    {
        "BM": Mark("BM", "#D55E00", "s", "////", "--"),
        "TR": Mark("TR", "#0072B2", "o", "", "-"),
        "TR+M": Mark("TR+M", "#009E73", "^", "....", "-"),
        "BM+M": Mark("BM+M", "#E69F00", "D", "xxxx", "-."),
        "EN": Mark("EN", "#CC79A7", "X", "\\\\\\\\", ":"),
        "TR-mono": Mark("TR-mono", "#56B4E9", "v", "||||", "-."),
        "backbone": Mark("backbone", "#555555", "P", "++++", ":"),
    }
)
#: Classes of answers: what was asked for is blue, English the warm colour of the loss, the rest is grey.
CLASSES = MappingProxyType(
    {
        "asked": Mark("asked language", "#0072B2", "o"),
        "english": Mark("clean English", "#D55E00", "s", "////"),
        "other": Mark("another language", "#999999", "^", "...."),
        "mixed": Mark("mixed or broken", "#CCCCCC", "D", "xxxx"),
        "short": Mark("too short to say", "#E5E5E5", "v"),
        "empty": Mark("empty", "#FFFFFF", "v"),
    }
)
#: What a colour becomes on a dark page; colours that are not named are readable on both.
DARK = MappingProxyType(
    {
        "#ffffff": "#121212", "#000000": "#e6edf3", "#222222": "#e6edf3", "#444444": "#c9d1d9", "#555555": "#a5adb5",
        "#dddddd": "#30363d", "#f5f5f5": "#1c1c1e", "#e5e5e5": "#484f58", "#0072b2": "#4493e8", "#56b4e9": "#8fd3ff",
        "#009e73": "#2fc99a", "#882255": "#d675a9", "#661100": "#e07a5f", "#a33b00": "#ff9e5e", "#6b2f8f": "#d2a8ff",
    }
)  # fmt: skip
ON_COLOUR = "#111111"  # ink on a coloured area, which stays as it is in the dark
# Further arms of a profile take these in order of appearance.
SPARE = (
    ("#000000", "*", "----", "--"),
    ("#999933", "h", "oooo", "-."),
    ("#882255", "<", "**", ":"),
    ("#44AA99", ">", "|-|-", "-"),
    ("#661100", "p", "/o/o", "--"),
    ("#DDCC77", "H", "-o-o", "-"),
)
ARMS = MappingProxyType(
    {
        "image": Mark("image", "#222222", "o"),
        "blank": Mark("blank image", "#777777", "d"),
        "text": Mark("text", "#222222", "|"),
        "text_en": Mark("English text", "#222222", "x"),
        "keywords": Mark("key words", "#222222", "1"),
    }
)
#: What stands before the question, in the words of a title.
CONTEXTS = MappingProxyType(
    {
        "image": "the image",
        "blank": "a blank image",
        "text": "text in the asked language",
        "text_en": "English text",
        "keywords": "key words in the asked language",
    }
)
MEASURES = MappingProxyType(
    {
        "lf": "language fidelity, LF (%)",
        "lf_plus": "stricter fidelity, LF+ (%)",
        "grounded": "grounded fidelity, GF (%)",
        "english_rate": "answers in English (%)",
        "visual": "English captions right (%)",
        "chrf": "English captions, chrF",
        "questions": "English questions right (%)",
    }
)
SHORT_MEASURES = MappingProxyType(
    {
        "lf": "LF",
        "lf_plus": "LF+",
        "grounded": "GF",
        "scored": "scored",
        "english_rate": "in English",
        "exclusive_share": "own words",
        "parse_rate": "grammatical",
        "visual": "captions",
        "questions": "questions",
    }
)


def system_marks(systems: Iterable[str]) -> dict[str, Mark]:
    """Marks of ``systems`` in the order given; systems that are not in :data:`SYSTEMS` take spare ones in turn."""
    marks, spare = {}, 0
    for system in dict.fromkeys(systems):
        if system in SYSTEMS:
            marks[system] = SYSTEMS[system]
        else:
            marks[system] = Mark(system, *SPARE[spare % len(SPARE)])
            spare += 1
    return marks


def language_names(codes: Iterable[str]) -> dict[str, str]:
    """Code -> English name of the language, or the code itself where the code book has no entry for it."""

    known = code_book()
    return {code: known[code].name if code in known else code for code in codes}


def language_order(codes: Iterable[str], held_out: Iterable[str] = ()) -> list[str]:
    """English first, then by name, held-out languages last."""
    codes = list(dict.fromkeys(codes))
    names, last = language_names(codes), set(held_out)
    return sorted(codes, key=lambda code: (code in last, code != ENGLISH, names[code]))


def per_cent(ax: Axes, label: str, axis: str = "x") -> None:
    """A 0 to 100 % axis with room for a marker at either end."""
    low, high = -0.03, 1.03
    ticks = np.linspace(0, 1, 6)
    labels = [f"{100 * tick:.0f}" for tick in ticks]
    if axis == "x":
        ax.set(xlim=(low, high), xlabel=label)
        ax.set_xticks(ticks, labels)
    else:
        ax.set(ylim=(low, high), ylabel=label)
        ax.set_yticks(ticks, labels)


def handle(look: Mark, *, line: bool = False, marker: bool = True) -> Line2D:
    return Line2D(
        [], [], color=look.colour, linestyle=look.line if line else "", marker=look.marker if marker else "",
        label=look.label,
    )  # fmt: skip


def legend_above(fig: Figure, ax: Axes, columns: int, handles: list | None = None) -> None:
    handles = handles if handles is not None else ax.get_legend_handles_labels()[0]
    fig.legend(handles=handles, loc="outside upper center", ncols=min(columns, 4), columnspacing=1.4)


def refuse_empty(table: pd.DataFrame, what: str) -> None:
    if table.empty:
        raise InputError(f"{what}: nothing to draw; the table has no rows for the systems asked for")


@dataclass(frozen=True)
class Saved:
    """The files of one figure.  Shown by Jupyter as the drawing with its alternative text."""

    stem: Path
    alt: str

    @property
    def paths(self) -> dict[str, Path]:
        """Suffix (``svg``, ``pdf``, ``png``, ``csv``, ``json``) -> file."""
        return {suffix: _with_suffix(self.stem, suffix) for suffix in ("svg", "pdf", "png", "csv", "json")}

    def _repr_html_(self) -> str:
        picture = base64.b64encode(self.paths["svg"].read_bytes()).decode()
        return (
            f'<img class="textreg-figure" alt="{html.escape(self.alt, quote=True)}" '
            f'src="data:image/svg+xml;base64,{picture}" style="width:100%;max-width:700px"/>'
        )


def size(name: str, height: float | None = None) -> tuple[float, float]:
    """Width and height in inches of a named size; ``height`` overrides it for figures that grow with their rows."""
    if name not in SIZES:
        raise InputError(f"figure size {name!r} is not known{did_you_mean(name, SIZES)}")
    width, standard = SIZES[name]
    return width, standard if height is None else height


@contextmanager
def style() -> Iterator[None]:
    """The project's drawing style, for the length of a ``with`` block; the caller's settings come back after it."""
    settings = mpl.rc_params_from_file(Path(__file__).with_name("textreg.mplstyle"), use_default_template=False)
    with mpl.rc_context():
        # A notebook's inline backend or a user's matplotlibrc must not leak into the files.
        mpl.style.use("default")
        mpl.rcParams.update(settings)
        yield


def save_figure(fig: Figure, stem: str | Path, *, alt: str, data: pd.DataFrame, caption: str = "") -> Saved:
    """Write ``<stem>.svg``, ``.pdf``, ``.png``, ``.csv`` (``data``) and ``.json`` (alternative text, caption, size).

    ``alt`` is one or two sentences that say what the figure shows to someone who cannot see it; fewer than six words,
    or no ``data``, is an :class:`InputError`.  Two calls with the same table write identical bytes (same machine, same
    Matplotlib).  Returns the :class:`Saved` files.
    """
    stem = Path(stem)
    alt = " ".join(alt.split())
    if len(alt.split()) < MINIMUM_ALT_WORDS:
        raise InputError(f"figure {stem.name}: the alternative text {alt!r} says too little; describe what is shown")
    if data is None or not len(data.columns):
        raise InputError(f"figure {stem.name}: no table given; pass the numbers that were drawn as data=")
    stem.parent.mkdir(parents=True, exist_ok=True)
    saved = Saved(stem, alt)
    with style():
        # One layout for the three files; solving it again for each would also take most of the time.
        fig.draw_without_rendering()
        fig.set_layout_engine("none")
        for suffix, metadata in METADATA.items():
            fig.savefig(saved.paths[suffix], metadata=metadata)
    _name_drawing(saved.paths["svg"], alt)
    data.to_csv(saved.paths["csv"], index=False, float_format="%.6g", lineterminator="\n")
    width, height = fig.get_size_inches()
    about = {
        "alt": alt,
        "caption": caption,
        "width_inches": round(float(width), 3),
        "height_inches": round(float(height), 3),
    }
    saved.paths["json"].write_text(json.dumps(about, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return saved


def _with_suffix(stem: Path, suffix: str) -> Path:
    return stem.parent / f"{stem.name}.{suffix}"  # Path.with_suffix would eat the ".5" of "frontier_0.5"


def _name_drawing(path: Path, alt: str) -> None:
    """Give the SVG the role and title that screen readers announce, and its colours for a dark page."""
    drawing = path.read_text(encoding="utf-8")
    start = drawing.index("<svg")
    end = drawing.index(">", start)
    turned = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{dark}!important}}'
        for light, dark in DARK.items()
        for kind in ("fill", "stroke")
    )
    # What is black has no colour of its own in the file.
    sheet = f"<style>@media (prefers-color-scheme: dark){{svg{{fill:{DARK['#222222']}}}{turned}}}</style>"
    head = f'{drawing[:end]} role="img">\n <title>{html.escape(alt)}</title>\n {sheet}'
    path.write_text(head + drawing[end + 1 :], encoding="utf-8")
