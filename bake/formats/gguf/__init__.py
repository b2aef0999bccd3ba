"""GGUF models of llama.cpp."""
