"""Hugging Face checkpoints: safetensors shards with a config."""
