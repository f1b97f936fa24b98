"""Reward model: a scalar for each answer, higher for the chosen one of a pair.

    PYTHONPATH=src python train_reward_model.py --model_type transformer

The SFT model's backbone, trained further, with a scalar head read at EOS. Writes
checkpoints/{model_type}_train_reward_model/.
"""

import time

from src.utils import cli
from src.utils.constants import REWARD as STAGE
from src.utils.exit_handling import command, flags_first


def build_parser() -> cli.Parser:
    """All flags with their units and defaults."""
    parser = cli.Parser(prog="train_reward_model.py", description=__doc__.split("\n")[0])
    cli.add_model_flag(parser)
    cli.add_parent_flag(parser)
    cli.add_data_flags(parser, default=None)
    cli.add_training_flags(parser, lr=1e-3, batch_size=16, epochs=0.25)
    cli.add_machine_flags(parser)
    cli.add_pair_flags(parser)
    cli.note_pretrained_defaults(parser, STAGE)
    return parser


with flags_first(__name__, build_parser):
    from src.evaluation.intervals import Figures
    from src.inference.logprobs import build_tree_batch, raw_reward
    from src.interop.pretrained import take_parents_defaults
    from src.losses import pairwise_reward_loss
    from src.model.heads import RewardModel
    from src.preference import pairs
    from src.preference.pair_batches import count_pairs, pair_batches
    from src.training import reporting, run_data
    from src.training.device import choose_precision
    from src.training.distributed import all_sum, micro_batches
    from src.training.final import finished_metrics, publish
    from src.training.loop import due, prepare, steps
    from src.training.optimizer import backward, make_optimizer, scheduled_step
    from src.training.progress import Progress
    from src.training.run import Run, set_up_torch
    from src.utils.checkpoint_utils import load_parent


def reward_backward(reward, trees, eos_id: int, args) -> dict[str, float]:
    """Add the gradient of one step's pairs; trees: every question carries [chosen, rejected], or
    several such pairs.
    """
    count = count_pairs(trees)
    sums = {"loss": 0.0, "accuracy": 0.0, "margin_nats": 0.0}
    for part in micro_batches(trees, args.micro_batch_size, tokens=args.micro_batch_tokens):
        tree_batch = build_tree_batch(part, eos_id, reads_eos=True)
        scores = raw_reward(reward, tree_batch).view(-1, 2)
        result = pairwise_reward_loss(scores[:, 0], scores[:, 1], count=count)
        backward(result.loss)
        sums["loss"] += result.loss.detach()
        sums["accuracy"] += 100 * result.accuracy
        sums["margin_nats"] += (scores[:, 0] - scores[:, 1]).detach().sum() / count
    return all_sum(sums)


@command
def main(argv=None) -> dict:
    """Train and return the final metrics."""
    parser = build_parser()
    # Before the folder of the run is touched.
    cli.require_one_kind_of_pairs(parser.parse_args(argv))

    with Run(parser, argv, STAGE) as run:
        args = run.args
        if run.finished:
            return finished_metrics(run)
        device = set_up_torch(args)

        # The backbone starts from its parent; the pairs are of the parent's data.
        parent = load_parent(args.checkpoint, args.model_type)
        take_parents_defaults(run, parent)
        choose_precision(args, device, parent.model)
        run_data.take_pairs_defaults(run)
        tokenizer, eos_id = parent.tokenizer, parent.tokenizer.eos_id
        reward = RewardModel(parent.model).to(device)
        block = parent.model.config.block_size
        questions = run_data.load_questions(args, tokenizer, block, STAGE, [parent])
        train, unseen, max_steps = run_data.planned_pairs(
            args, run.asked["max_steps"], questions, parent
        )
        trained = prepare({"reward": reward}, args, device)
        optimizer = make_optimizer(trained, args.weight_decay)
        run.start(run_data.inputs_of(questions, [parent], tokenizer))
        progress = Progress()
        measured = unseen if unseen.given else questions.held_out

        def evaluate(step: int) -> tuple[Figures, dict[str, float]]:
            """Held-out accuracy, overall and by kind, beside what a length rule scores."""
            scores = pairs.raw_scores(reward, unseen.trees.trees, eos_id).view(-1, 2)
            table = {"accuracy": pairs.accuracy(scores, unseen)}
            table["length_rule"] = pairs.length_rule(unseen)
            table["margin_nats"] = pairs.margin(scores, unseen)
            by_kind = pairs.accuracy_by_kind(scores, unseen)
            table |= {f"accuracy_{kind}": interval for kind, interval in by_kind.items()}
            figures = {"accuracy": pairs.pair_points(scores, unseen)}
            gains = progress.gains(figures)
            reporting.log_intervals(run, step, table, measured, gains)
            reporting.say_pairs(progress, scores, unseen)
            return figures, {name: interval.value for name, interval in table.items()}

        # The step loop.
        if run.last is None:
            progress.before, _ = evaluate(0)
        batches = pair_batches(
            train.trees, batch_size=args.batch_size, seed=args.seed, start_step=run.steps_done
        )
        for step in steps(run, max_steps, trained, optimizer, progress):
            started = time.perf_counter()
            trees = next(batches).trees
            record = reward_backward(reward, trees, eos_id, args)
            record |= scheduled_step(run, optimizer, step, max_steps, record["loss"])
            displayed = {"loss": record["loss"], "accuracy": record["accuracy"]}
            reporting.log_step(run, step, started, count_pairs(trees), trees, record, **displayed)
            progress.count(trees, gradient=1)
            if due(run, step):
                evaluate(step + 1)

        # The loss fixes no offset: scores of gold answers become mean 0, standard deviation 1.
        golds = run_data.gold_trees(questions, train, args.seed)
        pairs.normalise_on(reward, golds, eos_id)
        figures, metrics = evaluate(max_steps)
        metrics |= reporting.compare(STAGE, progress.before, figures, measured)
        metrics |= progress.metrics()
        return publish(run, reward, tokenizer, questions, metrics, [parent])


if __name__ == "__main__":
    main()
