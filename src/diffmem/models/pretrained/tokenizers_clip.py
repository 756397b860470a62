"""The tokenizer of CLIP's text encoders from the files in a folder: pairs of pieces that are joined, and the numbers of the pieces.

Byte pairs over lower-case text, split into words, numbers and signs (Radford et al. 2021, "Learning Transferable Visual Models From Natural
Language Supervision", section 2.4). Only the vocabulary and the pairs are read: how text is split is known here, and a folder that says
otherwise is refused.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffmem.data.formats.guards import is_plain_file, read_plain
from diffmem.errors import UserError
from diffmem.models.pretrained.diffusers_files import inside, read_settings

__all__ = ["ClipTokenizer", "read_tokenizer"]

_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_MAX_MERGES_BYTES = 8 * 2**20
# What else a tokenizer.json may say of how pieces are joined, with the values that CLIP's has.
_JOINING = {
    "type": "BPE",
    "dropout": None,
    "continuing_subword_prefix": "",
    "end_of_word_suffix": "</w>",
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}


@dataclass(frozen=True, eq=False)
class ClipTokenizer:
    """Makes numbers of prompts.

    Attributes:
        length: Of every prompt, with its start, its end and what fills it up.
        end: The number of the end.
    """

    length: int
    end: int
    _start: int
    _padding: int
    _pieces: Any

    def __call__(self, prompt: str) -> tuple[list[int], bool]:
        """Return the numbers of a prompt, `length` of them, and whether its end was cut off."""
        found: list[int] = self._pieces.encode(prompt, add_special_tokens=False).ids
        kept = found[: self.length - 2]
        numbers = [self._start, *kept, self.end]
        return numbers + [self._padding] * (self.length - len(numbers)), len(found) > len(kept)


def read_tokenizer(folder: Path, root: Path, vocabulary: int, longest: int) -> ClipTokenizer:
    """Return the tokenizer in a folder: `tokenizer.json`, or `vocab.json` and `merges.txt`; and `tokenizer_config.json`.

    Args:
        folder: See above.
        root: The folder that the files must belong to.
        vocabulary: How many pieces its text encoder knows.
        longest: How many of them it takes at most.

    Raises:
        UserError: A file is missing or damaged, or it is another tokenizer than CLIP's.
    """
    config = folder / "tokenizer_config.json"
    if not is_plain_file(config):
        raise UserError(f"{folder} lacks tokenizer_config.json. Copy the whole folder.")
    settings = read_settings(config, root)
    length = settings.get("model_max_length")
    if type(length) is not int or not 3 <= length <= longest:
        raise UserError(
            f"{config}: model_max_length {length!r:.80} must be 3 to {longest}, which its text encoder takes at most."
        )
    for key in ("auto_map", "split_special_tokens"):
        if settings.get(key):
            raise UserError(
                f"{config}: {key} {settings[key]!r:.80} is not supported; no code of a folder is run."
            )
    if settings.get("do_lower_case", True) is not True or settings.get("add_prefix_space"):
        raise UserError(f"{config} is not of CLIP's tokenizer, which makes letters small and adds no space.")
    pieces, pairs = _read_pieces(folder, root)
    numbers = list(pieces.values())
    if not all(type(number) is int and 0 <= number < vocabulary for number in numbers):
        raise UserError(
            f"{folder}: pieces have numbers that are none of the {vocabulary:,} of its text encoder."
        )
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{folder}: two pieces have the same number; copy the tokenizer again.")
    special = {name: _special(settings, name, usual, folder, root) for name, usual in _SPECIAL.items()}
    if (special["bos_token"], special["eos_token"]) != (_START, _END):
        raise UserError(f"{config}: the start and the end of a prompt must be {_START} and {_END}.")
    missing = [piece for piece in special.values() if piece not in pieces]
    if missing:
        raise UserError(
            f"{folder} lacks the piece {missing[0]!r:.80} in its vocabulary; copy the tokenizer again."
        )
    _check_added(folder, root, set(special.values()))
    for left, right in pairs:
        if left not in pieces or right not in pieces or left + right not in pieces:
            raise UserError(
                f"{folder}: the pair {left!r:.40}, {right!r:.40} is not of its vocabulary; copy the tokenizer again."
            )
    library = _library()
    made = library.Tokenizer(
        library.models.BPE(
            vocab=dict(pieces),
            merges=pairs,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=special["unk_token"],
        )
    )
    made.normalizer = library.normalizers.Sequence(
        [
            library.normalizers.NFC(),
            library.normalizers.Replace(library.Regex(r"\s+"), " "),
            library.normalizers.Lowercase(),
        ]
    )
    split = library.pre_tokenizers.Split(library.Regex(_WORDS), behavior="removed", invert=True)
    made.pre_tokenizer = library.pre_tokenizers.Sequence(
        [split, library.pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    # What fills up is found in text, too: with "!" for it, as SD 2 and SDXL have, "wow!" ends in that piece.
    made.add_special_tokens(sorted(set(special.values())))
    return ClipTokenizer(length, pieces[_END], pieces[_START], pieces[special["pad_token"]], made)


_SPECIAL = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}


def _library() -> Any:
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise UserError(
            "Text-to-image pipelines need tokenizers and transformers: pip install 'diffmem[text]'."
        ) from error


def _special(settings: Mapping[str, Any], name: str, usual: str, folder: Path, root: Path) -> str:
    """Return a piece with a meaning of its own, as the settings, or the older file beside them, say it."""
    beside = folder / "special_tokens_map.json"
    told = settings.get(name)
    if told is None and is_plain_file(beside):
        told = read_settings(beside, root).get(name)
    if isinstance(told, Mapping):
        told = told.get("content")
    if told is None:
        return usual
    if not isinstance(told, str):
        raise UserError(f"{folder}: {name} {told!r:.80} is no piece of text.")
    return told


def _check_added(folder: Path, root: Path, special: set[str]) -> None:
    """Refuse pieces that were added to the vocabulary, as textual inversion does: they are not read."""
    whole, beside = folder / "tokenizer.json", folder / "added_tokens.json"
    added: list[object] = []
    if is_plain_file(whole):
        told = read_settings(whole, root).get("added_tokens") or []
        added += [each.get("content") if isinstance(each, Mapping) else each for each in told]
    if is_plain_file(beside):
        added += list(read_settings(beside, root))
    others = [piece for piece in added if not isinstance(piece, str) or piece not in special]
    if others:
        raise UserError(
            f"{folder}: {len(others)} piece(s) were added to CLIP's vocabulary, first {others[0]!r:.80} (textual inversion), which is not"
            " supported."
        )


def _read_pieces(folder: Path, root: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the numbers of the pieces, and the pairs that are joined, the first ones first."""
    whole, vocabulary, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if is_plain_file(whole):
        model = read_settings(whole, root).get("model")
        if not isinstance(model, Mapping) or any(
            model.get(key, value) != value for key, value in _JOINING.items()
        ):
            raise UserError(f"{whole} is not of CLIP's tokenizer.")
        pieces, pairs = model.get("vocab"), model.get("merges")
        if not isinstance(pieces, dict) or not isinstance(pairs, list):
            raise UserError(f"{whole} lacks its vocabulary or its pairs; copy it again.")
    elif is_plain_file(vocabulary) and is_plain_file(merges):
        pieces = read_settings(vocabulary, root)
        lines = (
            read_plain(inside(merges, root), _MAX_MERGES_BYTES, str(merges))
            .decode(errors="replace")
            .split("\n")
        )
        pairs = [line for line in lines if line and not line.startswith("#version")]
    else:
        raise UserError(
            f"{folder} lacks tokenizer.json, or vocab.json and merges.txt. Copy the whole folder."
        )
    split = [tuple(pair.split(" ")) if isinstance(pair, str) else pair for pair in pairs]
    for pair in split:
        if (
            not isinstance(pair, list | tuple)
            or len(pair) != 2
            or not all(isinstance(one, str) for one in pair)
        ):
            raise UserError(f"{folder}: {pair!r:.80} is no pair of pieces; copy the tokenizer again.")
    return pieces, [(left, right) for left, right in split]
