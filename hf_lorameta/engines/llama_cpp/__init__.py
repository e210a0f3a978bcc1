"""The base model in llama.cpp's server."""
