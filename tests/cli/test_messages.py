"""What a message tells the reader to do can be done where the message is printed."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import kernomics
from kernomics import attribution, cli, pp, tl
from kernomics.cli.messages import CALL, TOKEN, as_options, options_of
from kernomics.data import CellCollection, ReadOptions, convert, gene_stages, make_split
from kernomics.errors import percent
from kernomics.evaluation import panels, perturbations
from kernomics.evaluation.forgetting import stage_probes
from kernomics.models import (
    GIL,
    YOTO,
    CellEncoder,
    ExpressionModel,
    Panel,
    PhenotypeModel,
    PolyGene,
    PolyGeneConfig,
    TxFM,
    TxFMConfig,
    YOTOConfig,
)
from kernomics.models.gil.options import GILOptions
from kernomics.models.polygene.options import PolyGeneOptions
from kernomics.models.txfm.options import TxFMOptions
from kernomics.models.yoto.options import SelectOptions, YOTOOptions

OPTIONS = {
    kind.__name__: kind
    for kind in (ReadOptions, YOTOOptions, SelectOptions, TxFMOptions, PolyGeneOptions, GILOptions)
}

READERS = (
    CellCollection.from_anndata, YOTO, TxFM, TxFM.from_pretrained, Panel.predict, Panel.evaluate,
    CellEncoder.get_latent_representation, CellEncoder.get_block_representations,
    CellEncoder.get_normalized_expression, tl.select_genes, tl.evaluate_panel, tl.panel_redundancy,
    tl.panel_contributions, tl.panel_stability, tl.panel_curve, tl.represent_cells,
    tl.evaluate_perturbations, perturbations.evaluate_perturbations, pp.curate, PolyGene,
    PhenotypeModel.probabilities, PhenotypeModel.get_latent_representation, attribution.attribute,
    attribution.prune, tl.attribute, convert, gene_stages, GIL, stage_probes,
    ExpressionModel.get_latent_representation, ExpressionModel.predict,
)  # fmt: skip
READERS_OF_MODELS = (
    TxFM.from_pretrained, Panel.predict, Panel.evaluate, tl.panel_contributions, tl.represent_cells,
    CellEncoder.get_latent_representation, CellEncoder.get_block_representations,
    CellEncoder.get_normalized_expression, tl.evaluate_perturbations,
    perturbations.evaluate_perturbations, PhenotypeModel.probabilities,
    PhenotypeModel.get_latent_representation, attribution.attribute, attribution.prune,
    tl.attribute, stage_probes, ExpressionModel.get_latent_representation, ExpressionModel.predict,
)  # fmt: skip
READING_COMMANDS = (
    *("select", "panel", "evaluate", "pretrain", "finetune", "embed"),
    *("attribute", "prune", "convert", "stages", "increment"),
)

FORWARDED = {
    tl.represent_cells: CellEncoder.get_latent_representation,
    PhenotypeModel.evaluate: PhenotypeModel.probabilities,
    tl.evaluate_perturbations: perturbations.evaluate_perturbations,
    tl.attribute: attribution.attribute,
}
"""Where ``**options`` of a function go."""

SELECT, DIVIDE = (YOTO, tl.select_genes), (make_split,)
PRINTED_BY = {
    "attribution/reduction.py": ((attribution.attribute, tl.attribute), ("attribute",)),
    "attribution/sources.py": ((attribution.attribute_pairs,), ()),
    "models/polygene/model.py": ((PolyGene,), ("pretrain",)),
    "models/polygene/phenotypes.py": (
        (PhenotypeModel.probabilities, PhenotypeModel.evaluate),
        ("evaluate",),
    ),
    "models/trained.py": ((ExpressionModel.extend, PhenotypeModel.extend), ()),
    "models/extension.py": ((ExpressionModel.extend, PhenotypeModel.extend), ()),
    "models/yoto/truths.py": ((Panel.evaluate,), ("evaluate",)),
    "models/gil/record.py": ((GIL.train,), ("increment",)),
    "data/readers/anndata.py": (READERS, READING_COMMANDS),
    "data/checks.py": (READERS, READING_COMMANDS),
    "data/readers/features.py": (READERS, READING_COMMANDS),
    "data/readers/inputs.py": (READERS, READING_COMMANDS),
    "models/reading.py": (
        READERS_OF_MODELS,
        ("evaluate", "embed", "finetune", "attribute", "prune"),
    ),
    "data/conversion/convert.py": ((convert,), ("convert",)),
    "data/conversion/passes.py": ((convert,), ("convert",)),
    "data/conversion/work.py": ((convert,), ("convert",)),
    "data/genes.py": (READERS, READING_COMMANDS),
    "data/labels.py": ((CellCollection.from_anndata, *SELECT), ("select", "panel")),
    "data/splits.py": (DIVIDE, ()),
    "models/yoto/missing_genes.py": ((Panel.predict, Panel.evaluate), ("evaluate",)),
    "models/yoto/panel.py": ((Panel.evaluate,), ("evaluate",)),
    "models/yoto/network.py": (SELECT, ()),
    "models/known_cells.py": (
        (
            CellEncoder.get_latent_representation,
            CellEncoder.get_block_representations,
            CellEncoder.get_normalized_expression,
            tl.represent_cells,
        ),
        ("embed", "evaluate"),
    ),
    "models/yoto/model.py": (SELECT, ()),
    "models/yoto/starts.py": ((YOTO, tl.select_genes), ()),
    "train/device.py": ((YOTO.train, TxFM.train), ("select", "pretrain", "finetune")),
    "models/base.py": ((YOTO, tl.select_genes, tl.evaluate_panel), ("select", "panel")),
    "evaluation/panels/comparison.py": (SELECT, ("select",)),
    "models/yoto/gene_bounds.py": (SELECT, ("select",)),
    "data/gene_columns.py": ((panels.evaluate_panel, tl.evaluate_panel), ("panel",)),
    "evaluation/panels/contributions.py": ((CellCollection.from_anndata,), ()),
    "evaluation/panels/evaluate.py": ((panels.evaluate_panel, tl.evaluate_panel), ("panel",)),
    "evaluation/panels/stability.py": ((panels.panel_stability, tl.panel_stability), ()),
}
"""Per module, who prints its messages: functions, and commands."""

ELSEWHERE = ("ops/", "pl/", "nn/", "train/", "baselines/", "report/", "cli")
"""Rooms whose messages speak of the very function that was called, or are the command's own."""

IN_A_SETTING = {"precision", "transform"}
"""Settings of TrainConfig, YOTOConfig: ``**options``, and --config of a command."""


def texts(path: Path) -> Iterator[str]:
    """All strings of a module but its docstrings, with … for what is filled in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            skipped.update(id(part) for part in node.values)
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
            )
    for node in ast.walk(tree):
        said = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if said and id(node) not in skipped:
            yield node.value


def arguments(text: str) -> list[re.Match[str]]:
    """The ``name=value`` of a message, those inside a call left aside."""
    return [match for match in TOKEN.finditer(text) if match["value"]]


def messages() -> list[tuple[str, str]]:
    root = Path(inspect.getfile(kernomics)).parent
    return [
        (module, text)
        for path in sorted(root.rglob("*.py"))
        for module in [path.relative_to(root).as_posix()]
        for text in texts(path)
        if arguments(text) and not module.startswith(ELSEWHERE)
    ]


def accepted(function) -> set[str]:
    """Names of the keyword arguments of a function, those behind ``**options`` included."""
    names = set()
    for name, parameter in inspect.signature(function).parameters.items():
        unpacked = re.fullmatch(r"Unpack\[(\w+)\]", str(parameter.annotation))
        if parameter.kind is not parameter.VAR_KEYWORD:
            names.add(name)
        elif unpacked:
            names |= OPTIONS[unpacked[1]].__optional_keys__
        elif function in FORWARDED:
            names |= accepted(FORWARDED[function])
    return names


@pytest.mark.parametrize(("module", "text"), messages())
def test_an_argument_that_a_message_names_exists_where_it_is_printed(module, text):
    assert module in PRINTED_BY, f"say in PRINTED_BY who prints the messages of {module}: {text}"
    functions, _ = PRINTED_BY[module]
    for match in arguments(text):
        for function in functions:
            known = accepted(function) | IN_A_SETTING
            assert match["name"] in known, f"{function.__qualname__} takes no {match[0]}: {text}"


@pytest.mark.parametrize(("module", "text"), messages())
def test_an_option_that_a_message_names_exists_in_the_command_that_prints_it(module, text):
    _, commands = PRINTED_BY[module]
    for command in commands:
        told = as_options(text, options_of(cli.parser(), command))
        left = {match["name"] for match in arguments(told)} - IN_A_SETTING
        assert not left, f"kernomics {command} prints: {told}"


def test_the_messages_looked_at_are_those_of_reading():
    found = {(module, match["name"]) for module, text in messages() for match in arguments(text)}
    assert ("data/checks.py", "allow_fractions") in found
    assert ("data/readers/anndata.py", "use_raw") in found
    assert ("data/readers/features.py", "all_features") in found
    assert len(found) > 15


@pytest.mark.parametrize(
    ("python", "command"),
    [
        ("adata.raw does: pass use_raw=True", "adata.raw does: pass --use-raw"),
        ("pass layer='raw counts'", "pass --layer 'raw counts'"),
        ("name it with modality=…: 'rna'", "name it with --modality …: 'rna'"),
        ("needs split_key, the", "needs --split-key, the"),
        ("pass label_kinds={'leiden': 'categorical'}", "pass --label-kinds leiden=categorical"),
        ("leave out use_raw=True (--use-raw) here", "leave out --use-raw here"),
        ("keep them with empty_cells='keep'", "keep them with --keep-empty"),
        ("drop them, or take nothing=True", "drop them"),
        ("take nothing=True", "take nothing=True (in Python)"),
        ("by sc.pp.filter(adata, layer='a')", "by sc.pp.filter(adata, layer='a')"),
        ("pass layer=None for X", "pass --layer X for X"),
        ("gene_names=None or library_key=None", "--gene-names var_names or --library-key auto"),
        ("gene_names is 'symbol', and var", "--gene-names is 'symbol', and var"),
        ("pass library_key, the column", "pass --library-key, the column"),
        ("obs['library_key'] of layer 'x'", "obs['library_key'] of layer 'x'"),
    ],
)
def test_a_command_prints_its_options(python, command):
    assert as_options(python, options_of(cli.parser(), "select")) == command


def test_calls_are_told_from_arguments():
    assert re.fullmatch(CALL, "sc.pp.filter_cells(adata, min_counts=1)")
    assert not arguments("call sc.pp.filter_cells(adata, min_counts=1)")


@pytest.mark.parametrize(
    ("options", "config", "apart"),
    [
        (YOTOOptions, YOTOConfig, {"n_genes"}),
        (TxFMOptions, TxFMConfig, set()),
        (PolyGeneOptions, PolyGeneConfig, set()),
    ],
)
def test_keyword_arguments_of_a_model_are_its_settings_and_those_of_reading(options, config, apart):
    fields = set(inspect.signature(config).parameters)
    assert options.__optional_keys__ == (fields - apart) | ReadOptions.__optional_keys__


def test_keyword_arguments_of_a_selection_are_those_of_yoto():
    apart = {"adata", "labels_key", "n_genes", "seed"}
    assert SelectOptions.__optional_keys__ == accepted(YOTO) - apart


@pytest.mark.parametrize("function", READERS)
def test_every_reader_takes_the_options_of_reading(function):
    assert accepted(function) >= ReadOptions.__optional_keys__


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.0, "0%"), (1 / 313, "less than 1%"), (0.5, "50%"), (0.999, "more than 99%"), (1.0, "100%")],
)
def test_a_share_that_is_not_nothing_is_not_called_nothing(share, said):
    assert percent(share) == said
