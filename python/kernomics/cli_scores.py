"""How the command prints scores of a TxFM."""

from __future__ import annotations

from typing import Any

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
