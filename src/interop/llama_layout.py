"""Checkpoints in the Llama layout, made into our `Transformer`: names, shapes, and what is refused.

Whatever the file, its configuration comes as config.json has it and its tensors under the names of
transformers; a .gguf file's are translated in `gguf_source`, a folder's in llama_folder.py. A field
that our model does not implement is refused by name; shapes are held against the configuration
before memory is taken.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from src.interop.gguf_file import GgufFile
from src.model.model import Undrawn
from src.model.transformer.transformer import Transformer, TransformerConfig, rotary_tables
from src.utils.constants import MAX_BLOCK_SIZE
from src.utils.errors import UserError

# Where our configuration comes from; a None must be given.
SIZES: dict[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", None),
    "n_layer": ("num_hidden_layers", None),
    "n_embd": ("hidden_size", None),
    "n_head": ("num_attention_heads", None),
    "n_inner": ("intermediate_size", None),
    "block_size": ("max_position_embeddings", 2048),
    "norm_eps": ("rms_norm_eps", 1e-6),
    "tied": ("tie_word_embeddings", False),
}
# What must have one of these values where it is given: our model is nothing else.
ONLY: dict[str, tuple[Any, ...]] = {
    "model_type": ("llama", "qwen2"),
    "architectures": (["LlamaForCausalLM"], ["Qwen2ForCausalLM"], None),
    "hidden_act": ("silu",),
    "mlp_bias": (False, None),
    "attention_dropout": (0, None),
    "rope_interleaved": (False, None),
    "partial_rotary_factor": (1, None),
    "use_sliding_window": (False, None),
    "use_mrope": (False, None),
    "quantization_config": (None,),
    "pretraining_tp": (1, None),
    "is_encoder_decoder": (False, None),
}
READ = {
    "num_key_value_heads", "head_dim", "rope_theta", "rope_parameters", "rope_scaling",
    "attention_bias", "sliding_window", "layer_types",
}
# What a rope_scaling of type llama3 holds, in the order of TransformerConfig.rope_scaling.
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
# What changes no number that the model computes.
HARMLESS = {
    "_name_or_path", "bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype",
    "transformers_version", "use_cache", "initializer_range", "is_llama_config",
    "transformers.js_config", "return_dict", "output_attentions", "output_hidden_states",
    "max_window_layers",
}

# One block's tensors in transformers' names, in the order in which ours are joined from them.
BLOCK = {
    "attention_norm.weight": ("input_layernorm.weight",),
    "query.weight": ("self_attn.q_proj.weight",),
    "key_value.weight": ("self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "attention_out.weight": ("self_attn.o_proj.weight",),
    "mlp_norm.weight": ("post_attention_layernorm.weight",),
    "gate_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "down.weight": ("mlp.down_proj.weight",),
}
QKV_BIAS = {
    "query.bias": ("self_attn.q_proj.bias",),
    "key_value.bias": ("self_attn.k_proj.bias", "self_attn.v_proj.bias"),
}
OUT_BIAS = {"attention_out.bias": ("self_attn.o_proj.bias",)}
EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"

GGUF_BLOCK = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GGUF_TOP = {"token_embd.weight": EMBEDDING, "output_norm.weight": NORM, "output.weight": HEAD}
GGUF_FIELDS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}


class LlamaSource(NamedTuple):
    """A checkpoint before it is read. config: as in config.json; shapes: of each tensor, by name;
    read: a tensor in float32 by its name."""

    path: Path
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Tensor]


def config_of(source: LlamaSource) -> TransformerConfig:
    """Our configuration of a config.json's fields; UserError names the field that is refused."""
    fields, path = source.config, source.path
    for name, value in fields.items():
        known = name in ONLY or name in READ or name in HARMLESS
        if not known and name not in {theirs for theirs, _ in SIZES.values()}:
            raise UserError(f"{path}: {name} {str(value)[:60]!r} given, a field that this project "
                            "does not know: it may change what the model computes")
        if name in ONLY and value not in ONLY[name]:
            raise UserError(f"{path}: {name} {str(value)[:60]!r} given, expected "
                            f"{ONLY[name][0]!r}: our transformer has nothing else")
    if fields.get("model_type") is None:
        raise UserError(f"{path}: no model_type given, expected llama")
    values = {ours: fields.get(theirs, default) for ours, (theirs, default) in SIZES.items()}
    for ours, (theirs, _) in SIZES.items():
        kind = {"tied": bool, "norm_eps": float}.get(ours, int)
        if type(values[ours]) is not kind:
            words = {bool: "true or false", float: "a number such as 1e-6", int: "a whole number"}
            raise UserError(
                f"{path}: {theirs} {values[ours]!r:.60} given, expected {words[kind]}"
            )
    values["n_kv_head"] = fields.get("num_key_value_heads")
    values["head_size"] = fields.get("head_dim")
    values["rope_theta"], values["rope_scaling"] = _rope(fields, path)
    values["qkv_bias"], values["out_bias"] = _biases(fields, path)
    _refuse_windows(fields, path)
    values["block_size"] = min(values["block_size"], MAX_BLOCK_SIZE)
    if not 0 < values["norm_eps"] < 1:
        raise UserError(f"{path}: rms_norm_eps {values['norm_eps']} given, expected 0 to 1")
    try:
        return TransformerConfig(**values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def block_names(config: TransformerConfig) -> dict[str, tuple[str, ...]]:
    """Our name of each tensor of one block -> transformers' names of its parts."""
    biases = (QKV_BIAS if config.qkv_bias else {}) | (OUT_BIAS if config.out_bias else {})
    return BLOCK | biases


def _biases(fields: Mapping[str, Any], path: Path) -> tuple[bool, bool]:
    """Whether there are biases of queries, keys and values, and of what attention found."""
    given = fields.get("attention_bias")
    if given not in (None, False, True):
        raise UserError(f"{path}: attention_bias {str(given)[:40]!r} given, expected true or false")
    if fields["model_type"] == "qwen2":  # which has no such field
        return True, False
    return bool(given), bool(given)


def _refuse_windows(fields: Mapping[str, Any], path: Path) -> None:
    """UserError for attention that does not see all that was read."""
    types = fields.get("layer_types") or []
    if not isinstance(types, list) or any(kind != "full_attention" for kind in types):
        raise UserError(f"{path}: layer_types {str(types)[:80]} given, expected full_attention "
                        "only: our transformer has no other")
    window = fields.get("sliding_window")
    if window is not None and fields.get("use_sliding_window") is not False:
        raise UserError(f"{path}: sliding_window {str(window)[:40]!r} given, expected none, or "
                        "use_sliding_window false: our transformer has none")


def _rope(fields: Mapping[str, Any], path: Path) -> tuple[float, list[float] | None]:
    """The base of the rotary positions, and how they are scaled."""
    theta, scaling = fields.get("rope_theta", 10000.0), None
    for name in ("rope_scaling", "rope_parameters"):  # of transformers 4 and 5
        rope = fields.get(name)
        if rope is None:
            continue
        rope = dict(rope) if isinstance(rope, dict) else {"rope_type": rope}
        kind = rope.pop("rope_type", rope.pop("type", "default"))
        theta = rope.pop("rope_theta", theta)
        if rope.pop("partial_rotary_factor", 1) != 1 or kind not in ("default", "llama3"):
            raise UserError(f"{path}: {name} {str(fields[name])[:80]} given, expected the type "
                            "default or llama3: our transformer has no other")
        if rope.keys() != (set(LLAMA3) if kind == "llama3" else set()):
            raise UserError(f"{path}: {name} {str(fields[name])[:80]} given, expected "
                            f"{', '.join(LLAMA3) if kind == 'llama3' else 'nothing more'}"
                            f" in one of type {kind}")
        if kind == "llama3":
            scaling = [rope[each] for each in LLAMA3]
    if type(theta) not in (int, float) or not 1 < theta < 1e12:
        raise UserError(f"{path}: rope_theta {str(theta)[:40]!r} given, expected a number above 1")
    return float(theta), scaling


def expected_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Each tensor of a configuration, in transformers' names."""
    width, inner = config.n_embd, config.n_inner
    queries, keys = (n * config.head_size for n in (config.n_head, config.n_kv_head))
    matrices = {
        "self_attn.q_proj": (queries, width), "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width), "self_attn.o_proj": (width, queries),
        "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, width), NORM: (width,)}
    if not config.tied:
        shapes[HEAD] = (config.vocab_size, width)
    for layer in range(config.n_layer):
        for name in (name for names in block_names(config).values() for name in names):
            module, kind = name.rsplit(".", 1)
            shape = matrices.get(module, (width,))  # or a norm's
            shapes[f"model.layers.{layer}.{name}"] = shape if kind == "weight" else shape[:1]
    return shapes


def shorten(model: Transformer, block_size: int) -> None:
    """Let a model read fewer tokens than it was made for: smaller tables, nothing else."""
    model.config = replace(model.config, block_size=block_size)
    model.cos, model.sin = rotary_tables(model.config)


def read_llama(source: LlamaSource) -> Transformer:
    """The model of a checkpoint, in float32; UserError in one line where it is not whole."""
    config = config_of(source)
    if config.n_layer > len(source.shapes):  # before a table of that many names is made
        raise UserError(f"{source.path}: {config.n_layer} layers given, but {len(source.shapes)} "
                        "tensors")
    wanted, found = expected_shapes(config), dict(source.shapes)
    copied_head = found.pop(HEAD, None) if config.tied else None
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name) and not name.endswith("rotary_emb.inv_freq"):
            raise UserError(
                f"{source.path}: the tensor {name[:80]} is {found.get(name, 'missing')}, expected "
                f"{wanted.get(name, 'none of that name: our transformer has no place for it')}"
            )

    def read(*names: str) -> Tensor:
        parts = [source.read(name) for name in names]
        for name, part in zip(names, parts, strict=True):
            if not bool(torch.isfinite(part).all()):
                raise UserError(f"{source.path}: the tensor {name} holds what is no finite number")
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    weights = {"embedding.weight": read(EMBEDDING), "norm.weight": read(NORM)}
    if not config.tied:
        weights["head.weight"] = read(HEAD)
    elif copied_head and not torch.equal(read(HEAD), weights["embedding.weight"]):
        raise UserError(f"{source.path}: tie_word_embeddings given, but {HEAD} is another matrix")
    for layer in range(config.n_layer):
        for ours, theirs in block_names(config).items():
            names = (f"model.layers.{layer}.{name}" for name in theirs)
            weights[f"blocks.{layer}.{ours}"] = read(*names)
    with Undrawn():
        model = Transformer(config)
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(True)


def gguf_source(path: str | Path) -> LlamaSource:
    """A .gguf file of the architecture llama, under transformers' names."""
    file = GgufFile(path)
    kind = file.fields.get("general.architecture")
    if kind != "llama":
        raise UserError(f"{path}: general.architecture {kind!r:.40} given, expected 'llama'")
    names = {}
    for name in file.tensors:
        block = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
        if block and block[2] in GGUF_BLOCK:
            names[f"model.layers.{block[1]}.{GGUF_BLOCK[block[2]]}.weight"] = name
        else:
            names[GGUF_TOP.get(name, name)] = name
    config: dict[str, Any] = {"model_type": "llama"}
    for name, value in file.fields.items():
        kept = name.removeprefix("llama.")
        if kept == name:
            continue
        if kept in ("rope.dimension_count", "attention.value_length"):
            size = file.fields.get("llama.embedding_length", 0)
            heads = file.fields.get("llama.attention.head_count", 0)
            if {type(size), type(heads), type(value)} != {int} or value * heads != size:
                raise UserError(f"{path}: {name} {str(value)[:40]} given, expected a head's width")
        elif name != "llama.rope.scaling.type" or value != "none":
            config[GGUF_FIELDS.get(kept, name)] = value
    if EMBEDDING in names:
        config.setdefault("vocab_size", file.tensors[names[EMBEDDING]].shape[0])
    config["tie_word_embeddings"] = HEAD not in names
    heads = config.get("num_attention_heads")
    groups = {"q_proj": heads, "k_proj": config.get("num_key_value_heads", heads)}

    def read(name: str) -> Tensor:
        values = file.tensor(names[name])
        count = groups.get(name.split(".")[-2])
        if count is not None and "self_attn" in name:
            # llama.cpp rotates neighbours against each other, Llama halves: undo its order of rows.
            rows, columns = values.shape
            values = values.reshape(count, rows // count // 2, 2, columns).swapaxes(1, 2)
            values = values.reshape(rows, columns)
        return torch.from_numpy(np.array(values, dtype=np.float32, order="C"))

    shapes = {name: file.tensors[theirs].shape for name, theirs in names.items()}
    return LlamaSource(Path(path), config, shapes, read)
