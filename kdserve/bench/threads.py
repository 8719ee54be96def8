"""Equal threads for every library: set before it starts its pool."""

from __future__ import annotations


def thread_environment(num_threads: int) -> dict[str, str]:
    """Environment variables that hold every library to `num_threads`: OpenMP, BLAS and the tokenizers' pool."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    return dict.fromkeys(names, str(num_threads))
