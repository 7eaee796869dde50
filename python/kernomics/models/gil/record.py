"""What a training keeps on disk of each stage that is done, and how it finds its way back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from kernomics._files import bytes_of, json_of
from kernomics.data import Stages
from kernomics.data.order import VERSION as ORDER
from kernomics.errors import CheckpointError, ConfigError
from kernomics.models.gil.methods import Method
from kernomics.models.gil.module import GILModule
from kernomics.models.gil.scoring import GeneErrors
from kernomics.models.saved import IN_STAGES
from kernomics.train import History, differences, load_model_dir, save_model_dir, write_json
from kernomics.train.atomic import TEMPORARY, existing
from kernomics.train.distributed import ranks
from kernomics.train.interfaces import FIRST_ORDER
from kernomics.train.rundir import CONFIG, LOCK, require_run

STAGES, SETTINGS = "stages.json", IN_STAGES
METHODS, SCORES, MODEL = "methods", "scores.json", "model"
METRICS = "metrics.jsonl"


class StageRecord:
    """The stages of a run in its directory; without one it keeps nothing.

    Parameters
    ----------
    run_dir
        The directory of the run.
    resume
        Whether to go on with what is there.
    stages
        Of the training.
    settings
        What decides its result.

    Attributes
    ----------
    order : int
        The version of the order of cells in all stages, that under which the run was begun.
    """

    def __init__(
        self,
        run_dir: str | Path | None,
        resume: bool,
        stages: Stages,
        settings: Mapping[str, Any],
    ) -> None:
        self.root = None if run_dir is None else Path(run_dir)
        self.resume, self.stages = resume, stages
        self.writes = ranks().first
        order = self._begin(run_dir, settings) if self.writes else ORDER
        self.order: int = ranks().told(order)  # what the first rank finds stops all

    def _begin(self, run_dir: str | Path | None, settings: Mapping[str, Any]) -> int:
        """Begin the directory, or find it as it must be; return the version of the order."""
        begun = self.root is not None and (self.root / SETTINGS).is_file()
        if self.resume and not begun:
            require_run(run_dir)
        if self.root is None:
            return ORDER
        if begun and not self.resume:
            raise CheckpointError(
                f"{self.root} holds a training in stages: continue it with resume=True, or choose "
                "another directory"
            )
        if begun:
            return _require_same(self.root, self.stages, settings)
        _refuse_foreign(self.root)
        self.root.mkdir(parents=True, exist_ok=True)
        self.stages.save(self.root / STAGES)
        write_json(self.root / SETTINGS, {**settings, "order": ORDER})
        return ORDER

    def folder(self, i: int) -> Path | None:
        """Return where the i-th part of the training keeps its checkpoints."""
        return None if self.root is None else self.root / "stages" / str(i)

    def begun(self, i: int) -> bool:
        """Tell whether the i-th part has something to go on from."""
        folder = self.folder(i)
        return (
            self.resume
            and folder is not None
            and any((folder / name).exists() for name in (METRICS, "checkpoints"))
        )

    def finished(self, i: int) -> bool:
        """Tell whether the i-th part is done and kept."""
        folder = self.folder(i)
        return self.resume and folder is not None and existing(folder / MODEL).is_dir()

    def keep(
        self,
        i: int,
        weights: Mapping[str, Tensor],
        states: Sequence[Mapping[str, Tensor]],
        errors: Mapping[str, GeneErrors],
    ) -> None:
        """Keep a part that is done; the weights come last, and say that it is."""
        folder = self.folder(i)
        if folder is None or not self.writes:
            return
        flat = {f"{j}/{name}": t for j, state in enumerate(states) for name, t in state.items()}
        save_model_dir(folder / METHODS, flat, {"format": "kernomics gil methods 1"})
        write_json(folder / SCORES, {name: found.to_dict() for name, found in errors.items()})
        save_model_dir(folder / MODEL, weights, {"format": "kernomics gil stage 1"})

    def read(
        self, i: int, n_methods: int
    ) -> tuple[dict[str, Tensor], list[dict[str, Tensor]], dict[str, GeneErrors], History]:
        """Return what `keep` kept, and the history."""
        folder = self.folder(i)
        assert folder is not None
        weights, _ = load_model_dir(folder / MODEL)
        states: list[dict[str, Tensor]] = [{} for _ in range(n_methods)]
        for name, tensor in load_model_dir(folder / METHODS)[0].items():
            j, _, rest = name.partition("/")
            if not (j.isdecimal() and int(j) < n_methods):
                raise CheckpointError(
                    f"{folder / METHODS} holds {name!r}, which none of the run's {n_methods} "
                    f"method{'s' * (n_methods > 1)} keeps: it is another run's; begin the run again"
                )
            states[int(j)][rest] = tensor
        errors = self._errors(folder / SCORES)
        history = History.read(folder / METRICS)
        if not history:
            raise CheckpointError(
                f"{folder / METRICS} is damaged: it holds no record of a stage that is done; begin "
                "the run again"
            )
        return weights, states, errors, history

    def restore(
        self,
        i: int,
        name: str,
        module: GILModule,
        methods: Sequence[Method],
    ) -> tuple[GeneErrors, History]:
        """Give a part that is done back to the module and the methods; return its errors.

        Parameters
        ----------
        i, name
            The part, and the stage that it ends with.
        module
            Which knows the genes of that stage.
        methods
            Of the training.
        """
        weights, states, errors, history = self.read(i, len(methods))
        folder = self.folder(i)
        try:
            module.take(weights)
            for method, state in zip(methods, states, strict=True):
                method.restore(state)
            return errors[name], history
        except (RuntimeError, KeyError) as error:
            why = str(error).splitlines()[-1].strip()
            raise CheckpointError(
                f"{folder} is not of this run after stage {name!r}, a network of "
                f"{module.n_genes:,} genes: was it put there by hand? Begin the run again ({why})"
            ) from error

    def _errors(self, path: Path) -> dict[str, GeneErrors]:
        """Read the errors after a stage: of one stage, and of all genes."""
        try:
            saved = json_of(bytes_of(path))
            errors = {name: GeneErrors.from_dict(found) for name, found in saved.items()}
            ((name, one),) = errors.items()
            sizes = {len(part) for part in (one.tokens, one.queries, one.counts)}
            if name not in self.stages.names or sizes != {len(self.stages.vocabulary)}:
                raise ValueError(f"{min(sizes):,} genes after stage {name!r}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path} cannot be read as the errors of {len(self.stages.vocabulary):,} genes: "
                f"{error!r}; begin the run again"
            ) from error
        return errors


def _refuse_foreign(root: Path) -> None:
    """Refuse a directory that holds what no beginning of a training in stages leaves there."""
    if root.exists() and not root.is_dir():
        raise CheckpointError(f"{root} is a file: choose another name for the run directory")
    ours = (CONFIG, LOCK, STAGES, f"{STAGES}.partial")
    names = sorted(entry.name for entry in root.iterdir()) if root.exists() else []
    names = [name for name in names if name not in ours and TEMPORARY not in name]
    if names:
        raise CheckpointError(
            f"{root} holds no training in stages, but {len(names):,} "
            f"{'entry' if len(names) == 1 else 'entries'}, first {names[0]!r}; nothing was "
            "changed, choose another directory"
        )


def require_same_stages(root: Path, stages: Stages) -> None:
    """Refuse to go on with other stages than those that a training was begun with."""
    saved_stages = Stages.load(root / STAGES)
    if saved_stages.fingerprint != stages.fingerprint:
        raise CheckpointError(
            f"{root} cannot be resumed: its stages are others than those given. It has "
            f"{saved_stages!r}, given were {stages!r}; give the file that it was begun with, a "
            f"copy of which is {root / STAGES}"
        )


def _require_same(root: Path, stages: Stages, settings: Mapping[str, Any]) -> int:
    """Refuse to go on with other stages or settings; return the version of the cells' order."""
    require_same_stages(root, stages)
    try:
        saved = json_of(bytes_of(root / SETTINGS))
        if not isinstance(saved, dict):
            raise ValueError(f"it holds a {type(saved).__name__}, not an object")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{root / SETTINGS} cannot be read: {error}; begin the training again in another "
            "directory"
        ) from error
    order: int = saved.pop("order", FIRST_ORDER)
    found = differences(saved, settings)
    if found:
        raise ConfigError(
            f"{root} cannot be resumed: {len(found)} settings differ: {'; '.join(found)}; use the "
            "run's own settings, or another directory"
        )
    return order
