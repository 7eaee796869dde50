"""kernomics: fused kernels for gene-expression counts and the models built on them."""
