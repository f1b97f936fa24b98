"""Our side of vs_trl.py: one stage's step, through the functions that the scripts call."""

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from bench.machine import gpu_clock, product_rate
from bench.pipes import CLOCKS, Turns, memory_mb
from bench.work import NEW_TOKENS, alone, count_questions
from main_squad import sft_backward
from src.data.windows import Tree
from src.inference.logprobs import build_tree_batch, completion_logps, score_completions
from src.inference.sampling import generate
from src.losses import sequence_sum
from src.model.heads import Critic, RewardModel
from src.model.model import build_model
from src.rl.algorithm_table import ALGORITHMS
from src.rl.models import Models
from src.rl.rewards import Scores, model_rewards
from src.rl.rollout import Prompts, Settings, sample_rollout
from src.rl.update import update_policy
from src.training.device import choose_device
from src.training.loop import prepare
from src.training.optimizer import make_optimizer, optimizer_step
from train_dpo import dpo_backward
from train_reward_model import reward_backward

Step = Callable[[list[Tree]], dict]  # trees -> what the step found, `loss` in nats


class Side:
    """What the stages share: weights by name, the ids of the work, learning rate, --compile, and
    how many answers PPO samples to each question that it is given.
    """

    def __init__(self, settings: dict) -> None:
        self.folder, self.rate = Path(settings["folder"]), settings["rate"]
        self.flags = Namespace(compile=settings["compile"], shard=False, lora_rank=None)
        self.dtype = settings["dtype"]
        self.device = choose_device(Namespace(device=settings["device"], dtype=self.dtype))
        # Without sharing the question itself comes so many times.
        self.samples = settings["samples"] if settings["shared"] else 1
        self.work = json.loads((self.folder / "work.json").read_text())
        self.eos_id = self.work["eos_id"]
        self.steps = 0

    def backbone(self, name: str) -> nn.Module:
        """A transformer with the weights of that name."""
        model = build_model("transformer", self.work["shape"])
        model.load_state_dict(self._load(name)["backbone"])
        return prepare({name: model.to(self.device)}, self.flags, self.device)[name]

    def reward_model(self) -> RewardModel:
        """The reward model, not normalised."""
        reward = RewardModel(self.backbone("reward"))
        reward.head.linear.weight.data.copy_(self._load("reward")["head"])
        return reward.to(self.device)

    def critic(self) -> Critic:
        """A critic of its own weights."""
        critic = Critic(self.backbone("critic"))
        critic.head.weight.data.copy_(self._load("critic")["head"])
        return critic.to(self.device)

    def update(self, optimizer: torch.optim.Optimizer, loss: float) -> None:
        """A step at the one learning rate, gradients clipped at norm 1."""
        optimizer_step(optimizer, self.rate, 1.0, loss, skip_nonfinite=False)

    def _load(self, name: str) -> dict:
        return torch.load(self.folder / f"{name}.pt", weights_only=True)


def sft(side: Side) -> Step:
    """main_squad.py's step, loss on the answers only."""
    model = side.backbone("policy")
    optimizer = make_optimizer({"model": model})
    args = Namespace(lm_weight=0.0, micro_batch_size=side.work.get("micro"),
                     micro_batch_tokens=10**9)

    def step(trees: list[Tree]) -> dict:
        chosen = [(c, [(q, answers[:1]) for q, answers in qs]) for c, qs in trees]
        loss = sft_backward(model, chosen, side.eos_id, args)["loss"]
        side.update(optimizer, loss)
        return {"loss": loss}

    step.model = model
    return step


def held_out_loss(side: Side, model: nn.Module) -> float:
    """Nats an answer token on the held-out questions."""
    trees = [(c, [(q, answers[:1]) for q, answers in qs]) for c, qs in side.work["held_out"]]
    tokens = sum(len(answers[0]) + 1 for _, qs in trees for _, answers in qs)
    return -float(completion_logps(model, trees, side.eos_id).sum()) / tokens


def dpo(side: Side) -> Step:
    """train_dpo.py's step, and its share of the reference's pass."""
    model, reference = side.backbone("policy"), side.backbone("reference")
    optimizer = make_optimizer({"model": model})
    args = Namespace(
        micro_batch_size=None, micro_batch_tokens=10**9, beta=0.1,
        label_smoothing=0.0, loss_type="sigmoid", nll_weight=0.0,
    )

    def step(trees: list[Tree]) -> dict:
        frozen = completion_logps(reference, trees, side.eos_id).view(-1, 2)
        loss = dpo_backward(model, trees, frozen, side.eos_id, args)["loss"]
        side.update(optimizer, loss)
        return {"loss": loss}

    return step


def reward(side: Side) -> Step:
    """train_reward_model.py's step."""
    model = side.reward_model()
    optimizer = make_optimizer({"reward": model})
    args = Namespace(micro_batch_size=None, micro_batch_tokens=10**9)

    def step(trees: list[Tree]) -> dict:
        loss = reward_backward(model, trees, side.eos_id, args)["loss"]
        side.update(optimizer, loss)
        return {"loss": loss}

    return step


def ppo(side: Side) -> Step:
    """train_ppo.py's step: four epochs of one minibatch."""
    policy, reward, critic = side.backbone("policy"), side.reward_model(), side.critic()
    reference = side.backbone("reference").requires_grad_(False)
    models = Models(policy, reference, critic)
    optimizer = make_optimizer({"policy": policy, "critic": critic}, eps=1e-5)

    def reward_of(trees: list[Tree], _asked: list) -> Scores:
        return Scores(model_rewards(reward, trees, side.eos_id), {})

    def step(trees: list[Tree]) -> dict:
        settings = Settings(
            algorithm=ALGORITHMS["ppo"], eos_id=side.eos_id, num_samples=side.samples,
            max_new_tokens=NEW_TOKENS, temperature=1.0, gamma=1.0, lam=0.95, value_clip_range=0.2,
            value_coef=0.1, beta=None, missing_eos_penalty=1.0, epochs=4, minibatches=1,
            micro_contexts=len(trees), seed=0, device=side.device,
        )
        without_answers = [(context, [q for q, _ in questions]) for context, questions in trees]
        prompts = Prompts(without_answers, [], [False] * count_questions(trees))
        side.steps += 1
        rollout = sample_rollout(
            models, prompts, reward_of, 0.05, side.steps, settings,
        )

        def update(loss: float) -> dict[str, float]:
            side.update(optimizer, loss)
            return {}

        figures = update_policy(models, rollout, side.steps, settings, update)
        return {"loss": figures["loss"], "tokens": int(rollout.mask.sum())}

    return step


def kl_of(side: Side, trees: list[Tree], answers: list[list[int]]) -> float:
    """Mean over answers of their summed log-probs, policy minus reference, without EOS. A peer
    reports this of its own samples from the same weights; here we compute it. answers: equally many
    to each question, question after question.
    """
    found, samples = iter(answers), len(answers) // count_questions(trees)
    answered = [(c, [(q, [next(found) for _ in range(samples)]) for q, _ in qs]) for c, qs in trees]
    tree_batch = build_tree_batch(answered, side.eos_id)
    without_stop = F.pad(tree_batch.mask[:, 1:], (0, 1))
    tree_batch = tree_batch._replace(mask=without_stop)
    sums = []
    with torch.inference_mode():
        for name in ("policy", "reference"):
            sums.append(sequence_sum(*score_completions(side.backbone(name), tree_batch)))
    return float((sums[0] - sums[1]).mean())


def greedy(side: Side) -> Step:
    """Greedy answers of exactly 16 tokens (no stop id), as evaluation generates them."""
    model = side.backbone("policy")

    def step(trees: list[Tree]) -> dict:
        prompts = [(context, [q for q, _ in questions]) for context, questions in trees]
        answers = generate(model, prompts, eos_id=-1, max_new_tokens=NEW_TOKENS)
        return {"answers": answers.tokens.tolist()}

    return step


STAGES = {"sft": sft, "dpo": dpo, "reward": reward, "ppo": ppo, "generate": greedy}


def main() -> None:
    """Serve a driver: settings first, then steps."""
    turns = Turns()
    imported = memory_mb("VmRSS")
    settings = turns.receive()
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    side = Side(settings)
    on_gpu = side.device.type == "cuda"
    clock = gpu_clock if on_gpu else CLOCKS[settings["clock"]]
    step = STAGES[settings["stage"]](side)
    turns.reply(torch=torch.__version__)
    while (asked := turns.receive())["do"] != "stop":
        if asked["do"] == "rate":
            dtype = getattr(torch, side.dtype)
            turns.reply(**product_rate(clock, device=side.device, dtype=dtype))
        elif asked["do"] == "kl":
            turns.reply(kl=kl_of(side, side.work["grouped"][0], asked["answers"]))
        elif asked["do"] == "held_out":
            turns.reply(loss=held_out_loss(side, step.model))
        else:
            trees = side.work[asked["batches"]][asked["number"]]
            trees = trees if settings["shared"] else alone(trees, settings["samples"])
            started = clock()
            found = step(trees)
            seconds = clock() - started
            turns.reply(seconds=seconds, examples=count_questions(trees) * side.samples, **found)
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else memory_mb("VmHWM") - imported
    turns.reply(peak_mb=peak)


if __name__ == "__main__":
    main()
