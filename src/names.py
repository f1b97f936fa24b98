"""Names that flags, files and messages share. Imports nothing, so that `--help` answers at once."""

MODEL_TYPES = ("transformer", "lstm", "kgram")

# A stage is named after its script; its checkpoints lie in checkpoints/{model_type}_{stage}/.
STAGES = ("main_squad", "train_dpo", "train_reward_model", "train_ppo")
POLICY_STAGES = ("main_squad", "train_dpo", "train_ppo")

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
)


class UserError(Exception):
    """A user's mistake, told in one line: what was given, what was expected, what to do.

    Scripts print the line on stderr and end with exit code 2.
    """
