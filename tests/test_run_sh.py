"""run.sh: which stage is given which flags, seen with a Python that only writes down its arguments.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import eval_dpo
import main_squad
import report
import train_dpo
import train_ppo
import train_reward_model

ROOT = Path(__file__).resolve().parent.parent
LATER = (train_dpo, train_reward_model, train_ppo)


def asked(tmp_path, *flags):
    """Script -> its arguments, of `./run.sh FLAGS` in a folder whose .venv is made already."""
    shutil.copy(ROOT / "run.sh", tmp_path)
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    shutil.copy(ROOT / "requirements.txt", tmp_path / ".venv/installed")
    python.write_text('#!/bin/sh\nprintf "%s\\037" "$@" >> asked\necho >> asked\n')
    python.chmod(0o755)
    subprocess.run(["bash", "run.sh", *flags], cwd=tmp_path, check=True, capture_output=True)
    lines = (tmp_path / "asked").read_text().splitlines()
    return {words[0]: words[1:] for line in lines if (words := line.split("\037")[:-1])}


def flags_of(script):
    return {word for a in script.build_parser()._actions for word in a.option_strings}


def test_flags_of_the_first_stage_alone_are_not_given_to_the_later_ones():
    text = (ROOT / "run.sh").read_text()
    cases = text.split("--dataset) dataset_named")[1].split("--threads |")[0]
    listed = set(re.findall(r"--[a-z_]+", cases))
    own = flags_of(main_squad) - set.intersection(*map(flags_of, LATER))
    assert listed == own | {"--difficulty", "--num_examples", "--strict_data"}


def test_each_script_takes_what_it_is_given(tmp_path):
    found = asked(
        tmp_path, "lstm", "--dataset=somewhere", "--block_size", "64", "--strict_data",
        "--seed", "1", "--threads=1", "--lm_weight=0.1", "--device", "cpu", "--compile",
    )
    everywhere = {"--seed", "1", "--threads=1", "--device", "cpu", "--compile"}
    for script in (main_squad, *LATER):
        words = found[f"{script.__name__}.py"]
        parsed = script.build_parser().parse_args(words)
        assert (parsed.model_type, parsed.seed, parsed.threads) == ("lstm", 1, 1)
        assert parsed.compile and parsed.resume
        assert everywhere <= {*words}
    sft = main_squad.build_parser().parse_args(found["main_squad.py"])
    assert (sft.dataset, sft.block_size, sft.lm_weight) == ("somewhere", 64, 0.1)
    for script in (eval_dpo, report):
        parsed = script.build_parser().parse_args(found[f"{script.__name__}.py"])
        assert (parsed.threads, parsed.device) == (1, "cpu")


@pytest.mark.parametrize("folder", [["--checkpoints", "seed1"], ["--checkpoints=seed1"]])
def test_a_pipeline_of_its_own_folder(tmp_path, folder):
    found = asked(tmp_path, "kgram", *folder, "--seed", "1")
    for script in (main_squad, *LATER):
        parsed = script.build_parser().parse_args(found[f"{script.__name__}.py"])
        assert parsed.output_dir == f"seed1/kgram_{script.__name__}"
    ppo = train_ppo.build_parser().parse_args(found["train_ppo.py"])
    assert ppo.checkpoint == "seed1/kgram_main_squad/final.pt"
    assert ppo.reward_checkpoint == "seed1/kgram_train_reward_model/final.pt"
    page = report.build_parser().parse_args(found["report.py"])
    assert (page.checkpoints, page.output_dir) == (["seed1"], "seed1/report")


@pytest.mark.parametrize("flag", ["--output_dir", "--checkpoint=x", "--overwrite"])
def test_flags_that_run_sh_gives_itself_are_refused(tmp_path, flag):
    with pytest.raises(subprocess.CalledProcessError) as ended:
        asked(tmp_path, "lstm", flag)
    assert ended.value.returncode == 2 and b"expected --checkpoints DIR" in ended.value.stderr
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("flag", [["--model_type", "lstm"], ["--model_type=lstm"]])
def test_the_model_is_the_first_word(tmp_path, flag):
    with pytest.raises(subprocess.CalledProcessError) as ended:
        asked(tmp_path, *flag)
    assert ended.value.returncode == 2 and b"as ./run.sh lstm" in ended.value.stderr
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("flag", ["--checkpoints", "--checkpoints="])
def test_a_pipeline_of_no_folder_is_refused(tmp_path, flag):
    with pytest.raises(subprocess.CalledProcessError) as ended:
        asked(tmp_path, "lstm", flag)
    assert ended.value.returncode == 2 and b"without a folder" in ended.value.stderr


def test_help_sets_nothing_up(tmp_path):
    shutil.copy(ROOT / "run.sh", tmp_path)
    done = subprocess.run(["bash", "run.sh", "-h"], cwd=tmp_path, check=True, capture_output=True)
    assert b"--checkpoints" in done.stdout and not (tmp_path / ".venv").exists()


def test_without_flags_the_data_is_embedded_and_later_stages_start_from_the_finished_sft(tmp_path):
    found = asked(tmp_path)
    sft = main_squad.build_parser().parse_args(found["main_squad.py"])
    assert (sft.dataset, sft.pointer) == ("pico", True)
    for script in LATER:
        parsed = script.build_parser().parse_args(found[f"{script.__name__}.py"])
        assert parsed.checkpoint == "checkpoints/transformer_main_squad/final.pt"
        assert parsed.dataset is None


def parsed(found, script):
    """The arguments of a script as it reads them."""
    return script.build_parser().parse_args(found[f"{script.__name__}.py"])


SMOLLM2 = "checkpoints/smollm2/transformer"


def test_a_pretrained_start(tmp_path):
    """Real questions; every later stage starts from the finished SFT model."""
    found = asked(tmp_path, "smollm2")
    assert list(found) == [f"{s.__name__}.py" for s in (main_squad, *LATER, eval_dpo, report)]
    sft = f"{SMOLLM2}_main_squad/final.pt"
    expected = {
        main_squad: {
            "init_from": "smollm2", "dataset": "squad", "shares": "30,40,30", "max_steps": 98,
            "eval_every": 49, "eval_limit": 200,
        },
        train_dpo: {"checkpoint": sft, "max_steps": 54, "eval_every": 0, "eval_limit": 200},
        train_reward_model: {
            "checkpoint": sft, "max_steps": 50, "eval_every": 0, "eval_limit": 300
        },
        train_ppo: {
            "checkpoint": sft, "algorithm": "rloo", "num_samples": 4, "ppo_epochs": 1,
            "minibatches": 2, "max_steps": 20, "eval_every": 0, "eval_limit": 200,
        },
    }
    for script, wanted in expected.items():
        args = vars(parsed(found, script))
        assert {name: args[name] for name in wanted} == wanted
        assert (args["model_type"], args["resume"]) == ("transformer", True)
        assert args["output_dir"] == f"{SMOLLM2}_{script.__name__}"
    reward = f"{SMOLLM2}_train_reward_model/final.pt"
    table = parsed(found, eval_dpo)
    stages = (f"{SMOLLM2}_{script.__name__}/final.pt" for script in (train_dpo, train_ppo))
    assert table.checkpoint == [sft, *stages]
    assert table.reward_checkpoint == reward == parsed(found, train_ppo).reward_checkpoint
    assert (table.model_type, table.limit) == ("transformer", 200)
    assert table.output == f"{SMOLLM2}_evaluation.json"
    page = parsed(found, report)
    assert (page.checkpoints, page.limit) == (["checkpoints/smollm2"], 60)
    assert page.output_dir == "checkpoints/smollm2/report"


def test_a_pretrained_start_with_flags_of_ones_own(tmp_path):
    """They win over run.sh's, and later stages inherit the data."""
    flags = ("--dataset", "mine", "--max_steps", "7", "--init_from", "other")
    found = asked(tmp_path, "smollm2", *flags)
    sft = parsed(found, main_squad)
    assert (sft.dataset, sft.init_from) == ("mine", "other")
    assert all(parsed(found, script).max_steps == 7 for script in (main_squad, *LATER))
    assert all(parsed(found, script).dataset is None for script in LATER)
