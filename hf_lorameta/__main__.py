"""``python -m hf_lorameta``."""

from hf_lorameta.cli import main

if __name__ == "__main__":
    main()
