"""Write the result of the page's example: ``python -m tests.tools.example_result``.

It makes, trains and counts as the page does, on the same rows, and writes what came out. The clock
is the computing time of two cores, so that other work on this machine does not count. Needs
the extra ``eval``.
"""

import json
import sys
import time
from typing import Any

from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.deadline import Deadline
from hf_lorameta.demo import TRAIN_FILE
from hf_lorameta.pipeline import make
from hf_lorameta.pipeline.session import Session
from tests.support.running_space import SPACE

sys.path.insert(0, str(SPACE))
from views.result import EXAMPLE_FILE, bare_input
from work import generating, jobs, planning, trying
from work.reader_process import start_forkserver


def now() -> float:
    """Return the seconds that two cores would have computed so far."""
    return time.process_time() / 2


def main() -> None:
    """Write the file."""
    start_forkserver()
    bank, job = embedded_bank(), jobs.Job(3600)
    request = planning.PageRequest(file=str(TRAIN_FILE))
    result = planning.make_plan(bank, request, 20_000, False, job)
    model = trying.Model(Session(bank, token=False))
    model.load(job)
    vars(make)["Deadline"] = lambda seconds, _: Deadline(seconds, now)
    adapter = generating.make_adapter(result, job)
    made = trying.improve(adapter, result, model, job).adapter.generation
    report, training = made.report, made.outcome.training
    assert report is not None
    assert training is not None
    samples: list[dict[str, Any]] = report.to_dict()["samples"]
    for sample in samples:
        sample["input"] = bare_input(result, sample["input"])
    stored = {
        "train": training.seen,
        "seconds": round(trying.TRAINING_SECONDS),
        "check": made.record.to_dict()["check"],
        "samples": samples,
    }
    EXAMPLE_FILE.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
