"""Running models: loading, hooks, sampling, likelihood, and other stacks."""
