"""Names that flags, files and messages share. Imports nothing heavy: `--help` answers at once."""

import time

# Nearly when the process began: scripts import this module first.
STARTED = time.perf_counter()

MODEL_TYPES = ("transformer", "lstm", "kgram")

# A stage is named after its script; its checkpoints lie in checkpoints/{model_type}_{stage}/.
SFT, DPO, REWARD, PPO = STAGES = (
    "main_squad", "train_dpo", "train_reward_model", "train_ppo",
)
POLICY_STAGES = (SFT, DPO, PPO)

# The longest window that anyone trains on; a transformer keeps a table of this many rows.
MAX_BLOCK_SIZE = 1 << 18

# Tokens that are read at a time, about: 0.7 GB of activations for the default transformer.
MICRO_BATCH_TOKENS = 16_384

# Passes over the pairs of --pairs by default: hundreds, where made ones are tens of thousands.
PAIRS_EPOCHS = 3.0

# Tokens that an answer may take, EOS included, where neither a flag nor a checkpoint says so.
MAX_ANSWER_TOKENS = 32

# Where a run's log can go beside metrics.jsonl.
TRACKERS = ("none", "tensorboard", "wandb")

# How answers are compared: by words, as SQuAD v1.1 does, or where a script writes no blanks between
# words by characters (src/data/answer_text.py).
ANSWER_METRICS = ("squad", "mixed")

# The kinds of corruption that make a rejected answer; src/data/squad_preferences.py defines them.
CORRUPTIONS = (
    "other_span",
    "same_type",
    "shifted",
    "truncated",
    "shuffled",
    "other_answer",
    "sentence",
    "unrelated",
    "sampled",
)


# Defaults that replace a stage's own if the pipeline starts from a pretrained model, which is large
# and can read already. One table, so that they are tuned in one place.
PRETRAINED_DEFAULTS: dict[str, dict[str, float]] = {
    SFT: {
        "lr": 1e-4, "warmup": 0.06, "hold": 0.0, "weight_decay": 0.0, "lm_weight": 0.0,
        "epochs": 1.0, "batch_size": 8, "micro_batch_size": 2, "block_size": 512,
    },
    DPO: {"lr": 3e-5, "warmup": 0.1, "batch_size": 8, "micro_batch_size": 2},
    REWARD: {"lr": 3e-5, "warmup": 0.1, "batch_size": 8, "micro_batch_size": 2},
    # micro_batch_size 1: policy and critic are in memory together. save_every 1: a step takes a
    # minute, and no copy is kept in memory of what it started from.
    PPO: {
        "lr": 3e-5, "warmup": 0.06, "batch_size": 8, "micro_batch_size": 1, "save_every": 1,
    },
}

# Of the embedded data: a finished SFT model still has room for feedback to improve it.
DEFAULT_DIFFICULTY = 3
