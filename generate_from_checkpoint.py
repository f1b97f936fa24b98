"""Answer prompts with any checkpoint, or score an answer with a reward checkpoint.

    python generate_from_checkpoint.py --model_type transformer \\
        --checkpoint checkpoints/transformer_train_dpo/final.pt --context "..." --question "..."

Without a prompt: on a terminal it asks for prompts, from a pipe it reads one a line, else it
answers three held-out questions. The text goes to stdout, everything else to stderr.
"""

import json
import sys

from src.utils import cli
from src.utils.constants import REWARD, STAGES
from src.utils.errors import UserError
from src.utils.exit_handling import command, flags_first


def build_parser() -> cli.Parser:
    """All flags with their units and defaults."""
    parser = cli.Parser(prog="generate_from_checkpoint.py", description=__doc__.split("\n")[0])
    cli.add_model_flag(parser)
    add = parser.add_argument
    add("--checkpoint", help="default checkpoints/{model_type}_main_squad/final.pt; or a "
        "pretrained model: smollm2, a folder in the Llama layout, a .gguf file")
    add("--prompt", help="'Context: ...\\nQuestion: ...\\nAnswer:' or any text; here, in --context "
        "and --question and in a pipe a written \\n is a line end; a file's texts are taken as "
        "they are")
    add("--context", help="a paragraph; goes with --question")
    add("--question", help="a question about --context")
    add("--prompts_file", help="JSON lines with the key prompt, or context and question")
    add("--answer", help="with a reward checkpoint: the answer to score")
    add("--temperature", type=cli.temperature, default=0.0, help="0: greedy")
    add("--top_k", type=cli.count, default=0, help="sample from the k most probable; 0: from all")
    add("--top_p", type=cli.number(float, 0, 1, above=True), default=1.0,
        help="sample from the smallest set of this probability")
    add("--num_samples", type=cli.positive_int, default=1, help="answers a prompt")
    add("--max_new_tokens", type=cli.positive_int,
        help="longest answer in tokens, with EOS; default: the checkpoint's --max_answer_tokens")
    add("--json", action="store_true", help="one JSON object a line: prompt, answers, log-probs")
    cli.add_machine_flags(parser)
    return parser


with flags_first(__name__, build_parser):
    from src.data.encoding import answer_text
    from src.inference.prompts import encode_within, prompts_of_flags, typed_text
    from src.inference.sampling import Sampling, generate
    from src.interop.pretrained import load_pretrained, names_pretrained
    from src.rl.rewards import model_rewards
    from src.training.run import set_up_torch
    from src.utils.checkpoint_utils import describe_lineage, load_parent
    from src.utils.progress_bar import say


def check(args) -> None:
    """Refuse flags that contradict each other."""
    given = [n for n in ("prompt", "question", "prompts_file") if getattr(args, n) is not None]
    if len(given) > 1:
        raise UserError(f"--{given[0]} and --{given[1]} given, expected one of them")
    if (args.context is None) != (args.question is None):
        raise UserError("one of --context and --question given, expected both or neither")
    if args.answer is not None and (args.temperature or args.max_new_tokens is not None):
        raise UserError(
            "--temperature or --max_new_tokens given with --answer, which is scored, not sampled: "
            "expected them left out"
        )
    if not args.temperature and (args.top_k or args.top_p < 1 or args.num_samples > 1):
        raise UserError(
            "--top_k, --top_p or --num_samples given with --temperature 0, which always gives "
            "the one most probable answer, add --temperature 1"
        )


def answer(args, checkpoint, prompt, number: int) -> dict:
    """One prompt's answers as text, with their log-probabilities in nats.

    number: of the prompt in this run, from 0. Each has its own stream of --seed, so that equal
    prompts get different samples.
    """
    backbone = checkpoint.model
    longest = args.max_new_tokens or checkpoint.max_answer_tokens
    room = backbone.config.block_size - longest
    if room < 1:
        raise UserError(f"--max_new_tokens {longest} given, expected less than the "
                        f"model's block of {backbone.config.block_size}")
    context, question = encode_within(
        checkpoint.tokenizer, prompt, room, "shorten it or lower --max_new_tokens",
        template=checkpoint.data.get("template", True),
    )
    answers = generate(
        backbone,
        [(context, [question])],
        checkpoint.tokenizer.eos_id,
        sampling=Sampling(args.temperature, args.top_k, args.top_p),
        num_samples=args.num_samples,
        max_new_tokens=longest,
        seed=[args.seed, number],
    )
    texts = [checkpoint.tokenizer.decode(ids).strip() for ids in answers.texts()]
    raw = {"prompt": prompt[1]}
    fields = raw if prompt[0] is None else {"context": prompt[0], "question": prompt[1]}
    return {**fields, "answers": texts, "logp_nats": answers.logp.sum(1).tolist(),
            "stopped": answers.stopped.tolist()}


def score(args, checkpoint, prompt, number: int) -> dict:
    """The reward model's normalised score of --answer to the prompt; `number` does not matter."""
    ids = checkpoint.tokenizer.encode(answer_text(args.answer.strip()))
    block = checkpoint.model.backbone.config.block_size
    room = block - len(ids) - 1
    if room < 1:
        raise UserError(
            f"an --answer of {len(ids)} tokens given, expected at most {block - 2} in the model's "
            f"block of {block}, shorten it"
        )
    context, question = encode_within(
        checkpoint.tokenizer, prompt, room, f"shorten it or the --answer of {len(ids)} tokens",
        template=checkpoint.data.get("template", True),
    )
    trees = [(context, [(question, [ids])])]
    value = model_rewards(checkpoint.model, trees, checkpoint.tokenizer.eos_id)
    return {"answer": args.answer, "score": value.item()}


def show(args, result: dict) -> None:
    """The text alone, or everything as one JSON line."""
    if args.json:
        print(json.dumps(result, ensure_ascii=False), flush=True)
    elif "score" in result:
        print(f"{result['score']:.4f}", flush=True)
    else:
        print("\n".join(result["answers"]), flush=True)


@command
def main(argv=None) -> dict:
    """Answer the prompts; returns {"results": one dict a prompt}."""
    args = build_parser().parse_args(argv)
    check(args)

    device = set_up_torch(args)
    if names_pretrained(args.checkpoint):
        checkpoint = load_pretrained(args.checkpoint)
    else:
        checkpoint = load_parent(args.checkpoint, args.model_type, STAGES)
    say(describe_lineage(checkpoint))
    checkpoint.model.to(device)
    scores = checkpoint.stage == REWARD
    if scores != (args.answer is not None):
        raise UserError(
            f"{checkpoint.path} is a checkpoint of {checkpoint.stage}, "
            + ("expected --answer with it" if scores else "expected no --answer: it scores nothing")
        )
    respond = score if scores else answer
    alone = all(v is None for v in (args.prompt, args.question, args.prompts_file))
    results = []
    if alone and sys.stdin and sys.stdin.isatty():
        while True:
            try:
                line = input("prompt> ")
            except EOFError:
                break
            if not line.strip():
                continue
            try:
                prompt = None, typed_text(line)
                results.append(respond(args, checkpoint, prompt, len(results)))
                show(args, results[-1])
            except UserError as error:  # the next prompt may be better
                say(str(error))
    else:
        for number, prompt in enumerate(prompts_of_flags(args, checkpoint)):
            results.append(respond(args, checkpoint, prompt, number))
            show(args, results[-1])
    return {"results": results}


if __name__ == "__main__":
    main()
