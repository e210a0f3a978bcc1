"""File formats: safetensors, PEFT adapters and GGUF."""
