"""The benchmarks: one folder for the ops, one for each system, and the harness they share.

They are run from the repository's root, as ``python -m bench.ops.gumbel_topk``.
"""
