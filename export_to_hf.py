"""Write a transformer's checkpoint, of any stage, as a folder that Hugging Face's tools load.

    python export_to_hf.py --checkpoint checkpoints/transformer_train_dpo/final.pt \\
        --output_dir exported

`AutoModelForCausalLM` (of a reward model: `AutoModelForSequenceClassification`, its raw scores) and
`AutoTokenizer` give the same ids, logits and greedy answers as here.
"""

from src.utils import cli
from src.utils.constants import SFT
from src.utils.exit_handling import command, flags_first


def build_parser() -> cli.Parser:
    """All flags with their units and defaults."""
    parser = cli.Parser(prog="export_to_hf.py", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--checkpoint", default=f"checkpoints/transformer_{SFT}/final.pt",
        help="a stage's final.pt, of a transformer")
    add("--output_dir", help="folder to write, empty or not there yet; default: hf beside the file")
    add("--overwrite", action="store_true", help="replace an earlier export's files in it")
    return parser


with flags_first(__name__, build_parser):
    from pathlib import Path

    from src.interop.export import check_folder, contents_of, write_export
    from src.utils.checkpoint_utils import describe_lineage, load_checkpoint
    from src.utils.progress_bar import say


@command
def main(argv=None) -> dict:
    """Export the checkpoint; returns the folder and its files' sizes in bytes."""
    args = build_parser().parse_args(argv)

    folder = Path(args.output_dir or Path(args.checkpoint).parent / "hf")
    check_folder(folder, args.overwrite)
    checkpoint = load_checkpoint(args.checkpoint, f"run: python {SFT}.py")
    contents = contents_of(checkpoint)
    say(describe_lineage(checkpoint))
    write_export(folder, contents)
    sizes = {name: len(content) for name, content in contents.items()}
    say(f"{folder}: {', '.join(sizes)} ({sum(sizes.values()) / 1e6:.1f} MB)")
    return {"output_dir": str(folder), "bytes": sizes}


if __name__ == "__main__":
    main()
