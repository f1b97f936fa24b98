"""The registry: model type -> its configuration and its module."""

import dataclasses

from torch import nn
from torch.overrides import TorchFunctionMode

from src.model.kgram.kgram import KGram, KGramConfig
from src.model.lstm.lstm import LSTM, LSTMConfig
from src.model.pointer import PointerModel
from src.model.transformer.transformer import Transformer, TransformerConfig
from src.utils.errors import UserError

MODELS = {
    "transformer": (TransformerConfig, Transformer),
    "lstm": (LSTMConfig, LSTM),
    "kgram": (KGramConfig, KGram),
}


def build_model(name: str, config_dict: dict) -> nn.Module:
    """Build a freshly initialised model of type `name` from plain configuration values.

    config_dict: `vocab_size` and whatever differs from the defaults of the type's configuration
    class.
    Raises UserError for an unknown type, an unknown field or a value that makes no model.
    """
    if name not in MODELS:
        raise UserError(f"model type {name!r} given, expected one of {', '.join(MODELS)}")
    config_class, module_class = MODELS[name]
    fields = {field.name for field in dataclasses.fields(config_class)}
    unknown = sorted(set(config_dict) - fields)
    if unknown:
        raise UserError(
            f"{name} configuration field {unknown[0]!r} given, expected {', '.join(sorted(fields))}"
        )
    if "vocab_size" not in config_dict:
        raise UserError(f"no vocab_size given for a {name}, expected the tokenizer's")
    config = config_class(**config_dict)
    model = module_class(config)
    return PointerModel(model) if config.pointer else model


class Undrawn(TorchFunctionMode):
    """A model built within has its weights as they were allocated, for others to be loaded.

    Drawing 135 million of them takes seconds, and so does torch's meta device: it loads the
    compiler.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))
