"""Best of n by the reward model: what the choice among more samples does to reward and true F1.

One set of N samples a question serves every n <= N: `losses.best_of_n` takes the mean over all
subsets, so the points of a curve share their noise and none of them is biased. The control beside
each n is a random one of n samples, which is no better than a single sample.
"""

from collections.abc import Sequence

import torch
from torch import nn

from src.evaluation.compare_policies import CommonGround
from src.evaluation.intervals import bootstrap_interval, paired_difference, question_figures
from src.evaluation.squad_metrics import em_and_f1
from src.inference.sampling import Sampling, generate_all, with_answers
from src.losses import best_of_n, best_of_n_kl_bound
from src.rl.rewards import model_rewards

# Samples of a question that are in memory together.
AT_A_TIME = 8


def best_of_n_rows(
    c: CommonGround, model: nn.Module, sizes: Sequence[int], seed: int = 0
) -> tuple[list[dict[str, float | None]], dict[str, dict]]:
    """A row for each n, {"n", "kl_bound", metric, metric_low, metric_high, ...}, and what the
    rows' means are of, question by question: {"f1_of_4": ..., ...}.

    Metrics of the best: f1 and em in percent, and reward. Of a random one: random_f1, random_em and
    random_reward. f1_gain: of the best over the random one, with the interval of the paired
    difference. kl_bound: nats an answer from the policy that was sampled, at most.
    """
    rewards, f1, em = sample_and_score(c, model, max(sizes), seed)
    groups = c.held_out.groups
    rows, figures_of_n = [], {}
    ones, percent = [1.0] * len(groups), [0.01] * len(groups)
    for n in sizes:
        row: dict[str, float | None] = {"n": n, "kl_bound": best_of_n_kl_bound(n)}
        for name, values, unit in (("f1", f1, percent), ("em", em, percent),
                                   ("reward", rewards, ones)):
            best = best_of_n(rewards, values, n).tolist()
            random = values.mean(1).tolist()
            for label, figures in ((name, best), (f"random_{name}", random)):
                row |= _ends(label, bootstrap_interval(figures, unit, groups).as_json())
            gain = paired_difference(best, random, unit, groups)
            row |= _ends(f"{name}_gain", gain.as_json())
            figures_of_n[f"{name}_of_{n}"] = (best, unit, groups)
        rows.append(row)
    return rows, question_figures(figures_of_n)


def best_of_lines(rows: Sequence[dict[str, float | None]]) -> list[str]:
    """The rows as a table for people."""
    heads = ("n", "KL at most", "F1 (%)", "EM (%)", "reward", "F1 against random")
    lines = ["  ".join(f"{head:>20}" for head in heads)]
    for row in rows:
        cells = [f"{row['n']}", f"{row['kl_bound']:.2f}"]
        cells += [_words(row, name) for name in ("f1", "em", "reward", "f1_gain")]
        lines.append("  ".join(f"{cell:>20}" for cell in cells))
    return lines


def _words(row: dict[str, float | None], name: str) -> str:
    ends = (row[f"{name}_low"], row[f"{name}_high"])
    interval = "" if None in ends else f" [{ends[0]:.2f}, {ends[1]:.2f}]"
    return f"{row[name]:.2f}{interval}"


def _ends(name: str, interval: dict[str, float | None]) -> dict[str, float | None]:
    return {
        name: interval["value"], f"{name}_low": interval["low"], f"{name}_high": interval["high"]
    }


def sample_and_score(
    c: CommonGround, model: nn.Module, count: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rewards, F1 and EM (Q, count), float64, of samples at temperature 1 to each question."""
    model.to(c.device)
    tokenizer, prompts = c.tokenizer, c.held_out.prompts
    columns = []
    for first in range(0, count, AT_A_TIME):
        samples = min(AT_A_TIME, count - first)
        ids = generate_all(
            model, prompts, tokenizer.eos_id, sampling=Sampling(), num_samples=samples,
            seed=[seed, first], max_new_tokens=c.held_out.max_answer_tokens,
        )
        trees = with_answers(prompts, ids, samples)
        rewards = model_rewards(c.reward, trees, tokenizer.eos_id)
        examples = [about for about in c.held_out.examples for _ in range(samples)]
        texts = [tokenizer.decode(answer).strip() for answer in ids]
        em, f1 = em_and_f1(texts, examples, c.held_out.metric)
        found = (rewards.double(), torch.tensor(f1).double(), torch.tensor(em).double())
        columns.append([x.view(-1, samples) for x in found])
    rewards, f1, em = (torch.cat(parts, 1) for parts in zip(*columns, strict=True))
    return rewards, f1, em
