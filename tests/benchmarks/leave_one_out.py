"""Banks that leave one task out: ``python -m tests.benchmarks.leave_one_out DIR [TASK …]``.

Each is built by `bank build` from repos served by the loopback Hub.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from hf_lorameta.library import EMBEDDED_FOLDER
from hf_lorameta.localhub import LocalHub
from tests import shared_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("tasks", nargs="*", help="a spread of 6 if left out")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with LocalHub() as hub:
        shared_data.seed(hub, shared_data.tasks())
        for name in chosen.tasks or shared_data.tasks()[::8]:
            build(hub, chosen.folder, name)


def build(hub: LocalHub, folder: Path, left_out: str) -> Path:
    """Build the bank without one task, by the command line."""
    manifest = folder / f"{left_out}.yaml"
    listed = shared_data.manifest([n for n in shared_data.tasks() if n != left_out])
    manifest.write_text(shared_data.as_yaml(listed), encoding="utf-8")
    command = ["bank", "build", str(manifest), "-o", str(folder / left_out), "--quiet"]
    command += ["--tokenizer", str(EMBEDDED_FOLDER / "tokenizer.json")]
    env = {**os.environ, **hub.env(home=folder / "home")}
    subprocess.run([sys.executable, "-m", "hf_lorameta", *command], env=env, check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    return folder / left_out


if __name__ == "__main__":
    main()
