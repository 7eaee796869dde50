"""PERSIST-style selection, which the benchmark compares YOTO with."""

from persist.classifier import ClassifierConfig
from persist.config import PersistConfig
from persist.selection import PersistBaseline, TrainedBaseline

__all__ = ["ClassifierConfig", "PersistBaseline", "PersistConfig", "TrainedBaseline"]
