"""Answers against golds: SQuAD metrics, intervals, baselines, and comparisons of policies."""

from src.data.answer_text import normalize_answer
from src.evaluation.squad_metrics import exact_match, f1_score

__all__ = ["exact_match", "f1_score", "normalize_answer"]
