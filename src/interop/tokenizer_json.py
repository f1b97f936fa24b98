"""Our tokenizers as the `tokenizer.json` of Hugging Face's `tokenizers`, with the same ids.

tiktoken joins, of all neighbours in a piece, the two whose bytes together have the lowest rank;
`tokenizers` joins pairs in the order of a list. The list is got back from the ranks: a token's pair
is what its own bytes come to when only lower ranks are joined.

What differs: runs of 16,384 and more blanks or 4,000 and more other characters, which ours cuts to
keep tiktoken's regex engine alive, and lone surrogates, which `tokenizers` refuses.
"""

import re
from itertools import pairwise

from src.data.tokenizers.byte_pairs import byte_characters
from src.data.tokenizers.tokenizer import Tokenizer
from src.utils.errors import UserError

PAD = "<|pad|>"
# Rust's `x{1,3}+` keeps what it matched; to Oniguruma it is `(x{1,3})+`, a run of any length.
_POSSESSIVE = re.compile(r"(\\p\{\w+\}\{\d+,\d+\})\+")


def merge_parts(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """What a token's bytes come to when only ranks below its own are joined: a pair, as a rule."""
    own = ranks[token]
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(left + right, own) for left, right in pairwise(parts)]
        lowest = min(joined)
        if lowest >= own:
            break
        at = joined.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def merges(ranks: dict[bytes, int], name: str) -> list[tuple[bytes, bytes]]:
    """The pairs to join, first ones first, that give every text the ids that `ranks` give it.

    A token that no two others make is no pair: it is reached only as a whole piece (as tiktoken
    does, and `ignore_merges`). Where every other token comes from its one pair of lower ranks, the
    two ways agree on every text. UserError where one does not.
    """
    pairs = []
    for token in sorted(ranks, key=ranks.__getitem__):
        parts = merge_parts(token, ranks)
        if len(parts) == 2:
            pairs.append((parts[0], parts[1]))
        elif any(token[:i] in ranks and token[i:] in ranks for i in range(1, len(token))):
            raise UserError(
                f"tokenizer {name}: token {ranks[token]} comes before those it is made of, "
                "expected ranks in the order of their merges, which tokenizer.json can express"
            )
    return pairs


def tokenizer_json(tokenizer: Tokenizer, pad_id: int | None = None) -> dict:
    """The contents of tokenizer.json: byte-level BPE on the tokenizer's own pattern.

    pad_id: an id that no text has, for `<|pad|>`; None: no pad token. Ids that mean nothing get a
    name, since `tokenizers` counts them without gaps. Special text in plain text is plain text if
    tokenizer_config.json says `split_special_tokens`.
    """
    ranks, pattern, special = tokenizer.definition()
    letters = {byte: letter for letter, byte in byte_characters().items()}

    def word(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    if pad_id is not None:
        special = {**special, PAD: pad_id}
    named = [*((word(t), i) for t, i in ranks.items()), *special.items()]
    unused = set(range(max(i for _, i in named) + 1)) - {i for _, i in named}
    named += [(f"<|unused_{i}|>", i) for i in sorted(unused)]
    vocabulary = dict(sorted(named, key=lambda item: item[1]))
    if len(vocabulary) != len(named):
        twice = next(text for text in (*special, PAD) if text.encode() in ranks)
        raise UserError(
            f"tokenizer {tokenizer.name}: {twice} is special and also an ordinary token, "
            "expected another name for one of them"
        )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for text, i in sorted(special.items(), key=lambda item: item[1])
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": _POSSESSIVE.sub(r"(?>\1)", pattern)},
             "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
             "use_regex": False},
        ]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
                    "use_regex": False},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": True,  # a piece that is a token is that token, as in tiktoken
            "vocab": vocabulary,
            "merges": [f"{word(a)} {word(b)}" for a, b in merges(ranks, tokenizer.name)],
        },
    }


def tokenizer_config(tokenizer: Tokenizer, longest: int, padded: bool) -> dict:
    """The contents of tokenizer_config.json. longest: most tokens that the model reads.

    padded: the tokenizer has `<|pad|>`. Prompts are padded on the left, so that what is generated
    follows them; texts to score on the right.
    """
    special = tokenizer.definition()[2]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": longest,
        "eos_token": next(text for text, i in special.items() if i == tokenizer.eos_id),
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "padding_side": "right" if padded else "left",
        **({"pad_token": PAD} if padded else {}),
    }
