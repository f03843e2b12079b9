"""Speed and memory beside what else does the same work; `python -m benchmarks` runs all."""
