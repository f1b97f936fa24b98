#!/usr/bin/env bash
# The whole pipeline for one model: SFT, DPO, reward model, PPO, and the table that compares them.
#
#   ./run.sh                          transformer on the embedded data, no network but the package registry
#   ./run.sh lstm                     another architecture
#   ./run.sh smollm2                  from a pretrained model, on real questions (the hub's SQuAD; a
#                                     folder of your own with --dataset), into checkpoints/smollm2/
#   ./run.sh lstm --dataset squad --seed 1 --checkpoints seed1
#                                     flags for every training script, and the folder of the pipeline
#                                     (default checkpoints): other data or another seed want another
#
# Run again, it resumes: finished stages are skipped, an interrupted one goes on where it was saved.
# Flags of one stage alone (--beta, --kl_coef) are given by running that stage by hand.
set -euo pipefail
cd "$(dirname "$0")"

if [[ " $* " == *" --help "* || " $* " == *" -h "* ]]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit 0
fi
model=transformer
if [[ $# -gt 0 && $1 != -* ]]; then
    model=$1
    shift
fi

if [[ ! -f .venv/installed ]] || ! cmp -s requirements.txt .venv/installed; then
    echo "setting up .venv"
    "${PYTHON:-python3}" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
    cp requirements.txt .venv/installed
fi
python=.venv/bin/python

# Flags meant for every stage. The first alone is told of the model and of the data, which is the
# embedded one unless one is named: the later stages inherit both. Evaluation and report are told of
# the machine.
sft=() later=() machine=()
checkpoints=checkpoints
dataset_named=no
while [[ $# -gt 0 ]]; do
    flag=("$1")
    if [[ $1 == --*=* || $# -eq 1 || $2 == --* ]]; then
        shift
    else
        flag+=("$2")
        shift 2
    fi
    case ${flag[0]%%=*} in
        --checkpoints)
            checkpoints=${flag[1]-${flag[0]#--checkpoints}}
            checkpoints=${checkpoints#=}
            [[ -n $checkpoints ]] || { echo "run.sh: --checkpoints given without a folder" >&2; exit 2; }
            continue
            ;;
        --model_type)
            echo "run.sh: --model_type given, expected the model first, as ./run.sh lstm" >&2
            exit 2
            ;;
        --output_dir | --checkpoint | --overwrite)
            echo "run.sh: ${flag[0]%%=*} given, expected --checkpoints DIR: the folder of all stages" >&2
            exit 2
            ;;
    esac
    sft+=("${flag[@]}")
    case ${flag[0]%%=*} in
        --dataset) dataset_named=yes ;;
        --difficulty | --num_examples | --strict_data | --tokenizer | --init_from | --n_layer | --n_embd | \
            --n_head | --n_kv_head | --kgram_k | --block_size | --pointer | --no_pointer | \
            --shares | --sentence_answers | --lm_weight | --control | --max_tokens | --same_compute_as) ;;
        --threads | --device | --dtype) later+=("${flag[@]}") machine+=("${flag[@]}") ;;
        *) later+=("${flag[@]}") ;;
    esac
done

dir=${checkpoints}/${model}
dpo=() reward=() ppo=() compared_on=500 shown=200
if [[ $model == smollm2 ]]; then
    # A pretrained start, on real questions, in the same three roles: SFT reads a third of 6,500
    # questions twice. A flag given here comes later and wins.
    model=transformer
    dir=${checkpoints}/smollm2/transformer
    [[ $dataset_named == yes ]] || sft+=(--dataset squad)
    sft=(--init_from smollm2 --shares 30,40,30 --max_steps 98 --eval_every 49 --eval_limit 200
        ${sft[@]+"${sft[@]}"})
    dpo=(--max_steps 54 --eval_every 0 --eval_limit 200)
    reward=(--max_steps 50 --eval_every 0 --eval_limit 300)
    ppo=(--algorithm rloo --num_samples 4 --ppo_epochs 1 --minibatches 2 --max_steps 20
        --eval_every 0 --eval_limit 200)
    compared_on=200 shown=60  # a question takes half a second of each policy
elif [[ $dataset_named == no ]]; then
    # Three roles: SFT learns from demonstrations, DPO and reward model from comparisons, PPO answers
    # prompts. More than a fifth of the demonstrations answer in whole sentences, which the comparisons
    # say nobody wants. A flag given here comes later and wins.
    sft=(--dataset pico --shares 30,40,30 --sentence_answers 0.22 ${sft[@]+"${sft[@]}"})
fi
sft_final=${dir}_main_squad/final.pt

stage() {
    echo "== $1 ($dir)"
    $python "$@" --model_type "$model" --output_dir "${dir}_${1%.py}" --resume
}
scored_by=(--reward_checkpoint "${dir}_train_reward_model/final.pt")
stage main_squad.py ${sft[@]+"${sft[@]}"}
stage train_dpo.py --checkpoint "$sft_final" ${dpo[@]+"${dpo[@]}"} ${later[@]+"${later[@]}"}
stage train_reward_model.py --checkpoint "$sft_final" ${reward[@]+"${reward[@]}"} \
    ${later[@]+"${later[@]}"}
stage train_ppo.py --checkpoint "$sft_final" "${scored_by[@]}" ${ppo[@]+"${ppo[@]}"} \
    ${later[@]+"${later[@]}"}
echo "== eval_dpo.py ($dir)"
compared=("$sft_final" "${dir}_train_dpo/final.pt" "${dir}_train_ppo/final.pt")
$python eval_dpo.py --model_type "$model" --limit "$compared_on" --output "${dir}_evaluation.json" \
    "${scored_by[@]}" --checkpoint "${compared[@]}" ${machine[@]+"${machine[@]}"}
echo "== report.py"
folder=$(dirname "$dir") page=report
[[ $folder == checkpoints ]] || page=${folder}/report
$python report.py --checkpoints "$folder" --limit "$shown" --output_dir "$page" \
    ${machine[@]+"${machine[@]}"}
