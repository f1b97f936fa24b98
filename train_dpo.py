"""DPO: raise the chosen answer above the rejected one, relative to the model it starts from.

    PYTHONPATH=src python train_dpo.py --model_type lstm

Starts from the SFT checkpoint, which is also the frozen reference; what the reference says about
each pair is computed once. Writes checkpoints/{model_type}_train_dpo/.
"""

import time

from src.utils import cli
from src.utils.constants import DPO as STAGE
from src.utils.errors import UserError
from src.utils.exit_handling import command


def build_parser() -> cli.Parser:
    """All flags with their units and defaults."""
    parser = cli.Parser(prog="train_dpo.py", description=__doc__.split("\n")[0])
    cli.add_model_flag(parser)
    cli.add_parent_flag(parser)
    cli.add_data_flags(parser, default=None)
    cli.add_pair_flags(parser)
    cli.add_training_flags(parser, lr=3e-4, batch_size=16, epochs=0.4)
    cli.add_machine_flags(parser)
    add = parser.add_argument
    add("--beta", type=cli.positive, default=0.1, help="per nat; for ipo the paper's tau")
    add("--loss_type", choices=("sigmoid", "ipo"), default="sigmoid", help="the loss")
    add("--label_smoothing", type=cli.number(float, 0, 0.5), default=0.0,
        help="share of pairs taken to be labelled the wrong way round; sigmoid only")  # fmt: skip
    add("--nll_weight", type=cli.non_negative, default=1.0,
        help="weight of the chosen answers' loss in nats a token, beside the DPO loss")  # fmt: skip
    cli.note_pretrained_defaults(parser, STAGE)
    return parser


def check(args) -> None:
    """Refuse combinations that mean nothing."""
    cli.require_one_kind_of_pairs(args)
    if args.loss_type == "ipo" and args.label_smoothing:
        raise UserError(
            f"--label_smoothing {args.label_smoothing} given with --loss_type ipo, expected 0: the "
            "ipo loss has no smoothing, use --loss_type sigmoid"
        )


def dpo_backward(model, trees, reference, eos_id: int, args, device) -> dict[str, float]:
    """Add the gradient of one step's pairs; returns figures over all of them.

    trees: every question carries [chosen, rejected], or several such pairs. reference: (pairs, 2)
    nats, in the same order.
    """
    from torch import cat

    from src.data.windows import tree_tokens
    from src.inference.logprobs import build_tree_batch, score_completions
    from src.losses import dpo_loss, sequence_sum, sft_loss
    from src.preference.pair_batches import count_pairs
    from src.training.distributed import all_sum, micro_batches

    pairs = len(reference)
    chosen = (answer for _, qs in trees for _, answers in qs for answer in answers[0::2])
    chosen_tokens = sum(len(answer) + 1 for answer in chosen)
    scored = zip(trees, reference.split([count_pairs([tree]) for tree in trees]), strict=True)
    sums: dict = {}
    for part in micro_batches(
        list(scored), args.micro_batch_size, lambda item: tree_tokens(item[0]),
        args.micro_batch_tokens,
    ):  # fmt: skip
        tree_batch = build_tree_batch([tree for tree, _ in part], eos_id, device)
        logp, mask = score_completions(model, tree_batch)
        policy = sequence_sum(logp, mask).view(-1, 2)
        frozen = cat([reference[:0], *(rows for _, rows in part)]).to(device)
        dpo = dpo_loss(
            policy[:, 0], policy[:, 1], frozen[:, 0], frozen[:, 1],
            args.beta, args.label_smoothing, args.loss_type, count=pairs,
        )  # fmt: skip
        nll = sft_loss(logp[0::2], mask[0::2], chosen_tokens)
        loss = dpo.loss + args.nll_weight * nll
        loss.backward()
        figures = {
            "loss": dpo.loss,
            "total_loss": loss,
            "reward_accuracy": 100 * dpo.accuracy,
            "chosen_reward": dpo.chosen_reward.sum() / pairs,
            "rejected_reward": dpo.rejected_reward.sum() / pairs,
            "reward_margin": (dpo.chosen_reward - dpo.rejected_reward).sum() / pairs,
            "chosen_logp_nats": policy[:, 0].sum() / pairs,
            "rejected_logp_nats": policy[:, 1].sum() / pairs,
            "chosen_nll_nats": nll,
        }
        sums = {name: sums.get(name, 0.0) + value.detach() for name, value in figures.items()}
    return all_sum(sums)


@command
def main(argv=None) -> dict:
    """Train and return the final metrics."""
    parser = build_parser()
    check(parser.parse_args(argv))  # so that --help and mistakes do not wait for torch

    from src.data.squad_dataset import steps_per_epoch
    from src.evaluation.intervals import Figures
    from src.interop.pretrained import take_parents_defaults
    from src.preference.pair_batches import pair_batches
    from src.preference.pairs import pair_points, policy_scores, reference_logps, trees_of_steps
    from src.training import run_data, stages
    from src.training.console import compare
    from src.training.loop import prepare, steps
    from src.training.optimizer import make_optimizer, update
    from src.training.run import Run, set_up_torch
    from src.utils.checkpoint_utils import load_parent

    with Run(parser, argv, STAGE) as run:
        args = run.args
        if run.finished:
            return run_data.finished_metrics(run)
        device = set_up_torch(args)

        # The policy starts from its parent; the pairs are of the parent's data.
        parent = load_parent(args.checkpoint, args.model_type)
        take_parents_defaults(run, parent)
        run_data.take_pairs_defaults(run)
        model, tokenizer = parent.model.to(device), parent.tokenizer
        block, eos_id = model.config.block_size, tokenizer.eos_id
        questions = run_data.load_questions(args, tokenizer, block, STAGE, parent)
        held_out = questions.held_out
        asked_steps = run.asked["max_steps"]
        made_of = None if args.pairs else questions.units
        planned = stages.steps_for_pairs(args, asked_steps, made_of)
        train, unseen = run_data.load_pairs(args, questions, tokenizer, block, planned)
        max_steps = stages.plan_pair_steps(args, asked_steps, train)
        per_epoch = steps_per_epoch(len(train.trees.trees), args.batch_size)

        # What the frozen reference says about every pair that will be seen, once.
        needed = trees_of_steps(train, args, min(max_steps, per_epoch))
        reference = reference_logps(model, train, needed, eos_id, device)
        unseen_reference = policy_scores(model, unseen.trees.trees, eos_id, device)
        trained = prepare({"model": model}, args, device)
        optimizer = make_optimizer(trained, args.weight_decay)
        run.start(run_data.inputs_of(questions, [parent], tokenizer))
        extra: dict = {}  # what is known from before training, kept when the run is resumed

        def evaluate(step: int) -> Figures:
            """The policy's answers and what it says of the held-out pairs."""
            figures = stages.evaluate_and_log(run, step, model, tokenizer, held_out, device, extra)
            scores = policy_scores(model, unseen.trees.trees, eos_id, device)
            stages.log_pair_figures(run, step, scores, unseen_reference, unseen, args.beta)
            return figures | {"preference_accuracy": pair_points(scores, unseen)}

        # The step loop.
        if run.last is None:
            extra["before"] = evaluate(0)
        batches = pair_batches(
            train.trees, batch_size=args.batch_size, seed=args.seed, start_step=run.steps_done
        )
        for step in steps(run, max_steps, trained, optimizer, extra):
            started = time.perf_counter()
            batch = next(batches)
            numbers = [n for row in batch.index for n in row]
            record = dpo_backward(model, batch.trees, reference[numbers], eos_id, args, device)
            record |= update(run, optimizer, step, max_steps, record["total_loss"])
            displayed = {"loss": record["loss"], "accuracy": record["reward_accuracy"]}
            stages.log_step(run, step, started, len(numbers), batch.trees, record, **displayed)
            if stages.due(run, step):
                evaluate(step + 1)

        metrics = compare(STAGE, extra["before"], evaluate(max_steps))
        return stages.publish(run, model, tokenizer, questions.identity, metrics, [parent])


if __name__ == "__main__":
    main()
