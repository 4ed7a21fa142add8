"""Pretrained weights listed by open_clip, with their preprocessing and tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tsv_exp.checkpoints.hub import failures as hub
from tsv_exp.checkpoints.sources import folder_of, locate
from tsv_exp.errors import UserError
from tsv_exp.models.clip.network import Architecture, settings
from tsv_exp.models.images import Resize
from tsv_exp.storage.json_files import read_object

CONFIG = "open_clip_config.json"


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of images; defaults are CLIP's (arXiv 2103.00020), names are open_clip's.

    `mean` and `std` are those of the training images, per channel.
    """

    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Preprocessing":
        """From a mapping in open_clip's format; missing keys take CLIP's values."""
        given: dict[str, Any] = {
            field.name: found[field.name] for field in fields(cls) if found.get(field.name) is not None
        }
        given |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
        return cls(**given)

    @property
    def resize(self) -> Resize:
        """The resizing, which comes before normalization."""
        return Resize(self.interpolation, self.resize_mode)


def source_of(architecture: Architecture, pretrained: str) -> str:
    """The weights' path, repository or file in one; resolves open_clip's tags (openai, laion2b_s34b_b79k).

    Raises:
        UserError: the tag's weights need another activation than the architecture's, or are not on the hub.
    """
    tag = _tag(architecture, pretrained)
    if not tag:
        return pretrained
    given, needed = (bool(values.get("quick_gelu")) for values in (settings(architecture), tag))
    if given != needed:
        other = f"{architecture}-quickgelu" if needed else str(architecture).removesuffix("-quickgelu")
        raise UserError(
            f"model.pretrained={pretrained}: these weights {'need' if needed else 'do not have'} the quick GELU; "
            f"give model.architecture={other}"
        )
    owner, _, rest = str(tag.get("hf_hub") or "").strip("/").partition("/")
    name, _, file = rest.partition("/")
    if not name:
        raise UserError(
            f"model.pretrained={pretrained}: open_clip has these weights by URL only ({tag.get('url')}); "
            "download them, and give the file"
        )
    return f"{owner}/{name}@main/{file}" if file else f"{owner}/{name}"


def preprocessing(architecture: Architecture, pretrained: str) -> Preprocessing:
    """From the tag, else from the open_clip_config.json beside the weights, else from all tags if they agree."""
    if tag := _tag(architecture, pretrained):
        return Preprocessing.of(tag)
    folder = folder_of(locate(pretrained))
    if folder is not None and (folder / CONFIG).is_file():
        return Preprocessing.of(read_object(folder / CONFIG).get("preprocess_cfg") or {})
    if not isinstance(architecture, str):
        return Preprocessing()
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    tags = list_pretrained_tags_by_model(architecture)
    found = {Preprocessing.of(get_pretrained_cfg(architecture, tag)) for tag in tags}
    return found.pop() if len(found) == 1 else Preprocessing()


def tokenizer(architecture: Architecture, pretrained: str) -> Any:
    """The architecture's tokenizer: texts -> token indices (P, L); tokenizer files beside the weights take precedence.

    Raises:
        UserError: it cannot be loaded.
    """
    import open_clip

    text = settings(architecture)["text_cfg"]
    length, name = text.get("context_length", 77), text.get("hf_tokenizer_name")
    if not name:
        named = isinstance(architecture, str)
        return open_clip.get_tokenizer(architecture) if named else open_clip.SimpleTokenizer(context_length=length)
    folder = folder_of(locate(source_of(architecture, pretrained)))
    beside = folder is not None and any(folder.glob("tokenizer*"))
    more = {"tokenizer_mode": text.get("tokenizer_mode"), **text.get("tokenizer_kwargs", {})}
    with hub.failures(f"tokenizer {name}"):
        try:
            return open_clip.tokenizer.HFTokenizer(str(folder) if beside else name, context_length=length, **more)
        except (OSError, ValueError) as error:
            raise UserError(f"tokenizer {name}: cannot be read ({str(error).splitlines()[0][:200]})") from error


def _tag(architecture: Architecture, pretrained: str) -> dict[str, Any]:
    """open_clip's entry for a tag; empty if it is not a tag, or if a path of that name exists."""
    if not isinstance(architecture, str) or "/" in pretrained or Path(pretrained).exists():
        return {}
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    found: dict[str, Any] = get_pretrained_cfg(architecture, pretrained)
    if not found:
        known = ", ".join(list_pretrained_tags_by_model(architecture)) or "none"
        raise UserError(
            f"model.pretrained={pretrained}: no such file or folder, no repository such as owner/name, and no weights "
            f"of {architecture} that open_clip lists: {known}"
        )
    return found
