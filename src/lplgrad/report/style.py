"""How figures look: fonts, titles and notes, and the same bytes on every run."""

from __future__ import annotations

import contextlib
import io
import textwrap
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib import font_manager
from matplotlib.text import Text

from lplgrad.machine.files import replacing
from lplgrad.machine.log import say
from lplgrad.report.wording import dataset_title, strategy_title
from lplgrad.study.layout import Trial
from lplgrad.study.settings import StudyFile

mpl.use("Agg")

# Letters in a line of a title, in a legend and beside an axis.
TITLE_WIDTH = 32

FONT = "DejaVu Sans"
# The fonts that write the letters which this one lacks: these, if they are installed, then any.
FALLBACKS = [
    "Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "IPAGothic", "IPAexGothic",
    "Droid Sans Fallback", "Hiragino Sans", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic", "Noto Sans", "Symbola",
]  # fmt: skip
# Of these scripts Debian has one package of fonts.
CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL")

# Where matplotlib writes the time or its version, by format.
DATED_BY = {".svg": "Date", ".pdf": "CreationDate", ".png": "Software"}


def set_up() -> None:
    """Set matplotlib up for a figure."""
    # One warning for each letter that a font lacks. ``save`` tries other fonts and reports missing letters in one line.
    warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
    sns.set_theme(context="paper", style="ticks", font=FONT, font_scale=1.1)
    mpl.rcParams.update(
        {
            "axes.grid": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "figure.constrained_layout.use": True,
            "grid.color": "#E4E4E4",
            "legend.frameon": False,
            "savefig.dpi": 200,
            "text.parse_math": False,  # a title with dollars is no formula
            "svg.fonttype": "path",
            "svg.hashsalt": "lplgrad",
        }
    )


def message(text: str) -> Any:
    """Return a figure that explains why there is nothing to draw."""
    set_up()
    figure, axis = plt.subplots(figsize=(7, 1.2))
    axis.axis("off")
    axis.text(0.5, 0.5, textwrap.fill(text, 80), ha="center", va="center")
    return figure


def note(figure: Any, text: str) -> None:
    """Write a text below a figure, if it is not empty."""
    if text:
        width = round(14 * figure.get_figwidth())
        figure.supxlabel(textwrap.fill(text, width), fontsize=8, color="#444444")


def wrapped(text: str, width: int) -> str:
    """Break a title into lines of about ``width`` Latin letters."""
    text = " ".join(text.split())
    taken = sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text)
    return textwrap.fill(text, width * len(text) // taken) if taken > width else text


def title_of_trial(figure: Any, file: StudyFile, trial: Trial) -> None:
    """Write above a figure which trial it shows. The figure grows if it must."""
    text = f"{strategy_title(file, trial.strategy)} on {dataset_title(file, trial.dataset)}"
    title = wrapped(f"{text}, {trial.budget} budget, seed {trial.seed}", round(12 * figure.get_figwidth()))
    figure.set_figheight(figure.get_figheight() + 0.17 * title.count("\n"))
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)


def save(figure: Any, paths: list[Path]) -> None:
    """Write a figure in the format that each path's ending names, without a date."""
    _choose_fonts(figure)
    for path in paths:
        content = io.BytesIO()
        figure.savefig(content, format=path.suffix[1:], metadata={DATED_BY[path.suffix]: None})
        with replacing(path) as file:
            file.write(content.getvalue())
    plt.close(figure)


def _choose_fonts(figure: Any) -> None:
    """Let other installed fonts write the letters that the usual one lacks, and report letters that no font has.

    Texts of Latin, Greek, Cyrillic, Arabic and Hebrew letters are not touched.
    """
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_ticklabels()  # matplotlib creates them on demand
    texts = [text for text in figure.findobj(Text) if _missing(text.get_text(), FONT)]
    missing = set().union(*(_missing(text.get_text(), FONT) for text in texts))
    if not missing:
        return
    families = [FONT]
    for family in _families():
        found = missing - _missing("".join(missing), family)
        if found:
            families.append(family)
            missing -= found
        if not missing:
            break
    for text in texts:
        text.set_fontfamily(families)
    if missing:
        letters = "".join(sorted(missing))
        packages = sorted({_package(letter) for letter in missing})
        say(
            f"no installed font has {letters[:20]}{'...' if len(letters) > 20 else ''}: the figure shows boxes there; "
            f"install a font (on Debian: {' '.join(packages)}) and draw the figure again"
        )


def _families() -> list[str]:
    """Return the installed families of fonts, those of ``FALLBACKS`` first; matplotlib's own list may be outdated."""
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in sorted(set(font_manager.findSystemFonts()) - known):
        with contextlib.suppress(OSError, RuntimeError, NotImplementedError):  # no font, or one of pixels
            font_manager.fontManager.addfont(path)
    upright = [entry for entry in font_manager.fontManager.ttflist if entry.style == "normal"]
    names = {entry.name for entry in upright if entry.weight in (400, "normal", "regular", "book")}
    # matplotlib draws boxes for letters that no font has; these boxes are a font, too.
    others = sorted(name for name in names.difference(FALLBACKS) if not name.startswith("Last Resort"))
    return [name for name in FALLBACKS if name in names] + others


def _missing(text: str, family: str) -> set[str]:
    """Return the letters of a text that a font lacks, except blanks and invisible marks."""
    letters = {letter for letter in text if ord(letter) > 127 and letter.isprintable() and not _is_selector(letter)}
    if not letters:
        return letters
    try:
        properties = font_manager.FontProperties(family=[family])
        path = font_manager.fontManager.findfont(properties, fallback_to_default=False)
        glyphs = font_manager.get_font(path).get_charmap()
    except (OSError, RuntimeError, ValueError):  # removed or unreadable
        return letters
    return {letter for letter in letters if ord(letter) not in glyphs}


def _is_selector(letter: str) -> bool:
    """Return whether a letter is a variation selector, which makes an emoji coloured or plain."""
    return 0xFE00 <= ord(letter) <= 0xFE0F


def _package(letter: str) -> str:
    """Return Debian's package of a font that has a letter."""
    if unicodedata.name(letter, "").startswith(CJK):
        return "fonts-noto-cjk"
    return "fonts-symbola" if unicodedata.category(letter).startswith("S") else "fonts-noto-core"
