"""The other side of smollm2.py: a plain training loop over transformers, no library of ours.

It reads each context once for its questions (the keys and values are repeated for them, with
gradients) and computes logits at answer positions only, as somebody who knows the data would.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, DynamicCache, LlamaForCausalLM

from bench.pipes import CLOCKS, Turns, memory_mb


def context_loss(
    model: LlamaForCausalLM, context: list[int], questions: list, eos_id: int
) -> torch.Tensor:
    """Summed cross-entropy in nats of the first answer to each question of one context."""
    cache = DynamicCache(config=model.config)
    model.model(torch.tensor([context]), past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(len(questions))
    rows = [question + answers[0] for question, answers in questions]
    width = max(map(len, rows))
    tokens = torch.tensor([row + [eos_id] * (width - len(row)) for row in rows])
    targets = torch.full(tokens.shape, -100)
    seen = torch.ones(len(rows), len(context) + width, dtype=torch.long)
    for number, (question, answers) in enumerate(questions):
        answer = torch.tensor([*answers[0], eos_id])
        targets[number, len(question) - 1 : len(question) - 1 + len(answer)] = answer
        seen[number, len(context) + len(rows[number]) :] = 0
    hidden = model.model(tokens, attention_mask=seen, past_key_values=cache).last_hidden_state
    labelled = targets != -100
    return F.cross_entropy(model.lm_head(hidden[labelled]), targets[labelled], reduction="sum")


def main() -> None:
    """Serve a driver: settings first, then steps."""
    turns = Turns()
    imported = memory_mb("VmRSS")
    settings = turns.receive()
    torch.set_num_threads(settings["threads"])
    folder = Path(settings["folder"])
    work = json.loads((folder / "work.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings["rate"], betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    clock = CLOCKS[settings["clock"]]
    turns.reply(torch=torch.__version__)
    while (asked := turns.receive())["do"] != "stop":
        trees = work[asked["batches"]][asked["number"]]
        started = clock()
        answers = [answers[0] for _, questions in trees for _, answers in questions]
        count = sum(len(answer) + 1 for answer in answers)
        total = 0.0
        for context, questions in trees:
            loss = context_loss(model, context, questions, work["eos_id"]) / count
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        turns.reply(seconds=clock() - started, examples=len(answers), loss=total)
    turns.reply(peak_mb=memory_mb("VmHWM") - imported)


if __name__ == "__main__":
    main()
