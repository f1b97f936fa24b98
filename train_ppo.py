"""PPO: sample answers, score them with the reward model, make the better ones more probable.

    PYTHONPATH=src python train_ppo.py --model_type transformer

Starts from the SFT checkpoint (--checkpoint: any policy) and the reward checkpoint. One step is one
batch of sampled answers and several epochs of updates on it. Writes
checkpoints/{model_type}_train_ppo/.
"""

import time

from src.utils import cli
from src.utils.constants import PPO as STAGE
from src.utils.exit_handling import command


def build_parser() -> cli.Parser:
    """All flags with their units and defaults."""
    parser = cli.Parser(prog="train_ppo.py", description=__doc__.split("\n")[0])
    cli.add_model_flag(parser)
    cli.add_parent_flag(parser)
    cli.add_data_flags(parser, default=None)
    cli.add_training_flags(parser, lr=1e-4, batch_size=16, epochs=0.03, save_every=10)
    cli.add_machine_flags(parser)
    add = parser.add_argument
    add("--reward_checkpoint", help="default checkpoints/{model_type}_train_reward_model/final.pt")
    add("--reward", default="model", help="model, f1, em, or module:function of your own, called "
        "with (prediction, golds, context, question); or several with weights: model=1,a:f=0.2")
    add("--algorithm", choices=("ppo", "rloo", "reinforce"), default="ppo",
        help="ppo: a critic; rloo: leave-one-out baseline; reinforce: mean baseline")
    add("--num_samples", type=cli.positive_int, default=2, help="answers sampled a question")
    add("--max_new_tokens", type=cli.positive_int, default=16, help="longest answer, stop included")
    add("--temperature", type=cli.sampling_temperature, default=1.0,
        help="of sampling and of log-probs")
    add("--kl_coef", type=cli.non_negative, default=0.05, help="reward lost per nat of KL")
    add("--kl_target", type=cli.positive, help="nats an answer to steer --kl_coef to, if any")
    add("--kl_horizon", type=cli.positive_int, default=10_000, help="episodes of the steering")
    add("--kl_limit", type=cli.positive, default=20.0, help="nats an answer at which to stop")
    add("--gamma", type=cli.share, default=1.0, help="discount a token")
    add("--lam", type=cli.share, default=0.95, help="GAE's lambda")
    add("--clip_range", type=cli.positive, default=0.2, help="policy ratio's distance from 1")
    add("--value_clip_range", type=cli.positive, default=0.2, help="values' distance from the old")
    add("--value_coef", type=cli.non_negative, default=0.1, help="weight of the value loss")
    add("--missing_eos_penalty", type=cli.non_negative, default=1.0,
        help="reward lost by an answer without an EOS token")
    add("--ppo_epochs", type=cli.positive_int, help="passes over a batch; default 4, reinforce 1")
    add("--minibatches", type=cli.positive_int, help="updates a pass; default 4, reinforce 1")
    cli.note_pretrained_defaults(parser, STAGE)
    return parser


def check(args, parser) -> None:
    """Refuse combinations that mean nothing; fill in what depends on the algorithm."""
    from src.utils.errors import UserError

    on_policy = args.algorithm == "reinforce"
    for name, value in (("ppo_epochs", 4), ("minibatches", 4)):
        given = getattr(args, name)
        if given is None:
            setattr(args, name, 1 if on_policy else value)
        elif on_policy and given > 1:
            raise UserError(
                f"--{name} {given} given with reinforce, whose gradient holds for fresh "
                "samples only, expected 1"
            )
    if args.algorithm == "rloo" and args.num_samples < 2:
        raise UserError("--num_samples 1 given with rloo, expected 2 or more to leave one out")
    for used, names, why in (
        (args.algorithm == "ppo", ("gamma", "lam", "value_clip_range", "value_coef"),
         f"with --algorithm {args.algorithm}, which has no critic"),
        (not on_policy, ("clip_range",), "with reinforce, which clips nothing"),
        (args.kl_target, ("kl_horizon",), "without --kl_target"),
    ):  # fmt: skip
        changed = [n for n in names if getattr(args, n) != parser.get_default(n)]
        if changed and not used:
            raise UserError(f"--{changed[0]} given {why}, expected it left out")


@command
def main(argv=None) -> dict:
    """Train and return the final metrics."""
    parser = build_parser()
    check(parser.parse_args(argv), parser)  # so that --help and mistakes do not wait for torch

    from src.data.squad_dataset import indexed_batches
    from src.evaluation.intervals import Figures
    from src.interop.pretrained import take_parents_defaults
    from src.rl import metrics as ppo_figures
    from src.rl import ppo
    from src.rl.models import load_models, reward_and_kl
    from src.rl.rewards import reward_of_trees
    from src.training import run_data, stages
    from src.training.console import compare
    from src.training.loop import prepare, steps
    from src.training.optimizer import make_optimizer, update
    from src.training.run import Run, set_up_torch

    with Run(parser, argv, STAGE) as run:
        args = run.args
        check(args, parser)
        if run.finished:
            return run_data.finished_metrics(run)
        device = set_up_torch(args)
        parents, reward, models = load_models(args, device)
        take_parents_defaults(run, parents[0])
        policy, tokenizer = models.policy, parents[0].tokenizer
        block, room = policy.config.block_size, args.max_new_tokens + 1
        questions = run_data.load_questions(
            args, tokenizer, block, STAGE, parents[0], answer_budget=room
        )
        max_steps = stages.plan_steps(args, questions.units)
        trained = prepare(models.trained(), args, device)
        optimizer = make_optimizer(trained, args.weight_decay, eps=1e-5)
        settings = ppo.settings_of(args, tokenizer.eos_id, device)
        more = reward_and_kl(args, reward, models, tokenizer, questions.held_out, device)
        run.start(run_data.inputs_of(questions, parents, tokenizer))
        extra = {"kl_coef": args.kl_coef}  # and figures from before training

        def evaluate(step: int) -> Figures:
            """Greedy answers with their metrics, their reward, and the KL that it has cost."""
            return stages.evaluate_and_log(
                run, step, policy, tokenizer, questions.held_out, device, extra, more
            )

        if run.last is None:
            extra["before"] = evaluate(0)
        batches = indexed_batches(
            questions.encoded, questions.units, batch_size=args.batch_size, seed=args.seed,
            start_step=run.steps_done,
        )  # fmt: skip
        for step in steps(run, max_steps, trained, optimizer, extra, several_updates=True):
            started = time.perf_counter()
            # Collect a batch of episodes with the policy as it is ...
            prompts, asked = ppo.ask(next(batches), questions.train)
            reward_of = reward_of_trees(
                args.reward, reward, tokenizer, asked, device, args.answer_metric
            )
            rollout = ppo.collect(models, prompts, reward_of, extra["kl_coef"], step, settings)
            record = {"kl_coef": extra["kl_coef"], **ppo_figures.describe(rollout, settings)}
            record |= reward_of.means()
            # ... then learn from it for a few epochs.
            record |= ppo.learn(
                models, rollout, step, settings,
                lambda loss, step=step: update(run, optimizer, step, max_steps, loss),
            )  # fmt: skip
            episodes, kl = len(rollout.score), record["kl_nats"]
            displayed = {"loss": record["loss"], "reward": record["reward_mean"], "kl": kl}
            stages.log_step(run, step, started, episodes, rollout.trees, record, **displayed)
            extra["kl_coef"] = ppo_figures.next_kl_coef(args, extra["kl_coef"], kl, episodes)
            if kl > args.kl_limit:
                run.stop_after_step(ppo_figures.collapse(kl, args.kl_limit))
            if stages.due(run, step):
                evaluate(step + 1)

        # What it learnt, on articles that neither it nor the reward model ever saw.
        metrics = compare(STAGE, extra["before"], evaluate(max_steps))
        return stages.publish(run, policy, tokenizer, questions.identity, metrics, parents)


if __name__ == "__main__":
    main()
