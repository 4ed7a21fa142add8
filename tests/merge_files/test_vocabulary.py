"""Models whose tokenizers have other tokens, made with transformers: rows are matched by token, not by number."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tsv_exp import UserError
from tsv_exp.checkpoints.readers import read
from tsv_exp.checkpoints.vocabulary.conflicts import warn_of_other_tokens
from tsv_exp.checkpoints.vocabulary.tokenizers import Tokens
from tsv_exp.merge_files.merge import run
from tsv_exp.merge_files.options.options import parse

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

WORDS = ["<unk>", "<s>", "</s>", "the", "cat", "dog", "sat"]
ADDED = {"base": [], "a": ["<x>", "<y>"], "b": ["<y>", "<z>"], "c": []}
EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
PADDED = 8  # rows of the base: one without a token


def tokenizer(added, words=WORDS):
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    plain = tokenizers.Tokenizer(model)
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    fast.add_tokens([tokenizers.AddedToken(token, special=True) for token in added])
    return fast


@pytest.fixture
def folder(tmp_path):
    """Models with tied and untied heads by name; a shuffled vocabulary in c; returns the folder of all."""
    for seed, (name, added) in enumerate(ADDED.items()):
        words = WORDS if name != "c" else [*WORDS[:3], *reversed(WORDS[3:])]
        fast = tokenizer(added, words)
        fast.chat_template = f"template of {name}"
        config = transformers.LlamaConfig(
            hidden_size=12, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2,
            vocab_size=PADDED + (len(added) == 2), bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        torch.manual_seed(seed)
        transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / name)
        fast.save_pretrained(tmp_path / name)
    return tmp_path


def merged(folder, *words, models="a,b"):
    given = ",".join(str(folder / name) for name in models.split(","))
    run(parse([f"base={folder / 'base'}", f"models=[{given}]", f"out={folder / 'out'}", *words]))
    loaded = transformers.AutoTokenizer.from_pretrained(folder / "out")
    return read(folder / "out"), loaded, transformers.LlamaForCausalLM.from_pretrained(folder / "out")


def test_weights_that_have_as_many_rows_by_chance(folder):
    sizes = {"hidden_size": 12, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    for seed, (name, tokens) in enumerate({"base": 8, "c": 8, "b": 9}.items()):
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, vocab_size=tokens))
        model.save_pretrained(folder / name)
    found, _, _ = merged(folder, "vocabulary=union", "method=weight_average", models="b,c")
    name = "model.layers.0.mlp.up_proj.weight"  # 8 rows, which no token moves
    torch.testing.assert_close(found[name], (read(folder / "b")[name] + read(folder / "c")[name]) / 2)


def rows(folder, name, token, tensor):
    ids = transformers.AutoTokenizer.from_pretrained(folder / name).get_vocab()
    return read(folder / name)[tensor][ids[token]] if token in ids else None


def expected(folder, token, tensor, models, alpha=1.0):
    """Weight averaging of one row in float64."""
    base, own = rows(folder, "base", token, tensor), [rows(folder, name, token, tensor) for name in models]
    if base is None:
        return torch.stack([row.double() for row in own if row is not None]).mean(0)
    deltas = [(row if row is not None else base).double() - base.double() for row in own]
    return base.double() + alpha * torch.stack(deltas).mean(0)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_union(folder, alpha):
    weights, loaded, model = merged(folder, "vocabulary=union", "method=weight_average", f"alpha={alpha}")
    assert loaded.get_vocab() == {token: i for i, token in enumerate([*WORDS, "<x>", "<y>", "<z>"])}
    assert model.config.vocab_size == 10
    assert loaded("the <z> cat")["input_ids"] == [3, 9, 4]
    for tensor in EMBEDDINGS:
        assert len(weights[tensor]) == 10
        for token, i in loaded.get_vocab().items():
            wanted = expected(folder, token, tensor, "ab", alpha)
            torch.testing.assert_close(weights[tensor][i].double(), wanted, rtol=0, atol=1e-6)
    assert torch.equal(model.get_input_embeddings().weight.data, weights[EMBEDDINGS[0]])
    assert loaded.chat_template == "template of base"


@pytest.mark.parametrize("method", ["tsv_m", "dare"])
def test_rows_that_the_base_lacks_are_their_mean_with_every_method(folder, method):
    weights, loaded, _ = merged(folder, "vocabulary=union", f"method={method}", "alpha=0.7")
    for tensor in EMBEDDINGS:
        for token in ("<x>", "<y>", "<z>"):
            wanted = expected(folder, token, tensor, "ab")
            torch.testing.assert_close(weights[tensor][loaded.get_vocab()[token]].double(), wanted, rtol=0, atol=1e-6)


def test_the_base_s_vocabulary(folder):
    weights, loaded, model = merged(folder, "vocabulary=base", "method=weight_average", models="a,c")
    assert loaded.get_vocab() == {token: i for i, token in enumerate(WORDS)}
    assert model.config.vocab_size == PADDED
    for tensor in EMBEDDINGS:
        for token, i in loaded.get_vocab().items():  # c has another order
            wanted = expected(folder, token, tensor, "ac")
            torch.testing.assert_close(weights[tensor][i].double(), wanted, rtol=0, atol=1e-6)
        assert torch.equal(weights[tensor][7], read(folder / "base")[tensor][7]), "padding stays"


def test_the_tokenizer_of_a_model(folder):
    weights, loaded, _ = merged(folder, "tokenizer=c", "method=weight_average", models="a,c")
    assert loaded.get_vocab() == {token: i for i, token in enumerate([*WORDS[:3], *reversed(WORDS[3:])])}
    assert loaded.chat_template == "template of c"
    for token, i in loaded.get_vocab().items():
        wanted = expected(folder, token, EMBEDDINGS[0], "ac")
        torch.testing.assert_close(weights[EMBEDDINGS[0]][i].double(), wanted, rtol=0, atol=1e-6)


def test_tokens_without_a_row_are_named(folder, caplog):
    tokenizer(["<x>", "<only>"]).save_pretrained(folder / "c")  # <x> is in the row of padding, <only> in none
    found, loaded, _ = merged(folder, "vocabulary=union", "method=weight_average", models="c,c/../b")
    (warning,) = [record.getMessage() for record in caplog.records if "no embedding" in record.getMessage()]
    assert "no embedding has a row for 1 token, which a tokenizer has ('<only>'): zeros are written" in warning
    for tensor in EMBEDDINGS:
        row = found[tensor][loaded.convert_tokens_to_ids("<only>")]
        assert not row.any()


def test_tokens_that_only_their_own_tokenizer_makes_are_named(folder, caplog):
    tokenizer(["<z>"], [*WORDS, "more"]).save_pretrained(folder / "b")
    _, loaded, _ = merged(folder, "vocabulary=union", "method=weight_average", models="b")
    assert loaded.get_vocab() == {token: i for i, token in enumerate([*WORDS, "more", "<z>"])}
    (warning,) = [record.getMessage() for record in caplog.records if "added to it" in record.getMessage()]
    assert warning.startswith("1 token of model 'b' ('more') ")
    assert warning.endswith("tokenizer=b splits it as this one")


def test_a_token_of_an_adapter_in_the_padding_of_the_base(folder):
    tokenizer(["<x>"]).save_pretrained(folder / "lora")
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {
        f"{module}.lora_{side}.weight": torch.ones(2, 12).T if side == "B" else torch.ones(2, 12) for side in "AB"
    }
    save_file(
        {name: factor.contiguous() for name, factor in factors.items()}, folder / "lora/adapter_model.safetensors"
    )
    (folder / "lora/adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    found, loaded, _ = merged(folder, "vocabulary=union", "method=weight_average", models="lora")
    assert loaded.convert_tokens_to_ids("<x>") == 7
    for tensor in EMBEDDINGS:
        torch.testing.assert_close(found[tensor], read(folder / "base")[tensor])


@pytest.mark.parametrize(("name", "size"), [("base", 30), ("base", -1), ("base", 10**30), ("a", 30)])
def test_a_configured_size_that_no_tensor_has(folder, name, size):
    file = folder / name / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"vocab_size": size}))
    with pytest.raises(UserError, match=r"vocabulary: no tensor has as many rows as the vocab_size in config\.json"):
        merged(folder, "vocabulary=union")
    assert not (folder / "out").exists()


def test_what_does_not_fit_is_said_before_anything_is_written(folder):
    with pytest.raises(UserError, match=r"weight' and 1 more has shape .*vocabulary=base or union"):
        merged(folder)
    with pytest.raises(UserError, match=r"tokenizer=a: the base has no row for 2 of its tokens.*vocabulary=union"):
        merged(folder, "tokenizer=a")
    with pytest.raises(UserError, match="tokenizer=x: choose from: base, a, b"):
        merged(folder, "tokenizer=x")
    with pytest.raises(UserError, match="vocabulary=all: choose from: base, union"):
        merged(folder, "vocabulary=all")
    with pytest.raises(UserError, match="give task=NAME"):
        merged(folder, "vocabulary=union", "method=tsv_c")
    with pytest.raises(UserError, match="vocabulary and tokenizer are for whole models"):
        merged(folder, "vocabulary=union", "form=lora", "rank=2")
    (folder / "a" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"a has no tokenizer.json"):
        merged(folder, "vocabulary=union")
    assert not (folder / "out").exists()


def test_slow_tokenizers(folder):
    for name, added in ADDED.items():
        (folder / name / "tokenizer.json").unlink()
        (folder / name / "vocab.txt").write_text("\n".join(WORDS))
        (folder / name / "added_tokens.json").write_text(json.dumps({t: 7 + i for i, t in enumerate(added)}))
    given = ",".join(str(folder / name) for name in "ab")
    run(parse([f"base={folder / 'base'}", f"models=[{given}]", f"out={folder / 'out'}", "vocabulary=union"]))
    assert json.loads((folder / "out" / "added_tokens.json").read_text()) == {"<x>": 7, "<y>": 8, "<z>": 9}


def test_rows_with_other_tokens_are_named_where_they_are_merged_by_number(folder, caplog):
    transformers.AutoTokenizer.from_pretrained(folder / "base").save_pretrained(folder / "same")
    for name in ("model.safetensors", "config.json"):
        (folder / "same" / name).write_bytes((folder / "base" / name).read_bytes())
    merged(folder, "method=weight_average", models="same")
    assert not [record for record in caplog.records if "vocabulary" in record.getMessage()]
    merged(folder, "method=weight_average", "out=" + str(folder / "other"), models="same,c")
    (line,) = [record.getMessage() for record in caplog.records if "vocabulary" in record.getMessage()]
    assert line.startswith(f"row 3 of the vocabulary is {WORDS[3]!r} in the base and {WORDS[-1]!r} in model 'c' (")
    assert line.endswith("rows are merged by number; vocabulary=base or union matches them by token")


def test_vocabularies_of_several_languages_are_not_read(folder, caplog):
    for name in ("base", "a"):
        (folder / name / "tokenizer.json").unlink()
        (folder / name / "vocab.json").write_text(f'{{"deu": {{"{name}": 0}}, "fra": {{"b": 0}}}}')
    warn_of_other_tokens({None: folder / "base", "a": folder / "a"})
    assert not caplog.records
    for vocabulary in ('{"deu": {"a": 0}}', '{"a": -1}', '{"a": 99999999999}'):
        (folder / "a" / "vocab.json").write_text(vocabulary)
        with pytest.raises(UserError, match="its vocabulary is not a table of tokens and rows"):
            Tokens.read(folder / "a", "model 'a'")


@pytest.mark.parametrize(
    "content",
    ['{"model": {"vocab": [[]]}}', '{"model": {"vocab": {}}, "added_tokens": [{"content": "x", "id": 1e400}]}'],
)
def test_damaged_tokenizers(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"the tokenizer of .* cannot be read"):
        Tokens.read(tmp_path, "model 'a'")


def test_a_model_without_the_base_s_head_is_named(folder):
    weights = dict(read(folder / "a").items())
    del weights["lm_head.weight"]
    save_file(weights, folder / "a" / "model.safetensors")
    with pytest.raises(UserError, match=r"model 'a' .* lacks the tensor 'lm_head.weight' of the base"):
        merged(folder, "vocabulary=union", models="a")


def test_a_bias_with_one_row_and_an_entry_for_each_token(folder):
    """BART's final_logits_bias (1, vocab_size)."""
    biases = {name: torch.rand(1, PADDED + len(ADDED[name]) // 2) for name in ("base", "a")}
    for name, bias in biases.items():
        save_file(dict(read(folder / name).items()) | {"bias": bias}, folder / name / "model.safetensors")
    run(
        parse(
            [
                f"base={folder}/base",
                f"models={folder}/a",
                f"out={folder}/out",
                "vocabulary=union",
                "method=individual",
                "task=a",
            ]
        )
    )
    found, tokens = read(folder / "out")["bias"], transformers.AutoTokenizer.from_pretrained(folder / "a").get_vocab()
    merged = transformers.AutoTokenizer.from_pretrained(folder / "out").get_vocab()
    assert found.shape == (1, PADDED + 1)
    for token, row in merged.items():
        torch.testing.assert_close(found[0, row], biases["a"][0, tokens[token]])
