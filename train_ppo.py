"""PPO: sample answers, score them with the reward model, make the better ones more probable.

    PYTHONPATH=src python train_ppo.py --model_type transformer

Starts from the SFT checkpoint (--checkpoint: any policy) and the reward checkpoint. One step is one
batch of sampled answers and several epochs of updates on it. Writes
checkpoints/{model_type}_train_ppo/.
"""

import copy
import time

from src.names import STAGES
from src.utils import cli

REWARD_STAGE, STAGE = STAGES[2], STAGES[3]


def build_parser() -> cli.Parser:
    """All flags with their units and defaults."""
    parser = cli.Parser(prog="train_ppo.py", description=__doc__.split("\n")[0])
    cli.add_model_flag(parser)
    cli.add_parent_flag(parser)
    cli.add_data_flags(parser, default=None)
    cli.add_training_flags(
        parser, lr=1e-4, batch_size=16, batch_unit="contexts", epochs=0.1, eval_limit=500
    )
    cli.add_machine_flags(parser)
    add = parser.add_argument
    add("--reward_checkpoint", help="default checkpoints/{model_type}_train_reward_model/final.pt")
    add("--reward", default="model", help="model, f1, em, or module:function of your own, called "
        "with (prediction, golds, context, question)")  # fmt: skip
    add("--algorithm", choices=("ppo", "rloo", "reinforce"), default="ppo",
        help="ppo with a critic; rloo: leave-one-out baseline; reinforce: mean baseline")  # fmt: skip
    add("--num_samples", type=cli.positive_int, default=2, help="answers sampled a question")
    add("--max_new_tokens", type=cli.positive_int, default=16, help="longest answer, stop included")
    add("--temperature", type=cli.positive, default=1.0, help="of sampling and of log-probs")
    add("--kl_coef", type=cli.non_negative, default=0.05, help="reward lost per nat of KL")
    add("--kl_target", type=cli.positive, help="nats an answer to steer --kl_coef to; default: fixed")
    add("--kl_horizon", type=cli.positive_int, default=10_000, help="episodes of the steering")
    add("--kl_limit", type=cli.positive, default=20.0, help="nats an answer at which to stop")
    add("--gamma", type=cli.share, default=1.0, help="discount a token")
    add("--lam", type=cli.share, default=0.95, help="GAE's lambda")
    add("--clip_range", type=cli.positive, default=0.2, help="policy ratio's distance from 1")
    add("--value_clip_range", type=cli.positive, default=0.2, help="values' distance from the old")
    add("--value_coef", type=cli.non_negative, default=0.1, help="weight of the value loss")
    add("--no_stop_penalty", type=cli.non_negative, default=1.0, help="reward lost by a cut answer")
    add("--ppo_epochs", type=cli.positive_int, help="passes over a batch; default 4, reinforce 1")
    add("--minibatches", type=cli.positive_int, help="updates a pass; default 4, reinforce 1")
    return parser


def check(args) -> None:
    """Refuse combinations that mean nothing; fill in what depends on the algorithm."""
    from src.names import UserError

    on_policy = args.algorithm == "reinforce"
    for name, value in (("ppo_epochs", 4), ("minibatches", 4)):
        given = getattr(args, name)
        if given is None:
            setattr(args, name, 1 if on_policy else value)
        elif on_policy and given > 1:
            raise UserError(
                f"--{name} {given} given with reinforce, whose gradient holds for fresh samples only, "
                "expected 1"
            )
    if args.algorithm == "rloo" and args.num_samples < 2:
        raise UserError("--num_samples 1 given with rloo, expected 2 or more to leave one out")


def reward_of_trees(args, reward, tokenizer, asked, device):
    """trees with answers -> rewards (N,): the reward model's score, or a function of the texts.

    asked: the questions of those trees, in order; used by functions only.
    """
    from src.rewards import function_rewards, model_rewards, reward_function

    if reward is not None:
        return lambda trees: model_rewards(reward, trees, tokenizer.stop_id, device)
    function = reward_function(args.reward)

    def score(trees):
        texts = [[tokenizer.decode(a).strip() for a in answers] for _, qs in trees for _, answers in qs]
        repeated = [about for about, answers in zip(asked, texts, strict=True) for _ in answers]
        return function_rewards(function, [t for answers in texts for t in answers], repeated)

    return score


@cli.command
def main(argv=None) -> dict:
    """Train and return the final metrics."""
    parser = build_parser()
    check(parser.parse_args(argv))  # so that --help and mistakes do not wait for torch

    from src import ppo, stages
    from src.data.squad_dataset import indexed_batches, steps_per_epoch, training_units
    from src.evaluation import Asked
    from src.held_out import PolicyResult
    from src.losses import adaptive_kl_coefficient
    from src.model.heads import Critic
    from src.training import learning_rate, make_optimizer, optimizer_step, steps
    from src.utils.checkpoint_utils import load_parent
    from src.utils.cli import NonFiniteError
    from src.utils.run import Run, say, set_up_torch

    with Run(parser, argv, STAGE) as run:
        args = run.args
        check(args)
        if run.finished:
            return run.final_metrics()
        device = set_up_torch(args)

        # 1. The policy starts from its parent, and the parent stays beside it as the reference.
        parent = load_parent(args.checkpoint, args.model_type)
        tokenizer = parent.tokenizer
        policy = parent.model.to(device)
        reference = copy.deepcopy(policy).requires_grad_(False)
        block = policy.config.block_size
        questions = stages.load_questions(args, tokenizer, block, parent)
        held_out = questions.held_out

        # 2. The reward, and a critic of its own that starts from the reward model, or from 0.
        reward, ancestor = None, None
        if args.reward == "model":
            ancestor = load_parent(
                args.reward_checkpoint, args.model_type, (REWARD_STAGE,), REWARD_STAGE
            )
            stages.require_same_tokenizer(parent, ancestor)
            reward = ancestor.model.to(device).requires_grad_(False)
        critic = None
        modules = {"policy": policy}
        if args.algorithm == "ppo":
            critic = modules["critic"] = Critic(copy.deepcopy(policy))
            if reward is not None:
                critic.start_from_reward(reward)
            critic.to(device).requires_grad_(True)
        models = ppo.Models(policy, reference, critic)
        optimizer = make_optimizer(modules, args.weight_decay)
        room = args.max_new_tokens + 1
        units = training_units(questions.encoded, block, answer_room=room).units
        max_steps = stages.plan_steps(args, steps_per_epoch(len(units), args.batch_size))
        settings = ppo.Settings(
            args.algorithm, tokenizer.stop_id, args.num_samples, args.max_new_tokens,
            args.temperature, args.gamma, args.lam, args.clip_range, args.value_clip_range,
            args.value_coef, args.no_stop_penalty, args.ppo_epochs, args.minibatches,
            args.micro_batch_size or args.batch_size, args.seed, device,
        )  # fmt: skip
        run.start()

        def evaluate(step: int):
            """Greedy answers with their metrics and their reward."""
            result = stages.evaluate_and_log(run, step, policy, tokenizer, held_out, device)
            score = reward_of_trees(args, reward, tokenizer, held_out.asked, device)
            return result, score(held_out.with_answers(result.ids)).tolist()

        # 3. The step loop: collect a batch of episodes, then learn from it.
        extra = {"kl_coef": args.kl_coef}
        if run.last is None:
            before, rewards_before = evaluate(0)
            extra |= {"before": list(before), "rewards_before": rewards_before}
        batches = indexed_batches(
            questions.encoded, batch_size=args.batch_size, seed=args.seed, block_size=block,
            start_step=run.steps_done, answer_room=room,
        )  # fmt: skip
        for step in steps(run, max_steps, modules, optimizer, extra):
            started = time.perf_counter()
            batch = next(batches)
            prompts = [(context, [q for q, _ in qs]) for context, qs in batch.trees]
            raw = [(questions.train[p], q) for places in batch.index for p, q in places]
            asked = [Asked(p.context, p.questions[q].text, p.questions[q].answers) for p, q in raw]
            score = reward_of_trees(args, reward, tokenizer, asked, device)
            rollout = ppo.collect(models, prompts, score, extra["kl_coef"], step, settings)
            record = ppo.describe(rollout, settings)
            rate = learning_rate(step, max_steps, args.warmup, args.lr)
            record |= ppo.learn(
                models, rollout, step, settings,
                lambda loss, rate=rate: optimizer_step(
                    optimizer, rate, args.grad_clip, loss, args.skip_nonfinite
                ),
            )  # fmt: skip
            record |= {"learning_rate": rate, "kl_coef": extra["kl_coef"]}
            episodes = len(rollout.score)
            if args.kl_target:
                # 4. Adaptive KL (Ziegler et al. 2019, section 2.2).
                extra["kl_coef"] = adaptive_kl_coefficient(
                    extra["kl_coef"], record["kl_nats"], args.kl_target, episodes, args.kl_horizon
                )
            stages.log_step(
                run, step, started, episodes, record,
                reward=record["reward_mean"], kl=record["kl_nats"],
            )  # fmt: skip
            if record["kl_nats"] > args.kl_limit:
                raise NonFiniteError(
                    f"the KL to the reference is {record['kl_nats']:.1f} nats an answer, above "
                    f"--kl_limit {args.kl_limit}: the policy has collapsed, raise --kl_coef or lower --lr"
                )
            if stages.due(run, step):
                evaluate(step + 1)

        # 5. What it learnt, on articles that neither it nor the reward model ever saw.
        result, rewards = evaluate(max_steps)
        before = PolicyResult(*extra["before"])
        metrics = {k: v.value for k, v in result.summary(held_out.groups).items()}
        metrics["reward"] = sum(rewards) / len(rewards)
        metrics |= stages.compare("reward", rewards, extra["rewards_before"], held_out.groups, unit=1.0)
        metrics |= stages.compare("em", result.em, before.em, held_out.groups)
        metrics |= stages.compare("f1", result.f1, before.f1, held_out.groups)
        say(f"reward: {args.reward}")
        parents = [parent, ancestor] if ancestor else [parent]
        return stages.finish(run, policy, tokenizer, questions.identity, metrics, parents)


if __name__ == "__main__":
    main()
