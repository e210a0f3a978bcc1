"""Running a base model with an adapter: transformers and llama.cpp."""
