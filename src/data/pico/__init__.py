"""`pico`, the embedded data set. generate.py describes it."""

from src.data.pico.generate import (
    DIFFICULTIES,
    LEVELS,
    MAX_QUESTIONS,
    SPLITS,
    Level,
    generate_articles,
)
from src.data.pico.names import is_validation_name
from src.data.pico.stored import generate_questions

__all__ = [
    "DIFFICULTIES",
    "LEVELS",
    "MAX_QUESTIONS",
    "SPLITS",
    "Level",
    "generate_articles",
    "generate_questions",
    "is_validation_name",
]
