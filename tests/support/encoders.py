"""Encoders of transformers of toy size, in folders as the hub has them, and tables of sentences."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

WORDS = [
    *[
        "good",
        "bad",
        "fine",
        "poor",
        "film",
        "plot",
        "actor",
        "music",
        "is",
        "was",
        "a",
        "the",
        "of",
        "and",
        "very",
        "not",
        "this",
        "that",
        "it",
        "what",
    ]
]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
KINDS: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "roberta": {**SIZES, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48},
    "electra": {**SIZES, "embedding_size": 16},
    "albert": {**SIZES, "embedding_size": 16},
    "mpnet": {**SIZES, "pad_token_id": 0},
    "deberta-v2": {**SIZES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "modernbert": {**SIZES, "pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "reference_compile": False},
}
GENERATORS: dict[str, dict[str, Any]] = {
    "t5": {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "eos_token_id": 3,
        "pad_token_id": 0,
        "decoder_start_token_id": 0,
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "eos_token_id": 3, "bos_token_id": 2},
    "llama": {**SIZES, "eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0},
}


def tokenizer(folder: Path, *more: str) -> None:
    """A tokenizer of whole words: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3; `more` are outputs beside numbers and mask."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    fast = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    fast.normalizer, fast.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    outputs = ["input_ids", "attention_mask", *more]
    PreTrainedTokenizerFast(tokenizer_object=fast, model_input_names=outputs, **names).save_pretrained(folder)


def network(kind: str, head: str = "MaskedLM", seed: int = 0, outputs: int = 3, **changes: Any) -> Any:
    """A network of transformers with random weights: AutoModelFor<head>, or AutoModel where that is empty."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=len(WORDS) + 5, num_labels=outputs, **(KINDS | GENERATORS)[kind]
    )
    for name, value in changes.items():
        setattr(config, name, value)
    factory = getattr(transformers, f"AutoModelFor{head}" if head else "AutoModel")
    made = factory.from_config(config)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made.eval()


def saved(folder: Path, model: Any) -> Path:
    """save_pretrained with a tokenizer."""
    model.save_pretrained(folder)
    tokenizer(folder)
    return folder


def sentences(folder: Path, count: int = 60, classes: int = 3, seed: int = 0, pairs: bool = False) -> Path:
    """train.jsonl and test.jsonl: the class is that of the words that a sentence has more of."""
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        rows = []
        for i in range(count):
            label, length = i % classes, int(torch.randint(2, 9, (), generator=generator))
            drawn = torch.randint(8, len(WORDS), (length,), generator=generator).tolist()
            words = [WORDS[label], *(WORDS[j] for j in drawn), WORDS[label]]
            second = {"second": " ".join(reversed(words))} if pairs else {}
            rows.append({"text": " ".join(words), **second, "label": label})
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder
