"""The costs of rounding in perplexity, and the exactness of eviction."""
