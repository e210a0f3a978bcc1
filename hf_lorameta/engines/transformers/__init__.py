"""The base model in transformers (torch): losses, answers and gradients, with LoRA adapters."""
