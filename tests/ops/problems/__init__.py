"""Made-up inputs of the ops, for the CPU's tests and CUDA's alike; what is common in common.py."""
