"""Time any embedders side by side: latency, throughput, memory, cold start, with quality in the same record.

Everything is measured in one run, interleaved round by round, at equal threads; comparisons are ratios of medians.
"""

from __future__ import annotations

from kdserve.bench.contender import Contender
from kdserve.bench.cost import Cost, cost_of
from kdserve.bench.record import BenchRecord, Latency, Memory, Ratio, Row
from kdserve.bench.run import bench
from kdserve.bench.workload import Workload, sample_workload

__all__ = [
    "BenchRecord",
    "Contender",
    "Cost",
    "Latency",
    "Memory",
    "Ratio",
    "Row",
    "Workload",
    "bench",
    "cost_of",
    "sample_workload",
]
