"""Stages that are older than what they started from: a parent that was trained again."""

import base64
import json
import shutil
from pathlib import Path

from conftest import flags, outcome, path_of

from src.utils.constants import STAGES
from tests.faults.runs import small_squad


def trained_again(stage):
    argv = [*flags(stage, "kgram"), "--overwrite", "--lr", "0.2"]
    ended = outcome(stage, argv)
    assert ended.code == 0, ended.err


def resumed(stage):
    return outcome(stage, ["--model_type", "kgram", "--resume"])


def test_a_finished_stage_is_not_finished_from_another_parent(kgram):
    """SFT was trained again: --resume of each later stage is refused, though it is finished."""
    for stage in STAGES:
        assert resumed(stage).code == 0
    trained_again("main_squad")
    for stage in STAGES[1:]:
        for _ in range(2):  # and again without last.pt
            ended = resumed(stage)
            assert ended.code == 2, ended.err
            line = f"{path_of('main_squad')} is not what the finished run in checkpoints/kgram_"
            assert f"{line}{stage}" in ended.err[-1] and "--overwrite" in ended.err[-1]
            Path(f"checkpoints/kgram_{stage}/last.pt").unlink(missing_ok=True)
    assert resumed("main_squad").code == 0


def test_a_finished_ppo_is_not_finished_from_another_reward_model(kgram):
    trained_again("train_reward_model")
    assert path_of("train_reward_model") in resumed("train_ppo").err[-1]
    assert resumed("train_dpo").code == 0
    Path(path_of("train_reward_model")).unlink()
    ended = resumed("train_ppo")
    assert ended.code == 2 and "started from, is not there, restore it" in ended.err[-1]


def test_a_finished_stage_checks_its_data_and_its_tokenizer(workplace):
    workplace("kgram", [])
    Path("mine.json").write_text(json.dumps(small_squad(8)))
    lines = [f"{base64.b64encode(bytes([b])).decode()} {b}" for b in range(256)]
    Path("mine.tiktoken").write_text("\n".join(lines))
    data = ["--dataset", "mine.json", "--tokenizer", "mine.tiktoken"]
    assert outcome("main_squad", [*flags("main_squad", "kgram"), *data]).code == 0
    assert outcome("train_dpo", flags("train_dpo", "kgram")).code == 0
    Path("mine.tiktoken").write_text("\n".join([*lines[:97], f"{lines[98][:4]} 97",
                                                f"{lines[97][:4]} 98", *lines[99:]]))
    ended = resumed("main_squad")
    assert ended.code == 2 and "the tokenizer mine.tiktoken is not what" in ended.err[-1]
    Path("mine.tiktoken").write_text("\n".join(lines))
    assert resumed("main_squad").code == resumed("train_dpo").code == 0
    Path("mine.json").write_text(json.dumps(small_squad(9)))
    for stage in STAGES[:2]:
        ended = resumed(stage)
        assert ended.code == 2 and "the data of the finished run in" in ended.err[-1]


def test_evaluation_refuses_a_policy_of_an_earlier_sft_model(kgram):
    """Its KL would be measured from another model than it started from. SFT is named first."""
    trained_again("main_squad")
    argv = ["--model_type", "kgram", "--limit", "4", "--checkpoint", path_of("main_squad")]
    ended = outcome("eval_dpo", [*argv, path_of("train_dpo")])
    assert ended.code == 2 and not ended.out
    assert ended.err[-1].startswith(
        f"eval_dpo: {path_of('train_dpo')} started from an earlier {path_of('main_squad')} than is"
    )
    ended = outcome("eval_dpo", argv)
    assert ended.code == 0 and any("train_reward_model/final.pt started from an earlier" in line
                                   for line in ended.err)


def test_evaluation_says_whose_sft_model_and_reward_model_it_is(kgram):
    trained_again("train_reward_model")
    shutil.copytree("checkpoints/kgram_main_squad", "elsewhere")
    other = [*flags("main_squad", "kgram"), "--output_dir", "other", "--seed", "1"]
    assert outcome("main_squad", other).code == 0
    argv = ["--model_type", "kgram", "--limit", "4", "--checkpoint"]
    ended = outcome("eval_dpo", [*argv, "other/final.pt", path_of("train_ppo")])
    assert ended.code == 0, ended.err
    said = "\n".join(ended.err)
    kl = f"started from {path_of('main_squad')}: its KL and wins here are against other/final.pt"
    assert f"{path_of('train_ppo')} {kl}" in said
    assert f"was trained with an earlier {path_of('train_reward_model')} than is there now" in said
    said = outcome("eval_dpo", [*argv, "elsewhere/final.pt", path_of("train_dpo")]).err
    assert not any("started from" in line for line in said), "a copy is the same checkpoint"


def test_ppo_says_that_its_reward_model_is_of_an_earlier_sft_model(kgram):
    trained_again("main_squad")
    ended = outcome("train_ppo", [*flags("train_ppo", "kgram"), "--output_dir", "new"])
    assert ended.code == 0, ended.err
    line = f"{path_of('train_reward_model')} started from an earlier {path_of('main_squad')} than"
    assert any(said.startswith(line) for said in ended.err)
