"""DPO and its relatives: raise the chosen answer above the rejected one.

    PYTHONPATH=src python train_dpo.py --model_type lstm

Starts from the SFT checkpoint, which is also the frozen reference of losses that have one; what it
says about each pair is computed once. --loss_type names the loss (src/preference/loss_table.py).
Writes checkpoints/{model_type}_train_dpo/.
"""

import time

from src.preference.loss_table import PREFERENCE_LOSSES, PreferenceLoss, fill_loss_flags
from src.utils import cli
from src.utils.constants import DPO as STAGE
from src.utils.exit_handling import command, flags_first


def build_parser() -> cli.Parser:
    """All flags with their units and defaults."""
    parser = cli.Parser(prog="train_dpo.py", description=__doc__.split("\n")[0])
    cli.add_model_flag(parser)
    cli.add_parent_flag(parser)
    cli.add_data_flags(parser, default=None)
    cli.add_training_flags(parser, lr=3e-4, batch_size=16, epochs=0.25)
    cli.add_machine_flags(parser)
    cli.add_pair_flags(parser)
    add = parser.add_argument
    add("--loss_type", choices=tuple(PREFERENCE_LOSSES), default="sigmoid",
        help="a row of src/preference/loss_table.py; nll is a control: the NLL term alone")
    add("--beta", type=cli.positive, help="per nat; for ipo the paper's tau, for orpo the weight "
        "of the odds ratio's term; default: 1, ipo, kto and orpo 0.1, simpo 2")
    add("--gamma", type=cli.non_negative, help="margin, in units of the reward; default: simpo 1")
    add("--label_smoothing", type=cli.number(float, 0, 0.5), default=0.0,
        help="share of pairs taken to be labelled the wrong way round; sigmoid only")
    add("--nll_weight", type=cli.non_negative, help="weight of the chosen answers' loss in nats a "
        "token, beside the pairs' loss; default: 0, orpo 1")
    add("--reward_checkpoint", help="a reward model that trains nothing here: each evaluation logs "
        "its reward of the answers, and their KL from the start, as train_ppo.py does")
    cli.note_pretrained_defaults(parser, STAGE)
    return parser


with flags_first(__name__, build_parser):
    import torch

    from src.data.squad_dataset import steps_per_epoch
    from src.data.windows import tree_tokens
    from src.evaluation.intervals import Figures
    from src.inference.logprobs import build_tree_batch, score_completions
    from src.interop.pretrained import take_parents_defaults
    from src.losses import mismatched_kl, sequence_sum, sft_loss
    from src.preference.pair_batches import count_pairs, pair_batches
    from src.preference.pair_losses import (
        answer_tokens,
        pair_loss,
        pair_weight,
        with_mismatched,
        without_mismatched,
    )
    from src.preference.pairs import policy_scores, reference_logps, trees_of_steps
    from src.rl.models import score_and_kl
    from src.training import reporting, run_data
    from src.training.device import choose_precision
    from src.training.distributed import all_sum, micro_batches
    from src.training.final import finished_metrics, publish
    from src.training.loop import due, prepare, steps
    from src.training.optimizer import backward, make_optimizer, scheduled_step
    from src.training.progress import Progress
    from src.training.run import Run, set_up_torch
    from src.utils.checkpoint_utils import load_parent, load_reward_checkpoint


def check(args) -> PreferenceLoss:
    """Refuse combinations that mean nothing; fill in what depends on the loss, and return its row.
    """
    cli.require_one_kind_of_pairs(args)
    return fill_loss_flags(args)


def dpo_backward(model, trees, reference, eos_id: int, args) -> dict[str, float]:
    """Add the gradient of one step's pairs; returns metrics over all of them.

    trees: every question carries [chosen, rejected], or several such pairs; of kto one pair and a
    third answer, another question's.
    reference: (pairs, 2) nats, of kto (pairs, 3), in the same order; None: the loss has none.
    """
    counts = [count_pairs([tree]) for tree in trees]
    pairs, kl = sum(counts), 0.0
    if PREFERENCE_LOSSES[args.loss_type].mismatched:
        trees, others = without_mismatched(trees)
        policy = policy_scores(model, others, eos_id)
        kl = mismatched_kl(policy, reference[:, 2:])
        reference = reference[:, :2]
    if reference is None:
        reference = torch.full((pairs, 2), torch.nan)  # read by nobody
    chosen = (answer for _, qs in trees for _, answers in qs for answer in answers[0::2])
    chosen_tokens = sum(len(answer) + 1 for answer in chosen)
    items = list(zip(trees, reference.split(counts), strict=True))
    sums: dict = {}
    for part in micro_batches(
        items, args.micro_batch_size, lambda item: tree_tokens(item[0]), args.micro_batch_tokens
    ):
        tree_batch = build_tree_batch([tree for tree, _ in part], eos_id)
        logp, mask = score_completions(model, tree_batch)
        policy, tokens = sequence_sum(logp, mask).view(-1, 2), mask.sum(-1).view(-1, 2)
        frozen = torch.cat([reference[:0], *(rows for _, rows in part)]).to(policy)
        found = pair_loss(args, policy, tokens, frozen, kl, count=pairs)
        nll = sft_loss(logp[0::2], mask[0::2], chosen_tokens)
        loss = pair_weight(args) * found.loss + args.nll_weight * nll
        backward(loss)
        metrics = {
            "loss": found.loss,
            "total_loss": loss,
            "reward_accuracy": 100 * found.accuracy,
            "chosen_reward": found.chosen_reward.sum() / pairs,
            "rejected_reward": found.rejected_reward.sum() / pairs,
            "reward_margin": (found.chosen_reward - found.rejected_reward).sum() / pairs,
            "chosen_logp_nats": policy[:, 0].sum() / pairs,
            "rejected_logp_nats": policy[:, 1].sum() / pairs,
            "chosen_nll_nats": nll,
        }
        sums = {name: sums.get(name, 0.0) + value.detach() for name, value in metrics.items()}
    record = all_sum(sums)
    weighted = args.nll_weight * record["chosen_nll_nats"]
    record["nll_fraction"] = weighted / record["total_loss"] if weighted else 0.0
    if PREFERENCE_LOSSES[args.loss_type].mismatched:
        record["mismatched_kl_nats"] = float(kl)
    return record


@command
def main(argv=None) -> dict:
    """Train and return the final metrics."""
    parser = build_parser()
    given = parser.parse_args(argv)
    if not given.resume:  # else the flags are checked with the stored ones, below
        check(given)  # before the folder of the run is touched

    with Run(parser, argv, STAGE) as run:
        args = run.args
        loss_row = check(args)
        if run.finished:
            return finished_metrics(run)
        device = set_up_torch(args)

        # The policy starts from its parent; the pairs are of the parent's data.
        parent = load_parent(args.checkpoint, args.model_type)
        scored_by = None
        if args.reward_checkpoint:  # only to log what it says of the policy's answers
            scored_by = load_reward_checkpoint(args.reward_checkpoint, parent)
        parents = [parent, *([scored_by] if scored_by else [])]
        take_parents_defaults(run, parent)
        choose_precision(args, device, parent.model)
        run_data.take_pairs_defaults(run)
        model, tokenizer = parent.model.to(device), parent.tokenizer
        block, eos_id = model.config.block_size, tokenizer.eos_id
        questions = run_data.load_questions(args, tokenizer, block, STAGE, parents)
        held_out = questions.held_out
        train, unseen, max_steps = run_data.planned_pairs(
            args, run.asked["max_steps"], questions, parent
        )
        if loss_row.mismatched:
            train = train._replace(trees=with_mismatched(train.trees))
        per_epoch = steps_per_epoch(len(train.trees.trees), args.batch_size)

        progress = Progress()
        # What the frozen reference says about every pair that will be seen, once.
        reference = unseen_reference = None
        if loss_row.has_reference:
            needed = trees_of_steps(train, args, min(max_steps, per_epoch))
            reference = reference_logps(model, train, needed, eos_id)
            progress.count(needed.trees, forward=1)
            unseen_reference = policy_scores(model, unseen.trees.trees, eos_id)
        unseen_tokens = answer_tokens(unseen.trees.trees)
        more = score_and_kl(scored_by, parent, held_out, device)
        trained = prepare({"model": model}, args, device)
        optimizer = make_optimizer(trained, args.weight_decay)
        run.start(run_data.inputs_of(questions, parents, tokenizer))

        def evaluate(step: int) -> Figures:
            """The policy's answers and what it says of the held-out pairs."""
            figures = reporting.evaluate_and_log(
                run, step, model, tokenizer, held_out, progress, more
            )
            scores = policy_scores(model, unseen.trees.trees, eos_id)
            found = pair_loss(args, scores, unseen_tokens, unseen_reference)
            of_pairs = reporting.log_pair_figures(
                run, step, scores, found, unseen, held_out, progress
            )
            return figures | of_pairs

        # The step loop.
        if run.last is None:
            progress.before = evaluate(0)
        batches = pair_batches(
            train.trees, batch_size=args.batch_size, seed=args.seed, start_step=run.steps_done
        )
        for step in steps(run, max_steps, trained, optimizer, progress):
            started = time.perf_counter()
            batch = next(batches)
            numbers = [n for row in batch.index for n in row]
            frozen = None if reference is None else reference[numbers]
            record = dpo_backward(model, batch.trees, frozen, eos_id, args)
            record |= scheduled_step(run, optimizer, step, max_steps, record["total_loss"])
            displayed = {"loss": record["loss"], "accuracy": record["reward_accuracy"]}
            reporting.log_step(run, step, started, len(numbers), batch.trees, record, **displayed)
            progress.count(batch.trees, gradient=1)
            if due(run, step):
                evaluate(step + 1)

        measured = unseen if held_out is None else held_out
        metrics = reporting.compare(STAGE, progress.before, evaluate(max_steps), measured)
        metrics |= progress.metrics()
        return publish(run, model, tokenizer, questions, metrics, parents)


if __name__ == "__main__":
    main()
