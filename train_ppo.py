"""PPO and its relatives: sample answers, score them, make the better ones more probable.

    PYTHONPATH=src python train_ppo.py --model_type transformer

Starts from the SFT checkpoint (--checkpoint: any policy) and the reward checkpoint. One step is one
batch of sampled answers (src/rl/rollout.py) and several epochs of updates on it
(src/rl/update.py); --algorithm names a row of choices (src/rl/algorithm_table.py). Writes
checkpoints/{model_type}_train_ppo/.
"""

import time
from functools import partial

from src.rl.algorithm_table import (
    ROWS,
    Algorithm,
    Selection,
    fill_choices,
    row_of,
    values_of,
)
from src.utils import cli
from src.utils.constants import PPO as STAGE
from src.utils.errors import UserError
from src.utils.exit_handling import command, flags_first


def build_parser() -> cli.Parser:
    """All flags with their units and defaults."""
    parser = cli.Parser(prog="train_ppo.py", description=__doc__.split("\n")[0])
    cli.add_model_flag(parser)
    cli.add_parent_flag(parser)
    cli.add_data_flags(parser, default=None)
    cli.add_training_flags(parser, lr=1e-4, batch_size=16, epochs=0.1, save_every=10)
    cli.add_machine_flags(parser)
    add = parser.add_argument
    add("--reward_checkpoint", help="default checkpoints/{model_type}_train_reward_model/final.pt")
    add("--reward", default="model", help="model, f1, em, noise (a control: random, by "
        "--seed, question and answer), or module:function of your own, called with (prediction, "
        "golds, context, question); or several with weights: model=1,a:f=0.2")
    add("--algorithm", choices=tuple(ROWS), default="ppo",
        help="a row of src/rl/algorithm_table.py: ppo has a critic, reinforce the batch's mean as "
        "baseline, rloo, grpo, dr_grpo, dapo, gspo and cispo the question's other answers; raft "
        "learns from the best answer, online_dpo from the best and the worst")
    add("--advantage", choices=values_of("advantage"),
        help="what a reward is compared with; default: the row's, as all choices")
    add("--ratio", choices=values_of("ratio"), help="of token or sequence probabilities")
    add("--clip", choices=values_of("clip"), help="what to clip: the ratio (both, or with a "
        "higher upper end), the weight (CISPO), or nothing")
    add("--mean", choices=values_of("mean"),
        help="of the loss: over tokens, over answers' means, over answers' sums by a constant")
    add("--kl_in", choices=values_of("kl_in"), help="put the KL penalty in reward or loss")
    add("--kl_estimator", choices=values_of("kl_estimator"), help="k1, k2 or k3 of that KL")
    add("--clip_low", type=cli.non_negative, help="the ratio's lower end is 1 - this")
    add("--clip_high", type=cli.positive, help="the ratio's upper end is 1 + this")
    add("--num_samples", type=cli.positive_int, default=4, help="answers sampled a question")
    add("--max_new_tokens", type=cli.positive_int,
        help="longest sampled answer, EOS included; default: --max_answer_tokens")
    add("--temperature", type=cli.sampling_temperature, default=1.0,
        help="of sampling and of log-probs")
    add("--kl_coef", type=cli.non_negative,
        help="reward, or loss, per nat of KL; default: the row's (ppo, rloo, reinforce: 0.05)")
    add("--beta", type=cli.positive, help="of online_dpo, per nat; default: 0.1")
    add("--kl_target", type=cli.positive, help="nats an answer to steer --kl_coef to, if any")
    add("--kl_horizon", type=cli.positive_int,
        help="episodes over which a KL off target by 20%% or more moves --kl_coef by a fifth; "
        "default: a tenth of the run's")
    add("--kl_limit", type=cli.positive, default=20.0, help="nats an answer at which to stop")
    add("--gamma", type=cli.share, default=1.0, help="discount a token")
    add("--lam", type=cli.share, default=0.95, help="GAE's lambda")
    add("--clip_range", type=cli.positive, help="--clip_low and --clip_high in one")
    add("--value_clip_range", type=cli.positive, default=0.2,
        help="how far a value may move from its rollout value")
    add("--value_coef", type=cli.non_negative, default=0.1, help="weight of the value loss")
    add("--missing_eos_penalty", type=cli.non_negative, default=1.0,
        help="reward lost by an answer without an EOS token")
    add("--ppo_epochs", type=cli.positive_int,
        help="passes over a batch; default: 2, with --clip none (reinforce) 1")
    add("--minibatches", type=cli.positive_int, help="updates a pass; default: as of --ppo_epochs")
    cli.note_pretrained_defaults(parser, STAGE)
    return parser


with flags_first(__name__, build_parser):
    from src.data.squad_dataset import indexed_batches
    from src.evaluation.intervals import Figures
    from src.interop.pretrained import take_parents_defaults
    from src.rl import metrics as rl_metrics
    from src.rl.models import load_models, reward_and_kl
    from src.rl.rewards import make_reward
    from src.rl.rollout import rollout_prompts, sample_rollout, select_answers, settings_of
    from src.rl.update import update_policy
    from src.training import planning, reporting, run_data
    from src.training.device import choose_precision
    from src.training.final import finished_metrics, publish
    from src.training.loop import due, prepare, steps
    from src.training.optimizer import make_optimizer, scheduled_step
    from src.training.progress import Progress
    from src.training.run import Run, set_up_torch
    from src.utils.progress_bar import say


def check(args, parser) -> Algorithm | Selection:
    """Reject flag combinations that make no sense, fill in defaults that depend on the algorithm,
    and return its row.
    """
    row = row_of(args)
    fill_choices(args, row)
    for name in ("ppo_epochs", "minibatches"):
        given = getattr(args, name)
        if given is None:
            setattr(args, name, 1 if row.on_policy else 2)
        elif row.on_policy and given > 1:
            raise UserError(
                f"--{name} {given} given with {args.algorithm} unclipped, whose gradient holds for "
                "fresh samples only, expected 1"
            )
    if args.num_samples < row.fewest_samples:
        raise UserError(
            f"--num_samples {args.num_samples} given with {args.algorithm}, which compares the "
            f"answers to a question, expected {row.fewest_samples} or more"
        )
    for used, names, why in (
        (row.has_critic, ("gamma", "lam", "value_clip_range", "value_coef"),
         f"with --algorithm {args.algorithm}, which has no critic here"),
        (args.kl_target, ("kl_horizon",), "without --kl_target"),
    ):
        changed = [n for n in names if getattr(args, n) != parser.get_default(n)]
        if changed and not used:
            raise UserError(f"--{changed[0]} given {why}, expected it left out")
    return row


@command
def main(argv=None) -> dict:
    """Train and return the final metrics."""
    parser = build_parser()
    given = parser.parse_args(argv)
    if not given.resume:  # else the flags are checked with the stored ones, below
        check(given, parser)  # before the folder of the run is touched

    with Run(parser, argv, STAGE) as run:
        args = run.args
        row = check(args, parser)
        if run.finished:
            return finished_metrics(run)
        device = set_up_torch(args)
        parents, reward, models = load_models(args, row.has_critic, device)
        take_parents_defaults(run, parents[0])
        policy, tokenizer = models.policy, parents[0].tokenizer
        choose_precision(args, device, policy)
        block = policy.config.block_size
        questions = run_data.load_questions(args, tokenizer, block, STAGE, parents, samples=True)
        too_long = run_data.out_of_reach(questions, args.max_new_tokens)
        say(rl_metrics.reach(len(too_long), questions.units, args.max_new_tokens))
        max_steps = planning.plan_steps(args, questions.units)
        rl_metrics.set_horizon(args, questions.units)
        trained = prepare(models.trained(), args, device)
        optimizer = make_optimizer(trained, args.weight_decay, eps=1e-5)
        settings = settings_of(args, row, tokenizer.eos_id, device)
        held_out = questions.held_out
        reward_of = make_reward(
            args.reward, reward, tokenizer, args.answer_metric, args.seed
        )
        more = reward_and_kl(
            reward_of, models, held_out, tokenizer.eos_id, args.max_new_tokens
        )
        run.start(run_data.inputs_of(questions, parents, tokenizer))
        progress = Progress(kl_coef=args.kl_coef or 0.0)

        def evaluate(step: int) -> Figures:
            """Greedy answers with their metrics, their reward, and the KL that it has cost."""
            return reporting.evaluate_and_log(
                run, step, policy, tokenizer, held_out, progress, more
            )

        if run.last is None:
            progress.before = evaluate(0)
        batches = indexed_batches(
            questions.encoded, questions.units, batch_size=args.batch_size, seed=args.seed,
            start_step=run.steps_done,
        )
        for step in steps(run, max_steps, trained, optimizer, progress, several_updates=True):
            started = time.perf_counter()
            # Sample a batch of answers with the policy as it is ...
            prompts = rollout_prompts(next(batches), questions.train, too_long)
            rollout = sample_rollout(models, prompts, reward_of, progress.kl_coef, step, settings)
            record = rl_metrics.describe(rollout, settings)
            # ... then update the policy with them for a few epochs.
            chosen = select_answers(rollout, settings)
            take_step = partial(scheduled_step, run, optimizer, step, max_steps)
            record |= update_policy(models, chosen, step, settings, take_step)
            record |= rl_metrics.describe_chosen(chosen, settings)
            episodes, kl = len(rollout.score), record["kl_nats"]
            displayed = {"loss": record["loss"], "reward": record["reward_mean"], "kl": kl}
            reporting.log_step(run, step, started, episodes, rollout.trees, record, **displayed)
            # Forward: sampling, reference, reward model, critic; then epochs of what is trained.
            progress.count(rollout.trees, forward=2 + bool(reward) + row.has_critic)
            passes = args.ppo_epochs * (1 + row.has_critic)
            progress.count(chosen.trees, gradient=passes)
            progress.sampled_tokens += int(rollout.mask.sum())
            progress.kl_coef = rl_metrics.next_kl_coef(args, progress.kl_coef, kl, episodes)
            if kl > args.kl_limit:
                run.end.after_step(rl_metrics.collapse(kl, args.kl_limit))
            if due(run, step):
                evaluate(step + 1)

        # What it learnt, on articles that neither it nor the reward model ever saw.
        metrics = reporting.compare(STAGE, progress.before, evaluate(max_steps), held_out)
        metrics |= progress.metrics() | {"sampled_tokens": progress.sampled_tokens}
        return publish(run, policy, tokenizer, questions, metrics, parents)


if __name__ == "__main__":
    main()
