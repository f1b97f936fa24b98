"""The shape of the project: no import cycles, third-party libraries where they belong, nothing runs
on import, every flag is read and documented, and `--help` is fast.
"""

import argparse
import ast
import importlib
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
SCRIPTS = sorted(ROOT.glob("*.py"))
NAMES = {
    "main_squad", "train_dpo", "train_reward_model", "train_ppo",
    "eval_dpo", "generate_from_checkpoint", "playground", "export_to_hf",
    "report", "sweep",
}

THIRD_PARTY = {
    "torch", "tiktoken", "regex", "datasets", "numpy", "tqdm", "gguf", "safetensors",
    "huggingface_hub", "pyarrow", "gradio", "matplotlib", "wandb",
}
# regex comes with tiktoken, huggingface_hub and pyarrow with datasets; foreign weights have a file
# a format.
ONLY_IN = {
    "tiktoken": {"src/data/tokenizers/tokenizer.py"},
    "regex": {
        "src/data/tokenizers/tokenizer.py", "src/data/answer_text.py", "src/data/encoding.py",
        "src/data/segmentation.py", "src/data/corruptions.py",
    },
    "datasets": {"src/data/squad_loader.py"},
    "pyarrow": {"src/data/row_files.py"},
    "gguf": {"src/interop/gguf_file.py"},
    "safetensors": {
        "src/interop/llama_folder.py", "src/interop/llama_export.py"
    },
    "huggingface_hub": {"src/interop/pretrained.py"},
    "gradio": {"src/playground/page.py"},
    "matplotlib": {"src/report/drawing.py"},
    "wandb": {"src/training/tracker.py"},  # of the user's own, where --tracker names it
}
LIGHT = {
    f"src/utils/{name}.py" for name in ("constants", "errors", "cli", "exit_handling", "ranks")
}

# Flags that no `args.NAME` reads: name -> where they are read instead.
READ_OTHERWISE = {
    name: "src.utils.cli.shape_of, vars(args)"
    for name in ("n_layer", "n_embd", "n_head", "n_kv_head", "kgram_k", "n_inner", "block_size")
}


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def resolve(base, name):
    """`from base import name` names the module base.name where there is one, else base."""
    path = ROOT.joinpath(*base.split("."), name)
    return f"{base}.{name}" if path.with_suffix(".py").exists() or path.is_dir() else base


@cache
def imports(path):
    """Full names of all modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            found |= {resolve(node.module, alias.name) for alias in node.names}
    return frozenset(found)


def inside(name, part):
    return name == part or name.startswith(part + ".")


def third_party(path):
    tops = {name.partition(".")[0] for name in imports(path)}
    return tops - set(sys.stdlib_module_names) - {"src"}


def short(path):
    return str(path.relative_to(ROOT))


def parametrize(paths):
    return pytest.mark.parametrize("path", paths, ids=short)


def test_the_scripts_are_there():
    assert {path.stem for path in SCRIPTS} == NAMES


def test_the_helpers_above_read_imports():
    """On imports that are known."""
    assert "src.training.run" in imports(ROOT / "src/training/loop.py")
    assert "src.model.heads" in imports(ROOT / "src/utils/checkpoint_utils.py")
    assert resolve("src.data", "squad_loader") == "src.data.squad_loader"
    assert resolve("src.utils.constants", "STAGES") == "src.utils.constants"
    assert inside("src.model.lstm.lstm", "src.model") and not inside("src.models", "src.model")


@parametrize(SCRIPTS)
def test_a_script_imports_no_other_script(path):
    assert not {name.partition(".")[0] for name in imports(path)} & NAMES


def test_no_import_goes_in_a_circle():
    """No module imports itself by way of others."""
    edges = {module_name(p): {n for n in imports(p) if inside(n, "src")} for p in SOURCES}

    def reached(start):
        seen, waiting = set(), [start]
        while waiting:
            new = edges.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return seen

    assert [name for name in edges if name in reached(name)] == []


@parametrize(SOURCES + SCRIPTS)
def test_third_party_imports(path):
    found = third_party(path)
    assert found <= THIRD_PARTY
    for library, places in ONLY_IN.items():
        assert library not in found or short(path) in places
    if short(path) == "src/losses.py":
        assert found == {"torch"}
    if short(path) in LIGHT:
        assert not found


def public_functions(body, prefix=""):
    """Functions of a module and methods of its classes whose names have no underscore in front."""
    for node in body:
        public = not getattr(node, "name", "_").startswith("_")
        if isinstance(node, ast.FunctionDef) and public:
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef) and public:
            yield from public_functions(node.body, f"{prefix}{node.name}.")


@parametrize(SOURCES + SCRIPTS)
def test_every_public_function_says_what_it_does(path):
    missing = [
        name for name, node in public_functions(tree(path).body) if not ast.get_docstring(node)
    ]
    assert not missing
    has_code = bool(tree(path).body)
    assert ast.get_docstring(tree(path)) or not has_code, "the module says nothing about itself"


def is_definition(node):
    """A definition, an import, a constant, a docstring; `if __name__ == "__main__"`; and a
    script's imports within `flags_first`."""
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Compare) and "__name__" in ast.dump(node.test)
    if isinstance(node, ast.With):
        only_imports = all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in node.body)
        return only_imports and "flags_first" in ast.dump(node.items[0])
    return isinstance(node, kinds) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


@parametrize(SOURCES + SCRIPTS)
def test_nothing_runs_on_import_and_nothing_is_global(path):
    odd = [node.lineno for node in tree(path).body if not is_definition(node)]
    assert not odd, f"{short(path)} runs code on import in lines {odd}"
    assert not any(isinstance(node, ast.Global) for node in ast.walk(tree(path)))


def reachable(script):
    """The script and every module of src that it imports, directly or not."""
    by_name = {module_name(path): path for path in SOURCES}
    seen, waiting = {script}, [script]
    while waiting:
        for name in imports(waiting.pop()):
            path = by_name.get(name)
            if path is not None and path not in seen:
                seen.add(path)
                waiting.append(path)
    return seen


def flags_read(paths):
    """Every NAME of `args.NAME` or `something.args.NAME` that is read."""
    return {
        node.attr
        for path in paths
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Load)
        and "args" in (getattr(node.value, "id", ""), getattr(node.value, "attr", ""))
    }


def parser_of(path):
    parser = importlib.import_module(path.stem).build_parser()
    assert isinstance(parser, argparse.ArgumentParser)
    return parser


@parametrize(SCRIPTS)
def test_every_flag_is_read_and_has_help(path):
    read = flags_read(reachable(path))
    for action in parser_of(path)._actions:
        name = action.option_strings
        assert action.help and action.help != argparse.SUPPRESS, f"{name} has no help"
        if not name:
            assert (path.stem, action.dest) == ("sweep", "experiment"), f"{action.dest} is no flag"
            assert action.dest in read
        elif not isinstance(action, argparse._HelpAction):
            assert action.dest in read or action.dest in READ_OTHERWISE, f"{name} is read nowhere"
            assert all("-" not in flag[2:] for flag in name), f"{name}: underscores, not dashes"


@parametrize(SCRIPTS)
def test_help_can_be_printed(path):
    """A stray % in a help text breaks only when it is shown."""
    parser = parser_of(path)
    text = parser.format_help()
    for action in parser._actions:
        assert (action.option_strings[-1] if action.option_strings else action.metavar) in text


@parametrize(SCRIPTS)
@pytest.mark.parametrize(
    "argv", [["--no_such_flag"], ["--no_such_flag=3"], ["--see", "1"], ["--model_type", "a\nb"]]
)
def test_an_unknown_flag_is_refused_in_one_line(path, argv, capsys):
    """--see is the start of --seed: a guess at what was meant would be a silent mistake."""
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(path.stem).main(argv)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert argv[0].partition("=")[0] in err


HELP = """
import runpy, sys
sys.argv = [{0!r}, "--help"]
try:
    runpy.run_path({0!r}, run_name="__main__")
except SystemExit as stop:
    slow = {{"torch", "numpy", "datasets", "tiktoken", "tqdm", "gradio", "safetensors"}}
    heavy = sorted((slow | {{"matplotlib"}}) & set(sys.modules))
    print("code", stop.code, "heavy", heavy, file=sys.stderr)
"""


@parametrize(SCRIPTS)
def test_help_answers_at_once_and_loads_nothing_heavy(path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, "-c", HELP.format(path.name)],
        cwd=ROOT, capture_output=True, text=True, timeout=30,
    )
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    assert done.stderr.strip() == "code 0 heavy []"
    assert "--help" in done.stdout and path.name in done.stdout
    assert seconds < 0.5


@parametrize(SCRIPTS)
def test_a_script_runs_with_and_without_src_on_the_path(path):
    for extra in ({}, {"PYTHONPATH": "src"}):
        done = subprocess.run(
            [sys.executable, path.name, "--help"], cwd=ROOT,
            env={"PATH": "", **extra}, capture_output=True, text=True, timeout=30,
        )
        assert done.returncode == 0, done.stderr
