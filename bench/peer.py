"""Their side of vs_trl.py: TRL's trainers and transformers' generate, a step at a time.

Runs in an environment of its own and imports nothing of src. A trainer runs as its users run it,
`trainer.train()`, and waits for its turn in a callback between two steps.
"""

import json
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerCallback,
)

from bench.machine import gpu_clock
from bench.pipes import CLOCKS, Turns, memory_mb

NEW_TOKENS = 16
STOP, PAD = "<stop>", "<pad>"


class Side:
    """The work, the batches in the order in which they will be asked for, and models by name."""

    def __init__(self, settings: dict) -> None:
        self.folder = Path(settings["folder"])
        self.settings = settings
        self.work = json.loads((self.folder / "work.json").read_text())
        self.eos_id, self.pad_id = self.work["eos_id"], self.work["pad_id"]
        self.device = torch.device(settings["device"])
        self.bf16 = settings["dtype"] == "bfloat16"
        self.batches = [self.work[kind][number] for kind, number in settings["order"]]
        self.tokenizer = self._tokenizer()

    def rows(self, batches: list) -> list[tuple[list[int], list[int], list[int]]]:
        """(prompt, chosen, rejected) ids of every question, stop tokens included."""
        return [
            (context + question, *([*answer, self.eos_id] for answer in answers))
            for trees in batches
            for context, questions in trees
            for question, answers in questions
        ]

    def text(self, ids: list[int]) -> str:
        """Words that the tokenizer below turns into exactly these ids."""
        return "".join(f" {STOP if i == self.eos_id else f't{i}'}" for i in ids)

    def causal(self, name: str) -> LlamaForCausalLM:
        """A language model with the weights of that name."""
        model = LlamaForCausalLM(self._config())
        model.model.load_state_dict(self._weights(name)["backbone"])
        model.tie_weights()
        model.generation_config.pad_token_id = self.pad_id
        return model

    def scalar(self, name: str) -> LlamaForSequenceClassification:
        """A backbone with a scalar head, weights of that name."""
        config = self._config()
        config.num_labels = 1
        model = LlamaForSequenceClassification(config)
        weights = self._weights(name)
        model.model.load_state_dict(weights["backbone"])
        model.score.weight.data.copy_(weights["head"])
        return model

    def _weights(self, name: str) -> dict:
        return torch.load(self.folder / f"{name}.llama.pt", weights_only=True)

    def _config(self) -> LlamaConfig:
        shape = self.work["shape"]
        return LlamaConfig(
            vocab_size=shape["vocab_size"], hidden_size=shape["n_embd"],
            intermediate_size=shape["n_inner"], num_hidden_layers=shape["n_layer"],
            num_attention_heads=shape["n_head"], num_key_value_heads=shape["n_head"],
            rms_norm_eps=1e-5, tie_word_embeddings=True, max_position_embeddings=1024,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            bos_token_id=None, eos_token_id=None, pad_token_id=self.pad_id,
            attention_dropout=0.0, dtype="float32",
        )

    def _tokenizer(self) -> PreTrainedTokenizerFast:
        words = {f"t{i}": i for i in range(self.work["shape"]["vocab_size"])}
        del words[f"t{self.eos_id}"], words[f"t{self.pad_id}"]
        words |= {STOP: self.eos_id, PAD: self.pad_id}
        inner = Tokenizer(models.WordLevel(words, unk_token=PAD))
        inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(
            tokenizer_object=inner, eos_token=STOP, pad_token=PAD, padding_side="left"
        )


class Waits(TrainerCallback):
    """Holds a trainer between steps until the driver asks for the next one.

    A step's time runs from the driver's message to the end of the step. It includes fetching and
    collating the data, forward, backward, optimizer, and the trainer's own bookkeeping.
    extra: what else to answer after a step.
    """

    def __init__(self, turns: Turns, side: Side) -> None:
        self.turns, self.side = turns, side
        self.examples = side.settings["questions"] * side.settings["samples"]
        on_gpu = side.device.type == "cuda"
        self.clock = gpu_clock if on_gpu else CLOCKS[side.settings["clock"]]
        self.logs: dict = {}
        self.extra: dict = {}
        self.model: nn.Module | None = None
        self.started = self.ended = 0.0
        self.logged = self.stepped = False

    def begin(self, **hello) -> None:
        """Say that the worker is ready, and wait."""
        self.turns.reply(**hello)
        self.wait()

    def on_step_end(self, args, state, control, **kwargs):
        """The optimizer has stepped."""
        self.ended, self.stepped = self.clock(), True
        self._answer()

    def on_log(self, args, state, control, logs=None, **kwargs):
        """The step's figures; TRL's PPO logs before the step's end, the other trainers after it."""
        if "train_runtime" not in (logs or {}):
            self.logs, self.logged = dict(logs), True
            self._answer()

    def _answer(self) -> None:
        if not (self.logged and self.stepped):
            return
        self.logged = self.stepped = False
        self.turns.reply(
            seconds=self.ended - self.started, examples=self.examples,
            loss=self.logs.get("loss"), logs=self.logs, **self.extra,
        )
        self.wait()

    def wait(self) -> None:
        """Until the driver asks for a step; answers what else it asks."""
        while (asked := self.turns.receive())["do"] == "held_out":
            self.turns.reply(loss=held_out_loss(self.side, self.model))
        if asked["do"] == "stop":
            peak = memory_mb("VmHWM") - self.side.settings["imported_mb"]
            if self.side.device.type == "cuda":
                peak = torch.cuda.max_memory_allocated() / 2**20
            self.turns.reply(peak_mb=peak)
            raise SystemExit(0)
        self.started = self.clock()


def held_out_loss(side: Side, model: nn.Module) -> float:
    """Nats an answer token on the held-out questions, by transformers, a question at a time."""
    nats, tokens = 0.0, 0
    model.eval()
    with torch.inference_mode():
        for prompt, chosen, _ in side.rows([side.work["held_out"]]):
            ids = torch.tensor([prompt + chosen], device=side.device)
            logits = model(ids).logits[0, len(prompt) - 1 : -1]
            loss = nn.functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum")
            nats += float(loss)
            tokens += len(chosen)
    model.train()
    return nats / tokens


def common(side: Side, **more) -> dict:
    """Training arguments of every trainer: no checkpointing, fused AdamW, constant rate; bf16 is
    mixed precision, as our autocast.
    """
    arguments = {
        "output_dir": str(side.folder / "peer"), "per_device_train_batch_size": more.pop("batch"),
        "max_steps": len(side.batches), "learning_rate": side.settings["rate"],
        "lr_scheduler_type": "constant", "optim": "adamw_torch_fused", "weight_decay": 0.0,
        "adam_beta1": 0.9, "adam_beta2": 0.95, "max_grad_norm": 1.0, "logging_steps": 1,
        "logging_strategy": "steps", "save_strategy": "no", "report_to": "none",
        "use_cpu": side.device.type == "cpu", "bf16": side.bf16, "fp16": False,
        "gradient_checkpointing": False, "disable_tqdm": True,
        "seed": 0, "dataloader_num_workers": 0,
        "dataloader_pin_memory": side.device.type == "cuda",
        "train_sampling_strategy": "sequential",
    }
    return arguments | more


def sft(side: Side, waits: Waits, batch: int):
    """TRL's SFTTrainer, loss on the answer only, on ids as they are."""
    rows = [
        {
            "input_ids": prompt + chosen,
            "completion_mask": [0] * len(prompt) + [1] * len(chosen),
        }
        for prompt, chosen, _ in side.rows(side.batches)
    ]
    arguments = common(side, batch=batch, max_length=None, completion_only_loss=True)
    return trl.SFTTrainer(
        model=side.causal("policy"), args=trl.SFTConfig(**arguments), callbacks=[waits],
        train_dataset=Dataset.from_list(rows), processing_class=side.tokenizer,
    )


def pairs(side: Side) -> Dataset:
    """Preference pairs as words."""
    return Dataset.from_list(
        [
            dict(zip(("prompt", "chosen", "rejected"), map(side.text, row), strict=True))
            for row in side.rows(side.batches)
        ]
    )


def dpo(side: Side, waits: Waits, batch: int):
    """TRL's DPOTrainer, the reference read at every step."""
    arguments = common(side, batch=batch, max_length=None, beta=0.1)
    return trl.DPOTrainer(
        model=side.causal("policy"), ref_model=side.causal("reference"), callbacks=[waits],
        args=trl.DPOConfig(**arguments), train_dataset=pairs(side),
        processing_class=side.tokenizer,
    )


def reward(side: Side, waits: Waits, batch: int):
    """TRL's RewardTrainer."""
    rows = [
        {"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected}
        for prompt, chosen, rejected in side.rows(side.batches)
    ]
    arguments = common(side, batch=batch, max_length=None)
    return trl.RewardTrainer(
        model=side.scalar("reward"), args=trl.RewardConfig(**arguments), callbacks=[waits],
        train_dataset=Dataset.from_list(rows), processing_class=side.tokenizer,
    )


def ppo(side: Side, waits: Waits, batch: int):
    """The PPOTrainer of TRL 1.10: 16 sampled tokens, four epochs of one minibatch. It samples one
    answer a prompt, so a question of several comes several times.
    """
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    samples = side.settings["samples"]
    batch *= samples
    arguments = common(
        side, batch=batch, num_ppo_epochs=4, num_mini_batches=1, response_length=NEW_TOKENS,
        temperature=1.0, kl_coef=0.05, num_sample_generations=0, adam_epsilon=1e-5,
        total_episodes=batch * len(side.batches), local_rollout_forward_batch_size=batch,
    )
    prompts = [prompt for prompt, _, _ in side.rows(side.batches)]
    rows = [{"input_ids": prompt} for prompt in prompts for _ in range(samples)]
    trainer = PPOTrainer(
        args=PPOConfig(**arguments), processing_class=side.tokenizer, callbacks=[waits],
        model=side.causal("policy"), ref_model=side.causal("reference"),
        reward_model=side.scalar("reward"), value_model=side.scalar("critic"),
        train_dataset=Dataset.from_list(rows),
    )
    # Its loader shuffles; ours keeps the order of the batches, which are shuffled where they should
    # be.
    loader = DataLoader(trainer.train_dataset, batch_size=batch, collate_fn=trainer.data_collator)
    trainer.dataloader = trainer.accelerator.prepare(loader)
    sample = ppo_trainer.batch_generation

    def recorded(model, queries, *rest):
        out = sample(model, queries, *rest)
        waits.extra["answers"] = out[0][:, queries.shape[1] :].tolist()
        return out

    ppo_trainer.batch_generation = recorded
    return trainer


def serve_generate(side: Side, waits: Waits, batch: int) -> None:
    """transformers' generate, greedy, 16 tokens for every question of a batch."""
    model = side.causal("policy").eval().to(side.device)
    for trees in side.batches:
        started = waits.started
        padded = side.tokenizer.pad(
            {"input_ids": [prompt for prompt, _, _ in side.rows([trees])]}, return_tensors="pt"
        ).to(side.device)
        autocast = torch.autocast(side.device.type, torch.bfloat16, enabled=side.bf16)
        with torch.inference_mode(), autocast:
            out = model.generate(**padded, do_sample=False, max_new_tokens=NEW_TOKENS)
        waits.ended = waits.clock()
        answers = out[:, padded["input_ids"].shape[1] :].tolist()
        waits.turns.reply(seconds=waits.ended - started, examples=batch, answers=answers)
        waits.wait()


TRAINERS = {"sft": sft, "dpo": dpo, "reward": reward, "ppo": ppo}


def main() -> None:
    """Serve a driver: settings first, then steps."""
    turns = Turns()
    imported = memory_mb("VmRSS")
    settings = turns.receive() | {"imported_mb": imported}
    torch.set_num_threads(settings["threads"])
    transformers.set_seed(0)
    side = Side(settings)
    waits = Waits(turns, side)
    versions = {name: version(name) for name in ("torch", "transformers", "trl")}
    if settings["stage"] == "generate":
        waits.begin(**versions)
        serve_generate(side, waits, settings["questions"])
        return
    trainer = TRAINERS[settings["stage"]](side, waits, settings["questions"])
    waits.model = trainer.model
    waits.begin(**versions)
    trainer.train()
    # Out of batches: only the end may be asked for.


if __name__ == "__main__":
    main()
