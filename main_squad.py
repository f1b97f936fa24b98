"""Supervised fine-tuning: learn to answer SQuAD questions from their contexts.

    PYTHONPATH=src python main_squad.py --model_type transformer --dataset pico

Trains on (context, question) -> answer and EOS, with a language-model loss on the context and the
question beside it. Writes checkpoints/{model_type}_main_squad/. With --checkpoint it continues a
finished SFT model.
"""

import time
from collections.abc import Iterator, Sequence

from src.utils import cli
from src.utils.constants import SFT as STAGE
from src.utils.errors import UserError
from src.utils.exit_handling import command, flags_first


def build_parser() -> cli.Parser:
    """All flags with their units and defaults."""
    parser = cli.Parser(prog="main_squad.py", description=__doc__.split("\n")[0])
    cli.add_model_flag(parser)
    cli.add_shape_flags(parser)
    cli.add_data_flags(parser, default="auto")
    cli.add_training_flags(
        parser, lr=2e-3, batch_size=8, epochs=2.0, warmup=0.01, hold=0.6, weight_decay=0.1
    )
    cli.add_machine_flags(parser)
    add = parser.add_argument
    add("--init_from", metavar="smollm2|PATH|HUB_ID", help="start from a pretrained model in the "
        "Llama layout: a folder, a .gguf file or a hub id; it brings shape and tokenizer")
    add("--checkpoint", help="continue a finished SFT model on its own demonstrations, as a "
        "control for later stages; it brings shape, tokenizer and data")
    add("--max_tokens", type=cli.positive_int,
        help="train until so many tokens have been processed, instead of --epochs or --max_steps")
    add("--same_compute_as", metavar="FINAL.PT[,FINAL.PT]",
        help="as --max_tokens, with the tokens that other stages' checkpoints have processed")
    add("--tokenizer", default="pico", help="pico, gpt2, cl100k_base, o200k_base, a FILE.tiktoken")
    add("--pointer", action="store_true", default=True, help="a pointer on top of the model: an "
        "attention that copies tokens read before; absent with --init_from")
    add("--no_pointer", action="store_false", dest="pointer", help="the plain architecture")
    add("--shares", type=cli.shares, metavar="30,40,30", help="deal the training articles into "
        "demonstrations (SFT), comparisons (DPO, reward model) and prompts (PPO), percent of the "
        "questions; inherited by later stages; left out: every stage sees all")
    add("--sentence_answers", type=cli.share, metavar="SHARE", default=0.0, help="share of the "
        "demonstrations that answer with the whole sentence, as people do who were not told what "
        "is wanted: SFT imitates both forms, and feedback says which is meant")
    add("--lm_weight", type=cli.non_negative, default=0.3,
        help="weight of the language-model loss on context and question")
    add("--control", choices=("none", "shuffled_answers", "no_context"), default="none",
        help="a negative control, data without a learnable signal: answers of other questions, or "
        "no contexts")
    cli.note_pretrained_defaults(parser, STAGE)
    return parser


with flags_first(__name__, build_parser):
    import torch

    from src.data.negative_controls import answers_of, apply_control
    from src.data.squad_dataset import indexed_batches
    from src.data.windows import Tree
    from src.evaluation.intervals import Figures
    from src.inference.logprobs import build_tree_batch, score_completions, score_text
    from src.interop.pretrained import start_of, take_parents_defaults
    from src.losses import sft_loss
    from src.training import planning, reporting, run_data
    from src.training.device import choose_precision
    from src.training.distributed import all_sum, micro_batches
    from src.training.final import finished_metrics, publish
    from src.training.loop import due, prepare, steps
    from src.training.optimizer import backward, make_optimizer, scheduled_step
    from src.training.progress import Progress
    from src.training.run import Run, set_up_torch
    from src.utils.checkpoint_utils import load_parent


# What a parent has settled.
SETTLED = (
    "dataset", "shares", "sentence_answers", "answer_metric", "tokenizer", "init_from", "pointer",
    *cli.SHAPE_FLAGS,
)


def check(args, typed: set[str]) -> None:
    """Refuse flags that contradict each other. typed: names of those that were given."""
    lengths = [n for n in ("max_tokens", "same_compute_as", "max_steps", "epochs") if n in typed]
    if len(lengths) > 1 and {"max_tokens", "same_compute_as"} & set(lengths):
        raise UserError(f"--{lengths[0]} and --{lengths[1]} given, expected one of them")
    if args.lora_rank and not (args.checkpoint or args.init_from):
        raise UserError("--lora_rank given without --init_from or --checkpoint, expected one: low-"
                        "rank updates change a trained model, they make none")
    if args.checkpoint is None:
        return
    for name in SETTLED:
        if name in typed:
            raise UserError(
                f"--{name} given with --checkpoint {args.checkpoint}, which settles it, leave one "
                "out"
            )
    if args.output_dir is None:
        raise UserError(
            "--checkpoint given without --output_dir, expected a folder for the continued model: "
            "the default one is its parent's"
        )


def sft_parent(args):
    """The finished SFT model of --checkpoint; its data and tokenizer are inherited."""
    parent = load_parent(args.checkpoint, args.model_type, (STAGE,))
    args.tokenizer = parent.tokenizer.name
    args.sentence_answers = parent.flags.get("sentence_answers", 0.0)
    if args.dataset == "auto":  # of a fresh run; a resumed one has the parent's
        args.dataset = args.answer_metric = None
    return parent


def sft_backward(model, trees, eos_id: int, args) -> dict[str, float]:
    """Add the gradient of one step's trees; returns the losses in nats per token.

    Sums over micro-batches are divided by the whole step's token counts, so that the micro-batch
    size and the number of ranks change nothing.
    """
    questions = [question for _, questions in trees for question in questions]
    answer_tokens = sum(len(answer) + 1 for _, answers in questions for answer in answers)
    text_tokens = sum(max(0, len(context) - 1) for context, _ in trees)
    text_tokens += sum(len(tokens) - 1 for tokens, _ in questions)
    sums = {"answer_loss_nats": 0.0, "loss": 0.0}
    if args.lm_weight:
        sums["text_loss_nats"] = 0.0
    for part in micro_batches(trees, args.micro_batch_size, tokens=args.micro_batch_tokens):
        tree_batch = build_tree_batch(part, eos_id)
        text = score_text(model, tree_batch) if args.lm_weight else None
        answers = score_completions(model, tree_batch) if text is None else text.answers
        loss = answer_loss = sft_loss(answers.logp, answers.mask, answer_tokens)
        if text is not None:
            every = torch.ones_like(text.text_logp, dtype=torch.bool)
            text_loss = sft_loss(text.text_logp, every, text_tokens)
            loss = answer_loss + args.lm_weight * text_loss
            sums["text_loss_nats"] += text_loss.detach()
        backward(loss)
        sums["answer_loss_nats"] += answer_loss.detach()
        sums["loss"] += loss.detach()
    return {**all_sum(sums), "answer_tokens": answer_tokens, "text_tokens": text_tokens}


@command
def main(argv=None) -> dict:
    """Train and return the final metrics."""
    parser = build_parser()
    given = parser.parse_args(argv)
    if not given.resume:  # else the flags are checked with the stored ones, below
        check(given, parser.typed(argv))  # before the folder of the run is touched

    with Run(parser, argv, STAGE) as run:
        args = run.args
        if run.last is None:  # else the flags are those that were checked when the run began
            check(args, run.typed)
        if run.finished:
            return finished_metrics(run)
        device = set_up_torch(args)

        # The model, and the questions in windows that it can read.
        if args.checkpoint:
            parent = sft_parent(args)
            take_parents_defaults(run, parent)
            model, tokenizer, parents = parent.model, parent.tokenizer, [parent]
        else:
            parent = None
            model, tokenizer, parents = start_of(run)
        model.to(device)
        choose_precision(args, device, model)
        block = model.config.block_size
        questions = run_data.load_questions(
            args, tokenizer, block, STAGE, [parent] if parent else [], shares=args.shares,
            sentence_answers=args.sentence_answers,
        )
        held_out = questions.held_out
        if args.control == "no_context":
            prompts = apply_control(held_out.prompts, args.control, "", block)
            held_out = held_out._replace(prompts=prompts)
        trained = prepare({"model": model}, args, device)
        optimizer = make_optimizer(trained, args.weight_decay)
        answers = answers_of(questions.encoded)

        def trees_from(step: int) -> Iterator[Sequence[Tree]]:
            """What each step trains on, from any step on, as --control leaves it."""
            batches = indexed_batches(
                questions.encoded, questions.units, batch_size=args.batch_size, seed=args.seed,
                start_step=step,
            )
            for number, batch in enumerate(batches, step):
                seed = f"{args.seed}/{number}"
                yield apply_control(batch.trees, args.control, seed, block, answers)

        max_steps = planning.plan_steps_of_tokens(args, questions.units, trees_from(0))
        run.start(run_data.inputs_of(questions, parents, tokenizer))
        progress = Progress()

        def evaluate(step: int) -> Figures:
            """Answers and answer loss on the held-out questions."""
            return reporting.evaluate_and_log(
                run, step, model, tokenizer, held_out, progress
            )

        # The step loop.
        if run.last is None:
            progress.before = evaluate(0)
        batches = trees_from(run.steps_done)
        for step in steps(run, max_steps, trained, optimizer, progress):
            started = time.perf_counter()
            trees = next(batches)
            record = sft_backward(model, trees, tokenizer.eos_id, args)
            record |= scheduled_step(run, optimizer, step, max_steps, record["loss"])
            examples = sum(len(asked) for _, asked in trees)
            reporting.log_step(
                run, step, started, examples, trees, record,
                loss=record["loss"], answer_loss=record["answer_loss_nats"],
            )
            progress.count(trees, gradient=1)
            if due(run, step):
                evaluate(step + 1)
        metrics = reporting.compare(STAGE, progress.before, evaluate(max_steps), held_out)
        metrics |= progress.metrics()
        return publish(run, model, tokenizer, questions, metrics, parents)


if __name__ == "__main__":
    main()
