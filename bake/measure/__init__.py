"""Long runs: extraction, evaluation and tuning."""
