"""Words, sentences, types and corruptions in languages other than English."""

import codecs
import contextlib
import io
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import regex
from conftest import flags, outcome
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data import corruptions as corrupt
from src.data.answer_text import answer_tokens, answer_type, typed_spans
from src.data.encoding import encode_paragraphs
from src.data.segmentation import (
    language_of,
    main_script,
    piece_spans,
    pieces,
    sentence_edges,
    word_spans,
)
from src.data.squad_loader import load_squad
from src.data.squad_preferences import make_pairs
from src.data.squad_types import Paragraph, Question
from src.data.tokenizers.tokenizer import PATTERNS, PICO_FILE, load_tokenizer
from src.data.windows import longest_fitting_answer, make_example
from src.evaluation.baselines import baseline_predictions
from src.evaluation.evaluation_set import EvaluationSet, PolicyResult, held_out_questions
from src.evaluation.squad_metrics import QAExample
from src.inference.prompts import prompts_of_file, prompts_of_pipe
from src.playground.answers import Alternative, PolicyAnswers, Sample, Token
from src.playground.render import render
from src.preference.pair_batches import evaluation_pair_trees, fits_budget, preference_trees
from src.preference.pairs import PairSet, held_out_pairs, length_rule, training_pairs
from src.report.answers import answer_cell, answers_table, marked_words
from src.rl.rewards import reward_function
from src.training.run_data import say_remedy
from src.utils.checkpoint_utils import load_checkpoint
from src.utils.constants import STAGES
from src.utils.errors import UserError
from tests.languages import TEXTS, long_chinese, many, paragraph_of, write_squad

PICO = load_tokenizer("pico")

QUICK = settings(max_examples=200, deadline=None, derandomize=True, database=None)
LETTERS = "ab .,。।?؟\n1٣年张三かカーกเำ้ระยिकषत्مَرحЁё한 \u200d👩🏽\ufe0f\u20e3က်ာ្ស"
MIXED = st.text(st.sampled_from(LETTERS), max_size=30)


def edges_of(text):
    """Where the graphemes of a text begin and end."""
    return {0, *(match.end() for match in regex.finditer(r"\X", text))}


def stands_whole(span, context):
    """Whether the context holds the span with no grapheme cut at its ends."""
    edges = edges_of(context)
    return any(
        match.start() in edges and match.end() in edges
        for match in regex.finditer(regex.escape(span), context, overlapped=True)
    )


def words(text):
    return [text[first:end] for first, end in word_spans(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("बहन सीता दिल्ली में है। उसने", ["बहन", "सीता", "दिल्ली", "में", "है", "उसने"]),
        ("है।उसने", ["है", "उसने"]),
        ("北京大学，2010年。", ["北", "京", "大", "学", "2010", "年"]),
        ("コンピューターの本", ["コンピューター", "の", "本"]),
        ("เชียงใหม่ น้ำ", ["เชี", "ย", "ง", "ให", "ม่", "น้ำ"]),
        ("ភ្នំពេញ។", ["ភ្នំ", "ពេ", "ញ"]),
        ("서울에서 3명이", ["서울에서", "3명이"]),
        ("Анна, öfter: «ü»", ["Анна", "öfter", "ü"]),
        ("نعم، 1990؟ هو", ["نعم", "1990", "هو"]),
        ("3.5 re-run (U.S.)", ["3.5", "re-run", "U.S"]),
    ],
)
def test_words_by_hand(text, expected):
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("यह है। वह था।", ["यह है। ", "वह था।"]),
        ("这是。「那是！」不是？", ["这是。", "「那是！」", "不是？"]),
        ("هل هو؟ نعم.", ["هل هو؟ ", "نعم."]),
        ("یہ ہے۔ وہ تھا۔", ["یہ ہے۔ ", "وہ تھا۔"]),
        ("เขามา เธอไป 5 คน", ["เขามา ", "เธอไป 5 คน"]),
        ("Ήρθε; Ναι, ήρθε. Όχι", ["Ήρθε; ", "Ναι, ήρθε. ", "Όχι"]),
        ("He came; she left.", ["He came; she left."]),
        ("Он ушёл. Она тоже.", ["Он ушёл. ", "Она тоже."]),
        ('It is. "So!" No.', ["It is. ", '"So!" ', "No."]),
    ],
)
def test_sentences_by_hand(text, expected):
    edges = sorted(set(sentence_edges(text)))
    assert [text[a:b] for a, b in zip(edges, edges[1:], strict=False)] == expected


@QUICK
@given(MIXED)
def test_no_grapheme_is_cut(text):
    """Whatever the text: words and pieces begin and end where graphemes do, in order."""
    edges = edges_of(text)
    for spans in (word_spans(text), piece_spans(text)):
        assert all(a < b and {a, b} <= edges for a, b in spans)
        assert all(one[1] <= two[0] for one, two in zip(spans, spans[1:], strict=False))
    assert "".join("".join(pieces(text)).split()) == "".join(text.split()), "nothing is lost"


def test_types_by_unicode():
    expected = {
        "2010年": "date", "2010年5月1日": "date", "二〇一〇年": "date", "5月1日": "date",
        "平成22年": "date", "2010년 5월 1일": "date", "12 мая 1804": "date",
        "12. März 1804": "date", "१५ अगस्त १९९२": "date", "١٩٩٠": "date",
        "12 مايو 2010": "date", "5 ธันวาคม พ.ศ. 2530": "date", "35章": "number", "٣٥": "number",
        "３５": "number",
        "35점": "number", "Тула": "name", "Éva": "name", "Änne": "name", "über": "other",
        "öfter": "other", "सीता": "other", "北京": "other", "سارة": "other", "B2": "name",
        "x3": "other", "mai": "other",
    }
    assert {text: answer_type(text) for text in expected} == expected


@pytest.mark.parametrize(
    ("language", "dates", "numbers", "names"),
    [
        ("hi", ["1990", "१५ अगस्त १९९२"], ["35"], []),
        ("th", ["2010", "5 ธันวาคม พ.ศ. 2530"], ["35"], []),
        ("zh", ["2010年", "1998年5月1日"], ["35"], []),
        ("ja", ["2010年", "平成22年"], ["35"], []),
        ("ko", ["2010년 5월 1일", "1998년"], ["35"], []),
        ("ru", ["12 мая 1804", "1990"], ["35"], ["Анна", "Тула", "Иван Петров", "Музей", "Казани"]),
        ("de", ["12. März 1804", "1990"], ["35"],
         ["Jürgen Müller", "Brücke", "Köln", "Er", "März", "Das Museum", "Gemälde von Änne Groß"]),
        ("ar", ["١٩٩٠", "12 مايو 2010"], ["٣٥"], []),
        ("el", ["1995", "3 Μαΐου 2001"], ["35"],
         ["Νίκος", "Πάτρα", "Πόσους", "Έχει", "Ελένη Παππά", "Μαΐου"]),
        ("he", ["1985", "2010"], ["35"], []),
        ("km", ["1990"], ["35"], []),
    ],
)
def test_spans_of_a_type(language, dates, numbers, names):
    context = TEXTS[language][0]
    found = [typed_spans(context, kind) for kind in ("date", "number", "name")]
    assert found == [dates, numbers, names]


def test_names_among_letters_without_capitals():
    assert typed_spans("他在NBA和Los Angeles打球", "name") == ["NBA", "Los Angeles"]


@pytest.mark.parametrize("language", TEXTS)
def test_every_kind_spoils_answers_of_every_language(language):
    """Every corruption offers something for some answer, and nothing is cut inside a grapheme."""
    paragraph = paragraph_of(language)
    view = corrupt.make_view(paragraph)
    offered = Counter()
    for number, question in enumerate(paragraph.questions):
        scene = corrupt.make_scene(view, number, 0)
        for kind in ("other_span", "same_type", "shifted", "truncated", "sentence"):
            found = getattr(corrupt, kind)(scene, Random(number))
            offered[kind] += len(found)
            for text in found:
                assert stands_whole(text, paragraph.context), (kind, text)
        [answer] = question.answers
        for text in corrupt.shuffled(scene, Random(number)):
            offered["shuffled"] += 1
            assert Counter(regex.findall(r"\X", text)) == Counter(regex.findall(r"\X", answer))
        for text in corrupt.unrelated(scene, Random(number)):
            offered["unrelated"] += 1
            letters = regex.findall(r"\p{L}", text)
            assert not letters or main_script(text) in (view.script, "Han"), text
    applies = {"other_span", "same_type", "shifted", "sentence", "unrelated"}
    if any(len(pieces(q.answers[0])) > 1 for q in paragraph.questions):
        applies |= {"truncated", "shuffled"}
    assert set(+offered) == applies
    assert "truncated" in applies or language == "km"


def test_a_chinese_answer_by_hand():
    """北京大学 at 3 of a text without blanks: its sentence, its parts, what stands beside it."""
    context = "张三在北京大学学习物理。李四在上海工作。王五去了2010年的展览会。"
    paragraph = Paragraph("T", context, (Question("1", "q", ("北京大学",), (3,)),))
    scene = corrupt.make_scene(corrupt.make_view(paragraph), 0, 0)
    rng = Random(0)
    assert corrupt.sentence(scene, rng) == ["张三在北京大学学习物理。"]
    assert set(corrupt.truncated(scene, rng)) == {"京大学", "北京大"}
    assert {"在北京大学", "京大学学", "北京大学学习", "大学"} <= set(corrupt.shifted(scene, rng))
    assert all(sorted(t) == sorted("北京大学") for t in corrupt.shuffled(scene, rng))
    assert all(t in context and len(t) <= 8 for t in corrupt.other_span(scene, rng))
    year = Paragraph("T", context, (Question("1", "q", ("2010年",), (context.index("2010"),)),))
    assert corrupt.same_type(corrupt.make_scene(corrupt.make_view(year), 0, 0), rng) == ["2010年"]


@pytest.mark.parametrize("language", ["hi", "th", "zh", "ja", "ko", "ru", "de", "ar"])
def test_length_tells_nothing_in_any_language(language):
    """"The shorter wins" is right on 50%: 1,800 pairs have a standard error of 1.2."""
    pairs = make_pairs(many(language, 300), 0, "x")
    wins = [
        0.5 + 0.5 * ((len(p.chosen) < len(p.rejected)) - (len(p.chosen) > len(p.rejected)))
        for p in pairs
    ]
    assert 0.46 < sum(wins) / len(pairs) < 0.54
    assert len({pair.kind for pair in pairs}) == 8


@pytest.mark.parametrize("language", TEXTS)
def test_baselines_read_no_blanks_where_there_are_none(language):
    """Random spans are as short as training answers; the first span of a type is one of the text's.
    """
    paragraph = paragraph_of(language)
    answers = [q.answers[0] for q in paragraph.questions]
    longest = max(len(pieces(answer)) for answer in answers)
    found = baseline_predictions(
        [paragraph.context] * len(answers), [(answer,) for answer in answers], answers
    )
    for span in found.random_span:
        assert len(pieces(span)) <= longest and stands_whole(span, paragraph.context)
    for first, answer in zip(found.first_of_type, answers, strict=True):
        assert stands_whole(first, paragraph.context)
        assert answer_type(answer) in (answer_type(first), "other")
    assert found.perfect_copy == answers


# --- the metric ---


def test_no_rejected_answer_is_right_by_the_metric():
    """A gold with brackets or without is one answer to the mixed metric, two to SQuAD's."""
    context = "《三体》是小说。三体很长。"
    both = Question("1", "q", ("三体",), (1,)), Question("2", "q", ("《三体》",), (0,))
    paragraphs = [
        Paragraph("T", context, tuple(q._replace(id=f"{q.id}-{n}") for q in both))
        for n in range(300)
    ]
    for metric, same in (("squad", True), ("mixed", False)):
        pairs = make_pairs(paragraphs, 0, "x", {"other_answer": 1.0, "sentence": 1.0}, metric)
        tokens = [[answer_tokens(t, "mixed") for t in (p.chosen, p.rejected)] for p in pairs]
        assert any(chosen == rejected for chosen, rejected in tokens) == same


def test_rewards_compare_by_the_metric():
    asked = ("北京大学校", ("北京大学",), "", "")
    assert reward_function("f1")(*asked) == 0.0
    assert reward_function("f1", "mixed")(*asked) == pytest.approx(8 / 9)
    assert reward_function("em")("《三体》", ("三体",), "", "") == 0.0
    assert reward_function("em", "mixed")("《三体》", ("三体",), "", "") == 1.0


def test_the_report_marks_what_the_metric_counts():
    assert marked_words("北京大学校", ["北京大学"]) == [("北京大学校", False)]
    assert marked_words("北京 AI校", ["北京AI"], "mixed") == [
        ("北", True), ("京", True), ("AI", True), ("校", False),
    ]
    cell = answer_cell("SFT", "北京 AI校", ["北京AI"], False, "mixed")
    text = regex.sub("<[^>]*>", "", cell)
    assert text == "✗ 北京 AI校"


def test_the_metric_is_stored_and_inherited_by_every_stage(tmp_path, monkeypatch):
    """Chosen once at SFT; evaluation and PPO's f1 reward follow it; a flag overrides it."""
    monkeypatch.chdir(tmp_path)
    paragraphs = [
        p._replace(context=f"{p.context}第{n}段。") for n, p in enumerate(many("zh", 12))
    ]
    data = write_squad("zh.json", paragraphs)
    where = {s: f"checkpoints/kgram_{s}/final.pt" for s in STAGES}
    more = {
        STAGES[0]: ["--dataset", data, "--answer_metric", "mixed", "--num_examples", "40"],
        STAGES[3]: ["--reward", "f1", "--max_new_tokens", "6"],
    }
    for stage in STAGES:
        argv = [*flags(stage, "kgram"), "--max_steps", "1", *more.get(stage, [])]
        ended = outcome(stage, argv)
        assert ended.code == 0, ended.err
        if stage != STAGES[0]:
            assert f"answer metric: mixed, inherited from {where[STAGES[0]]}" in ended.err
        found = load_checkpoint(where[stage])
        assert found.answer_metric == found.flags["answer_metric"] == "mixed"
    policies = ["--model_type", "kgram", "--checkpoint", where[STAGES[1]]]
    ended = outcome("eval_dpo", policies)
    assert ended.code == 0 and any("answers compared by mixed" in line for line in ended.err)
    ended = outcome("eval_dpo", [*policies, "--answer_metric", "squad"])
    assert ended.code == 0 and any("answers compared by squad" in line for line in ended.err)


# --- lengths ---


def length_of(pair_set):
    """(share of pairs that a rule of the shorter answer gets right, in percent; pairs dropped)."""
    return length_rule(pair_set).value, pair_set.trees.dropped


def test_long_rejected_answers_are_not_dropped_but_drawn_again():
    """A sentence of 43 characters has more than the 127 tokens that a held-out answer may have, and
    than a block of 128 leaves beside a question. 800 pairs: a standard error of 1.8."""
    paragraphs = long_chinese(200)
    encoded = encode_paragraphs(paragraphs, PICO)
    held_out = held_out_pairs(paragraphs, encoded, PICO, 1024, "x", None)
    training = training_pairs(paragraphs, encoded, PICO, 128, "x", None, 0)
    for found in (held_out, training):
        value, dropped = length_of(found)
        assert dropped == 0 and 46 < value < 54
    # Drawn from all candidates and dropped where they do not fit, pairs favour the longer answer.
    every = make_pairs(paragraphs, 0, "x")
    trees = (
        evaluation_pair_trees(encoded, every, PICO, 1024, answer_budget=128),
        preference_trees(encoded, every, PICO, 128, seed=0),
    )
    for found in trees:
        value, dropped = length_of(PairSet(every, found))
        assert dropped > 50 and value < 45


def test_pairs_that_fit_anyway_are_the_same():
    paragraphs = load_squad("pico", num_examples=200).train
    encoded = encode_paragraphs(paragraphs, PICO)
    every = make_pairs(paragraphs, 0, "pico")
    assert training_pairs(paragraphs, encoded, PICO, 1024, "pico", None, 0).pairs == every
    assert held_out_pairs(paragraphs, encoded, PICO, 1024, "pico", None).pairs == every


def test_a_pair_that_cannot_fit_is_made_and_counted():
    """No answer fits 3 tokens: all pairs are dropped, none vanishes."""
    paragraphs = long_chinese(5)
    pairs = make_pairs(paragraphs, 0, "x", fits=fits_budget(PICO, 3))
    trees = evaluation_pair_trees(
        encode_paragraphs(paragraphs, PICO), pairs, PICO, 1024, answer_budget=3
    )
    assert len(pairs) == 20 and trees.dropped == 20


def test_a_gold_that_fits_is_taken_where_another_does_not():
    context = "北京大学在北京。"
    question = Question("1", "q", ("北京大学在北京。", "北京"), (0, 0))
    paragraphs = [
        Paragraph("T", context, (question._replace(id=f"{n}"), Question("o", "q", ("在",), (4,))))
        for n in range(50)
    ]
    pairs = make_pairs(paragraphs, 0, "x", fits=fits_budget(PICO, 10))
    assert {p.chosen for p in pairs if p.question == 0} == {"北京"}


@pytest.mark.parametrize("block", [40, 64, 96, 1024])
def test_the_longest_answer_is_the_longest_that_finds_a_window(block):
    """Against `make_example` itself: one token more finds none."""
    for paragraph in encode_paragraphs([paragraph_of("zh"), *long_chinese(3)], PICO):
        for question in paragraph.questions:
            most = longest_fitting_answer(paragraph, question, 0, block)
            for tokens, fits in ((most, True), (most + 1, False)):
                if tokens > 0:
                    example = make_example(paragraph, question, 0, [[1] * tokens], block)
                    assert (example is not None) == fits


# --- tokenizers ---


def trained(monkeypatch, *argv):
    """The loaded tokenizer that tools/train_tokenizer.py writes to mine.tiktoken."""
    pytest.importorskip("tokenizers", reason="development dependency")
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "tools"))
    monkeypatch.delitem(sys.modules, "train_tokenizer", raising=False)
    import train_tokenizer

    train_tokenizer.main([*argv, "--output", "mine.tiktoken"])
    return load_tokenizer("mine.tiktoken")


@pytest.mark.parametrize("language", ["hi", "th"])
def test_a_tokenizer_of_its_own_knows_the_words(tmp_path, monkeypatch, language):
    """A BOM is no fault; a word with its marks can be one token; pico makes bytes of them."""
    monkeypatch.chdir(tmp_path)
    path = Path(write_squad("data.json", many(language, 3)))
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    argv = ["--dataset", "data.json", "--vocab_size", "900", "--pico_share", "0"]
    mine = trained(monkeypatch, *argv)
    [text] = {p.context for p in many(language, 3)}
    assert mine.decode(mine.encode(text)) == text
    assert len(mine.encode(text)) * 5 < len(PICO.encode(text))
    word = {"hi": " दिल्ली", "th": " น้ำตกอยู่ทางเหนือของหมู่บ้าน"}[language]
    assert len(mine.encode(word)) == 1
    again = type(mine).from_state(mine.state())
    assert again.encode(text) == mine.encode(text)


def test_a_ranks_file_names_its_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = PICO_FILE.read_bytes()
    for name, content, pattern in (
        ("old", plain, "gpt2"),
        ("bom", codecs.BOM_UTF8 + plain, "gpt2"),
        ("new", b"#pattern marks\n" + plain, "marks"),
    ):
        Path(f"{name}.tiktoken").write_bytes(content)
        assert load_tokenizer(f"{name}.tiktoken").definition()[1] == PATTERNS[pattern]
    Path("odd.tiktoken").write_bytes(b"#pattern mine\n" + plain)
    with pytest.raises(UserError, match="odd.tiktoken, line 1: the pattern 'mine'; expected one"):
        load_tokenizer("odd.tiktoken")


def test_the_remedy_is_named_where_windows_cut_much_off(tmp_path, monkeypatch):
    """pico makes some 7 tokens of 3 Hindi letters. Nothing is said where nothing is cut off, and
    nothing of English."""
    monkeypatch.chdir(tmp_path)
    remedy = "python tools/train_tokenizer.py --dataset DATA"
    hindi = [paragraph_of("hi")]
    english = load_squad("pico", num_examples=20).train
    for paragraphs, block, expected in (
        (hindi, 300, True), (hindi, 4096, False), (english, 70, False),
    ):
        encoded = encode_paragraphs(paragraphs, PICO)
        held_out = held_out_questions(paragraphs, encoded, block)
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            say_remedy(held_out, encoded, PICO)
        assert (remedy in said.getvalue()) == expected
        assert bool(held_out.lost) == (block < 4096)


def test_prompts_with_a_byte_order_mark(tmp_path, monkeypatch):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + '{"prompt": "क?"}\n'.encode())
    assert prompts_of_file(str(path)) == [(None, "क?")]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeffक?\n\nख?\n"))
    assert prompts_of_pipe() == [(None, "क?"), (None, "ख?")]


# --- pages ---


@pytest.mark.parametrize(
    ("language", "tag"),
    [("hi", "hi"), ("th", "th"), ("zh", "zh"), ("ja", "ja"), ("ko", "ko"), ("ru", "ru"),
     ("ar", "ar"), ("km", "km"), ("de", "")],
)
def test_the_report_names_the_language_and_lets_texts_run_their_way(language, tag):
    paragraph = paragraph_of(language)
    asked = [QAExample(paragraph.context, q.text, q.answers) for q in paragraph.questions]
    answers = [q.answers[0] for q in paragraph.questions]
    held_out = EvaluationSet([], [], asked, [q.id for q in paragraph.questions], [], 0.0, 0)
    points = [1.0] * len(asked)
    result = PolicyResult(answers, [], points, points, [], [0] * len(asked), [])
    table = answers_table(1, held_out, {"SFT": result})
    assert f'<tbody lang="{tag}">' in table
    # Of each row: question, context, gold and answer.
    assert table.count('dir="auto"') == 4 * len(asked)


def test_english_is_known_by_its_article():
    paragraphs = load_squad("pico", num_examples=50).train
    assert language_of(" ".join(p.context for p in paragraphs)) == "en"


def test_the_playgrounds_answers_run_their_way():
    token = Token("سارة", 0.5, None, [Alternative("سارة", 0.5, True)])
    html = render(PolicyAnswers("SFT", [Sample("سارة", [token], -1.0, None, None, None, True)]))
    assert '<div class="pg-tokens" dir="auto">' in html
    assert 'class="pg-tip" role="tooltip" id="pg-0-0-0" dir="ltr"' in html, "it is English"
