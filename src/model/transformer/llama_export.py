"""Our transformer as a Llama folder that `transformers` loads: config.json and model.safetensors.

The layout is Llama's but for two pairs of matrices that are one here: keys with values, gate with
up. Rotary halves stand as in `transformers` (GGUF files permute them), so rows stay in order.
"""

import torch
from safetensors.torch import save
from torch import Tensor

from src.model.heads import RewardModel
from src.model.transformer.transformer import Transformer


def llama_config(model: Transformer | RewardModel, stop_id: int) -> dict:
    """The contents of config.json; of a reward model those of LlamaForSequenceClassification.

    A reward model reads its score at the last token, which `transformers` finds as the last that is
    not the pad token: `pad_token_id` is one more than our ids, so that a text may end in any of
    them. `score_normalisation` is ours: the score that PPO sees is (raw score - mean) / std.
    """
    rewards = isinstance(model, RewardModel)
    c = (model.trunk if rewards else model).config
    contents = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": c.vocab_size,
        "hidden_size": c.n_embd,
        "intermediate_size": c.n_inner,
        "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head,
        "num_key_value_heads": c.n_kv_head,
        "head_dim": c.n_embd // c.n_head,
        "hidden_act": "silu",
        "max_position_embeddings": c.block_size,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_theta,
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": stop_id,
        "pad_token_id": None,
        "torch_dtype": "float32",
    }
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

    A reward model's embedding has a row of zeros more, for the pad token, which no real token sees.
    """
    rewards = isinstance(model, RewardModel)
    trunk = model.trunk if rewards else model
    named = {"model.embed_tokens.weight": trunk.embedding.weight}
    if rewards:
        row = trunk.embedding.weight.new_zeros(1, trunk.config.n_embd)
        named["model.embed_tokens.weight"] = torch.cat((trunk.embedding.weight, row))
        named["score.weight"] = model.head.linear.weight
    for number, block in enumerate(trunk.blocks):
        keys, values = block.key_value.weight.chunk(2)
        gate, up = block.gate_up.weight.chunk(2)
        layer = {
            "input_layernorm": block.attention_norm.weight,
            "self_attn.q_proj": block.query.weight,
            "self_attn.k_proj": keys,
            "self_attn.v_proj": values,
            "self_attn.o_proj": block.attention_out.weight,
            "post_attention_layernorm": block.mlp_norm.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": block.down.weight,
        }
        named |= {f"model.layers.{number}.{name}.weight": w for name, w in layer.items()}
    named["model.norm.weight"] = trunk.norm.weight
    return {name: weight.detach() for name, weight in named.items()}


def llama_weights(model: Transformer | RewardModel, lineage: str) -> bytes:
    """The contents of model.safetensors, with `lineage` in its header."""
    return save(llama_tensors(model), metadata={"format": "pt", "lineage": lineage})
