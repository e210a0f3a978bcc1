"""Run a base model with an adapter, in transformers or in llama.cpp."""
