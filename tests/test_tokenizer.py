"""The tokenizer: round trips, prompt boundaries, stored state, ranks files, and their trainer."""

import base64
import re
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.data.encoding import answer_text, context_text, question_text
from src.data.pico import generate_articles
from src.data.squad_loader import load_squad
from src.data.squad_types import NO_PLACE, Paragraph, Question
from src.data.tokenizers.bpe_file import read_ranks
from src.data.tokenizers.byte_pairs import Vocabulary
from src.data.tokenizers.tokenizer import EOS, PATTERNS, PICO_FILE, Tokenizer, load_tokenizer
from src.utils.errors import UserError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "squad"
needs_squad = pytest.mark.skipif(not SHARED.is_dir(), reason="real SQuAD is not beside the project")

# A tokenizer of single bytes and three merges, small enough to encode by hand.
MERGES = [b"he", b"ll", b"hell"]
HAND_RANKS = [*(bytes([byte]) for byte in range(256)), *MERGES]


def write_ranks(path: Path, tokens: list[bytes]) -> str:
    lines = [f"{base64.b64encode(token).decode()} {i}\n" for i, token in enumerate(tokens)]
    path.write_text("".join(lines), encoding="ascii")
    return str(path)


@pytest.fixture
def hand_file(tmp_path: Path) -> str:
    return write_ranks(tmp_path / "hand.tiktoken", HAND_RANKS)


@pytest.fixture
def pico() -> Tokenizer:
    return load_tokenizer("pico")


def pretrained(pattern: str, ranks: dict[bytes, int]) -> Tokenizer:
    """A tokenizer of a pretrained model, its EOS the id after the ranks."""
    eos_id, cut = len(ranks), PATTERNS[pattern]
    vocabulary = Vocabulary("pretrained", ranks, cut, {EOS: eos_id}, eos_id, eos_id + 1)
    return Tokenizer.from_vocabulary(vocabulary)


@pytest.fixture(scope="module", params=sorted(PATTERNS))
def each(request, tmp_path_factory) -> Tokenizer:
    """pico's ranks under its own pattern, under gpt2's as any FILE.tiktoken has it, and under that
    of a pretrained model."""
    if request.param == "pico":
        made = load_tokenizer("pico")
    elif request.param == "gpt2":
        copy = tmp_path_factory.mktemp("ranks") / "copy.tiktoken"
        copy.write_bytes(PICO_FILE.read_bytes())
        made = load_tokenizer(str(copy))
    else:
        made = pretrained(request.param, read_ranks(PICO_FILE)[0])
    assert made.definition()[1] == PATTERNS[request.param]
    return made


def test_pico_is_small_and_has_one_stop_token(pico):
    assert pico.vocab_size == 2048
    assert pico.eos_id == 2047
    assert len(PICO_FILE.read_bytes().splitlines()) == 2047


def test_encoding_by_hand(hand_file):
    """h e l l o -> he(256) l l o -> he ll(257) o -> hell(258) o: the lowest rank first."""
    tokenizer = load_tokenizer(hand_file)
    assert tokenizer.encode("hello") == [258, ord("o")]
    assert tokenizer.encode("hel lo") == [256, ord("l"), ord(" "), ord("l"), ord("o")]
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (260, 259)


def test_special_text_is_plain_text(each):
    """A context that contains EOS's name round-trips and has no EOS in it."""
    text = "He wrote <|endoftext|> and <|endoftext|>."
    ids = each.encode(text)
    assert each.eos_id not in ids
    assert each.decode(ids) == text


@given(text=st.text())
def test_round_trip(text):
    tokenizer = load_tokenizer("pico")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.eos_id for i in ids)


@given(text=st.text(alphabet=" \n\t\r\u00a0\u2003.,a'1<", max_size=60))
def test_round_trip_of_white_space(text):
    tokenizer = load_tokenizer("pico")
    assert tokenizer.decode(tokenizer.encode(text)) == text


def is_exception(tokenizer, context, question, answer):
    """Whether a prompt's three strings, encoded apart, give other ids than as one."""
    parts = context_text(context), question_text(question), answer_text(answer)
    apart = [i for part in tokenizer.encode_batch(parts) for i in part]
    return apart != tokenizer.encode("".join(parts))


@given(st.text(), st.text(), st.text())
def test_parts_equal_whole(each, context, question, answer):
    """Any context that is not blank, any question, any answer that begins with no blank."""
    context = context if context.strip() else "x"
    assert not is_exception(each, context, question, answer.lstrip() or "x")


@pytest.mark.parametrize(
    ("data", "questions"), [("pico", 1500), pytest.param("squad", 7602, marks=needs_squad)]
)
def test_boundary_over_a_whole_data_set(each, data, questions):
    """Context, question and answer apart give the ids of the whole, with no exception."""
    if data == "pico":
        easy, hard = (generate_articles(0, "validation", 40, level) for level in (2, 5))
        paragraphs = easy + hard
    else:
        paragraphs = sum(load_squad(str(SHARED))[:2], [])
    exceptions = [
        is_exception(each, paragraph.context, question.text, question.answers[0])
        for paragraph in paragraphs
        for question in paragraph.questions
    ]
    assert len(exceptions) >= questions
    assert sum(exceptions) == 0


def test_boundary_exception_is_found(each):
    """The check above can fail: a cut after the blank, not before it, gives other ids."""
    parts = ("Question: Who?\nAnswer: ", "the")
    apart = [i for part in parts for i in each.encode(part)]
    assert apart != each.encode("".join(parts))
    assert each.decode(apart) == "".join(parts)


def test_digits_by_twos(pico):
    pieces = [pico.decode([i]) for i in pico.encode(" 1899 in 474, 7 or 12")]
    assert pieces == [" 18", "99", " in", " 47", "4", ",", " 7", " or", " 12"]
    # Cut from the left, whatever the ranks prefer: "12" is merged before "91" would be.
    assert [pico.decode([i]) for i in pico.encode(" 9123")] == [" 91", "23"]


def test_pico_text_is_short(pico):
    """A context of difficulty 2 is about 60 tokens, one of 3 about 100; its texts come back."""
    for difficulty, low, high in ((2, 55, 65), (3, 92, 110)):
        paragraphs = generate_articles(0, "validation", 100, difficulty)
        sizes = [len(pico.encode(f"Context: {paragraph.context}\n")) for paragraph in paragraphs]
        assert low < sum(sizes) / len(sizes) < high
        for paragraph in paragraphs:
            assert pico.decode(pico.encode(paragraph.context)) == paragraph.context


@pytest.mark.parametrize("run", [" ", "\n", " \n\t", "\u00a0", "1", "a", ".", "\x00", "\u6771"])
def test_a_million_characters(each, run):
    """No panic, no hang; the text comes back, the word after a run of blanks in one piece."""
    text = "x" + run * (1_000_000 // len(run)) + " end"
    start = time.process_time()
    ids = each.encode(text)
    assert time.process_time() - start < 2.5
    assert each.decode(ids) == text
    assert ids[-1] == each.encode(" end")[-1]


def test_a_pattern_that_overflows_the_stack():
    """o200k_base's first alternative: a million letters make tiktoken panic, and must not here."""
    import tiktoken

    pattern = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{M}]*[\p{Ll}\p{M}]+(?i:'s|'t)?|\s+(?!\S)|\s+|[^\s]"
    encoding = tiktoken.Encoding(
        "like o200k",
        pat_str=pattern,
        mergeable_ranks={token: rank for rank, token in enumerate(HAND_RANKS)},
        special_tokens={"<|endoftext|>": 259},
    )
    text = "hell" * 250_000
    assert Tokenizer("like o200k", encoding).encode(text) == [258] * 250_000


def test_long_runs_are_cut_only_when_long(pico):
    """Below the limit the ids are tiktoken's own; above it only white space is cut differently."""
    import tiktoken  # the independent side of this comparison

    ranks = {
        base64.b64decode(token): int(rank)
        for token, rank in (line.split() for line in PICO_FILE.read_bytes().splitlines())
    }
    plain = tiktoken.Encoding(
        "plain", pat_str=PATTERNS["pico"], mergeable_ranks=ranks, special_tokens={}
    )
    for text in ("a" + " " * 499 + "b", "a" + " " * 1200 + "bc d", "word " * 3000, "ab" * 1999):
        assert pico.encode(text) == plain.encode_ordinary(text)


def test_lone_surrogates_become_replacement_characters(pico):
    assert pico.decode(pico.encode("a\ud800b\udfff")) == "a\ufffdb\ufffd"
    # U+FFFD is EF BF BD. EF has no token here and is dropped, where tiktoken would panic.
    without = pretrained("gpt2", {bytes([byte]): byte for byte in range(0xEF)})
    assert without.encode("a\ud800b") == without.encode("a\ufffdb") == [97, 0xBF, 0xBD, 98]


def test_cut_characters_decode_to_replacements(pico):
    """Half of a character's bytes is no UTF-8: decoding replaces it instead of failing."""
    ids = pico.encode("\u6771")
    assert len(ids) == 3
    assert pico.decode(ids[:2]) == "\ufffd"


def test_encode_batch_is_encode(each):
    texts = ["", "Who wrote it?", "  two  blanks \n"]
    assert each.encode_batch(texts) == [each.encode(text) for text in texts]
    assert each.encode("") == []


def test_state_of_pico_is_its_identity(pico):
    assert pico.state() == pico.identity()
    assert re.fullmatch("[0-9a-f]{64}", pico.identity()["fingerprint"])
    assert Tokenizer.from_state(pico.state()).encode("The Vorane Song") == pico.encode(
        "The Vorane Song"
    )


def test_state_of_a_file_needs_no_file(hand_file):
    """A checkpoint keeps ranks and pattern: with the file gone the ids are the same."""
    tokenizer = load_tokenizer(hand_file)
    state = tokenizer.state()
    Path(hand_file).unlink()
    again = Tokenizer.from_state(state)
    assert again.state() == state
    assert again.encode("hello hell") == tokenizer.encode("hello hell")
    assert state["name"] == "hand.tiktoken"  # the file's name, not where it lay


def test_fingerprint_sees_a_changed_merge(tmp_path, hand_file):
    other = write_ranks(tmp_path / "b.tiktoken", [*HAND_RANKS[:-1], b"ello"])
    first, second = load_tokenizer(hand_file).identity(), load_tokenizer(other).identity()
    assert first["vocab_size"] == second["vocab_size"]
    assert first["fingerprint"] != second["fingerprint"]


def test_fingerprint_sees_a_changed_pattern():
    """Also where the probe text has the same ids under both, as with pico's ranks: " 9123" has not.
    """
    ranks = load_tokenizer("pico").definition()[0]
    under = [pretrained(pattern, ranks) for pattern in PATTERNS]
    assert len({t.identity()["fingerprint"] for t in under}) == len(PATTERNS)
    assert len({tuple(t.encode(" 9123")) for t in under}) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "0" * 64}, "fingerprint"),
        ({"vocab_size": 9}, "vocab_size 9"),
        ({"name": "nonsense"}, "--tokenizer nonsense"),
        ({"ranks": [("aA==", 0)], "pattern": PATTERNS["gpt2"]}, "without the single byte 0"),
        ({"ranks": [("aA==", 1 << 40)], "pattern": PATTERNS["gpt2"]}, "line 1: the rank 10995116"),
        ({"ranks": [["aA==", True]], "pattern": PATTERNS["gpt2"]}, "has a rank"),
        ({"ranks": "aA==", "pattern": PATTERNS["gpt2"]}, "no list"),
        ({"ranks": [("aA==", 0)], "pattern": "(a+)+$"}, "unknown pattern"),
        ({"ranks": [("aA==", 0)]}, "unknown pattern"),
    ],
)
def test_foreign_state_is_refused(pico, change, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        Tokenizer.from_state({**pico.state(), **change})
    assert "\n" not in str(caught.value)


def test_incomplete_state_is_refused(pico):
    state = pico.state()
    del state["fingerprint"]
    with pytest.raises(UserError, match="has no fingerprint"):
        Tokenizer.from_state(state)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"aGU=", "line 300: 1 fields"),
        (b"aGU= 299 1", "line 300: 3 fields"),
        (b"h*U= 299", "line 300: a token that is not base64"),
        (b"aGU= -1", "line 300: the rank -1"),
        (b"aGU= 1e3", "line 300: the rank 1e3"),
        (b"aGU= 99999999999999999999", "line 300: the rank 99999999999999999999"),
        (b"aGU= 2000000", "line 300: the rank 2000000"),
        (b"aGU= 7", "line 300: a token or rank that an earlier line has"),
        (b"QQ== 299", "line 300: a token or rank that an earlier line has"),
        (base64.b64encode(b"a" * 5000) + b" 299", "line 300: a token of 5000 bytes"),
    ],
)
def test_malformed_line_is_named(tmp_path, line, message):
    tokens = [*(bytes([byte]) for byte in range(256)), *(b"zz" + bytes([i]) for i in range(43))]
    path = tmp_path / "bad.tiktoken"
    write_ranks(path, tokens)
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        load_tokenizer(str(path))
    assert "bad.tiktoken" in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_no_ranks(tmp_path):
    empty = tmp_path / "empty.tiktoken"
    empty.touch()
    with pytest.raises(UserError, match="without the single byte 0"):
        load_tokenizer(str(empty))
    with pytest.raises(UserError, match="No such file"):
        load_tokenizer(str(tmp_path / "gone.tiktoken"))
    with pytest.raises(UserError, match="Is a directory"):
        (tmp_path / "folder.tiktoken").mkdir()
        load_tokenizer(str(tmp_path / "folder.tiktoken"))
    huge = tmp_path / "huge.tiktoken"
    with huge.open("wb") as file:
        file.truncate(1 << 40)  # sparse: it takes no space and must not be read
    with pytest.raises(UserError, match="1099511627776 bytes"):
        load_tokenizer(str(huge))
    with pytest.raises(UserError, match="expected pico, gpt2"):
        load_tokenizer("gpt3")


def test_no_network_is_one_line(tmp_path, monkeypatch):
    """The names that tiktoken downloads, where nothing answers: one line that says what to do."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    for name in ("gpt2", "cl100k_base", "o200k_base"):
        with pytest.raises(UserError, match=f"--tokenizer {name}.*use --tokenizer pico") as caught:
            load_tokenizer(name)
        assert "\n" not in str(caught.value)


def test_the_trainer_reads_what_the_model_reads():
    """Prompts of the user's own without `Context:`, `Question:` and `Answer:`."""
    from tools.train_tokenizer import texts_of

    question = Question("1", "2 + 3 =", ("5",), (NO_PLACE,))
    own = Paragraph(question.text, "", (question,), False)
    asked = Paragraph("T", "It is 5.", (question._replace(text="What?"),))
    assert list(texts_of([own, asked])) == [
        "2 + 3 = 5\n", "Context: It is 5.\nQuestion: What?\nAnswer: 5\n"
    ]


def test_the_shipped_file_is_written_where_it_is_named_and_only_there(tmp_path, monkeypatch):
    from tools import train_tokenizer

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_tokenizer, "PICO_FILE", tmp_path / "pico.tiktoken")
    with pytest.raises(SystemExit) as ended:
        train_tokenizer.main(["--dataset", "nosuch.json"])
    assert ended.value.code == 2
    for name, header in (("pico.tiktoken", False), ("mine.tiktoken", True)):
        train_tokenizer.write_ranks({b"a": 0}, Path(name), "pico")
        assert Path(name).read_text().startswith("#pattern pico") == header


def test_trainer_is_deterministic(tmp_path, monkeypatch):
    """Twice the same bytes, and a file that loads; digits are tokens whatever the text."""
    pytest.importorskip("tokenizers", reason="development dependency")
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "tools"))
    monkeypatch.delitem(sys.modules, "train_tokenizer", raising=False)
    import train_tokenizer

    data = tmp_path / "train.json"
    data.write_text(
        '{"version": "1.1", "data": [{"title": "T", "paragraphs": [{"context": "'
        + "A cat sat on the mat in the hat. " * 20
        + '", "qas": [{"id": "1", "question": "What sat?", '
        '"answers": [{"text": "A cat", "answer_start": 0}]}]}]}]}'
    )
    outputs = []
    for number in range(2):
        output = tmp_path / f"{number}.tiktoken"
        train_tokenizer.main(
            ["--dataset", str(data), "--vocab_size", "560", "--output", str(output)]
        )
        outputs.append(output.read_bytes())
    assert outputs[0] == outputs[1]
    for output in ("mine.txt", "none/mine.tiktoken"):
        with pytest.raises(SystemExit) as ended:
            train_tokenizer.main(["--dataset", str(data), "--output", str(tmp_path / output)])
        assert ended.value.code == 2
    tokenizer = load_tokenizer(str(tmp_path / "0.tiktoken"))
    assert tokenizer.vocab_size == 560
    assert len(tokenizer.encode(" 47")) == 1
    assert len(tokenizer.encode(" the")) == 1
