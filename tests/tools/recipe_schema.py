"""Write the JSON schema of recipe.json: ``python -m tests.tools.recipe_schema``."""

import json
from pathlib import Path

from hf_lorameta.cards import record

FILE = Path(record.__file__).with_name("recipe.schema.json")


def text() -> str:
    return json.dumps(record.schema(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
