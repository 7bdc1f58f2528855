"""What watching costs, beside other tools.

`python -m benchmarks.overhead.run` trains each model under every tool, interleaved in
one process; `python -m benchmarks.overhead.scaling` measures a probe against
parameters, layers and steps. Tables are in `docs/benchmarks.md`.
"""
