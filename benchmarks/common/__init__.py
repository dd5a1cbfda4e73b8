"""Parts that several benchmarks share: options, timing, the machine's statement, the contenders and their processes."""
