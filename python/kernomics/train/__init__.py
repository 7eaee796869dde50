"""Training: the loop, exact checkpoints, run directories, schedules and optimizers."""

from kernomics.train import schedules
from kernomics.train.atomic import replace_file, write_json
from kernomics.train.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_model_dir,
    save_checkpoint,
    save_model_dir,
)
from kernomics.train.config import TrainConfig, config_hash, differences, override
from kernomics.train.history import History
from kernomics.train.loggers import JSONLines, Lightning, Logger, TensorBoard, opened
from kernomics.train.loop import fit
from kernomics.train.optim import RowAdamW
from kernomics.train.rundir import RunDirectory

__all__ = [
    "Checkpoint",
    "History",
    "JSONLines",
    "Lightning",
    "Logger",
    "RowAdamW",
    "RunDirectory",
    "TensorBoard",
    "TrainConfig",
    "config_hash",
    "differences",
    "fit",
    "load_checkpoint",
    "load_model_dir",
    "opened",
    "override",
    "replace_file",
    "save_checkpoint",
    "save_model_dir",
    "schedules",
    "write_json",
]
