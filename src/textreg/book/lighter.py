"""What the theme puts on every page and no reader needs is taken off the built pages.

Icons come as a font of the glyphs that the pages show, inside a style sheet (a page opened from a disk may load no
font file), in place of a script of more than a megabyte; MathJax stays where there is mathematics; the launcher of
live code, whose script is declared twice and fails, goes; a notebook's drawings, a third larger inside the page, stand
beside it.  Not obvious: icons are found by their class names in the built pages and by the code points in the theme's
style sheets, so that nothing is listed by hand.

    lighten(Path("_build/html"))
"""

import base64
import io
import re
from pathlib import Path

from fontTools import subset, ttLib

ICONS = "icons.css"
VENDOR = "_static/vendor/fontawesome"
DROPPED = re.compile(
    r"<(?:script|link)[^>]*(?:vendor/fontawesome|sphinx-thebe)[^>]*>(?:</script>)?\s*"
    r'|<script type="text/x-thebe-config">.*?</script>\s*|<script>const THEBE_JS_URL[^<]*</script>\s*',
    re.DOTALL,
)
MATHEMATICS = re.compile(
    r"<script[^>]*mathjax[^>]*></script>\s*|<script>window\.MathJax.*?</script>\s*", re.DOTALL | re.IGNORECASE
)
#: What the tools write that a screen reader or a keyboard cannot use: a list without items, a table that only a mouse
#: scrolls, and a theme that is named by nothing on the first visit.
MENDED = (
    (re.compile(r'<div role="list" class="citation-list">'), '<div class="citation-list">'),
    (re.compile(r'<table (?=class="table"|id="T_|border=)(?![^>]*tabindex)'), '<table tabindex="0" '),
    (re.compile(r'localStorage\.getItem\("mode"\) \|\| ""'), 'localStorage.getItem("mode") || "auto"'),
)
DRAWING = re.compile(r"data:image/svg\+xml;base64,([\w+/=]+)")
NAMED = re.compile(r'((?:\.fa-[\w-]+:before,?)+)\{content:"\\([0-9a-f]+)"\}')
STYLE = """@font-face {{
  font-family: "Font Awesome 6 Free"; font-weight: 900; src: url(data:font/woff;base64,{font});
}}
:root {{ --fa-font-solid: normal 900 1em/1 "Font Awesome 6 Free"; --fa-style-family-classic: "Font Awesome 6 Free"; }}
.fas, .fa-solid, .far, .fa-regular {{ font: var(--fa-font-solid); display: inline-block; }}
.fa-lg {{ font-size: 1.25em; }}
{glyphs}
"""


def lighten(html: Path) -> None:
    """Change the built pages below ``html`` in place; a second call changes nothing."""
    pages = {path: path.read_text(encoding="utf-8") for path in html.rglob("*.html") if "_static" not in path.parts}
    fonts = sorted((html / VENDOR).glob("*/webfonts/fa-solid-900.ttf"))
    if fonts:
        (html / "_static" / ICONS).write_text(_icons(fonts[-1], html, pages.values()), encoding="utf-8")
    for path, text in pages.items():
        up = "../" * (len(path.relative_to(html).parts) - 1)
        lean = DROPPED.sub("", text)
        if lean != text and fonts:
            lean = lean.replace("</head>", f'<link rel="stylesheet" href="{up}_static/{ICONS}"/>\n</head>', 1)
        for wrong, right in MENDED:
            lean = wrong.sub(right, lean)
        parts = DRAWING.split(lean)  # text, drawing, text, ...
        for place in range(1, len(parts), 2):
            drawing = path.with_name(f"{path.stem}-{place // 2}.svg")
            drawing.write_bytes(base64.b64decode(parts[place]))
            parts[place] = drawing.name
        lean = "".join(parts)
        if not re.search(r'class="[^"]*\bmath\b', lean):
            lean = MATHEMATICS.sub("", lean)
        if lean != text:
            path.write_text(lean, encoding="utf-8")


def _icons(font: Path, html: Path, pages) -> str:
    rules = (font.parents[1] / "css" / "all.min.css").read_text(encoding="utf-8")
    shown = set(re.findall(r"\bfa-[\w-]+", " ".join(pages)))
    for script in html.glob("_static/scripts/*.js"):
        shown |= set(re.findall(r"\bfa-[\w-]+", script.read_text(encoding="utf-8")))
    named = {
        name: code for names, code in NAMED.findall(rules) for name in re.findall(r"fa-[\w-]+", names) if name in shown
    }
    styles = [*html.glob("_static/*.css"), *html.glob("_static/styles/*.css")]
    text = " ".join(each.read_text(encoding="utf-8") for each in styles if each.name != ICONS)
    themed = {
        *re.findall(r'"\\(f[0-9a-f]{3})"', text),
        *(f"{ord(sign):x}" for sign in re.findall("[\uf000-\uf8ff]", text)),
    }
    drawn = ttLib.TTFont(font, recalcTimestamp=False)
    cutter = subset.Subsetter(subset.Options(desubroutinize=True, notdef_outline=True))
    cutter.populate(unicodes=[int(code, 16) for code in {*named.values(), *themed}])
    cutter.subset(drawn)
    drawn.flavor = "woff"
    held = io.BytesIO()
    drawn.save(held)
    glyphs = "\n".join(f'.{name}::before {{ content: "\\{code}"; }}' for name, code in sorted(named.items()))
    return STYLE.format(font=base64.b64encode(held.getvalue()).decode(), glyphs=glyphs)
