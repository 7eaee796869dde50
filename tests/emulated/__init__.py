"""The CUDA kernels on the host: built by a C++ compiler against headers of ours, a fiber a thread.

What this can find: what a kernel computes, at every size; barriers and collectives that not all
threads reach; reads of shared memory that nothing wrote; accesses that are not aligned; results
that depend on the order of threads or blocks. What it cannot: races within what runs between two
barriers, caches, what nvcc makes of the code, and time.
"""

from emulated.build import NoCompiler, build
from emulated.device import Emulated, Emulator

__all__ = ["Emulated", "Emulator", "NoCompiler", "build"]
