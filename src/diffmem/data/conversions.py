"""What was done to encoded images, or skipped, when a set was read: counted, in words, and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from diffmem.data.formats.guards import printable
from diffmem.data.reading import ALPHA_TEXT, FIT_TEXT, Reading
from diffmem.text import count_text

__all__ = ["Conversion", "Tally", "name_text"]

_LONGEST_NAME = 80
_LARGEST = ("largest", "undeclared_largest", "undeclared_below")


@dataclass(frozen=True)
class Conversion:
    """One thing that reading did to the images of a source.

    Attributes:
        key: 'alpha', 'exif', 'white', 'pages' and 'fit' are choices of `Reading`; others are 'split', 'not-read' (image
            files of kinds that are not read), 'hidden' (hidden images), 'not-opened' (archives and arrays beside images),
            'passed-over' (other files), 'colour' (palettes, CMYK), 'grey' (grey images made RGB),
            'icc' (colour profiles not applied), 'tiff-orientation', 'mpo' (further pictures in JPEGs) and
            'labels' (numbers of an .npz that were not taken for labels).
        choice: What was done: a value of `Reading`'s field, or a word.
        count: How many files it concerns.
        total: Of how many.
        sentence: The line of the set's history.
        changes_pixels: Whether another choice would give other pixels or other images.
        largest: The largest stored value, of 'white'.
    """

    key: str
    choice: str
    count: int
    total: int
    sentence: str
    changes_pixels: bool
    largest: int | None = None


def name_text(name: str) -> str:
    """Return a name that a foreign file chose, short and as letters that a terminal can show."""
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME // 2]}...{name[-_LONGEST_NAME // 2 :]}"
    return printable(name)


@dataclass
class Tally:
    """Counts, while images are decoded, what is done to them.

    Attributes:
        files: Files that were decoded.
        images: Images that were made of them; `grey`: those without colour.
        alpha: Files with an alpha channel or a transparent colour; `transparent`: those of them that are not opaque.
        turned: Files whose EXIF orientation is not the usual one.
        tiff_turned: TIFFs whose orientation was followed.
        deep: Files of 16 bits; `largest`: their largest value; `undeclared`: those whose format tells no white level, and
            `undeclared_largest`: the largest value of these; `undeclared_below`: how far their smallest is below 65,535.
        whites: Files by white level; `clipped`: those with values above it.
        colours: Files by what was turned into RGB or grey.
        profiles: Files with a colour profile.
        several: Files of several pages or frames; `others`: pages and frames that were skipped; `pages`: images made
            of them.
        mpo: JPEGs with further pictures.
        fitted: Images that had another shape.
    """

    files: int = 0
    images: int = 0
    alpha: int = 0
    transparent: int = 0
    turned: int = 0
    tiff_turned: int = 0
    deep: int = 0
    largest: int = 0
    undeclared: int = 0
    undeclared_largest: int = 0
    undeclared_below: int = 0
    clipped: int = 0
    profiles: int = 0
    several: int = 0
    others: int = 0
    pages: int = 0
    mpo: int = 0
    fitted: int = 0
    grey: int = 0
    whites: Counter[int] = field(default_factory=Counter)
    colours: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Count what was done to other files as well."""
        for one in fields(self):
            mine, more = getattr(self, one.name), getattr(other, one.name)
            setattr(self, one.name, max(mine, more) if one.name in _LARGEST else mine + more)

    def add_pages(self, pages: Tally) -> None:
        """Count what was done to the pages of one file as done to one file."""
        self.alpha += pages.alpha > 0
        self.transparent += pages.transparent > 0
        self.deep += pages.deep > 0
        self.clipped += pages.clipped > 0
        self.undeclared += pages.undeclared > 0
        self.largest = max(self.largest, pages.largest)
        self.undeclared_largest = max(self.undeclared_largest, pages.undeclared_largest)
        self.undeclared_below = max(self.undeclared_below, pages.undeclared_below)
        self.whites.update(pages.whites.keys())
        self.colours.update(pages.colours.keys())

    def conversions(self, reading: Reading) -> tuple[Conversion, ...]:
        """Return all that was done, in the order in which it is done."""
        return (*self._of_layout(), *self._of_colours(reading), *self._of_shape(reading))

    def _of(self, count: int) -> str:
        return f"{count:,} of {count_text(self.files, 'file')}"

    def _of_layout(self) -> Iterator[Conversion]:
        if self.several:
            of, every = f"{self._of(self.several)} hold several", not self.others
            passed = count_text(self.others, "page or frame", "pages and frames")
            text = f"first page or frame only: {of}; {passed} skipped (--pages all reads them)"
            if every:
                text = f"all pages and frames read: {of}, {self.pages:,} images in all"
            yield Conversion("pages", "all" if every else "first", self.several, self.files, text, True)
        if self.mpo:
            text = f"first picture only: {self._of(self.mpo)} are JPEGs that hold further pictures (MPO)"
            yield Conversion("mpo", "first", self.mpo, self.files, text, False)

    def _of_colours(self, reading: Reading) -> Iterator[Conversion]:
        if self.colours:
            total = self.colours.total()
            kinds = ", ".join(f"{kind} in {number:,}" for kind, number in sorted(self.colours.items()))
            lossy = any(not kind.startswith(("palette", "black and white")) for kind in self.colours)
            text = f"colours converted in {self._of(total)}: {kinds}"
            yield Conversion("colour", "rgb", total, self.files, text, lossy)
        if self.deep:
            whites = sorted(self.whites)
            levels = max(min(255, (self.largest * 255 + white // 2) // white) for white in whites) + 1
            text = (
                f"16 bits to 8 bits in {self._of(self.deep)}: largest value {self.largest:,}, white level"
                f" {' and '.join(f'{white:,}' for white in whites)}, up to {levels} grey levels left"
            )
            if self.clipped:
                clipped = count_text(self.clipped, "file")
                text += f"; values above the white level, which became 255, in {clipped}"
            yield Conversion("white", str(whites[0]), self.deep, self.files, text, True, self.largest)
        if self.alpha:
            opaque = self.alpha - self.transparent
            text = f"alpha channel of {self._of(self.alpha)} is opaque: dropped, which changes nothing"
            if self.transparent:
                stored = ", the stored colours kept" if reading.alpha == "drop" else ""
                text = f"{ALPHA_TEXT[reading.alpha]}{stored} in {self._of(self.transparent)}"
                text += f" ({opaque:,} more have an alpha channel that is opaque)" if opaque else ""
            yield Conversion("alpha", reading.alpha, self.transparent, self.files, text, self.transparent > 0)
        if self.profiles:
            text = f"colour profiles (ICC) not applied in {self._of(self.profiles)}"
            yield Conversion("icc", "ignore", self.profiles, self.files, text, False)

    def _of_shape(self, reading: Reading) -> Iterator[Conversion]:
        if self.turned:
            text = {
                "apply": f"EXIF orientation applied: {self._of(self.turned)} were stored rotated",
                "ignore": (
                    f"EXIF orientation ignored: {self._of(self.turned)} are stored rotated (--exif apply rotates them, as Hugging"
                    " Face datasets does and torchvision does not)"
                ),
            }[reading.exif]
            yield Conversion("exif", reading.exif, self.turned, self.files, text, True)
        if self.tiff_turned:
            text = f"orientation of the TIFF format followed in {self._of(self.tiff_turned)}"
            yield Conversion("tiff-orientation", "apply", self.tiff_turned, self.files, text, False)
        if reading.fit is not None and self.fitted:
            side = reading.resolution
            text = (
                f"brought to {side} x {side} in {self.fitted:,} of {count_text(self.images, 'image')}: {FIT_TEXT[reading.fit]}"
                " where not square, resampled (LANCZOS)"
            )
            yield Conversion("fit", reading.fit, self.fitted, self.images, text, True)
        if 0 < self.grey < self.images:
            grey = count_text(self.grey, "grey image")
            text = f"{grey} turned into RGB, like the other {self.images - self.grey:,}"
            yield Conversion("grey", "rgb", self.grey, self.images, text, False)
