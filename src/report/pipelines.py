"""Pipelines found on disk: the checkpoints of their stages, with lineage, flags and logs."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from src.utils.checkpoint_utils import Checkpoint, load_checkpoint
from src.utils.constants import MODEL_TYPES, POLICY_STAGES, PPO, STAGES
from src.utils.errors import UserError

# Flags in which two runs may differ and still be repetitions of one another.
REPETITION_FLAGS = {
    "seed", "output_dir", "checkpoint", "reward_checkpoint", "same_compute_as", "device", "threads",
    "tracker", "save_every", "log_every", "eval_every", "micro_batch_size", "micro_batch_tokens",
    "resume", "overwrite", "skip_nonfinite",
}
# Numbers that a run works out from its data, so that another seed has slightly other ones.
FROM_DATA = {"max_steps", "kl_horizon", "max_answer_tokens", "max_new_tokens"}


class Stage(NamedTuple):
    """One run of a stage. checkpoint: None until it is finished; steps: its log, a dict a
    training step; evaluations: a dict an evaluation, without the `eval_` of their names; NaN for
    null.
    """

    folder: Path
    checkpoint: Checkpoint | None
    steps: list[dict]
    evaluations: list[dict]
    flags: dict
    machine: dict


class Pipeline(NamedTuple):
    """One SFT run and what was made from it. notes: what is missing or does not fit together."""

    folder: Path
    model_type: str
    stages: dict[str, Stage]
    notes: list[str]

    def checkpoint(self, stage: str) -> Checkpoint | None:
        """The finished checkpoint of a stage, if there is one."""
        return self.stages[stage].checkpoint if stage in self.stages else None

    def policies(self) -> dict[str, Checkpoint]:
        """Stage -> its finished policy."""
        found = {name: self.checkpoint(name) for name in POLICY_STAGES}
        return {name: checkpoint for name, checkpoint in found.items() if checkpoint is not None}


class Series(NamedTuple):
    """Pipelines of one model type and the same flags: repetitions, which differ in their seeds."""

    label: str
    pipelines: list[Pipeline]


def read_log(path: Path) -> tuple[list[dict], list[dict]]:
    """(training steps, evaluations) of a metrics.jsonl, numbers only, NaN for null.

    Raises UserError for a line that no run wrote. A last line without its end is still being
    written, and left out.
    """
    steps, evaluations = [], []
    if not path.is_file():
        return steps, evaluations
    text = path.read_bytes()
    for number, line in enumerate(text[: text.rfind(b"\n") + 1].splitlines(), 1):
        try:
            record = json.loads(line)
            event = record.pop("event", None)
            values = {k: math.nan if v is None else float(v) for k, v in record.items()}
            values["step"] = int(record["step"])
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError, OverflowError):
            raise UserError(
                f"{path} line {number} is no line of a log, expected a JSON object of numbers with "
                "a step, restore it or leave its folder out"
            ) from None
        if event == "evaluation":
            evaluations.append({k.removeprefix("eval_"): v for k, v in values.items()})
        elif event is None:
            steps.append(values)
    return steps, evaluations


def _read_json(path: Path) -> dict:
    """A JSON object that only informs; empty where it cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_stage(folder: Path) -> tuple[str, str, Stage] | None:
    """(model type, stage, what is there) of a stage's folder; None for any other folder.

    A finished stage says itself what it is, an unfinished one in its args.json. Raises UserError
    for a file that is damaged.
    """
    final, log = folder / "final.pt", folder / "metrics.jsonl"
    if final.is_file():
        found = load_checkpoint(final)
        model_type, name, flags = found.model_type, found.stage, found.flags
    elif log.is_file():
        found, flags = None, _read_json(folder / "args.json")
        model_type, name = flags.get("model_type"), flags.pop("stage", None)
        if model_type not in MODEL_TYPES or name not in STAGES:
            raise UserError(f"{folder}: no final.pt, and no args.json that names its stage")
    else:
        return None
    machine = _read_json(folder / "machine.json")
    return model_type, name, Stage(folder, found, *read_log(log), flags, machine)


def find_pipelines(folders: Sequence[str]) -> list[Pipeline]:
    """The pipelines in folders of stages' folders (or in a stage's own folder), one for each model
    type and folder, completed from the lineage of their checkpoints.

    A damaged stage is left out and noted. Raises UserError where there is nothing at all.
    """
    pipelines, damaged = [], []
    tops = list({Path(name).resolve(): Path(name) for name in folders}.items())
    for _, top in tops:
        found: dict[str, Pipeline] = {}
        children = sorted(p for p in top.iterdir() if p.is_dir()) if top.is_dir() else []
        for folder in [top, *children]:
            try:
                stage = read_stage(folder)
            except UserError as error:
                damaged.append(error)
                continue
            if stage is None:
                continue
            model_type, stage_name, content = stage
            pipeline = found.setdefault(model_type, Pipeline(top, model_type, {}, []))
            known = pipeline.stages.get(stage_name)
            named = folder.name == f"{model_type}_{stage_name}"
            if known is None or named:
                pipeline.stages[stage_name] = content
            left_out = known and (known.folder if named else folder)
            if left_out and left_out.resolve() not in dict(tops):
                pipeline.notes.append(
                    f"{left_out} is a second {stage_name}, left out: give it as a folder of its "
                    "own to --checkpoints"
                )
        pipelines += [_complete(found[t]) for t in MODEL_TYPES if t in found]
    if not pipelines:
        raise damaged[0] if damaged else UserError(
            f"--checkpoints {' '.join(folders)} given, expected folders that hold "
            "{model_type}_{stage}/final.pt or metrics.jsonl, run a stage first: python "
            "main_squad.py --model_type transformer"
        )
    pipelines[0].notes.extend(f"left out: {error}" for error in damaged)
    return pipelines


def _hashes(stage: Stage) -> set[str]:
    """What a child's lineage may call this stage."""
    return {stage.checkpoint.sha256} if stage.checkpoint is not None else set()


def _complete(pipeline: Pipeline) -> Pipeline:
    """The pipeline with ancestors from other folders added, stages in order, and its notes."""
    stages, notes = dict(pipeline.stages), list(pipeline.notes)
    for child in pipeline.stages.values():
        started_from: dict[str, list[str]] = {}  # stage -> hashes, the older one first
        for entry in child.checkpoint.lineage if child.checkpoint else ():
            name, path = entry["stage"], Path(entry["path"])
            started_from.setdefault(name, []).append(entry["sha256"])
            if name not in stages and name in STAGES and path.is_file():
                try:
                    found = read_stage(path.parent)
                except UserError as error:
                    notes.append(f"left out: {error}")
                    continue
                if found and entry["sha256"] in _hashes(found[2]):
                    stages[name] = found[2]
        for name, hashes in started_from.items():
            here = stages.get(name)
            if here is None or here is child:  # an SFT model can continue another
                continue
            if _hashes(here) and _hashes(here).isdisjoint(hashes):
                notes.append(
                    f"{child.folder} did not start from {here.folder} as it is now, but from an "
                    f"earlier {name} (sha256 {hashes[-1][:12]})"
                )
    for name in STAGES:
        if name not in stages:
            notes.append(f"{name}: no run of it was found")
        elif stages[name].checkpoint is None:
            notes.append(f"{name}: {stages[name].folder} is not finished, only its log is shown")
        elif not stages[name].steps and not stages[name].evaluations:
            notes.append(f"{name}: {stages[name].folder} has no log (metrics.jsonl), no curves")
    ppo = stages.get(PPO)
    if ppo and ppo.evaluations and not {"reward", "kl_nats"} <= ppo.evaluations[0].keys():
        notes.append(f"train_ppo: {ppo.folder} logged no reward and KL beside F1: it is an old run")
    ordered = {name: stages[name] for name in STAGES if name in stages}
    return pipeline._replace(stages=ordered, notes=notes)


def _repeats(pipeline: Pipeline, other: Pipeline) -> bool:
    """Whether the two ran the same stages with the same flags but for a repetition's, apart from
    one another; a stage that one has not got to yet does not part them.
    """
    shared = pipeline.stages.keys() & other.stages
    both = [(pipeline.stages[name], other.stages[name]) for name in shared]
    return pipeline.model_type == other.model_type and bool(both) and all(
        a.folder.resolve() != b.folder.resolve() and _same_choices(a.flags, b.flags)
        for a, b in both
    )


def _same_choices(flags: dict, others: dict) -> bool:
    """Whether two runs agree in all flags in which repetitions do."""
    for name in (flags.keys() | others.keys()) - REPETITION_FLAGS:
        one, other = flags.get(name), others.get(name)
        if one != other and not (name in FROM_DATA and _near(one, other)):
            return False
    return True


def _near(one: object, other: object) -> bool:
    """Whether two whole numbers differ by a twentieth at most, or by one."""
    if type(one) is not int or type(other) is not int:
        return False
    return abs(one - other) <= max(1, max(one, other) / 20)


def _at_equal_steps(pipelines: Sequence[Pipeline]) -> list[Pipeline]:
    """Repetitions, their evaluations at the steps of the first run of each stage: without that,
    runs of 822 and 816 steps would have no evaluation in common to average.
    """
    first: dict[str, list[dict]] = {}
    return [
        pipeline._replace(stages={
            name: stage._replace(evaluations=_moved(
                stage.evaluations, first.setdefault(name, stage.evaluations)
            ))
            for name, stage in pipeline.stages.items()
        })
        for pipeline in pipelines
    ]


def _moved(evaluations: list[dict], to: list[dict]) -> list[dict]:
    """The evaluations at the steps of others, if these are as many and each is near."""
    pairs = list(zip(evaluations, to, strict=False))
    if len(evaluations) != len(to) or not all(_near(a["step"], b["step"]) for a, b in pairs):
        return evaluations
    return [{**a, "step": b["step"]} for a, b in pairs]


def group_pipelines(pipelines: Sequence[Pipeline]) -> list[Series]:
    """Pipelines of like flags together; labelled by the model type, and the folder where needed."""
    groups: list[list[Pipeline]] = []
    for pipeline in pipelines:
        group = next((g for g in groups if _repeats(g[0], pipeline)), None)
        if group is None:
            groups.append([pipeline])
        else:
            group.append(pipeline)
    types = [group[0].model_type for group in groups]
    series = []
    for group in groups:
        label = group[0].model_type
        if types.count(label) > 1:
            label += f" ({group[0].folder})"
        if len(group) > 1:
            seeds = {frozenset(s.flags.get("seed") for s in p.stages.values()) for p in group}
            label += f", {len(group)} {'seeds' if len(seeds) >= len(group) else 'runs'}"
        series.append(Series(label, _at_equal_steps(group)))
    return series
