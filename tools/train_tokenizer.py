"""Train the byte-level BPE that the project ships: src/data/pico.tiktoken.

    PYTHONPATH=. python tools/train_tokenizer.py --dataset squad/train.json

On SQuAD (CC BY-SA 4.0) text, 70% of the characters, and generated `pico` training text, 30%. Mean
tokens of a held-out context, by the number of ids:

    ids      SQuAD    pico (difficulty 3)
    1,024    447      106
    2,048    355       82
    4,096    297       80

2,048 is where every function word and syllable of pico is one token; twice as many ids would cut
SQuAD by a sixth and pico by nothing, for twice the embedding of a model of under a million weights.
Without generated text 2,048 ids give 346 and 123: what pico gains costs SQuAD 3%.

The shipped file was made before `pico` had its fifth level: the command above now gives one that
differs in 46 of 2,047 tokens. It stays, because checkpoints name its fingerprint.
"""

import argparse
import base64
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from src.data.pico import DIFFICULTIES, generate_articles
from src.data.squad_types import Paragraph
from src.data.tokenizers.byte_pairs import byte_characters
from src.data.tokenizers.tokenizer import PATTERNS, PICO_FILE
from src.utils.exit_handling import command


def squad_texts(path: Path) -> Iterator[str]:
    """Each paragraph of an official SQuAD file as the model will read it, every question once."""
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            asked = [
                (row["question"], row["answers"][0]["text"] if row["answers"] else "")
                for row in paragraph["qas"]
            ]
            yield prompt_text(paragraph["context"], asked)


def pico_texts(size: int, seed: int) -> Iterator[str]:
    """Generated training paragraphs, all difficulties in turn, about `size` characters."""
    article = 0
    while size > 0:
        difficulty = DIFFICULTIES[article % len(DIFFICULTIES)]
        for paragraph in generate_articles(seed + article, "train", 1, difficulty):
            asked = [(question.text, question.answers[0]) for question in paragraph.questions]
            text = prompt_text(paragraph.context, asked)
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


def write_ranks(ranks: dict[bytes, int], path: Path) -> None:
    """tiktoken's format: one "base64 rank" a line, in the order of rank."""
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()]
    path.write_text("".join(lines), encoding="ascii", newline="\n")


def context_tokens(paragraphs: list[Paragraph], encode) -> float:
    """Mean number of tokens a context, "Context: " and the newline included."""
    return sum(len(encode(f"Context: {p.context}\n")) for p in paragraphs) / len(paragraphs)


@command
def main(argv: list[str] | None = None) -> dict[bytes, int]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=Path, required=True, help="official SQuAD JSON file")
    parser.add_argument(
        "--vocab_size", type=int, default=2048, help="ids, EOS included (default 2048)"
    )
    parser.add_argument(
        "--pico_share", type=float, default=0.3, help="generated share of the text (default 0.3)"
    )
    parser.add_argument(
        "--pattern",
        choices=sorted(PATTERNS),
        default="pico",
        help="how text is cut; a file for --tokenizer FILE.tiktoken needs gpt2 (default pico)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the generated text (default 0)")
    parser.add_argument(
        "--output", type=Path, default=PICO_FILE, help="ranks file to write (default %(default)s)"
    )
    flags = parser.parse_args(argv)
    if not 512 <= flags.vocab_size <= 1 << 20:
        parser.error(f"--vocab_size {flags.vocab_size}: expected 512 to 1048576")
    if not 0 <= flags.pico_share < 1:
        parser.error(f"--pico_share {flags.pico_share}: expected 0 or more and less than 1")
    texts = list(squad_texts(flags.dataset))
    share = flags.pico_share / (1 - flags.pico_share)
    texts += pico_texts(round(share * sum(map(len, texts))), flags.seed)
    ranks = train(texts, flags.vocab_size, PATTERNS[flags.pattern])
    write_ranks(ranks, flags.output)
    print(f"{flags.output}: {len(ranks)} ranks from {sum(map(len, texts))} characters")
    return ranks


if __name__ == "__main__":
    main()
