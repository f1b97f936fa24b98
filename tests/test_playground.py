"""What the playground computes and shows, without its page: no test here needs gradio."""

import dataclasses
import errno
import re
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from conftest import flags, outcome, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.tokenizers.tokenizer import load_tokenizer
from src.evaluation.evaluation_set import ANSWER_BUDGET
from src.evaluation.squad_metrics import QAExample
from src.inference.sampling import Sampling
from src.playground import answers as answers_module
from src.playground import page, render
from src.playground.answers import AnswerSettings, answer, answers, cut_prompt, pieces
from src.playground.checkpoints import find_checkpoints, load_checkpoints
from src.utils.checkpoint_utils import load_checkpoint, save_checkpoint
from src.utils.constants import STAGES
from src.utils.errors import UserError

EXAMPLE = QAExample(
    "The Boru Fair began in 1204 in Vozar.", "When did it begin?", ("1204", "in 1204")
)
NAMES = ["kgram base", "kgram SFT", "kgram DPO", "kgram PPO"]
MARKUP = "</p><script>alert(1)</script><img src=x onerror=alert(2)> {{value}} ${1+1} \"'&lt;"


@pytest.fixture
def loaded(kgram):
    return load_checkpoints(find_checkpoints("checkpoints"))


def sampled(temperature=1.0, samples=1, **more):
    return AnswerSettings(Sampling(temperature, **more), samples)


def logits_after(model, ids):
    """(V,) of one row read in one go, float64."""
    hidden, _ = model(torch.tensor([ids]), torch.tensor([len(ids)]))
    return model.logits(hidden[0, -1]).detach().double()


# --- what is loaded ---


def test_every_stage_is_offered_with_its_parent(loaded):
    assert list(loaded.policies) == NAMES and list(loaded.reward_models) == ["kgram reward"]
    assert loaded.refused == []
    parents = {name: policy.parent_name for name, policy in loaded.policies.items()}
    assert parents == dict(zip(NAMES, ["", "kgram base", "kgram SFT", "kgram SFT"], strict=True))
    sft = loaded.policies["kgram SFT"]
    assert loaded.policies["kgram DPO"].parent is sft.model
    assert sft.parent is loaded.policies["kgram base"].model
    assert [policy.trained for policy in loaded.policies.values()] == [False, True, True, True]


def test_the_base_is_what_training_began_with(tmp_path, monkeypatch, model_type):
    """A rate that is nothing in float32 leaves the first weights as they were."""
    monkeypatch.chdir(tmp_path)
    still = ["--lr", "1e-38", "--weight_decay", "0", "--seed", "7"]
    assert outcome("main_squad", [*flags(STAGES[0], model_type), *still]).code == 0
    loaded = load_checkpoints(find_checkpoints("checkpoints"))
    base, sft = (loaded.policies[f"{model_type} {name}"].model for name in ("base", "SFT"))
    assert base is not sft
    for name, weights in sft.state_dict().items():
        assert torch.allclose(base.state_dict()[name], weights, rtol=0, atol=1e-30), name


def test_a_bad_checkpoint_leaves_the_others(kgram):
    place = Path("checkpoints/kgram_train_dpo/final.pt")
    place.write_bytes(place.read_bytes()[:1000])
    Path("checkpoints/other").mkdir()
    Path("checkpoints/other/final.pt").write_text("<b>no checkpoint</b>")
    loaded = load_checkpoints(find_checkpoints("checkpoints"))
    assert list(loaded.policies) == ["kgram base", "kgram SFT", "kgram PPO"]
    assert [str(line).split()[0] for line in loaded.refused] == [
        "checkpoints/kgram_train_dpo/final.pt", "checkpoints/other/final.pt",
    ]
    assert all("\n" not in line for line in loaded.refused)


def test_a_parent_that_is_not_loaded_means_no_kl(kgram):
    loaded = load_checkpoints(["checkpoints/kgram_train_ppo/final.pt"])
    (policy,) = loaded.policies.values()
    (sample,) = answer(policy, None, EXAMPLE, sampled(0)).samples
    assert (policy.parent, policy.parent_name, sample.kl_nats) == (None, "", None)
    assert "KL from" not in render.render(answer(policy, None, EXAMPLE, sampled(0)))


def test_one_stage_from_two_files_has_two_names(kgram):
    path, copy = "checkpoints/kgram_main_squad/final.pt", "copy.pt"
    checkpoint = load_checkpoint(path)
    save_checkpoint(copy, dataclasses.replace(checkpoint, flags={**checkpoint.flags, "seed": 5}))
    names = list(load_checkpoints([path, copy]).policies)
    assert names == [f"kgram {s} ({p})" for p in (path, copy) for s in ("base", "SFT")]
    Path(copy).unlink()


# --- what is computed ---


def test_figures_are_those_of_the_other_scripts(loaded):
    """Text and log-probability of generate_from_checkpoint.py, and its score of the answer."""
    base = ["--model_type", "kgram", "--context", EXAMPLE.context, "--question", EXAMPLE.question]
    policy = "checkpoints/kgram_train_dpo/final.pt"
    reward_model = "checkpoints/kgram_train_reward_model/final.pt"
    options = ["--temperature", "0.7", "--top_k", "9", "--num_samples", "3", "--seed", "4"]
    said = outcome("generate_from_checkpoint", [*base, "--checkpoint", policy, *options]).result
    setting = AnswerSettings(Sampling(0.7, 9), 3, 4)
    policy_and_reward = loaded.policies["kgram DPO"], loaded.reward_models["kgram reward"]
    found = answer(*policy_and_reward, EXAMPLE, setting)
    assert [s.text for s in found.samples] == said["results"][0]["answers"]
    assert [s.stopped for s in found.samples] == said["results"][0]["stopped"]
    assert len({s.text for s in found.samples}) == 3
    tokenizer = policy_and_reward[0].tokenizer
    for sample in found.samples:
        tokens = [t.text for t in sample.tokens if t.text is not None]
        ids = tokenizer.encode(f" {sample.text}")  # perhaps others than were sampled
        if tokens == pieces(tokenizer, ids) and "\ufffd" not in sample.text:
            scored = outcome(
                "generate_from_checkpoint",
                [*base, "--checkpoint", reward_model, "--answer", sample.text],
            ).result["results"][0]["score"]
            assert sample.reward == pytest.approx(scored, abs=1e-4)


def test_greedy_log_probability_is_that_of_the_other_script(loaded):
    base = ["--model_type", "kgram", "--context", EXAMPLE.context, "--question", EXAMPLE.question]
    said = outcome("generate_from_checkpoint", base).result["results"][0]
    (sample,) = answer(loaded.policies["kgram SFT"], None, EXAMPLE, sampled(0, samples=5)).samples
    assert [sample.text] == said["answers"]
    assert sample.logp_nats == pytest.approx(said["logp_nats"][0], abs=1e-3)
    assert sample.reward is None
    assert all(token.alternatives[0].chosen for token in sample.tokens)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_tokens_against_one_row_read_anew_for_each(workplace, model_type, temperature):
    """Probabilities, alternatives and KL at temperature 1, whichever one was sampled at."""
    workplace(model_type)
    loaded = load_checkpoints(find_checkpoints("checkpoints"))
    policy = loaded.policies[f"{model_type} PPO"]
    block, budget = policy.model.config.block_size, policy.max_answer_tokens + 1
    prompt = cut_prompt(policy.tokenizer, EXAMPLE, block, answer_budget=budget)
    for sample in answer(policy, None, EXAMPLE, sampled(temperature, samples=2)).samples:
        read, logps, kls = [*prompt.context, *prompt.question], [], []
        for token in sample.tokens:
            logp = logits_after(policy.model, read).log_softmax(-1)
            other = logits_after(policy.parent, read).log_softmax(-1)
            kls.append(float((logp.exp() * (logp - other)).sum()))
            assert token.kl_nats == pytest.approx(kls[-1], abs=1e-5)
            top = logp.exp().topk(5)
            shown = [a.probability for a in token.alternatives[:5]]
            assert shown == pytest.approx(top.values.tolist(), abs=1e-5)
            (chosen,) = [a for a in token.alternatives if a.chosen]
            assert chosen.probability == pytest.approx(token.probability, abs=1e-6)
            ids = range(len(logp))
            # Halves of characters look alike: of those the nearest, which comes last.
            away = {i: abs(float(logp[i].exp()) - token.probability) for i in ids}
            near = sorted((i for i in ids if away[i] < 1e-5), key=away.get, reverse=True)
            texts = {None if i == policy.tokenizer.eos_id else policy.tokenizer.decode([i]): i
                     for i in near}
            read.append(texts[chosen.text])
            logps.append(float(logp[read[-1]]))
        assert sample.logp_nats == pytest.approx(sum(logps), abs=1e-3)
        assert sample.kl_nats == pytest.approx(sum(kls), abs=1e-4)
        assert sample.stopped == (sample.tokens[-1].text is None)
        assert sample.stopped or len(sample.tokens) == policy.max_answer_tokens


def test_a_policy_that_is_its_parent_has_no_kl(loaded):
    sft = loaded.policies["kgram SFT"]
    found = answer(sft._replace(parent=sft.model), None, EXAMPLE, sampled(2.0, samples=3))
    assert [s.kl_nats for s in found.samples] == [0.0] * 3


def test_f1_is_against_the_best_gold(loaded):
    policy = loaded.policies["kgram SFT"]
    (sample,) = answer(policy, None, EXAMPLE._replace(golds=()), sampled(0)).samples
    assert sample.f1 is None and sample.text
    again = EXAMPLE._replace(golds=("nothing of it", sample.text))
    assert answer(policy, None, again, sampled(0)).samples[0].f1 == 1.0


def test_a_reward_model_of_another_tokenizer_scores_nothing(loaded):
    class Foreign:
        def identity(self):
            return {"name": "foreign"}

    reward_model = loaded.reward_models["kgram reward"]._replace(tokenizer=Foreign())
    found = answer(loaded.policies["kgram SFT"], reward_model, EXAMPLE, sampled(1, samples=2))
    assert [s.reward for s in found.samples] == [None, None]


def test_a_long_text_is_cut_as_evaluation_cuts_it(loaded):
    """100 kB: the first tokens and the line's end stay, the question and room for an answer too."""
    tokenizer = load_tokenizer("pico")
    text = "The Boru Fair began in 1204. " * 3500
    prompt = cut_prompt(tokenizer, EXAMPLE._replace(context=text), 256)
    whole = tokenizer.encode(f"Context: {text.rstrip()}\n")
    assert prompt.question == tokenizer.encode(f"Question: {EXAMPLE.question}\nAnswer:")
    room = 256 - ANSWER_BUDGET - len(prompt.question)
    assert prompt.context == [*whole[: room - 1], whole[-1]]
    assert prompt.dropped == len(whole) - room > 20_000
    found = answer(loaded.policies["kgram SFT"], None, EXAMPLE._replace(context=text), sampled(0))
    assert found.samples and found.dropped_tokens + found.context_tokens == len(whole)
    assert f"{found.dropped_tokens:,} dropped" in render.render(found)


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (EXAMPLE._replace(question=" \n"), "an empty question given"),
        (EXAMPLE._replace(context="a" * 1_000_001), "1,000,001 characters given"),
        (EXAMPLE._replace(question="a" * 1_000_001), "1,000,001 characters given"),
    ],
)
def test_a_question_at_fault_is_refused_before_any_policy(loaded, example, words):
    with pytest.raises(UserError, match=words):
        next(answers(list(loaded.policies.values()), None, example, sampled(0)))


def test_a_policy_that_fails_says_why_and_the_next_one_answers(loaded):
    policies = [loaded.policies[name] for name in ("kgram SFT", "kgram DPO")]
    with torch.no_grad():
        next(policies[0].model.parameters()).fill_(torch.nan)
    bad, good = answers(policies, None, EXAMPLE, sampled(0))
    assert "not finite" in bad.refusal and not bad.samples
    assert not good.refusal and len(good.samples) == 1
    long = EXAMPLE._replace(question="why? " * 2000)
    (refused,) = answers(policies[1:], None, long, sampled(0))
    assert "ask a shorter one" in render.render(refused)


def test_two_people_at_once_get_what_each_would_get_alone(loaded):
    policies = list(loaded.policies.values())
    other = QAExample("Kelda Morven wrote the Vorane Song.", "Who wrote it?", ())
    tasks = [
        (EXAMPLE, AnswerSettings(Sampling(1.0), 4, 1)),
        (other, AnswerSettings(Sampling(1.3, 20), 3, 2)),
    ] * 3

    def run(task):
        return list(answers(policies, loaded.reward_models["kgram reward"], *task))

    alone = [run(task) for task in tasks[:2]]
    assert alone[0] != alone[1]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, tasks)) == alone * 3


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(0, 2046), max_size=12))
def test_pieces_are_the_text(ids):
    tokenizer = load_tokenizer("pico")
    found = pieces(tokenizer, ids)
    assert len(found) == len(ids) and "".join(found) == tokenizer.decode(ids)


def test_a_character_of_several_tokens_comes_with_its_last():
    tokenizer = load_tokenizer("pico")
    ids = tokenizer.encode("a\u6771b")
    found = pieces(tokenizer, ids)
    assert len(ids) > 3 and set(found) == {"a", "", "\u6771", "b"}


# --- what is shown ---


class Seen(HTMLParser):
    """Tags, attributes, ids and text of some HTML; every tag that is opened must be closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.names, self.ids, self.described, self.text = set(), set(), [], [], ""
        self.open = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.add(tag)
        self.names |= {name for name, _ in attributes}
        self.ids += [value for name, value in attributes if name == "id"]
        self.described += [value for name, value in attributes if name == "aria-describedby"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_markup_is_text_wherever_it_comes_from(loaded):
    policy_and_reward = loaded.policies["kgram SFT"], loaded.reward_models["kgram reward"]
    found = answer(*policy_and_reward, EXAMPLE, sampled(0))
    sample = found.samples[0]
    bad = sample.tokens[0].alternatives[0]._replace(text=MARKUP)
    token = sample.tokens[0]._replace(text=MARKUP, alternatives=[bad])
    sample = sample._replace(text=MARKUP, tokens=[token])
    results = [
        found._replace(name=MARKUP, parent_name=MARKUP, samples=[sample]),
        found._replace(name=MARKUP, refusal=MARKUP, samples=[]),
    ]
    example = QAExample(MARKUP, MARKUP, (MARKUP,))
    shown = render.render_all(results, example, MARKUP)
    seen = Seen(shown)
    assert seen.tags == {"p", "span", "div", "section", "h3", "ol", "li", "dl", "dt", "dd"}
    assert seen.names <= {
        "class", "id", "style", "role", "tabindex", "dir", "aria-label", "aria-describedby",
    }
    assert seen.text.count(MARKUP) >= 6
    assert not set("{}$") & set(shown)


def test_a_card_shows_every_figure_and_each_token_its_tip(loaded):
    reward_model = loaded.reward_models["kgram reward"]
    policies = list(loaded.policies.values())
    results = list(answers(policies, reward_model, EXAMPLE, sampled(1, samples=3)))
    seen = Seen(render.render_all(results, EXAMPLE, reward_model.name))
    tokens = [token for result in results for sample in result.samples for token in sample.tokens]
    assert len(seen.ids) == len(set(seen.ids)) == len(tokens) and seen.described == seen.ids
    for name in NAMES:
        assert name in seen.text
    assert seen.text.count("Log-probability") == seen.text.count("F1 with the gold") == 12
    assert seen.text.count(" sd") == 12
    for result in results[1:]:
        for sample in result.samples:
            assert f"KL from {result.parent_name}{sample.kl_nats:.2f} nats" in seen.text
    assert "Gold answer: 1204 or in 1204." in seen.text


def test_the_shade_is_what_the_probability_lacks():
    def shade(probability):
        token = render.Token("x", probability, None, [])
        return re.search(r"--doubt:([\d.]+)", render._token(token, "", "n"))[1]

    assert [shade(p) for p in (1.0, 0.75, 0.0)] == ["0.000", "0.250", "1.000"]


# --- the script ---


def respond(loaded, *, names=("kgram SFT", "kgram DPO"), question=EXAMPLE.question, seed=3):
    act = page.responder(loaded, [EXAMPLE], "cpu")
    return list(act(EXAMPLE.context, question, list(names), "kgram reward", 0, 0, 1, 1, seed))


def test_answers_come_one_policy_after_the_other(loaded, monkeypatch):
    real, began = answers_module.answer, threading.Event()

    def slow(*given):
        assert began.wait(60)
        return real(*given)

    monkeypatch.setattr(answers_module, "answer", slow)
    steps = []
    act = page.responder(loaded, [EXAMPLE], "cpu")
    for status, cards in act(EXAMPLE.context, EXAMPLE.question, NAMES[1:3], "", 0, 0, 1, 1, 3):
        began.set()
        steps.append((re.sub(r", \d+ s", "", status), cards.count("<section")))
    said = dict.fromkeys(steps)  # each once: while it waits it says the same again
    expected = [("kgram SFT is answering (1 of 2)", 0), ("kgram DPO is answering (2 of 2)", 1)]
    for (status, count), (words, cards) in zip(said, expected, strict=False):
        assert words in status and count == cards
    assert "Done" in steps[-1][0] and steps[-1][1] == 2


def test_answers_have_the_precision_of_the_flag(loaded, monkeypatch):
    """Worker threads compute them, and torch keeps autocast by thread."""
    seen = []

    def noted(policy, *about):
        seen.append(torch.is_autocast_enabled("cpu"))
        return answers_module.PolicyAnswers(policy.name, [], refusal="none asked for")

    monkeypatch.setattr(answers_module, "answer", noted)
    for on in (True, False):
        torch.set_autocast_enabled("cpu", on)
        try:
            respond(loaded)
        finally:
            torch.set_autocast_enabled("cpu", False)
    assert seen == [True, True, False, False]


def test_golds_and_mistakes_on_the_page(loaded):
    assert "Gold answer: 1204" in respond(loaded)[-1][1]
    assert "Gold answer" not in respond(loaded, question="When?")[-1][1]
    assert "No checkpoint chosen" in respond(loaded, names=())[-1][0]
    assert "an empty question given" in respond(loaded, question="  ")[-1][0]
    assert respond(loaded, seed=None)[-1][1] == respond(loaded, seed=0)[-1][1]


def test_without_gradio_it_says_how_to_install_it(kgram, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    said = refusal("playground", [])
    assert "python -m pip install -r requirements-playground.txt" in said


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--checkpoints", "nowhere"], "run: python main_squad.py"),
        (["--checkpoint", "nowhere.pt"], "nowhere.pt"),
        (["--checkpoint", "checkpoints/kgram_train_reward_model/final.pt"], "one that answers"),
        (["--port", "0"], "--port"),
        (["--device", "abacus"], "--device abacus"),
    ],
)
def test_mistakes_end_in_one_line(kgram, monkeypatch, argv, words):
    monkeypatch.setattr("playground.import_gradio", lambda: None)
    assert words in refusal("playground", argv)


def test_a_port_that_needs_more_rights_is_not_called_in_use(monkeypatch):
    class Refused(socket.socket):
        def bind(self, address):
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(page.socket, "socket", Refused)
    with pytest.raises(UserError, match=r"--port 80 given, which cannot be opened \(Permission"):
        page.require_port(80)


def test_a_port_in_use_is_refused_before_models_are_loaded():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port} given, which is in use"):
            page.require_port(port)
    page.require_port(port)
