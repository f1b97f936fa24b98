"""Our transformer as a Llama folder that `transformers` loads: config.json and model.safetensors.

The layout is Llama's but for two pairs of matrices that are one here: keys with values, gate with
up. Rotary halves stand as in `transformers` (GGUF files permute them), so rows stay in order.
"""

import torch
from safetensors.torch import save
from torch import Tensor

from src.interop.llama_layout import EMBEDDING, HEAD, LLAMA3, NORM, block_names
from src.model.heads import RewardModel
from src.model.transformer.transformer import Transformer


def llama_config(model: Transformer | RewardModel, eos_id: int) -> dict:
    """The contents of config.json; of a reward model those of LlamaForSequenceClassification.

    A reward model reads its score at the last token, which `transformers` finds as the last that is
    not the pad token: `pad_token_id` is one more than our ids, so that a text may end in any of
    them. `score_normalisation` is ours: the score that PPO sees is (raw score - mean) / std.
    """
    rewards = isinstance(model, RewardModel)
    c = (model.backbone if rewards else model).config
    contents = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": c.vocab_size,
        "hidden_size": c.n_embd,
        "intermediate_size": c.n_inner,
        "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head,
        "num_key_value_heads": c.n_kv_head,
        "head_dim": c.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": c.block_size,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_theta,
        "rope_scaling": None,
        "attention_bias": c.qkv_bias,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": c.tied,
        "bos_token_id": None,
        "eos_token_id": eos_id,
        "pad_token_id": None,
        "torch_dtype": "float32",
    }
    if c.rope_scaling is not None:
        named = dict(zip(LLAMA3, c.rope_scaling, strict=True))
        contents["rope_scaling"] = {"rope_type": "llama3", **named}
    if rewards:
        contents |= {
            "architectures": ["LlamaForSequenceClassification"],
            "vocab_size": c.vocab_size + 1,
            "pad_token_id": c.vocab_size,
            "id2label": {"0": "reward"},
            "label2id": {"reward": 0},
            "problem_type": "regression",
            "score_normalisation": {"mean": model.mean.item(), "std": model.std.item()},
        }
    return contents


def llama_tensors(model: Transformer | RewardModel) -> dict[str, Tensor]:
    """The weights under the names that `transformers` gives them.

    A reward model has its head's as `score`, and in the embedding a row of zeros more: the pad
    token's, which no real token sees.
    """
    rewards = isinstance(model, RewardModel)
    backbone = model.backbone if rewards else model
    weights = backbone.state_dict()
    named = {EMBEDDING: weights["embedding.weight"]}
    for number in range(backbone.config.n_layer):
        for ours, theirs in block_names(backbone.config).items():
            parts = weights[f"blocks.{number}.{ours}"].chunk(len(theirs))
            names = (f"model.layers.{number}.{name}" for name in theirs)
            named.update(zip(names, parts, strict=True))
        if backbone.config.qkv_bias and not backbone.config.out_bias:  # Llama has both or none
            name = f"model.layers.{number}.self_attn.o_proj.bias"
            named[name] = torch.zeros(backbone.config.n_embd)
    named[NORM] = weights["norm.weight"]
    if rewards:
        row = weights["embedding.weight"].new_zeros(1, backbone.config.n_embd)
        named[EMBEDDING] = torch.cat((weights["embedding.weight"], row))
        named["score.weight"] = model.head.linear.weight.detach()
    elif not backbone.config.tied:
        named[HEAD] = weights["head.weight"]
    return named


def llama_weights(model: Transformer | RewardModel, lineage: str) -> bytes:
    """The contents of model.safetensors, with `lineage` in its header."""
    return save(llama_tensors(model), metadata={"format": "pt", "lineage": lineage})
