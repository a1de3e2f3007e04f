"""Which ids a published model has for A, C, G, T and N, and for a mask."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dnamamba.errors import CheckpointError

LETTERS: Final = "ACGTN"
MASKS: Final = ("[MASK]", "<mask>", "<MASK>", "[PAD]", "<pad>", "<|padding|>")
"""Tokens that can hide a base, best first: a causal model has no mask, and needs none."""
UNKNOWN: Final = ("[UNK]", "<unk>", "<UNK>", "<|endoftext|>")
"""What stands for N where N has no id of its own, best first."""
CHARACTERS: Final = {"[CLS]": 0, "[SEP]": 1, "[BOS]": 2, "[MASK]": 3, "[PAD]": 4, "[UNK]": 6}
"""Special tokens of HyenaDNA's character tokenizer, which Caduceus took over."""


@dataclass(frozen=True)
class Vocabulary:
    """Ids of A, C, G, T and N, and the one that hides a base; None takes any that is free."""

    ids: tuple[int, ...]
    mask_id: int | None = None

    def mask_in(self, vocab_size: int) -> int:
        """Return the mask's id, or the first that no base has."""
        if self.mask_id is not None and self.mask_id not in self.ids:
            return self.mask_id
        free = [number for number in range(vocab_size) if number not in self.ids]
        if not free:
            raise CheckpointError(f"vocab_size {vocab_size}: no id is left beside those of bases")
        return free[0]


def read_vocabulary(folder: Path, about: Mapping[str, Any]) -> Vocabulary:
    """Find the ids: in the tokenizer's files, or by the character tokenizer's rule.

    That tokenizer has no file of ids: letters follow its [UNK], A, C, G, T, N.

    Raises
    ------
    CheckpointError
        Where they are not known, or a config's complement_map contradicts them.
    """
    tokens = _tokens(folder)
    vocabulary = _of_letters(tokens) if tokens else None
    if vocabulary is None and about.get("model_type") in ("caduceus", "hyenadna"):
        vocabulary = _of_characters(folder)
    if vocabulary is None and _is_hyenadna(about):
        vocabulary = _of_characters(folder)
    if vocabulary is None:
        raise CheckpointError(
            "no tokenizer file says which ids are A, C, G, T and N; name them: "
            "dnamamba convert MODEL --ids A,C,G,T,N (such as 7,8,9,10,11)"
        )
    _check(vocabulary, about.get("complement_map"))
    return vocabulary


def _is_hyenadna(about: Mapping[str, Any]) -> bool:
    return (about.get("layer") or {}).get("_name_") == "hyena"


def _tokens(folder: Path) -> dict[str, int]:
    """Read the tokens and ids of tokenizer.json or vocab.json, whichever there is."""
    for name in ("tokenizer.json", "vocab.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{name}: not valid JSON: {error}") from error
        added = content.get("added_tokens", []) if name == "tokenizer.json" else []
        model = content.get("model", {}).get("vocab", {}) if name == "tokenizer.json" else content
        if isinstance(model, dict):
            return {**model, **{token["content"]: token["id"] for token in added}}
    return {}


def _of_letters(tokens: Mapping[str, int]) -> Vocabulary | None:
    found = [tokens.get(letter, tokens.get(letter.lower())) for letter in LETTERS]
    unknown = first_of(tokens, UNKNOWN)
    if None in found[:4]:
        return None
    if found[4] is None:
        found[4] = unknown
    if found[4] is None:
        return None
    return Vocabulary(
        tuple(int(number) for number in found if number is not None), first_of(tokens, MASKS)
    )


def _of_characters(folder: Path) -> Vocabulary:
    special = dict(CHARACTERS)
    path = folder / "tokenizer_config.json"
    if path.is_file():
        added = json.loads(path.read_text(encoding="utf-8")).get("added_tokens_decoder") or {}
        special.update({token["content"]: int(number) for number, token in added.items()})
    first = special["[UNK]"] + 1
    return Vocabulary(tuple(range(first, first + 5)), special["[MASK]"])


def first_of(tokens: Mapping[str, int], names: Sequence[str]) -> int | None:
    """Return the id of the first name that is a token."""
    return next((tokens[name] for name in names if name in tokens), None)


def _check(vocabulary: Vocabulary, complement: Mapping[str, int] | None) -> None:
    """Hold ids against a config's map from ids to those of their complements."""
    if not complement:
        return
    for base, other in zip(vocabulary.ids[:4], vocabulary.ids[3::-1], strict=True):
        if int(complement.get(str(base), -1)) != other:
            raise CheckpointError(
                f"the tokenizer has {vocabulary.ids} for A, C, G, T and N, and complement_map of "
                f"config.json makes {base} to {complement.get(str(base))}, not {other}"
            )
