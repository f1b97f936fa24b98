"""Questions of a hub data set: its splits, and what is refused; the hub's library is a stand-in."""

import sys
from types import ModuleType

import pytest

from src.data import squad_loader
from src.data.squad_loader import load_squad
from src.data.squad_parse import LoadReport
from src.data.squad_splits import split_by_title
from src.utils.errors import UserError


def rows(prefix, titles=20):
    """A context and a question a title."""
    answers = {"text": ["Ada"], "answer_start": [0]}
    return [
        {"id": f"{prefix}{i}", "title": f"{prefix}{i}", "context": f"Ada of {prefix}{i} left.",
         "question": "Who left?", "answers": answers}
        for i in range(titles)
    ]


@pytest.fixture
def hub(monkeypatch):
    """id -> splits of the data sets that the hub has."""
    has = {}

    def load_dataset(hub_id, config=None):
        if hub_id not in has:
            raise OSError(f"{hub_id} is not there\nand more")
        return has[hub_id]

    library = ModuleType("datasets")
    library.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setattr(squad_loader, "_offline_without_address", lambda: None)
    return has


def ids(paragraphs):
    return [question.id for paragraph in paragraphs for question in paragraph.questions]


@pytest.mark.parametrize(
    ("dataset", "hub_id"), [("squad", "rajpurkar/squad"), ("some/set", "some/set")]
)
def test_the_splits_are_the_hubs_own(hub, dataset, hub_id):
    hub[hub_id] = {"train": rows("t"), "validation": rows("v", 3), "test": rows("x")}
    data = load_squad(dataset)
    assert ids(data.train) == [f"t{i}" for i in range(20)]
    assert ids(data.validation) == ["v0", "v1", "v2"]
    assert data.identity["dataset"] == dataset


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_lone_split_is_split_by_title(hub, split):
    """20 titles: 2 held out, those that a file of these articles would hold out."""
    hub["some/set"] = {split: rows("t"), "test": rows("x")}
    data = load_squad("some/set")
    assert (len(data.train), len(data.validation)) == (18, 2)
    assert sorted(ids(data.train) + ids(data.validation)) == sorted(f"t{i}" for i in range(20))
    halves = split_by_title(data.train + data.validation, "file", LoadReport())
    assert halves["validation"] == data.validation


def test_what_the_hub_cannot_give_is_refused_in_one_line(hub):
    hub["some/tests"] = {"test": rows("x")}
    hub["some/texts"] = {
        "train": [{"id": i, "context": "Ada left.", "question": "Who?"} for i in "ab"]
    }
    for hub_id, reason in (
        ("some/tests", "only a test split, which eval_dpo.py can measure on"),
        ("some/texts", "no usable question for train; dropped: 2 no 'answers'; first: some/texts "
         "train, row 1 (id a)"),
        ("no/where", "cannot load it (OSError: no/where is not there and more); check the name"),
    ):
        with pytest.raises(UserError) as error:
            load_squad(hub_id)
        assert str(error.value).startswith(f"--dataset {hub_id}") and reason in str(error.value)
        assert "\n" not in str(error.value)
