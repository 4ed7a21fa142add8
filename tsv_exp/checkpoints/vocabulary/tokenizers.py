"""The tokens of a model, read from its tokenizer files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tsv_exp.errors import UserError
from tsv_exp.storage.json_files import read_json, read_object

FILES = (  # files of tokenizers and chat templates
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("*.model", "*.tiktoken", "*.bpe", "chat_template.*", "*.jinja"),
)
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "added_tokens.json")  # of these, the files with tokens


_MOST = 1 << 24  # rows of an embedding


@dataclass(frozen=True)
class Tokens:
    """Token -> row of the embedding, and the tokenizer's entries for added tokens."""

    folder: Path
    rows: Mapping[str, int]
    added: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path | None, what: str) -> "Tokens":
        """Read the tokens of a model's folder.

        Raises:
            UserError: there is no folder, or no readable tokenizer in it.
        """
        if folder is None:
            raise UserError(f"{what} is a file without a tokenizer; give its folder, or no vocabulary and tokenizer")
        try:
            found = _fast(folder) or _slow(folder)
            if found and not all(isinstance(row, int) and 0 <= row < _MOST for row in found[0].values()):
                raise ValueError("its vocabulary is not a table of tokens and rows")  # one for each language
        except (OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            raise UserError(f"the tokenizer of {folder} cannot be read ({error}); save it with transformers") from error
        if not found:
            raise UserError(
                f"{folder} has no tokenizer.json, vocab.json or vocab.txt; save its tokenizer with transformers "
                "(AutoTokenizer.from_pretrained(...).save_pretrained)"
            )
        return cls(folder, *found)

    def with_added(self, tokens: Sequence[tuple[str, int, dict[str, Any]]]) -> dict[str, bytes]:
        """The tokenizer files that change when tokens are added: (token, row, entry)."""
        entries = [_entry(token, row, said) for token, row, said in tokens]
        files: dict[str, bytes] = {}
        if (path := self.folder / "tokenizer.json").is_file():
            content = read_object(path)
            content["added_tokens"] = [*(content.get("added_tokens") or []), *entries]
            files[path.name] = _text(content)
        if (path := self.folder / "added_tokens.json").is_file() or not files:
            known = read_object(path) if path.is_file() else {}
            files[path.name] = _text(known | {entry["content"]: entry["id"] for entry in entries})
        if (path := self.folder / "tokenizer_config.json").is_file():
            content = read_object(path)
            if isinstance(decoder := content.get("added_tokens_decoder"), dict):
                for entry in entries:
                    decoder[str(entry["id"])] = {key: value for key, value in entry.items() if key != "id"}
                files[path.name] = _text(content)
        return files


def _fast(folder: Path) -> tuple[dict[str, int], dict[str, dict[str, Any]]] | None:
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    content = read_object(path)
    vocabulary = content["model"]["vocab"]
    rows = dict(vocabulary) if isinstance(vocabulary, dict) else {piece[0]: i for i, piece in enumerate(vocabulary)}
    added = {entry["content"]: entry for entry in content.get("added_tokens") or []}
    return rows | {token: int(entry["id"]) for token, entry in added.items()}, added


def _slow(folder: Path) -> tuple[dict[str, int], dict[str, dict[str, Any]]] | None:
    if (path := folder / "vocab.json").is_file():
        rows = dict(read_object(path))
    elif (path := folder / "vocab.txt").is_file():
        rows = {token: i for i, token in enumerate(path.read_text(encoding="utf-8").splitlines())}
    else:
        return None
    path = folder / "added_tokens.json"
    added = read_json(path) if path.is_file() else {}
    return rows | added, {token: {} for token in added}


def _entry(token: str, row: int, said: Mapping[str, Any]) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {"id": row, "content": token} | {key: said.get(key, value) for key, value in plain.items()}


def _text(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
