"""How the command prints scores of a panel, a TxFM and a PolyGene."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kernomics.metrics.panel_score import MethodScore
    from kernomics.report.phenotype_data import PhenotypeScores
    from kernomics.workflows.select import SelectionResult

PROTEIN = re.compile(r"totalseq|[_-](ab|adt|prot|protein)$|^(adt|ab|anti)[_-]", re.IGNORECASE)
"""Names that antibodies go by."""

HEADS = {
    "knn_accuracy": "kNN acc.",
    "knn_macro_f1": "kNN F1",
    "linear_accuracy": "linear acc.",
    "linear_macro_f1": "linear F1",
    "linear_top1": "top 1",
    "linear_top5": "top 5",
    "mlp_accuracy": "MLP acc.",
    "mlp_macro_f1": "MLP F1",
    "nmi": "NMI",
    "ari": "ARI",
    "asw": "silhouette",
    "ilisi": "iLISI",
}


def print_scores(scores: Any) -> None:
    """Print a table of `RepresentationScores`."""
    heads = {key: head for key, head in HEADS.items() if key in scores.table}
    print(
        f"held out   {scores.n_test:,} cells, {scores.n_dimensions} dimensions"
        + " " * 6
        + "".join(f"{head:>12}" for head in heads.values())
    )
    for (label, name), row in scores.table.iterrows():
        print(
            f"           {f'{label}, {name}':<36}" + "".join(f"{row[key]:>12.3f}" for key in heads)
        )


def print_relationships(scores: Any) -> None:
    """Print a table of `RelationshipScores`."""
    summary = scores.summary
    print(
        f"recall     {f'{scores.n_genes:,} genes, {scores.n_cells:,} cells; chance 0.100':<50}"
        + "".join(f"{name:>10.10}" for name in summary.columns)
    )
    for (name, n_components), row in summary.iterrows():
        print(
            f"           {f'{name}, {n_components:,} components':<50}"
            + "".join(f"{value:>10.3f}" for value in row)
        )


def print_selection(result: SelectionResult) -> None:
    """Print each method's scores, over several splits with their standard errors."""
    from kernomics.evaluation.panels.comparison import certainty
    from kernomics.metrics.expression import EVERYWHERE

    if result.everywhere:
        proteins = result.model.cells.reading.get("all_features") or any(
            map(PROTEIN.search, result.everywhere)
        )
        print(
            f"everywhere {', '.join(result.everywhere)}: detected in nearly every cell of every "
            "class"
            + ("; antibodies, as these seem to be, bind all cells a little" if proteins else
               "; imaging panels avoid such genes, and "
               f"--max-detection {EVERYWHERE:g} leaves them out")
        )  # fmt: skip
    over = result.comparison
    heads = {"accuracy": "accuracy", "macro_f1": "macro-F1", "r2": "R²", "mae": "MAE"}
    for task, of_split in result.scores.items():
        found = of_split if over is None else over.scores(task)
        keys = [key for key in heads if key in found[0].metrics]
        width = 16 if any(score.spread for score in found) else 10
        names = [f"{score.method}{_of(score)}, {score.predictor}" for score in found]
        longest = max(34, *map(len, names))
        print(f"held out   {task:<{longest}}" + "".join(f"{heads[key]:>{width}}" for key in keys))
        for name, score in zip(names, found, strict=True):
            cells = (_with_error(score, key) for key in keys)
            print(f"           {name:<{longest}}" + "".join(f"{cell:>{width}}" for cell in cells))
        labelled = int(result.model.cells.labels[task].labelled[result.model.split.test].sum())
        said = certainty(of_split, labelled) if over is None else over.verdict(task)
        if task in result.over_groups:
            said = f"{said} {result.over_groups[task].sentence()}".strip()
        if said:
            print(textwrap.fill(said, 96, initial_indent=" " * 11, subsequent_indent=" " * 11))


def _of(score: MethodScore) -> str:
    return f" (mean ± sd of {score.n_panels} panels)" if score.n_panels > 1 else ""


def _with_error(score: MethodScore, key: str) -> str:
    error = f" ± {score.spread[key]:.3f}" if key in score.spread else ""
    return f"{score.metrics[key]:.3f}{error}"


def print_phenotypes(
    scores: Sequence[PhenotypeScores], which: str = "held out", seen: str = "the genes alone"
) -> None:
    """Print how well each phenotype is predicted, which cells are scored and what is shown."""
    if not scores:
        return
    names = {
        "balanced_accuracy": "balanced", "accuracy": "accuracy", "macro_f1": "macro-F1",
        "auprc": "AUPRC",
    }  # fmt: skip
    heads = [*names.values(), "majority"]
    said = [f"{score.name}, {int(score.metrics['n_cells']):,} cells" for score in scores]
    width = max(28, *(len(text) + 2 for text in (*said, f"from {seen}")))
    print(f"{which:<11}{f'from {seen}':<{width}}" + "".join(f"{head:>10}" for head in heads))
    for score, text in zip(scores, said, strict=True):
        # Where all cells are of one class there is no AUPRC.
        values = [*(score.metrics.get(key) for key in names), score.majority_share]
        shown = ("—" if value is None else f"{value:.3f}" for value in values)
        print(f"{'':<11}{text:<{width}}" + "".join(f"{value:>10}" for value in shown))
