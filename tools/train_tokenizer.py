"""Train a byte-level BPE: on your own data, or the one that the project ships.

    PYTHONPATH=. python tools/train_tokenizer.py --dataset DATA --vocab_size 4096 \\
        --pico_share 0 --output mine.tiktoken
    python main_squad.py --dataset DATA --tokenizer mine.tiktoken

Do so for text that takes the shipped tokenizer far more tokens than English. Its tokens are
English, and other scripts are left to single bytes. The shipped file is made by

    PYTHONPATH=. python tools/train_tokenizer.py --dataset squad/train.json \\
        --output src/data/tokenizers/pico.tiktoken

On SQuAD (CC BY-SA 4.0) text, 70% of the characters, and generated `pico` training text, 30%. Mean
tokens of a held-out context, by the number of ids:

    ids      SQuAD    pico (difficulty 3)
    1,024    447      106
    2,048    355       82
    4,096    297       80

At 2,048 every function word and syllable of pico is one token. Twice as many ids would shorten
SQuAD by a sixth and pico hardly at all. They would double the embedding of a model with under a
million weights.
Without generated text 2,048 ids give 346 and 123: what pico gains costs SQuAD 3%.

The shipped file was made before `pico` had its fifth level: the command above now gives one that
differs in 46 of 2,047 tokens. It stays, because checkpoints name its fingerprint.
"""

import argparse
import base64
from collections.abc import Iterator, Sequence
from pathlib import Path

from src.data.pico import DIFFICULTIES, generate_articles
from src.data.squad_loader import load_squad
from src.data.squad_types import Paragraph
from src.data.tokenizers.bpe_file import HEADER
from src.data.tokenizers.byte_pairs import byte_characters
from src.data.tokenizers.tokenizer import PATTERNS, PICO_FILE
from src.utils.errors import UserError
from src.utils.exit_handling import command


def training_paragraphs(dataset: str) -> list[Paragraph]:
    """All of a lone file, else the training split."""
    split = None if Path(dataset).is_file() else "train"
    return load_squad(dataset, evaluate=True, split=split).validation


def texts_of(paragraphs: Sequence[Paragraph]) -> Iterator[str]:
    """Each paragraph as the model will read it, every question once."""
    for paragraph in paragraphs:
        asked = [(q.text, q.answers[0]) for q in paragraph.questions]
        if paragraph.template:
            yield prompt_text(paragraph.context, asked)
        else:
            yield from (f"{prompt} {answer}\n" for prompt, answer in asked)


def pico_texts(size: int, seed: int) -> Iterator[str]:
    """Generated training paragraphs, all difficulties in turn, about `size` characters."""
    article = 0
    while size > 0:
        difficulty = DIFFICULTIES[article % len(DIFFICULTIES)]
        for text in texts_of(generate_articles(seed + article, "train", 1, difficulty)):
            size -= len(text)
            yield text
        article += 1


def prompt_text(context: str, asked: list[tuple[str, str]]) -> str:
    questions = "".join(f"Question: {question}\nAnswer: {answer}\n" for question, answer in asked)
    return f"Context: {context}\n{questions}"


def train(texts: list[str], vocab_size: int, pattern: str) -> dict[bytes, int]:
    """Ranks of a BPE with `vocab_size` ids, EOS's included: bytes, digits, then merges.

    The trainer takes the most frequent pair, ties by the pair's ids, so the same texts give the
    same ranks. One and two digits are tokens from the start, with and without a blank before: left
    to their frequencies, "1899" would be " 18", "9", "9", and "1823" " 18", "23".
    """
    try:
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    except ImportError:
        raise UserError(
            "tokenizers is not installed, this tool needs it, run: "
            "python -m pip install -r requirements-dev.txt"
        ) from None
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = byte_characters()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, initial_alphabet=list(alphabet), show_progress=False
    )
    given = [bytes([byte]) for byte in range(256)] + digit_tokens()
    tokenizer.train_from_iterator(texts, trainer)
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = [bytes(alphabet[char] for char in token) for token, _ in by_id]
    merged = [token for token in tokens if token not in given]
    return {token: rank for rank, token in enumerate((given + merged)[: vocab_size - 1])}


def digit_tokens() -> list[bytes]:
    """"00" to "99", " 0" to " 9", " 00" to " 99": each one merge of tokens that come before it."""
    pairs = [f"{number:02d}" for number in range(100)]
    texts = pairs + [f" {digit}" for digit in range(10)] + [f" {pair}" for pair in pairs]
    return [text.encode() for text in texts]


def is_shipped(path: Path) -> bool:
    """Whether a path, in whatever way it is written, is that of the shipped file."""
    return path.resolve() == PICO_FILE.resolve()


def write_ranks(ranks: dict[bytes, int], path: Path, pattern: str = "gpt2") -> None:
    """tiktoken's format: one "base64 rank" a line, in the order of rank. Before it the pattern's
    name, where it is not the one that a file without a name has; the shipped file's is known.
    """
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()]
    if pattern != "gpt2" and not is_shipped(path):
        lines.insert(0, f"{HEADER.decode()}{pattern}\n")
    path.write_text("".join(lines), encoding="ascii", newline="\n")


@command
def main(argv: list[str] | None = None) -> dict[bytes, int]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--dataset", required=True, help="as of main_squad.py: a file is read whole, of several "
        "splits the training one"
    )
    parser.add_argument(
        "--vocab_size", type=int, default=2048, help="ids, EOS included (default 2048)"
    )
    parser.add_argument(
        "--pico_share", type=float, default=0.3, help="generated English share of the text "
        "(default 0.3)"
    )
    parser.add_argument(
        "--pattern",
        choices=sorted(PATTERNS),
        help="how text is cut before pairs are merged (default marks; of the shipped file pico)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the generated text (default 0)")
    parser.add_argument(
        "--output", type=Path, required=True, help="ranks file to write, FILE.tiktoken"
    )
    flags = parser.parse_args(argv)
    if flags.pattern is None:
        flags.pattern = "pico" if is_shipped(flags.output) else "marks"
    if not 512 <= flags.vocab_size <= 1 << 20:
        parser.error(f"--vocab_size {flags.vocab_size}: expected 512 to 1048576")
    if not 0 <= flags.pico_share < 1:
        parser.error(f"--pico_share {flags.pico_share}: expected 0 or more and less than 1")
    if flags.output.suffix != ".tiktoken" or not flags.output.parent.is_dir():
        parser.error(f"--output {flags.output}: expected FILE.tiktoken in a folder that exists")
    texts = list(texts_of(training_paragraphs(flags.dataset)))
    share = flags.pico_share / (1 - flags.pico_share)
    texts += pico_texts(round(share * sum(map(len, texts))), flags.seed)
    ranks = train(texts, flags.vocab_size, PATTERNS[flags.pattern])
    write_ranks(ranks, flags.output, flags.pattern)
    print(f"{flags.output}: {len(ranks)} ranks from {sum(map(len, texts))} characters")
    return ranks


if __name__ == "__main__":
    main()
