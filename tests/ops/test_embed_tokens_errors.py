"""Errors of embed_tokens say what was found, where, how many, the first, and what is needed."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from kernomics.ops import embed_tokens

IDS = torch.tensor([[0, 4, 3], [2, 2, 1]])
GOOD = {
    "gene_ids": IDS,
    "values": torch.ones(2, 3),
    "table": torch.ones(5, 4),
    "cls": torch.ones(4),
}
ADDED = {"combine": "add", "values": None, "value_embedding": torch.ones(2, 3, 4)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gene_ids": IDS.float()}, "gene_ids are torch.float32 of shape (2, 3); int32"),
        ({"gene_ids": IDS[0]}, "gene_ids are torch.int64 of shape (3,); int32 or int64"),
        (
            {"gene_ids": torch.empty((2**31, 0), dtype=torch.int64)},
            "gene_ids has shape (2147483648, 0); fewer than 2³¹ cells and tokens are possible",
        ),
        (
            {"gene_ids": torch.tensor([[0, 4, 3], [5, -2, 2**40]])},
            "gene_ids has 3 ids that are neither −1 (padding) nor one of 5 genes, first 5 at "
            "[1, 0]; ids are rows of table, from 0 to 4",
        ),
        (
            {"gene_ids": torch.tensor([[0, 4, -2], [-1, 0, 0]]).int()},
            "gene_ids has 1 ids that are neither −1 (padding) nor one of 5 genes, first -2 at [",
        ),
        ({"table": GOOD["table"][0]}, "table has shape (4,); [genes, width] is needed"),
        ({"table": GOOD["table"][:, :0]}, "table has shape (5, 0); [genes, width] is needed"),
        ({"table": GOOD["table"].int()}, "table has dtype torch.int32; float32, float64, bfloat16"),
        ({"cls": torch.ones(3)}, "cls has shape (3,); [4] is needed"),
        ({"cls": torch.ones(4).int()}, "cls has dtype torch.int32; a floating-point dtype"),
        ({"values": torch.ones(2, 4)}, "values has shape (2, 4) and gene_ids (2, 3); [2, 3] is"),
        ({"values": torch.ones(2, 3).int()}, "values has dtype torch.int32"),
        ({"values": None}, "combine='concat' takes values and not value_embedding; given: neither"),
        (
            {"value_embedding": torch.ones(2, 3, 4)},
            "combine='concat' takes values and not value_embedding; given: values and value_embed",
        ),
        ({"combine": "add"}, "combine='add' takes value_embedding and not values; given: values"),
        ({"combine": "sum"}, "combine is 'sum'; 'concat' or 'add' is possible"),
        (
            ADDED | {"value_embedding": torch.ones(2, 3)},
            "value_embedding has shape (2, 3) and gene_ids (2, 3); [2, 3, 4] is needed",
        ),
        (
            ADDED | {"value_embedding": torch.ones(2, 3, 4).int()},
            "value_embedding has dtype torch.int32",
        ),
        ({"values": torch.empty(2, 3, device="meta")}, "values is on meta and table on cpu; move"),
        ({"cls": torch.empty(4, device="meta")}, "cls is on meta and table on cpu; move one of"),
    ],
)
def test_an_error_says_what_where_and_how_many(change: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        embed_tokens(**(GOOD | change))
