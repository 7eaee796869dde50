"""The `kernomics` command."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from kernomics._version import __version__
from kernomics._warnings import warn
from kernomics.cli import evaluate as cli_evaluate
from kernomics.cli import finetune as cli_finetune
from kernomics.cli import options as cli_options
from kernomics.cli import panels as cli_panels
from kernomics.cli import pretrain as cli_txfm
from kernomics.cli import tables as cli_scores
from kernomics.cli.messages import CommandParser, as_options, options_of
from kernomics.errors import ConfigError, KernomicsError

EXAMPLES = """examples:
  kernomics demo
  kernomics select cells.h5ad --labels-key cell_type --n-genes 64 --out runs/panel
  kernomics select cells.h5ad --labels-key cell_type disease --layer counts \\
      --split group --split-key donor --force CD3D MS4A1 --out runs/two-tasks
  kernomics evaluate runs/panel other.h5ad
  kernomics evaluate runs/txfm screen.h5ad --perturbation-key guide --control non-targeting
  kernomics panel cells.h5ad --genes genes.txt --labels-key cell_type
  kernomics pretrain cells.h5ad --size XS --labels-key cell_type --out runs/txfm
  kernomics finetune runs/txfm other.h5ad --out runs/tuned
  kernomics embed runs/tuned other.h5ad --out embedded.h5ad
"""


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, []):
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


def parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    top = CommandParser(
        prog="kernomics",
        description="Train models on gene-expression counts: gene panels with their predictor, "
        "and representations of cells.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"kernomics {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    select = commands.add_parser(
        "select",
        help="select a gene panel and train its predictor (YOTO)",
        description="Select a gene panel that predicts one or several labels. One training gives "
        "the panel and its predictor. Writes a run directory with the panel (panel.csv), the model "
        "(model/), the scores on held-out cells (results.json) and a report (report.html).",
        formatter_class=_Help,
    )
    select.add_argument(
        "--labels-key", nargs="+", required=True, metavar="COLUMN", help="obs column(s) to predict"
    )
    cli_options.add_label_kinds(select)
    select.add_argument("--unlabelled", metavar="CLASS", help="class that means 'no label'")
    select.add_argument(
        "--split", choices=("stratified", "random", "group"), default="stratified",
        help="how cells are divided into 70%% training, 10%% validation and 20%% test",
    )  # fmt: skip
    select.add_argument(
        "--split-key", metavar="COLUMN", help="obs column of groups (--split group)"
    )
    cli_options.add_reading(select)
    cli_options.add_constraints(select)
    _add_training(select)
    select.set_defaults(run=_select)

    demo = commands.add_parser(
        "demo",
        help="select 32 genes for the 10 types of 700 real blood cells",
        description="Select 32 genes for the 10 cell types of the 700 real PBMC that scanpy ships.",
        formatter_class=_Help,
    )
    _add_training(
        demo, out="runs/demo", n_genes=32, splits=5, compare=("de", "l1", "hvg", "random")
    )
    # Batches of 64 cells leave a second thread nothing to do but wait.
    demo.set_defaults(run=_demo, threads=1)

    evaluate = commands.add_parser(
        "evaluate",
        help="apply a saved model to other cells and score it",
        description="Apply a saved panel to other cells and score its predictions; or represent "
        "other cells by a saved TxFM and score how well classes can be read off that "
        "representation, PCA and normalised counts, on a fifth of the cells; how consistent the "
        "effects of perturbations are in them; or how many known relationships between genes its "
        "parameters recall.",
        formatter_class=_Help,
    )
    evaluate.add_argument("run_or_model", help="a run directory, or a saved model")
    cli_options.add_reading(evaluate)
    evaluate.add_argument(
        "--label", nargs="+", default=[], metavar="TASK=COLUMN",
        help="obs column of a label, where it is not called as in training",
    )  # fmt: skip
    evaluate.add_argument(
        "--allow-missing", action="store_true",
        help="go on where the data lack genes of the panel, each filled with its mean over the "
        "training cells",
    )  # fmt: skip
    evaluate.add_argument("--predictions", metavar="CSV", help="write each cell's prediction here")
    evaluate.add_argument(
        "--report", metavar="HTML",
        help="write the scores, with errors and figures, as a page to this file too",
    )  # fmt: skip
    cli_evaluate.add_evaluation(evaluate)
    evaluate.add_argument("--json", action="store_true", help="print the scores as JSON")
    evaluate.add_argument("--threads", type=int, metavar="N", help="CPU threads (all if not given)")
    evaluate.set_defaults(run=_evaluate)

    cli_panels.add_panel(commands, _Help)
    cli_txfm.add_pretrain(commands, _Help)
    cli_finetune.add_finetune(commands, _Help)
    cli_txfm.add_embed(commands, _Help)

    info = commands.add_parser("info", help="what was built, and what this machine has")
    info.add_argument("--json", action="store_true", help="print it as JSON")
    info.set_defaults(run=_info)
    return top


def _add_training(
    command: argparse.ArgumentParser,
    *,
    out: str | None = None,
    n_genes: int = 64,
    splits: int = 1,
    compare: Sequence[str] = ("de", "random"),
) -> None:
    # Their defaults come last, after --config: see _settings.
    command.set_defaults(least={"n_genes": n_genes, "seed": 0})
    command.add_argument(
        "--n-genes", type=int, metavar="K", help=f"panel size ({n_genes} if not given)"
    )
    command.add_argument(
        "--out", default=out, required=out is None, metavar="DIR", help="the run directory"
    )
    ending = command.add_mutually_exclusive_group()
    ending.add_argument("--resume", action="store_true", help="continue the run in --out")
    ending.add_argument("--overwrite", action="store_true", help="delete the run in --out first")
    command.add_argument("--seed", type=int, help="decides everything random (0 if not given)")
    command.add_argument(
        "--max-epochs", type=int, metavar="N",
        help="passes over the cells (enough for about 1,000 steps if not given)",
    )  # fmt: skip
    command.add_argument(
        "--batch-size", type=int, metavar="N", help="cells per batch (64 or 128 if not given)"
    )
    command.add_argument(
        "--config", metavar="JSON",
        help="file of settings of YOTOConfig and TrainConfig, such as "
        '{"relaxation": "neuralsort", "patience": 10}, or the config.json of another run; the '
        "options of this command take precedence",
    )  # fmt: skip
    command.add_argument(
        "--compare", nargs="*", default=list(compare), metavar="METHOD",
        help="panels to put beside this one: de, l1, hvg, random, or nothing",
    )  # fmt: skip
    command.add_argument(
        "--splits", type=int, default=splits, metavar="N",
        help="select and compare on so many splits of the cells, this run's included: mean ± "
        "standard error, and which methods can be told apart",
    )  # fmt: skip
    command.add_argument(
        "--stability", type=int, metavar="SEEDS",
        help="compare the panels of so many seeds, this one's included, and form their consensus",
    )  # fmt: skip
    command.add_argument(
        "--curve", type=int, nargs="+", default=[], metavar="K",
        help="compare panels of these sizes and suggest one",
    )  # fmt: skip
    command.add_argument(
        "--log-dir", metavar="DIR", help="write TensorBoard's event files of the training here"
    )
    command.add_argument("--device", default="cpu", help="where to train: cpu or cuda")
    command.add_argument("--threads", type=int, metavar="N", help="CPU threads (all if not given)")
    command.add_argument("--quiet", action="store_true", help="no progress bar")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    whole = parser()
    args = whole.parse_args(argv)
    options = options_of(whole, args.command)

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"warning: {as_options(str(message), options)}", file=sys.stderr)

    with warnings.catch_warnings():
        # The data layer's warnings are for the reader of the terminal, without code lines.
        warnings.showwarning = show
        try:
            args.run(args)
        except (KernomicsError, OSError, ImportError) as error:
            told = as_options(str(error), options)
            print(f"kernomics {args.command}: error: {told}", file=sys.stderr)
            return 2
        except KeyboardInterrupt as stop:
            print(f"\n{as_options(str(stop), options) or 'interrupted'}", file=sys.stderr)
            _say_how_to_continue(args)
            return 130
        except SystemExit:  # SIGTERM, after saving
            print("\nterminated", file=sys.stderr)
            _say_how_to_continue(args)
            raise
    return 0


def _say_how_to_continue(args: argparse.Namespace) -> None:
    if "resume" in args:
        print("the same command with --resume continues", file=sys.stderr)


# -- select and demo -------------------------------------------------------------------------------


def _select(args: argparse.Namespace) -> None:
    settings = _settings(args)  # a mistake there is told before the data are read
    cells = cli_options.read_cells(
        args,
        labels_key=args.labels_key,
        unlabelled_category=args.unlabelled,
        label_kinds=cli_options.label_kinds(args),
    )
    _run(args, settings, cells, cli_options.data_name(args), [], split=args.split,
         split_key=args.split_key, **cli_options.constraints(args))  # fmt: skip


def _demo(args: argparse.Namespace) -> None:
    from kernomics import datasets
    from kernomics.data import CellCollection

    settings = _settings(args)
    adata = datasets.pbmc68k()
    cells = CellCollection.from_anndata(
        adata, layer="counts", labels_key="cell_type", library_key="n_counts"
    )
    _run(
        args,
        settings,
        cells,
        "700 PBMC (10x Genomics), shipped with scanpy",
        [adata.uns["kernomics"]["note"]],
    )


def _run(
    args: argparse.Namespace,
    settings: tuple[dict[str, Any], dict[str, Any]],
    cells: Any,
    dataset: str,
    notes: Sequence[str],
    **options: Any,
) -> None:
    import torch

    from kernomics.models import YOTO
    from kernomics.workflows.select import run_selection

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    selecting, training = settings
    model = YOTO(cells, seed=training["seed"], **options, **selecting)
    split = model.split
    print(f"cells      {cells.n_cells:,}   genes {cells.n_genes:,}   {dataset}")
    print(
        f"split      {split.how}{f' by {split.by}' if split.by else ''}: {len(split.train):,} to "
        f"train, {len(split.validation):,} to validate, {len(split.test):,} held out"
    )
    for line in cli_options.excluded(model):
        print(line)
    for task in model.tasks:
        print(f"task       {task.name}: {model.cells.labels[task.name].description}")
    print(f"library    {cells.library_source}")
    result = run_selection(
        model,
        args.out,
        dataset=dataset,
        resume=args.resume,
        overwrite=args.overwrite,
        compare=args.compare,
        notes=notes,
        splits=args.splits,
        stability=args.stability or 0,
        curve=args.curve,
        log_dir=args.log_dir,
        device=args.device,
        **training,
    )
    print(f"panel      {', '.join(model.genes)}")
    for line in [*cli_options.kept_markers(model), *cli_options.spent(model)]:
        print(line)
    cli_scores.print_selection(result)
    if result.stability is not None:
        print(f"stability  {result.stability}")
        print(f"consensus  {', '.join(result.stability.consensus)}")
    if result.curve is not None:
        print(f"sizes      {result.curve}")
    for warning in result.warnings:
        print(f"warning    {warning}")
    print(f"seconds    {result.seconds:.1f} for the selection")
    print(f"report     {result.report}")


def _settings(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Gather the settings of the model and of its training: options, --config, then defaults."""
    from kernomics.models import YOTOConfig
    from kernomics.train.device import usable_device

    if args.threads is not None and args.threads < 1:
        raise ConfigError(f"--threads is {args.threads}: at least 1 is needed")
    usable_device(args.device)
    cli_options.check_run(args)
    given = {
        "n_genes": args.n_genes,
        "seed": args.seed,
        "max_epochs": args.max_epochs,
        "batch_size": args.batch_size,
        "progress": False if args.quiet else None,
    }
    least, given = args.least, {k: v for k, v in given.items() if v is not None}
    return cli_options.settings(args.config, YOTOConfig(), least=least, given=given)


# -- evaluate and info -----------------------------------------------------------------------------


def _evaluate(args: argparse.Namespace) -> None:
    from kernomics.models import Panel
    from kernomics.models.loading import saved_format
    from kernomics.models.txfm.cell_encoder import FORMAT
    from kernomics.train.atomic import jsonable

    cli_txfm.use_threads(args.threads)
    cli_evaluate.check_report(args.report)
    if saved_format(args.run_or_model) == FORMAT:
        cli_evaluate.evaluate(args)
        return
    if args.labels_key:
        raise ConfigError(
            f"{args.run_or_model} is a panel; a TxFM alone takes --labels-key, a panel knows its "
            "labels: leave it out, or name a label's column with --label TASK=COLUMN"
        )
    cli_evaluate.refuse(args, cli_evaluate.OF_TXFM, "is a panel; a TxFM alone takes")
    labels = {}
    for pair in args.label:
        task, equals, name = pair.partition("=")
        if not equals:
            raise ConfigError(f"--label {pair!r}: write TASK=COLUMN")
        labels[task] = name
    panel = Panel.load(args.run_or_model)
    cells = panel.read(args.data, **cli_options.reading(args))
    missing = {"allow_missing": args.allow_missing}
    unlabelled = not labels and not {task.name for task in panel.tasks} & set(cells.obs.columns)
    if args.predictions and unlabelled and args.report is None:
        warn(f"obs has none of the panel's labels {[task.name for task in panel.tasks]}: "
             "cells are predicted, not scored")  # fmt: skip
        scores = {}
        panel.predict(cells, **missing).to_csv(args.predictions)
    else:
        scores = panel.evaluate(cells, labels=labels, **missing)
        if args.predictions:
            with cli_evaluate.noted_warnings(show=False):  # they were told with the scores
                panel.predict(cells, **missing).to_csv(args.predictions)
    if args.report is not None:
        cli_evaluate.report_panel(args, panel, labels)
    if args.json:
        print(json.dumps(jsonable(scores), indent=1))
        return
    print(f"panel      {len(panel.genes)} genes")
    for task, found in scores.items():
        of = f"{int(found.pop('n_cells')):,} of {cells.n_cells:,} cells"
        scored = "   ".join(f"{key} {value:.4g}" for key, value in found.items())
        print(f"{task:<10} {of}   {scored}")
    if args.predictions:
        print(f"predictions {args.predictions}")
    if args.report is not None:
        print(f"report     {args.report}")


def _info(args: argparse.Namespace) -> None:
    from kernomics.ops import build_info

    found = build_info()
    if args.json:
        print(json.dumps(found, indent=1))
        return
    architectures = ", ".join(found["cuda_architectures"]) or "none"
    print(f"kernomics  {found['version']}, built with {found['compiler']}")
    if found["cuda_kernels"]:
        print(f"CUDA       kernels for {architectures}, built with {found['cuda_compiler']}")
    else:
        print("CUDA       no kernels in this build")
    print(f"torch      {found['torch']}, CUDA {found['torch_cuda'] or 'none'}")
    devices = ", ".join(found["cuda_devices"]) or "none"
    print(f"machine    {found['threads']} CPU threads; GPUs: {devices}")
