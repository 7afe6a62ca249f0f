"""Saving figures: four files, an alternative text, and the same bytes every time.

Every figure of the book goes through :func:`save_figure`.  It refuses a figure without alternative text, writes the
drawing as SVG, PDF and PNG and the numbers behind it as CSV, and leaves dates, random ids and program versions out, so
that drawing the same table twice gives the same bytes.  Widths have names (:data:`SIZES`, in inches), typed only here.
Run ``pytest tests/figures/test_figures.py`` to see the guarantees checked.
"""

import base64
import html
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import matplotlib as mpl
import matplotlib.style
import pandas as pd
from matplotlib.figure import Figure

from textreg.errors import InputError, did_you_mean

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


def smallest_text(fig: Figure) -> float:
    """Size in points of the smallest visible text of a figure."""
    sizes = [
        text.get_fontsize() for text in fig.findobj(mpl.text.Text) if text.get_visible() and text.get_text().strip()
    ]
    return min(sizes)


def _with_suffix(stem: Path, suffix: str) -> Path:
    return stem.parent / f"{stem.name}.{suffix}"  # Path.with_suffix would eat the ".5" of "frontier_0.5"


def _name_drawing(path: Path, alt: str) -> None:
    """Give the SVG the role and title that screen readers announce."""
    drawing = path.read_text(encoding="utf-8")
    start = drawing.index("<svg")
    end = drawing.index(">", start)
    named = f'{drawing[:end]} role="img">\n <title>{html.escape(alt)}</title>{drawing[end + 1 :]}'
    path.write_text(named, encoding="utf-8")
