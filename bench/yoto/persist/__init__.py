"""PERSIST-style selection, which the benchmark compares YOTO with."""

from bench.yoto.persist.classifier import ClassifierConfig
from bench.yoto.persist.config import PersistConfig
from bench.yoto.persist.selection import PersistBaseline, TrainedBaseline

__all__ = ["ClassifierConfig", "PersistBaseline", "PersistConfig", "TrainedBaseline"]
