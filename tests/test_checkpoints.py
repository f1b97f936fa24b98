"""Checkpoints: what is saved comes back; what is damaged or hostile is refused in one line.

Nothing that a file holds may run code, take much memory, or end in anything but a UserError.
"""

import contextlib
import errno
import os
import pickle
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from src.data.tokenizers.tokenizer import load_tokenizer
from src.model.heads import RewardModel
from src.model.model import build_model
from src.utils import payload as files
from src.utils.checkpoint_utils import (
    Checkpoint,
    describe_lineage,
    load_checkpoint,
    load_parent,
    save_checkpoint,
)
from src.utils.constants import MODEL_TYPES
from src.utils.errors import UserError
from src.utils.files import write_atomically
from src.utils.payload import file_hash, load_payload, save_payload, weights_hash

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = {
    "transformer": {"n_layer": 1, "n_embd": 8, "n_head": 2, "n_kv_head": 1},
    "lstm": {"n_layer": 2, "n_embd": 4},
    "kgram": {"n_layer": 1, "n_embd": 4, "kgram_k": 3, "n_inner": 8},
}


def checkpoint_of(model_type="kgram", reward=False, **changes):
    torch.manual_seed(1)
    tokenizer = load_tokenizer("pico")
    model = build_model(model_type, {"vocab_size": tokenizer.vocab_size, **CONFIGS[model_type]})
    if reward:
        model = RewardModel(model)
        model.set_normalisation(torch.tensor([1.0, 2.0, 6.0]))
    fields = {
        "stage": "train_reward_model" if reward else "main_squad",
        "model_type": model_type,
        "model": model,
        "tokenizer": tokenizer,
        "data": {"dataset": "pico", "counts": [1, 2]},
        "flags": {"seed": 3, "lr": 1e-3, "resume": False, "max_steps": None},
        "lineage": [{"stage": "main_squad", "path": "a.pt", "sha256": "0123456789"}],
        "metrics": {"exact_match": 0.5},
    }
    return Checkpoint(**{**fields, **changes})


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "final.pt"
    save_checkpoint(path, checkpoint_of())
    return path


def refused(path, load=load_checkpoint):
    """The message with which a file is refused."""
    with pytest.raises(UserError) as error:
        load(path)
    message = str(error.value)
    assert "\n" not in message and str(path) in message and len(message) < 500
    return message


def altered(path, **changes):
    """Change fields of a payload and give it a checksum again, as somebody hostile would."""
    payload = {**torch.load(path, weights_only=True), **changes}
    payload["checksum"] = files.checksum(payload)
    torch.save(payload, path)


def peak_memory():
    """MB of this process that were resident at once (Linux), since `memory_below` last reset it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


@contextlib.contextmanager
def memory_below(megabytes):
    """The peak rises by less. It is reset first: a higher peak of an earlier test would hide it."""
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_memory()
    yield
    assert peak_memory() - before < megabytes


@pytest.mark.parametrize("reward", [False, True])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_what_is_saved_comes_back(tmp_path, model_type, reward):
    path = tmp_path / "final.pt"
    before = checkpoint_of(model_type, reward)
    save_checkpoint(path, before)
    after = load_checkpoint(path)
    for field in ("stage", "model_type", "data", "flags", "lineage", "metrics"):
        assert getattr(after, field) == getattr(before, field)
    assert after.tokenizer.identity() == before.tokenizer.identity()
    assert weights_hash(after.model) == weights_hash(before.model)
    tokens, lengths = torch.tensor([[5, 6, 7]]), torch.tensor([3])
    backbones = [getattr(c.model, "backbone", c.model) for c in (before, after)]
    hidden = [backbone(tokens, lengths)[0] for backbone in backbones]
    assert torch.equal(*hidden) and backbones[0].config == backbones[1].config
    if reward:
        models = before.model, after.model
        scores = [m.raw_score(x, x[..., 0]) for m, x in zip(models, hidden, strict=True)]
        assert torch.equal(*scores)
        # Of 1, 2 and 6: mean 3, population variance (4 + 1 + 9) / 3.
        assert float(after.model.mean) == 3.0
        assert float(after.model.std) == pytest.approx((14 / 3) ** 0.5, rel=1e-6)
    assert after.sha256 == file_hash(path) and after.path == str(path)
    assert after.as_ancestor()["seed"] == 3
    assert "main_squad (01234567)" in describe_lineage(after)


def test_one_changed_weight_changes_the_hash():
    model = checkpoint_of().model
    before = weights_hash(model)
    with torch.no_grad():
        model.out.weight[0, 0] += 1e-6
    assert weights_hash(model) != before


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"),
                                   RuntimeError("[enforce fail at inline_container.cc] unexpected"),
                                   KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, fault):
    path = tmp_path / "last.pt"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        raise fault

    expected = KeyboardInterrupt if isinstance(fault, KeyboardInterrupt) else OSError
    with pytest.raises(expected) as error:
        write_atomically(path, write)
    if expected is OSError:
        assert error.value.filename == str(path) and error.value.strerror
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("size", [400, 20_000])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, size):
    """RLIMIT_FSIZE ends the write of torch.save in its middle, in a process of its own."""
    path = tmp_path / "final.pt"
    save_payload(path, {"old": torch.arange(10)})
    program = f"""
import resource, sys, torch
from src.utils.payload import save_payload
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
try:
    save_payload({str(path)!r}, {{"new": torch.zeros(100_000)}})
except OSError as error:
    print(error.filename, error.strerror)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == f"{path} File too large", done.stderr
    assert torch.equal(load_payload(path)["old"], torch.arange(10))
    assert os.listdir(tmp_path) == ["final.pt"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OSError) as error:
        save_payload(tmp_path / "gone" / "last.pt", {})
    assert error.value.filename == str(tmp_path / "gone" / "last.pt")


def test_what_could_not_be_loaded_again_is_not_saved(tmp_path):
    """At the first save, not after the run: pickles of numpy's or our own types cannot be read."""
    for value in (Path("x"), {1, 2}, 2**70, [[[object()]]], torch.device("cpu")):
        with pytest.raises(ValueError):
            save_payload(tmp_path / "last.pt", {"value": value})
    assert os.listdir(tmp_path) == []


class Mark:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_is_never_executed(tmp_path, saved):
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(Mark(mark)))
    assert mark.exists()  # the bait works
    mark.rmdir()
    torch.save({"format": files.FORMAT, "weights": Mark(mark)}, saved)
    assert "mkdir" in refused(saved)
    saved.write_bytes(pickle.dumps(Mark(mark)))
    refused(saved)
    torch.save(Mark(mark), saved, _use_new_zipfile_serialization=False)
    refused(saved)
    assert not mark.exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.99, 0.9999])
def test_truncated(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    refused(saved)


def test_bytes_before_or_after(saved):
    content, whole = saved.read_bytes(), load_checkpoint(saved)
    for changed in (b"x" * 100 + content, content + content, content[100:]):
        saved.write_bytes(changed)
        try:
            found = load_checkpoint(saved)
        except UserError:
            continue
        assert weights_hash(found.model) == weights_hash(whole.model)
        assert (found.lineage, found.metrics) == (whole.lineage, whole.metrics)


def flips(content, count, seed):
    """Offsets all over a file, and twice as densely in its directory at the end."""
    chooser = random.Random(seed)
    everywhere = [chooser.randrange(len(content)) for _ in range(count)]
    start = content.index(b"PK\x01\x02")
    return everywhere + [chooser.randrange(start, len(content)) for _ in range(2 * count)]


def test_a_flipped_bit_is_refused_or_harmless(tmp_path):
    """Padding and a few fields of the zip directory mean nothing; the contents then are equal."""
    path = tmp_path / "last.pt"
    whole = {"step": 3, "args": {"lr": 0.1, "name": "x" * 50}, "weights": torch.randn(20, 5)}
    save_payload(path, whole)
    content = path.read_bytes()
    harmless = 0
    for offset in flips(content, 40, seed=12):
        for bit in (0, 6):
            changed = bytearray(content)
            changed[offset] ^= 1 << bit
            path.write_bytes(changed)
            try:
                found = load_payload(path)
            except UserError as error:
                assert "\n" not in str(error), offset
                continue
            harmless += 1
            assert torch.equal(found["weights"], whole["weights"]), offset
            assert found["args"] == whole["args"] and found["step"] == 3, offset
    assert harmless < 150  # of 240: most flips are seen


def test_a_flipped_bit_in_the_weights_is_refused(saved):
    content = saved.read_bytes()
    with zipfile.ZipFile(saved) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    middle = largest.header_offset + largest.file_size // 2
    for bit in range(8):
        changed = bytearray(content)
        changed[middle] ^= 1 << bit
        saved.write_bytes(changed)
        refused(saved)


def test_a_changed_value_without_its_checksum_is_refused(saved):
    payload = torch.load(saved, weights_only=True)
    torch.save({**payload, "metrics": {"exact_match": 1.0}}, saved)
    assert "checksum" in refused(saved)


@pytest.mark.parametrize("version", [1, 2, 4, 0, "3", None, True, 3.0, [3]])
def test_another_version_is_refused(saved, version):
    altered(saved, format_version=version)
    assert "format version" in refused(saved)


@pytest.mark.parametrize(
    "value", [{"model": {"weight": torch.ones(3)}, "epoch": 2}, torch.ones(3), [1, 2], "text", {}]
)
def test_another_projects_file_is_refused(saved, value):
    torch.save(value, saved)
    assert "another kind" in refused(saved)


def test_files_of_other_formats_are_refused(tmp_path, saved):
    other = tmp_path / "other.pt"
    torch.save({"format": files.FORMAT}, other, _use_new_zipfile_serialization=False)
    refused(other)
    other.write_bytes(b"GGUF" + bytes(100))
    refused(other)
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    refused(other)
    other.write_bytes(b"")
    refused(other)
    assert "a folder, expected a file in it" in refused(tmp_path)
    assert "expected a checkpoint file there" in refused(tmp_path / "none.pt")


def test_last_pt_is_no_final_pt(saved):
    save_payload(saved, {"step": 3, "args": {}})
    assert "found no stage" in refused(saved)


@pytest.mark.parametrize("field", ["config", "weights", "tokenizer", "data", "flags", "lineage",
                                   "metrics"])
@pytest.mark.parametrize("value", [None, 3, torch.ones(2, 2), ["x"], "x"])
def test_a_field_of_another_type_is_refused(saved, field, value):
    altered(saved, **{field: value})
    assert field in refused(saved)


@pytest.mark.parametrize("entry", ["x", {}, {"stage": "main_squad", "path": 1, "sha256": "0"}])
def test_a_lineage_of_something_else_is_refused(saved, entry):
    altered(saved, lineage=[entry])
    assert "its lineage has an entry without stage, path, sha256" in refused(saved)


@pytest.mark.parametrize("field", ["stage", "model_type"])
@pytest.mark.parametrize("value", [None, 3, torch.ones(2, 2), ["x"], "x", {}])
def test_a_stage_or_model_that_is_none_is_refused(saved, field, value):
    altered(saved, **{field: value})
    assert "no stage or model" in refused(saved)


def test_tensors_among_plain_values_are_refused(saved):
    altered(saved, metrics={"exact_match": torch.ones(2)})
    assert "tensors among its weights only" in refused(saved)


def test_another_tokenizer_is_refused(saved):
    state = checkpoint_of().tokenizer.state()
    for key, value in (("fingerprint", "0" * 64), ("vocab_size", 7), ("name", "no_such")):
        altered(saved, tokenizer={**state, key: value})
        with pytest.raises(UserError):
            load_checkpoint(saved)
    with pytest.raises(UserError, match="fingerprint"):
        altered(saved, tokenizer={"name": "pico", "vocab_size": 2048})
        load_checkpoint(saved)


def test_a_tokenizer_larger_than_the_model_is_refused(saved):
    payload = torch.load(saved, weights_only=True)
    config = {**payload["config"], "vocab_size": 100}
    weights = {**payload["weights"], "embedding.weight": torch.zeros(101, 4)}
    altered(saved, config=config, weights=weights)
    assert "more ids than its model" in refused(saved)


def test_weights_that_do_not_fit_are_refused_by_name(saved):
    weights = torch.load(saved, weights_only=True)["weights"]
    for changes, expected in (
        ({"out.weight": torch.zeros(4, 9)}, "out.weight is (4, 9), expected (4, 8)"),
        ({"extra": torch.zeros(1)}, "extra is (1,), expected none of that name"),
        ({"out.weight": 3}, "expected tensors"),
        ({7: torch.zeros(1)}, "7 is (1,), expected none"),
    ):
        altered(saved, weights={**weights, **changes})
        assert expected in refused(saved)
    altered(saved, weights={k: v for k, v in weights.items() if k != "norm.weight"})
    assert "norm.weight is missing, expected (4,)" in refused(saved)


ABSURD = [
    {"n_embd": 10**9},
    {"n_embd": 10**18},
    {"vocab_size": 10**12},
    {"vocab_size": 2**63},
    {"n_layer": 10**9},
    {"n_layer": True},
    {"n_inner": 10**12},
    {"block_size": 10**12},
    {"block_size": 10**9},
    {"n_embd": -4},
    {"n_embd": "8"},
    {"n_embd": 0.5},
    {"no_such_field": 1},
]


@pytest.mark.parametrize("change", ABSURD, ids=str)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_absurd_sizes_take_no_memory(tmp_path, model_type, change):
    path = tmp_path / "final.pt"
    save_checkpoint(path, checkpoint_of(model_type))
    config = torch.load(path, weights_only=True)["config"]
    if set(change) == {"n_inner"} and model_type == "lstm":
        change = {"n_inner": 8}
    altered(path, config={**config, **change})
    with memory_below(100), pytest.raises(UserError):
        load_checkpoint(path)


NAN = float("nan")


@pytest.mark.parametrize("field, value", [("rope_theta", "x"), ("rope_theta", None),
                                          ("rope_theta", 0), ("norm_eps", [1]),
                                          ("norm_eps", "x"), ("rope_theta", NAN)])
def test_odd_numbers_in_a_configuration_end_in_no_traceback(tmp_path, field, value):
    path = tmp_path / "final.pt"
    save_checkpoint(path, checkpoint_of("transformer"))
    config = torch.load(path, weights_only=True)["config"]
    altered(path, config={**config, field: value})
    with pytest.raises(UserError, match=f"^[^\n]*{field}|makes no model"):
        load_checkpoint(path)


def test_a_zip_bomb_is_refused_unopened(saved, tmp_path):
    """The same archive with its records compressed, one of them 300 MB of zeros."""
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
        with new.open("final/data/99", "w") as record:
            for _ in range(300):
                record.write(bytes(1 << 20))
    assert bomb.stat().st_size < 2 << 20
    with memory_below(50):
        assert "more than the file holds" in refused(bomb)


def test_a_tensor_blown_up_by_its_strides_is_refused(saved):
    """One number on the disk, 40 GB when it is copied."""
    torch.save({"format": files.FORMAT, "weights": torch.zeros(1).expand(10**10)}, saved)
    with memory_below(50):
        assert "claim more than the file holds" in refused(saved)


def test_a_list_that_repeats_itself_is_refused(saved):
    """Ten levels of ten references each: a few hundred bytes, 10 billion values."""
    value = [0]
    for _ in range(10):
        value = [value] * 10
    torch.save({"format": files.FORMAT, "metrics": value}, saved)
    assert "repeated too often" in refused(saved)
    circle: list = []
    circle.append(circle)
    torch.save({"format": files.FORMAT, "metrics": circle}, saved)
    assert "nested too deep" in refused(saved)


def test_a_pickle_that_asks_for_memory_is_refused(saved, tmp_path):
    """bytearray(10 ** 11) is a call that weights_only=True alone would make."""

    class Hungry:
        def __reduce__(self):
            return bytearray, (10**11,)

    torch.save({"format": files.FORMAT, "metrics": Hungry()}, saved)
    with memory_below(50):
        assert "bytearray" in refused(saved)


def test_huge_numbers_and_strange_keys_end_in_no_traceback(saved):
    for value in (10**5000, {None: 1, (1, 2): 3}, {1.5: {True: []}}):
        header = {"format": files.FORMAT, "format_version": files.FORMAT_VERSION}
        torch.save({**header, "metrics": value}, saved)
        refused(saved)


def test_a_parent_is_found_by_default_or_its_command_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="run: python main_squad.py --model_type lstm"):
        load_parent(None, "lstm")
    folder = Path("checkpoints/lstm_main_squad")
    folder.mkdir(parents=True)
    save_checkpoint(folder / "final.pt", checkpoint_of("lstm"))
    assert load_parent(None, "lstm").model_type == "lstm"


def test_a_wrong_parent_names_both(tmp_path, saved):
    with pytest.raises(UserError, match="--model_type lstm given, but .* holds a kgram"):
        load_parent(str(saved), "lstm")
    reward = tmp_path / "reward.pt"
    save_checkpoint(reward, checkpoint_of("kgram", reward=True))
    with pytest.raises(UserError, match="a checkpoint of train_reward_model, expected one of"):
        load_parent(str(reward), "kgram")
    assert load_parent(str(reward), "kgram", ("train_reward_model",)).stage == "train_reward_model"


def test_a_copy_elsewhere_is_the_same_checkpoint(saved, tmp_path):
    copy = tmp_path / "copy.pt"
    shutil.copy(saved, copy)
    assert load_checkpoint(copy).sha256 == load_checkpoint(saved).sha256
