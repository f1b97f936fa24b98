"""Evaluate policies side by side on the same held-out questions, beside what rules score.

    PYTHONPATH=src python eval_dpo.py --model_type transformer

Without --checkpoint: the DPO and PPO checkpoints of --model_type and their SFT parent. Prints
answers to sample prompts and a table: EM, F1, answer loss, preference accuracy, reward-model score
and win rate against the SFT parent (where there is a reward checkpoint), KL from it, with 95%
intervals. A second table has the gains over the SFT model, paired question by question.
"""

from src.utils import cli
from src.utils.constants import DEFAULT_DIFFICULTY, DPO, PPO
from src.utils.errors import UserError
from src.utils.exit_handling import command, flags_first

# metric -> its unit in the table
UNITS = {
    "em": "%",
    "f1": "%",
    "metric": "own",
    "answer_loss_nats": "nats/token",
    "preference_accuracy": "%",
    "reward": "sd",
    "win_rate": "%",
    "kl_nats": "nats/answer",
}


def build_parser() -> cli.Parser:
    """All flags with their units and defaults."""
    parser = cli.Parser(prog="eval_dpo.py", description=__doc__.split("\n")[0])
    cli.add_model_flag(parser)
    cli.add_data_flags(parser, default=None, trains=False)
    cli.add_machine_flags(parser)
    add = parser.add_argument
    add("--checkpoint", nargs="+", help="policies of any stage; default: those of DPO and PPO "
        "that there are, and their SFT parent")
    add("--reward_checkpoint", help="default checkpoints/{model_type}_train_reward_model/final.pt")
    add("--split", choices=("train", "validation", "test"),
        help="which of several; default: validation, or test where that is all there is")
    add("--doc_stride", type=cli.positive_int, help="read a context that is too long in windows "
        "that start so many tokens apart and take the answer of the highest log-probability; "
        "default: only its first window")
    add("--limit", type=cli.positive_int, help="questions, a seeded sample; default: all")
    add("--corruptions", help="kind=weight,... of the preference pairs; default: equal weights. "
        "No pairs of the kind sampled are made here")
    add("--best_of", type=cli.sizes, metavar="1,2,4,...", help="sample as many answers a question "
        "as the largest of these, and report the best by the reward model of so many of them")
    add("--output", help="write {'policies': {path: {metric: {value, low, high}}}} to this file, "
        "with a list 'best_of' where it was measured; null: no interval; beside it counts of "
        "questions: measured, trained on, left out")
    add("--per_question", help="write {'policies': {path: {metric: {values, denominators, "
        "contexts}}}}, an entry a question or pair, to this file, beside it 'context_names'")
    add("--predictions", help="write the first policy's {question id: answer} to this file")
    return parser


with flags_first(__name__, build_parser):
    from src.data.squad_loader import load_from_identity, load_squad, require_difficulties
    from src.data.squad_preferences import parse_corruptions
    from src.data.trained_contexts import union
    from src.evaluation.best_of_n import best_of_lines, best_of_n_rows
    from src.evaluation.compare_policies import (
        check_parents,
        common_ground,
        gains_over,
        load_reward,
        policy_figures,
        print_table,
        rule_rows,
        sft_ancestor,
    )
    from src.evaluation.evaluation_set import baselines_of, context_names, hold_out, sample_lines
    from src.evaluation.intervals import intervals, question_figures
    from src.evaluation.user_functions import load_function
    from src.preference.pairs import held_out_pairs
    from src.training.device import choose_precision
    from src.training.run import set_up_torch
    from src.training.run_data import say_remedy
    from src.utils.checkpoint_utils import load_parent, require_same_tokenizer, stage_folder
    from src.utils.files import require_file_place, write_json
    from src.utils.progress_bar import say


def check(args) -> None:
    """Refuse what would be ignored, and what could be written only after all has been measured."""
    if args.strict_data and not (args.dataset or args.difficulty or args.split):
        raise UserError(
            "--strict_data given without --dataset, --difficulty or --split, expected one of them: "
            "the checkpoint's own held-out questions were checked when it was trained"
        )
    if args.best_of and args.doc_stride:
        raise UserError(
            "--best_of given with --doc_stride, expected one of them: samples are drawn from the "
            "first window of a context"
        )
    for flag in ("output", "per_question", "predictions"):
        if (path := getattr(args, flag)) is not None:
            require_file_place(flag, path)


def load_policies(args) -> list:
    """The policies to compare; the SFT parent that the others are measured against comes with them.
    """
    if args.checkpoint:
        return [load_parent(path, args.model_type) for path in args.checkpoint]
    there = [s for s in (DPO, PPO) if (stage_folder(args.model_type, s) / "final.pt").exists()]
    trained = [load_parent(None, args.model_type, (s,), s) for s in there or [DPO]]
    return [*trained, sft_ancestor(trained[0])]


def load_held_out(args, policy, trained_on, block_size: int):
    """(training paragraphs, what is held out, data name); trained_on: contexts that are not."""
    stored = policy.data
    own = args.metric or (None if args.dataset else stored.get("metric"))
    own_metric = load_function(own, "--metric") if own else None
    train = load_from_identity(stored)
    if args.dataset is None and args.difficulty is None and args.split is None:
        data, source = train, train.validation
    else:
        data = load_squad(
            args.dataset or stored["dataset"],
            seed=stored.get("seed") or 0,
            difficulty=args.difficulty or stored.get("difficulty") or DEFAULT_DIFFICULTY,
            num_examples=stored.get("num_examples"),
            strict=args.strict_data,
            evaluate=True,
            split=args.split,
        )
        if args.dataset in (None, "auto"):  # what parsing could not check
            require_difficulties(data.identity["dataset"], args.difficulty)
        source = data.validation
    for line in data.report.lines():
        say(f"{data.identity['dataset']}: {line}")
    name = data.identity["dataset"]
    split = f" --split {args.split}" if args.split else ""
    held = hold_out(
        source, trained_on, policy.tokenizer, block_size,
        args.max_answer_tokens or policy.max_answer_tokens, source=f"--dataset {name}{split}",
        limit=args.limit, seed=args.seed, include_trained=args.include_trained,
        doc_stride=args.doc_stride, metric=args.answer_metric or policy.answer_metric,
        own_metric=own_metric,
    )
    return train.train, held, name


@command
def main(argv=None) -> dict:
    """Print the tables; returns {"policies": {path: {metric: {"value", "low", "high"}}}}, beside it
    "gains" over the SFT model (or else the first policy), paired question by question, and with
    --best_of beside the metrics "best_of": [{"n", "f1", "reward", "kl_bound", ...}].
    """
    args = build_parser().parse_args(argv)
    check(args)

    device = set_up_torch(args)
    policies = load_policies(args)
    choose_precision(args, device, policies[0].model)
    for policy in policies[1:]:
        require_same_tokenizer(policies[0], policy)
    parent = sft_ancestor(policies[0], policies)
    scored_by = load_reward(args, policies[0])
    if args.best_of and scored_by is None:
        raise UserError(
            "--best_of given without a reward model, which chooses the best: expected "
            f"--reward_checkpoint, or run: python train_reward_model.py --model_type "
            f"{args.model_type}"
        )
    check_parents(policies, parent, scored_by)
    reward = scored_by.model if scored_by else None
    readers = [p.model for p in (*policies, parent)] + ([reward.backbone] if reward else [])
    block = min(model.config.block_size for model in readers)
    # What any of them was trained on is held out for none.
    measured = [*policies, parent, *([scored_by] if scored_by else [])]
    trained_on = union(checkpoint.trained_on for checkpoint in measured)
    train, held, name = load_held_out(args, policies[0], trained_on, block)
    held_out = held.questions
    pairs = held_out_pairs(
        held.chosen, held.encoded, policies[0].tokenizer, block, name,
        parse_corruptions(args.corruptions), held_out.metric,
    )
    if not pairs.pairs:
        say(
            f"--corruptions {args.corruptions or 'by default'} makes no pair here: preference "
            "accuracy is left out"
        )
    say(
        f"{name}: {held_out.summary()}; {pairs.trees.dropped} pairs did not fit the block; "
        f"answers compared by {held_out.metric}"
    )
    say_remedy(held_out, held.encoded, policies[0].tokenizer)
    ground = common_ground(held_out, pairs, policies[0].tokenizer, parent.model, reward, device)
    results = {p.path: policy_figures(ground, p.model) for p in policies}
    for path, (result, _) in results.items():
        print(f"\n{path}")
        print("\n".join(sample_lines(held_out, result.answers)))
    table = {path: intervals(figures) for path, (_, figures) in results.items()}
    rules = rule_rows(baselines_of(held_out, policies[0].tokenizer, train), held_out)
    print_table({**table, **rules}, UNITS, held_out.kind)
    base = parent.path if parent.path in results else policies[0].path
    gains = {path: gains_over(results[base][1], figures)
             for path, (_, figures) in results.items() if path != base}
    if gains:
        print_table(gains, UNITS, held_out.kind, f"over {base}, paired", "+")
    values = {path: {k: v.as_json() for k, v in row.items()} for path, row in table.items()}
    counts = {"questions": len(held_out.examples), "trained_on": held_out.seen,
              "left_out_as_trained_on": held.left_out}
    report = {"policies": values, **counts, "gains": {"over": base, "policies": {
        path: {k: v.as_json() for k, v in row.items()} for path, row in gains.items()
    }}}
    by_question = {path: question_figures(figures) for path, (_, figures) in results.items()}
    for policy in policies if args.best_of else ():
        rows, of_questions = best_of_n_rows(ground, policy.model, args.best_of, args.seed)
        values[policy.path]["best_of"] = rows
        by_question[policy.path] |= of_questions
        print(f"\n{policy.path}: best of n by {scored_by.path}")
        print("\n".join(best_of_lines(rows)))
    if args.output:
        write_json(args.output, report, indent=1)
    if args.per_question:
        names = context_names(held.chosen)
        write_json(args.per_question, {"policies": by_question, "context_names": names})
    if args.predictions:
        answers = next(iter(results.values()))[0].answers
        answer_of = dict(zip(held_out.ids, answers, strict=True))
        write_json(args.predictions, answer_of, ensure_ascii=False)
    return report


if __name__ == "__main__":
    main()
