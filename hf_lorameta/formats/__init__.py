"""File formats: safetensors, PEFT adapters and GGUF. No network, no bank."""
