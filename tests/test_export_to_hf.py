"""export_to_hf.py: what `transformers` and `tokenizers` make of an exported checkpoint."""

import json
import random
from pathlib import Path

import pytest
import torch
import transformers

from src.data.encoding import answer_text, context_text, question_text
from src.data.pico import generate_articles
from src.data.tokenizers.byte_pairs import byte_characters, vocabulary_of_json
from src.data.tokenizers.tokenizer import EOS, PATTERNS, PICO_FILE, Tokenizer, load_tokenizer
from src.inference.logprobs import pad
from src.interop.export import FILES, PARTIAL
from src.interop.llama_folder import folder_source
from src.interop.llama_layout import read_llama
from src.interop.tokenizer_json import PAD, merges, tokenizer_json
from src.model.heads import RewardModel
from src.model.model import build_model
from src.utils.checkpoint_utils import Checkpoint, load_checkpoint, save_checkpoint
from src.utils.constants import STAGES
from src.utils.errors import UserError
from tests.conftest import call, outcome, perturb, refusal

REWARD = "train_reward_model"
SHAPE = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_kv_head": 2, "n_inner": 48, "block_size": 300}
# Neither value is the default: a value that is not written would show.
ODD = {"rope_theta": 5000.0, "norm_eps": 1e-3}


def scratch(path, stage="main_squad", model_type="transformer", tokenizer="pico", **config):
    """A checkpoint of random weights, large enough that its greedy answers differ."""
    torch.manual_seed(1)
    read = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
    shape = SHAPE | ODD | config if model_type == "transformer" else {}
    model = perturb(build_model(model_type, {"vocab_size": read.vocab_size, **shape}))
    if stage == REWARD:
        model = RewardModel(model)
        model.set_normalisation(torch.tensor([2.0, 5.0, 11.0]))
    save_checkpoint(
        path, Checkpoint(stage, model_type, model, read, {"dataset": "pico"}, {}, [], {})
    )
    return path


def exported(checkpoint, folder):
    """Export, and load with what `transformers` picks by itself: model, tokenizer."""
    call("export_to_hf", ["--checkpoint", checkpoint, "--output_dir", folder])
    config = json.loads((Path(folder) / "config.json").read_text())
    kind = (
        transformers.AutoModelForSequenceClassification
        if "SequenceClassification" in config["architectures"][0]
        else transformers.AutoModelForCausalLM
    )
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info  # no weight missing, left over or of another shape
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def logits_of(model, tokens):
    with torch.no_grad():
        hidden, _ = model(tokens, torch.full((len(tokens),), tokens.shape[1]))
        return model.logits(hidden)


def prompts(count):
    """(context, question, gold) of the embedded data."""
    paragraphs = generate_articles(3, "validation", count, 2)
    return [(p.context, p.questions[0].text, p.questions[0].answers[0]) for p in paragraphs][:count]


def test_flags_shape_and_weights_of_a_scratch_model_survive(tmp_path):
    """Grouped queries, odd theta and epsilon, every position up to the longest."""
    path = scratch(tmp_path / "final.pt")
    ours = load_checkpoint(path).model
    theirs, _ = exported(path, tmp_path / "hf")
    tokens = torch.randint(0, 2048, (3, 300), generator=torch.Generator().manual_seed(0))
    expected = logits_of(ours, tokens)
    with torch.no_grad():
        found = theirs(tokens).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert theirs.config.max_position_embeddings == 300


def test_positions_far_out_are_those_of_llama(tmp_path):
    """Sharp attention turns on the rotary angle itself: tables of float64 rounded to float32 would
    be too far off at position 1,023, since Llama computes its angles in float32."""
    model = build_model("transformer", {"vocab_size": 2048})
    with torch.no_grad():
        for block in model.blocks:
            block.query.weight.mul_(8)
            block.key_value.weight.mul_(8)
    path = tmp_path / "final.pt"
    pico = load_tokenizer("pico")
    save_checkpoint(path, Checkpoint("main_squad", "transformer", model, pico, {}, {}, [], {}))
    theirs, _ = exported(path, tmp_path / "hf")
    tokens = torch.randint(0, 2047, (1, 1024), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = theirs(tokens).logits
    torch.testing.assert_close(found, logits_of(model, tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize("stage", [s for s in STAGES if s != REWARD])
def test_every_stages_policy_has_the_same_logits(stage, workplace, tmp_path):
    folder = workplace("transformer", [stage], plain=True)
    path = folder / "checkpoints" / f"transformer_{stage}" / "final.pt"
    theirs, tokenizer = exported(path, tmp_path / "hf")
    checkpoint = load_checkpoint(path)
    text = "Context: The Vozar Bridge was built in 1270.\nQuestion: When?\nAnswer:"
    tokens = tokenizer(text, return_tensors="pt").input_ids
    assert tokens.tolist() == [checkpoint.tokenizer.encode(text)]
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(tokens).logits, logits_of(checkpoint.model, tokens), atol=1e-4, rtol=0
        )


def test_greedy_answers_are_those_of_generate_from_checkpoint(tmp_path):
    """A prompt is read here as three strings encoded apart, there as one: the ids are the same, and
    so are the answers, alone and in a batch padded on the left."""
    path = scratch(tmp_path / "final.pt", block_size=1024)
    rows = prompts(20)
    assert len(rows) == 20
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"context": c, "question": q}) + "\n" for c, q, _ in rows))
    ended = outcome(
        "generate_from_checkpoint", ["--checkpoint", path, "--prompts_file", file, "--json"]
    )
    ours = [row["answers"][0] for row in ended.result["results"]]
    assert len(set(ours)) > 5, "answers that are all alike would prove little"
    model, tokenizer = exported(path, tmp_path / "hf")
    texts = [context_text(c) + question_text(q) for c, q, _ in rows]

    def answers(batch):
        inputs = tokenizer(batch, return_tensors="pt", padding=len(batch) > 1)
        new = model.generate(**inputs)[:, inputs.input_ids.shape[1] :]
        assert new.shape[1] <= 32
        return [t.strip() for t in tokenizer.decode(new, skip_special_tokens=True)]

    assert [answers([text])[0] for text in texts] == ours
    tokenizer.pad_token = tokenizer.eos_token
    assert answers(texts) == ours


def test_a_prompts_parts_encoded_apart_are_the_whole_prompts_ids(tmp_path):
    """With an answer after it, for each tokenizer's pattern."""
    for pattern in ("pico", "gpt2"):
        ours = tokenizer_of(pattern, tmp_path)
        theirs = in_transformers(ours, tmp_path / pattern)
        for context, question, gold in prompts(60):
            parts = [context_text(context), question_text(question), answer_text(gold)]
            apart = [i for part in parts for i in ours.encode(part)]
            assert theirs("".join(parts)).input_ids == apart


def tokenizer_of(pattern, folder):
    """pico's ranks with the pattern of another: `gpt2` as a FILE.tiktoken has it."""
    if pattern == "pico":
        return load_tokenizer("pico")
    copy = folder / "copy.tiktoken"
    copy.write_bytes(PICO_FILE.read_bytes())
    return load_tokenizer(str(copy))


def in_transformers(tokenizer, folder):
    """The AutoTokenizer of an export with this tokenizer."""
    folder.mkdir()
    path = scratch(folder / "final.pt", tokenizer=tokenizer)
    return exported(path, folder / "hf")[1]


PIECES = (
    "a", "Be", "the", "é", "ſ", "'", "'s", "'LL", "'ve", " ", "  ", "     ", "\n", "\r\n", "\t",
    "\u00a0", "\u3000", "\u2028", "\x1c", "\x85", "1", "23", "4567", "١", "Ⅷ", "½", "🙂",
    "👨‍👩‍👧", "東京", "م", "ि", "e\u0301", EOS, PAD, "<|im_start|>", "<s>",
    "def f(x):\n    return x", "->", "_", "/", "{}", "Context:", "\x00", "\ufeff", "\u200b",
    "\U0001d49c",
)


def strings(count):
    """Mixtures of what tokenizers differ in, and of code points from all of Unicode."""
    rng = random.Random(0)
    for number in range(count):
        length = rng.randint(0, 30)
        if number % 2:
            yield "".join(rng.choice(PIECES) for _ in range(length))
        else:
            points = (rng.choice((0x80, 0x3000, 0x110000)) for _ in range(length))
            yield "".join(chr(p) for p in map(rng.randrange, points) if not 0xD800 <= p < 0xE000)


@pytest.mark.parametrize("pattern", ["pico", "gpt2"])
def test_ids_and_texts_are_the_same(pattern, tmp_path):
    """2,000 generated strings: same ids, special text plain, and back to text byte for byte."""
    ours = tokenizer_of(pattern, tmp_path)
    theirs = in_transformers(ours, tmp_path / "export")
    rng = random.Random(1)
    for text in strings(2000):
        ids = ours.encode(text)
        assert theirs(text).input_ids == ids
        assert theirs.decode(ids) == text
        ids = [rng.randrange(ours.vocab_size) for _ in range(8)]  # cut characters, EOS
        assert theirs.decode(ids) == ours.decode(ids)
    assert theirs.eos_token_id == ours.eos_id
    assert theirs.decode([*ours.encode("a b"), ours.eos_id], skip_special_tokens=True) == "a b"
    assert len(theirs) == ours.vocab_size and theirs.pad_token is None


def encoding(ranks, pattern=PATTERNS["gpt2"], special=None):
    """A tokenizer of any ranks and special tokens."""
    import tiktoken

    special = special or {EOS: max(ranks.values()) + 1}
    return Tokenizer("made", tiktoken.Encoding(
        "made", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special
    ))


BYTES = {bytes([byte]): byte for byte in range(256)}


def test_pairs_of_a_vocabulary_by_hand():
    """abc is ab + c because ab comes first; bc is never used in it."""
    ranks = BYTES | {b"ab": 256, b"bc": 257, b"abc": 258, b"abcabc": 259}
    assert merges(ranks, "made") == [(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"abc", b"abc")]


def test_a_token_that_no_two_make_is_reached_as_a_whole_piece_only(tmp_path):
    import tokenizers

    ours = encoding(BYTES | {b"abc": 256})
    theirs = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(ours)))
    for text, ids in (
        ("abc", [256]), ("abcd", [97, 98, 99, 100]), ("abc abc", [256, 32, 97, 98, 99]),
    ):
        assert ours.encode(text) == theirs.encode(text).ids == ids


def test_ranks_out_of_order_are_refused():
    """tiktoken makes abc of "xabc" by way of the later ab: no list of pairs says that."""
    with pytest.raises(UserError, match="token 256 comes before those it is made of"):
        merges(BYTES | {b"abc": 256, b"ab": 257}, "made")


def test_a_special_token_that_is_an_ordinary_one_too_is_refused():
    with pytest.raises(UserError, match="is special and also an ordinary token"):
        tokenizer_json(encoding(BYTES | {EOS.encode(): 300}))


def test_gaps_among_ids_and_a_possessive_count(tmp_path):
    """cl100k_base has both: ids that mean nothing, and `\\p{N}{1,3}+`, which Oniguruma reads as a
    run of any length."""
    import tokenizers

    ours = encoding(
        BYTES | {b"12": 300, b"123": 302, b"1234": 303}, r"\p{N}{1,3}+|\P{N}", {EOS: 400}
    )
    theirs = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(ours, pad_id=405)))
    assert ours.encode("1234")[0] == 302
    assert theirs.encode("1234x12").ids == ours.encode("1234x12")
    assert (theirs.token_to_id(EOS), theirs.token_to_id(PAD)) == (400, 405)
    assert theirs.get_vocab_size() == 406


def test_the_byte_alphabet_is_that_of_tokenizers():
    import tokenizers

    assert sorted(byte_characters()) == sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def test_reward_scores_in_a_ragged_batch_whatever_id_a_text_ends_in(tmp_path):
    """The row's raw score at its last token: one row for every id of the vocabulary, EOS
    among them, padded with the config's pad id on either side."""
    path = scratch(tmp_path / "final.pt", REWARD)
    ours = load_checkpoint(path).model
    theirs, tokenizer = exported(path, tmp_path / "hf")
    pad_id = theirs.config.pad_token_id
    assert pad_id == tokenizer.pad_token_id == 2048
    assert pad_id != tokenizer.eos_token_id == 2047
    rng = random.Random(0)
    rows = [[rng.randrange(2048) for _ in range(rng.randrange(6))] + [i] for i in range(2048)]
    tokens, lengths = pad(rows)
    with torch.no_grad():
        hidden, _ = ours.backbone(tokens, lengths)
        expected = ours.raw_score(hidden[torch.arange(2048), lengths - 1])
    for side in ("right", "left"):
        tokenizer.padding_side = side
        batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        assert (batch.input_ids == pad_id).any()
        with torch.no_grad():
            found = theirs(**batch).logits
        torch.testing.assert_close(found[:, 0], expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.3
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    # (2 + 5 + 11) / 3 = 6; squares of -4, -1, 5 are 42, and the mean of them 14.
    assert config["score_normalisation"] == pytest.approx({"mean": 6.0, "std": 14**0.5})


def test_a_trained_reward_model_scores_as_generate_from_checkpoint(workplace, tmp_path):
    """The text and EOS, then the normalisation of config.json."""
    folder = workplace("transformer", [REWARD], plain=True)
    path = folder / f"checkpoints/transformer_{REWARD}/final.pt"
    question = ["--context", "Kelda was born in 1823.", "--question", "When was Kelda born?"]
    scored = outcome(
        "generate_from_checkpoint", ["--checkpoint", path, *question, "--answer", "1823", "--json"]
    )
    model, tokenizer = exported(path, tmp_path / "hf")
    text = "Context: Kelda was born in 1823.\nQuestion: When was Kelda born?\nAnswer: 1823"
    tokens = torch.tensor([[*tokenizer(text).input_ids, tokenizer.eos_token_id]])
    with torch.no_grad():
        raw = model(tokens).logits.item()
    norm = model.config.score_normalisation
    expected = scored.result["results"][0]["score"]
    assert (raw - norm["mean"]) / norm["std"] == pytest.approx(expected, abs=1e-4 / norm["std"])
    assert not (tmp_path / "hf" / "generation_config.json").exists()


@pytest.mark.parametrize("model_type", ["lstm", "kgram"])
def test_other_architectures_are_refused(model_type, tmp_path):
    path = scratch(tmp_path / "final.pt", model_type=model_type)
    line = refusal("export_to_hf", ["--checkpoint", path, "--output_dir", tmp_path / "hf"])
    assert f"{path} given, which holds a {model_type}, expected a transformer" in line
    assert not (tmp_path / "hf").exists()


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    path = scratch(tmp_path / "final.pt")
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    flags = ["--checkpoint", path, "--output_dir", folder]
    assert "holds notes.txt, expected an empty folder" in refusal("export_to_hf", flags)
    line = refusal("export_to_hf", [*flags[:3], path])
    assert "is a file, expected a folder" in line
    for place in (".", "/"):
        assert "a folder, expected a file in it" in refusal("export_to_hf", ["--checkpoint", place])
    line = refusal("export_to_hf", ["--checkpoint", "none.pt", "--output_dir", tmp_path / "x"])
    assert "none.pt given, expected a checkpoint file there" in line


def test_overwrite_replaces_the_exports_files_and_no_others(tmp_path):
    """A reward model over a policy: the policy's generation_config.json goes, notes stay."""
    policy, reward = scratch(tmp_path / "a.pt"), scratch(tmp_path / "b.pt", REWARD)
    folder = tmp_path / "hf"
    exported(policy, folder)
    (folder / "notes.txt").write_text("mine")
    (folder / PARTIAL).mkdir()  # an export that was killed
    call("export_to_hf", ["--checkpoint", reward, "--output_dir", folder, "--overwrite"])
    assert {p.name for p in folder.iterdir()} == {"notes.txt", *FILES} - {"generation_config.json"}
    assert "SequenceClassification" in (folder / "config.json").read_text()


def test_a_full_disk_leaves_an_earlier_export_as_it_was(tmp_path, monkeypatch):
    path, other = scratch(tmp_path / "a.pt"), scratch(tmp_path / "b.pt", n_embd=64)
    folder = tmp_path / "hf"
    exported(path, folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    flags = ["--checkpoint", other, "--output_dir", folder, "--overwrite"]
    ended = outcome("export_to_hf", flags)
    assert ended.code == 1 and "No space left on device" in ended.err[-1]
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    monkeypatch.undo()
    call("export_to_hf", flags)
    assert (folder / "model.safetensors").read_bytes() != before["model.safetensors"]


def test_without_flags_the_sft_model_goes_beside_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "run: python main_squad.py" in refusal("export_to_hf", [])
    folder = tmp_path / "checkpoints" / "transformer_main_squad"
    folder.mkdir(parents=True)
    scratch(folder / "final.pt")
    call("export_to_hf", [])
    assert {p.name for p in (folder / "hf").iterdir()} == set(FILES)


def test_the_weights_say_where_they_come_from(tmp_path):
    from safetensors import safe_open

    path = scratch(tmp_path / "final.pt")
    call("export_to_hf", ["--checkpoint", path, "--output_dir", tmp_path / "hf"])
    with safe_open(tmp_path / "hf" / "model.safetensors", "pt") as file:
        assert file.metadata()["lineage"].startswith("transformer: main_squad (")


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_exported_is_imported_the_same(tied, tmp_path):
    """Configuration, weights bit for bit, and the ids of texts."""
    path = scratch(tmp_path / "final.pt", tied=tied)
    before = load_checkpoint(path)
    exported(path, tmp_path / "hf")
    after = read_llama(folder_source(tmp_path / "hf"))
    assert after.config == before.model.config
    assert after.config.tied is tied
    weights = after.state_dict()
    assert weights.keys() == before.model.state_dict().keys()
    for name, weight in before.model.state_dict().items():
        assert torch.equal(weights[name], weight), name
    stored = json.loads((tmp_path / "hf" / "tokenizer.json").read_text())
    vocabulary = vocabulary_of_json(stored, before.tokenizer.eos_id, "tokenizer.json")
    tokenizer = Tokenizer.from_vocabulary(vocabulary)
    assert tokenizer.eos_id == before.tokenizer.eos_id
    assert tokenizer.vocab_size == before.tokenizer.vocab_size
    for text in strings(300):
        assert tokenizer.encode(text) == before.tokenizer.encode(text)
