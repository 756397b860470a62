"""What was done to encoded images, or skipped, when a set was read: counted, in words, and for programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffmem.data.reading import Reading

__all__ = ["Conversion", "Tally", "count_text", "name_text"]

_LONGEST_NAME = 80


@dataclass(frozen=True)
class Conversion:
    """One thing that reading did to the images of a source.

    Attributes:
        key: 'alpha', 'exif', 'white', 'pages' and 'fit' are choices of `Reading`; others are 'split', 'not-read' (image
            files of kinds that are not read), 'passed-over' (other files), 'colour' (palettes, CMYK), 'grey' (grey images
            made RGB), 'icc' (colour profiles not applied), 'tiff-orientation', 'mpo' (further pictures in JPEGs) and
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


def count_text(count: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: '1 file', '2,000 files'."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def name_text(name: str) -> str:
    """Return a name that a foreign file chose, short and as letters that a terminal can show."""
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME // 2]}...{name[-_LONGEST_NAME // 2 :]}"
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in name
    )


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
            `undeclared_largest`: the largest value of these.
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

    def add_pages(self, pages: Tally) -> None:
        """Count what was done to the pages of one file as done to one file."""
        self.alpha += pages.alpha > 0
        self.transparent += pages.transparent > 0
        self.deep += pages.deep > 0
        self.clipped += pages.clipped > 0
        self.undeclared += pages.undeclared > 0
        self.largest = max(self.largest, pages.largest)
        self.undeclared_largest = max(self.undeclared_largest, pages.undeclared_largest)
        self.whites.update(pages.whites.keys())
        self.colours.update(pages.colours.keys())

    def conversions(self, reading: Reading) -> tuple[Conversion, ...]:
        """Return all that was done, in the order in which it is done."""
        found = [
            self._pages(reading),
            self._mpo(),
            self._colours(),
            self._white(),
            self._alpha(reading),
            self._profiles(),
            self._exif(reading),
            self._tiff(),
            self._fit(reading),
            self._grey(),
        ]
        return tuple(one for one in found if one is not None)

    def _of(self, count: int) -> str:
        return f"{count:,} of {count_text(self.files, 'file')}"

    def _pages(self, reading: Reading) -> Conversion | None:
        if not self.several:
            return None
        of = self._of(self.several)
        if reading.pages == "all":
            told = f"all pages and frames read: {of} hold several, {self.pages:,} images in all"
            return Conversion("pages", "all", self.several, self.files, told, True)
        told = (
            f"first page or frame only: {of} hold several; {count_text(self.others, 'page or frame', 'pages and frames')} skipped"
            " (--pages all reads them)"
        )
        return Conversion("pages", "first", self.several, self.files, told, True)

    def _mpo(self) -> Conversion | None:
        if not self.mpo:
            return None
        told = f"first picture only: {self._of(self.mpo)} are JPEGs that hold further pictures (MPO)"
        return Conversion("mpo", "first", self.mpo, self.files, told, False)

    def _colours(self) -> Conversion | None:
        if not self.colours:
            return None
        total = sum(self.colours.values())
        kinds = ", ".join(f"{kind} in {number:,}" for kind, number in sorted(self.colours.items()))
        told = f"colours converted in {self._of(total)}: {kinds}"
        lossy = any(not kind.startswith(("palette", "black and white")) for kind in self.colours)
        return Conversion("colour", "rgb", total, self.files, told, lossy)

    def _white(self) -> Conversion | None:
        if not self.deep:
            return None
        whites = sorted(self.whites)
        levels = max(min(255, (self.largest * 255 + white // 2) // white) for white in whites) + 1
        told = (
            f"16 bits to 8 bits in {self._of(self.deep)}: largest value {self.largest:,}, white level"
            f" {' and '.join(f'{white:,}' for white in whites)}, up to {levels} grey levels left"
        )
        told += (
            f"; values above the white level, which became 255, in {count_text(self.clipped, 'file')}"
            if self.clipped
            else ""
        )
        return Conversion("white", str(whites[0]), self.deep, self.files, told, True, self.largest)

    def _alpha(self, reading: Reading) -> Conversion | None:
        if not self.alpha:
            return None
        opaque = self.alpha - self.transparent
        if not self.transparent:
            told = f"alpha channel of {self._of(self.alpha)} is opaque: dropped, which changes nothing"
            return Conversion("alpha", reading.alpha, 0, self.files, told, False)
        done = {
            "white": "transparent pixels composited on white",
            "black": "transparent pixels composited on black",
            "drop": "transparency dropped, the stored colours kept",
        }[reading.alpha]
        told = f"{done} in {self._of(self.transparent)}"
        told += f" ({opaque:,} more have an alpha channel that is opaque)" if opaque else ""
        return Conversion("alpha", reading.alpha, self.transparent, self.files, told, True)

    def _profiles(self) -> Conversion | None:
        if not self.profiles:
            return None
        told = f"colour profiles (ICC) not applied in {self._of(self.profiles)}"
        return Conversion("icc", "ignore", self.profiles, self.files, told, False)

    def _exif(self, reading: Reading) -> Conversion | None:
        if not self.turned:
            return None
        of = self._of(self.turned)
        if reading.exif == "apply":
            told = f"EXIF orientation applied: {of} were stored rotated"
        else:
            told = (
                f"EXIF orientation ignored: {of} are stored rotated (--exif apply rotates them, as Hugging Face datasets does and"
                " torchvision does not)"
            )
        return Conversion("exif", reading.exif, self.turned, self.files, told, True)

    def _tiff(self) -> Conversion | None:
        if not self.tiff_turned:
            return None
        told = f"orientation of the TIFF format followed in {self._of(self.tiff_turned)}"
        return Conversion("tiff-orientation", "apply", self.tiff_turned, self.files, told, False)

    def _fit(self, reading: Reading) -> Conversion | None:
        if reading.fit is None or not self.fitted:
            return None
        done = {"crop": "centre-cropped to a square", "stretch": "stretched", "pad": "padded with black"}
        side = reading.resolution
        told = (
            f"brought to {side} x {side} in {self.fitted:,} of {count_text(self.images, 'image')}: {done[reading.fit]}"
            " where not square, resampled (LANCZOS)"
        )
        return Conversion("fit", reading.fit, self.fitted, self.images, told, True)

    def _grey(self) -> Conversion | None:
        if not 0 < self.grey < self.images:
            return None
        told = f"{count_text(self.grey, 'grey image')} turned into RGB, like the other {self.images - self.grey:,}"
        return Conversion("grey", "rgb", self.grey, self.images, told, False)
