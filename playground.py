"""Open a page on this machine where every stage's answers to a question stand side by side.

    python playground.py

Loads all of checkpoints/*/final.pt, or the files of --checkpoint, and prints the page's address.
Below it, at /vote, two answers to a training question stand side by side, blind: what you vote goes
to preferences.jsonl, which `train_dpo.py --pairs` and `train_reward_model.py --pairs` take.
Needs an extra: python -m pip install -r requirements-playground.txt
"""

from pathlib import Path

from src.utils import cli
from src.utils.errors import UserError
from src.utils.exit_handling import command, flags_first

# Held-out questions that the page offers.
OFFERED = 50


def build_parser() -> cli.Parser:
    """All flags with their units and defaults."""
    parser = cli.Parser(prog="playground.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--checkpoints", default="checkpoints", help="folder of the stages' folders")
    add("--checkpoint", nargs="+", help="files of any stage and model, instead of --checkpoints")
    add("--dataset", metavar="pico|squad|PATH|HUB_ID",
        help="held-out questions to pick from; default: those of the first checkpoint")
    add("--preferences", default="preferences.jsonl", help="file that votes are appended to")
    add("--port", type=cli.number(int, 1, 65535), default=7860, help="of the page on 127.0.0.1")
    cli.add_machine_flags(parser)
    return parser


with flags_first(__name__, build_parser):
    from src.data.squad_loader import load_from_identity, load_squad
    from src.data.trained_contexts import split_by_training
    from src.evaluation.evaluation_set import choose_questions
    from src.playground.checkpoints import find_checkpoints, load_checkpoints
    from src.playground.comparisons import Voting, training_questions
    from src.playground.page import build, import_gradio, known_questions, require_port, serve
    from src.playground.votes import require_vote_file
    from src.training.run import set_up_torch
    from src.utils.progress_bar import say


def questions_to_pick(dataset: str | None, stored: dict, trained_on, seed: int) -> list:
    """Held-out questions of --dataset, else of the data that a checkpoint was trained on, without
    the contexts of trained_on.

    Files and hub sets may have been split for training, so that all of them have to be loaded to
    know what was held out; the embedded data need no training questions made.
    """
    if dataset:
        data = load_squad(dataset, evaluate=True)
    elif stored["dataset"] != "pico":
        data = load_from_identity(stored)
    else:
        kept = {name: stored[name] for name in ("seed", "difficulty")}
        data = load_squad(stored["dataset"], evaluate=True, **kept)
    unseen, seen = split_by_training(data.validation, trained_on)
    if not unseen:
        raise UserError(
            f"--dataset {data.identity['dataset']} given, but all {len(seen)} contexts of it were "
            "trained on, expected some that were not, name other data with --dataset"
        )
    return known_questions(choose_questions(unseen, OFFERED, seed))


@command
def main(argv=None) -> dict:
    """Serve the page until Ctrl-C; returns {"url": its address}."""
    args = build_parser().parse_args(argv)
    import_gradio()  # before what takes longer
    require_port(args.port)
    require_vote_file(Path(args.preferences))
    device = set_up_torch(args)
    loaded = load_checkpoints(args.checkpoint or find_checkpoints(args.checkpoints), device)
    say(f"loaded: {', '.join([*loaded.policies, *loaded.reward_models])}")
    for line in loaded.refused:
        say(f"not loaded: {line}")
    try:
        known = questions_to_pick(args.dataset, loaded.data, loaded.trained_on, args.seed)
    except UserError as error:
        if args.dataset:
            raise
        say(f"no held-out questions to pick from: {error}")
        known = []
    try:
        asked = training_questions(loaded.data)
    except UserError as error:
        say(f"no training questions to vote on: {error}")
        asked = []
    voting = Voting(asked, loaded.data.get("template", True), Path(args.preferences))
    return {"url": serve(build(loaded, known, args.seed, device, voting), args.port)}


if __name__ == "__main__":
    main()
