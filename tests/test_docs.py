"""The pages of docs/ say what the code does: quotations, links, names, flags, commands, metrics.

Their examples run as doctests (`--doctest-glob` in pyproject.toml). All that is read here stands in
the pages; what the pages should hold is not listed again.
"""

import ast
import importlib
import json
import re
import shlex
import textwrap
from functools import cache
from pathlib import Path

import pytest
from conftest import call, flags

import eval_dpo
from src.utils.constants import CORRUPTIONS, STAGES

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
OUTSIDE = [ROOT / "README.md", ROOT / "bench/README.md"]
# The lessons in reading order, with the stage whose log a page explains.
STAGE_OF = {
    "sft.md": STAGES[0], "pointer.md": None, "preference_pairs.md": None, "dpo.md": STAGES[1],
    "reward_model.md": STAGES[2], "ppo.md": STAGES[3], "algorithms.md": None, "evaluation.md": None,
}
OTHER_PAGES = {
    "README.md", "measured.md", "reference.md", "your_own_task.md", "be_the_human.md",
    "experiments.md",
}

QUOTATION = re.compile(r"<!-- from (\S+): (\w+) -->\n```python\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
FLAG = re.compile(r"(?<![\w-])--[a-z]\w*")
COMMAND = re.compile(r"(?:^|`)\s*python (\w+\.py)([^`\n]*)", re.MULTILINE)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)

# Flags of what is not a script at the root: torchrun, pip, tests.faults, the tokenizer's tool.
FOREIGN = re.compile(
    r"torchrun --nproc_per_node|pip install .*|-m tests\.faults [^`\n]*"
    r"|tools/train_tokenizer\.py [^`\n]*"
)


def name_of(page):
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=name_of)
linking_page = pytest.mark.parametrize("page", [*PAGES, *OUTSIDE], ids=name_of)


@cache
def definitions(path):
    """Names that a file defines at its top -> the lines of their definitions."""
    text = path.read_text(encoding="utf-8")
    found = {}
    for node in ast.parse(text).body:
        targets = [node]
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            name = getattr(target, "name", getattr(target, "id", None))
            found[name] = text.splitlines()[node.lineno - 1 : node.end_lineno]
    return found


def stands_in(quoted, lines):
    """Whether the quoted lines stand together in `lines`, all moved left by the same amount; parts
    with a line `...` between them stand there one after the other."""
    start = 0
    for part in re.split(r"^\.\.\.\n", quoted, flags=re.MULTILINE):
        count = len(part.splitlines())
        windows = ("\n".join(lines[i : i + count]) for i in range(start, len(lines)))
        at = [i for i, w in enumerate(windows) if textwrap.dedent(w).strip() == part.strip()]
        if not at:
            return False
        start += at[0] + count
    return True


@cache
def parsers():
    """Script name -> its parser, of every script at the root that has one."""
    modules = {path.name: importlib.import_module(path.stem) for path in ROOT.glob("*.py")}
    return {name: m.build_parser() for name, m in modules.items() if hasattr(m, "build_parser")}


def commands(page):
    """(script, flags) of every `python SCRIPT.py ...` of a page, in order."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [(script, shlex.split(rest, comments=True)) for script, rest in COMMAND.findall(text)]


def anchors(path):
    """What GitHub calls the headings of a page."""
    headings = HEADING.findall(path.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def documented(page, heading):
    """Names in the first column of the table below a heading; {kind} stands for every kind."""
    section = page.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    names = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    return {name.replace("{kind}", kind) for name in names for kind in CORRUPTIONS}


@every_page
def test_quotations_stand_in_the_source(page):
    text = page.read_text(encoding="utf-8")
    quotations = QUOTATION.findall(text)
    assert len(quotations) == text.count("```python\n"), "a python block that names no source"
    for file, name, quoted in quotations:
        assert stands_in(quoted, definitions(ROOT / file)[name]), f"{file}: {name}: {quoted}"


def test_a_quotation_that_was_changed_is_found():
    lines = ["def f(x):", "    a = 1", "    b = 2", "    return a - b"]
    assert stands_in("a = 1\nb = 2\n", lines) and stands_in("a = 1\n...\nreturn a - b\n", lines)
    assert not stands_in("return a + b\n", lines), "a sign"
    assert not stands_in("a = 1\nreturn a - b\n", lines), "a line left out without ..."
    assert not stands_in("b = 2\n...\na = 1\n", lines), "another order"
    assert not stands_in("a = 1\n    b = 2\n", lines), "another indentation"


@linking_page
def test_links_lead_somewhere_and_named_things_exist(page):
    for words, target in LINK.findall(page.read_text(encoding="utf-8")):
        target, _, anchor = target.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.is_relative_to(ROOT) and path.exists(), f"{page.name} links {target}"
        assert not anchor or anchor in anchors(path), f"{page.name} links {target}#{anchor}"
        name = re.fullmatch(r"`(\w+)`", words)
        if name and path.suffix == ".py":
            assert name[1] in definitions(path), f"{target} defines no {name[1]}"


@every_page
def test_named_tests_and_flags_exist(page):
    text = page.read_text(encoding="utf-8")
    known = {option for p in parsers().values() for a in p._actions for option in a.option_strings}
    assert set(FLAG.findall(FOREIGN.sub("", text))) <= known
    tests = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").glob("*.py"))
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in tests, name


@every_page
def test_commands_parse(page):
    for script, argv in commands(page):
        parsers()[script].parse_args(argv)  # SystemExit where a flag or a value is refused


def test_examples_are_run(pytestconfig):
    assert "docs/*.md" in pytestconfig.getoption("doctestglob")
    assert {page.name for page in PAGES} == {*STAGE_OF, *OTHER_PAGES}
    for name in STAGE_OF:
        assert ">>> " in (ROOT / "docs" / name).read_text(encoding="utf-8"), name


@pytest.mark.parametrize("name", [name for name, stage in STAGE_OF.items() if stage])
def test_every_logged_metric_is_explained(name, chain_of):
    folder = chain_of("kgram").folder / f"checkpoints/kgram_{STAGE_OF[name]}"
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = {re.sub("_(low|high)$", "", key) for line in lines for key in json.loads(line)}
    common = documented(ROOT / "docs/README.md", "The log of every stage")
    explained = common | documented(ROOT / "docs" / name, "What the log says")
    assert logged - {"event"} <= explained
    # So few held-out questions have not all kinds of pairs.
    of_other_runs = {f"eval_accuracy_{kind}" for kind in CORRUPTIONS}
    of_other_runs |= {"kl_loss_nats", "chosen_answers", "chosen_reward_mean"}  # other algorithms
    assert explained - logged <= of_other_runs


def test_every_column_of_the_table_is_explained():
    page = ROOT / "docs/evaluation.md"
    assert documented(page, "What the table says") == set(eval_dpo.UNITS)


def test_the_pages_can_be_followed_in_order(tmp_path, monkeypatch, capsys):
    """Every command as it stands, but for its size: nothing that a later one needs is missing."""
    monkeypatch.chdir(tmp_path)
    small = {f"{s}.py": [*flags(s, "transformer"), "--num_examples", "60"] for s in STAGES}
    small |= {"eval_dpo.py": ["--limit", "6"], "generate_from_checkpoint.py": []}
    small |= {"report.py": ["--limit", "6"]}
    done = [
        (script, argv, call(Path(script).stem, argv + small[script]))
        for name in STAGE_OF
        for script, argv in commands(ROOT / "docs" / name)
    ]
    assert {script for script, _, _ in done} == set(small)
    assert len(done) >= 12
    # The exercise of dpo.md: ten times the beta is ten times the gradient.
    norms = []
    for beta in ("0.1", "1"):
        log = (tmp_path / f"checkpoints/exercise_beta_{beta}/metrics.jsonl").read_text("utf-8")
        records = map(json.loads, log.splitlines())
        norms.append(next(r["gradient_norm"] for r in records if "gradient_norm" in r))
    assert norms[1] / norms[0] == pytest.approx(10, rel=1e-3)
