"""The longest answer that a model may give, and the golds that it cannot reach."""

import json
from pathlib import Path

from conftest import flags, generated, outcome, path_of

from src.data.encoding import encode_paragraphs
from src.data.squad_dataset import context_groups
from src.data.squad_types import Paragraph, Question
from src.data.tokenizers.tokenizer import load_tokenizer
from src.evaluation.evaluation_set import baselines_of, held_out_questions
from src.rl import metrics as ppo_metrics
from src.training import run_data
from src.utils.checkpoint_utils import load_checkpoint
from tests.faults.runs import small_squad

PICO = load_tokenizer("pico")
PROMPT = "Context: Ada met Bo in 1204.\nQuestion: When?\nAnswer:"


def with_golds(lengths):
    """A paragraph whose questions have golds of so many tokens (digits are one each)."""
    golds = ["1" * n for n in lengths]
    context = "a " + " b ".join(golds)
    questions = tuple(
        Question(f"q{n}", "Which?", (gold,), (context.index(gold),)) for n, gold in enumerate(golds)
    )
    return Paragraph("t", context, questions)


def encoded_tokens(paragraph):
    (encoded,) = encode_paragraphs([paragraph], PICO)
    return [len(question.golds[0]) + 1 for question in encoded.questions]


def test_the_longest_answer_is_what_99_of_100_training_answers_need():
    """But at least 16 tokens, and at most 128 and a quarter of the block."""
    short, long = encoded_tokens(with_golds([60, 90]))
    for lengths, block, wanted in (
        ([60] * 99 + [90], 1024, short),  # one in a hundred is longer
        ([60] * 98 + [90] * 2, 1024, long),
        ([1] * 100, 1024, 16),
        ([900] * 100, 1024, 128),
        ([900] * 100, 100, 25),
    ):
        encoded = encode_paragraphs([with_golds(lengths)], PICO)
        assert run_data.longest_answer(encoded, block) == wanted
    assert 16 < short < long < 128


def test_the_ceiling_is_what_can_be_written_and_is_in_the_window():
    """Golds of 2, 4 and 12 tokens and one that the window cuts off."""
    paragraph = with_golds([1, 3, 11, 25])
    encoded = encode_paragraphs([paragraph], PICO)
    lengths = encoded_tokens(paragraph)
    assert lengths == sorted(set(lengths))
    for number, longest in enumerate(lengths, 1):
        found = held_out_questions([paragraph], encoded, 1024, longest)
        assert found.ceiling == 25 * number and found.max_answer_tokens == longest
        assert f"perfect copy within {longest} tokens" in found.summary()
        assert f"EM {25 * number:.1f}" in found.summary()
        copies = baselines_of(found, PICO, []).perfect_copy
        assert sum(map(bool, copies)) == number
        assert found.gold_tokens() == [n if n <= longest else 0 for n in lengths]
    need = len(encoded[0].questions[0].tokens) + lengths[-1] + 1
    cut = held_out_questions([paragraph], encoded, need + len(encoded[0].tokens) - 2, lengths[-1])
    assert cut.ceiling == 75 and cut.lost == 0.25


def test_a_ceiling_of_golds_that_the_context_does_not_hold_is_0():
    paragraph = Paragraph("t", "Ada met Bo.", (Question("q", "Who?", ("Eve",), (0,)),))
    encoded = encode_paragraphs([paragraph], PICO)
    assert held_out_questions([paragraph], encoded, 1024).ceiling == 0


def stored_flag(path, name):
    return load_checkpoint(path).flags[name]


def test_the_longest_answer_is_stored_inherited_and_a_flag(workplace):
    workplace("kgram", [])
    content = small_squad(8)
    Path("mine.json").write_text(json.dumps(content))
    first = [*flags("main_squad", "kgram"), "--dataset", "mine.json"]
    ended = outcome("main_squad", [*first, "--max_answer_tokens", "7"])
    assert ended.code == 0, ended.err
    assert any("perfect copy within 7 tokens (--max_answer_tokens): EM " in line
               for line in ended.err)
    assert outcome("train_dpo", flags("train_dpo", "kgram")).code == 0
    assert stored_flag(path_of("train_dpo"), "max_answer_tokens") == 7
    ended = outcome("eval_dpo", ["--model_type", "kgram"])
    assert ended.code == 0 and "rule: perfect copy within 7 tokens" in "\n".join(ended.out)
    ended = outcome("eval_dpo", ["--model_type", "kgram", "--max_answer_tokens", "3"])
    assert "perfect copy within 3 tokens" in "\n".join(ended.err)
    argv = flags("train_ppo", "kgram")
    at = argv.index("--max_new_tokens")
    ended = outcome("train_ppo", [*argv[:at], *argv[at + 2 :], "--reward", "f1"])
    assert ended.code == 0, ended.err
    assert stored_flag(path_of("train_ppo"), "max_new_tokens") == 7
    seven, twelve = (generated("--prompt", PROMPT, "--max_new_tokens", n) for n in ("7", "12"))
    assert generated("--prompt", PROMPT) == seven != twelve
    # Other data of a later stage have a default of their own.
    Path("other.json").write_text(json.dumps(small_squad(12)))
    argv = [*flags("train_reward_model", "kgram"), "--dataset", "other.json"]
    ended = outcome("train_reward_model", argv)
    assert ended.code == 0, ended.err
    assert stored_flag(path_of("train_reward_model"), "max_answer_tokens") == 16


def test_golds_too_long_to_be_sampled_are_counted(capsys):
    paragraph = with_golds([1, 3, 11])
    encoded = encode_paragraphs([paragraph], PICO)
    units = context_groups(encoded, 512)
    questions = run_data.Questions([paragraph], encoded, units, [], [], None, {})
    for number, longest in enumerate(encoded_tokens(paragraph), 1):
        missed = run_data.out_of_reach(questions, longest)
        assert missed == {(0, q) for q in range(number, 3)}
        line = ppo_metrics.reach(len(missed), units, longest)
        start = f"{3 - number} of 3 training questions have no gold within --max_new_tokens"
        assert line.startswith(f"{start} {longest}") == (number < 3)
    assert line == f"all 3 training questions have a gold within --max_new_tokens {longest}"
