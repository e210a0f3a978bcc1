"""Train LoRA adapters on a frozen base model, many at once, and make a bank of them."""
