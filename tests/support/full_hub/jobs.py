"""Hugging Face Jobs: commands that run on this machine, each in an environment of its own."""

import atexit
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse, Response, StreamingResponse

from hf_lorameta.localhub.errors import HTTPError
from hf_lorameta.localhub.routing import Route
from hf_lorameta.localhub.state import now
from tests.support.full_hub.calls import FullCall

_SOURCE = str(Path(__file__).parents[3])
_PRICES = {"cpu-basic": 167, "cpu-upgrade": 500, "a10g-large": 25000}
"""Millionths of a dollar per minute."""


@dataclass
class Job:
    """A job: what the client has asked for, and the process that runs it."""

    id: str
    owner: str
    spec: dict[str, Any]
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def stage(self) -> str:
        code = self.process.poll()
        return "RUNNING" if code is None else "COMPLETED" if code == 0 else "ERROR"

    def info(self) -> dict[str, Any]:
        """Return what the Hub tells of a job: names of secrets, but not the secrets."""
        code = self.process.poll()
        failed = f"Job failed with exit code: {code}. Reason: Error" if code else None
        return {
            "id": self.id,
            "createdAt": now(),
            "command": self.spec["command"],
            "arguments": self.spec["arguments"],
            "environment": self.spec["environment"],
            "secrets": list(self.spec.get("secrets", {})),
            "flavor": self.spec["flavor"],
            "status": {"stage": self.stage, "message": failed},
            "owner": {"id": self.owner, "name": self.owner, "type": "user"},
        }

    def events(self) -> Iterator[str]:
        """Yield the log as server-sent events, until the job ends."""
        yield _event("===== Job started =====")
        with self.log.open() as log:
            ended = False
            while True:
                if line := log.readline():
                    yield _event(line.rstrip("\n"))
                elif ended:
                    return
                else:
                    time.sleep(0.05)
                    ended = self.process.poll() is not None


def _event(line: str) -> str:
    return f"data: {json.dumps({'timestamp': now(), 'data': line})}\n\n"


class Jobs:
    """Runs jobs, in the order in which they were submitted."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.routes = [
            Route("GET", "api/jobs/hardware", self.hardware),
            Route("POST", "api/jobs/{owner}", self.run),
            Route("GET", "api/jobs/{owner}/{job}", self.inspect),
            Route("GET", "api/jobs/{owner}/{job}/logs", self.logs),
        ]

    def hardware(self, call: FullCall) -> Response:
        """Return the hardware and what it costs."""
        listed = [
            {"name": name, "prettyName": name, "cpu": "2 vCPU", "ram": "16 GB",
             "unitCostMicroUSD": micro, "unitCostUSD": micro / 1e6, "unitLabel": "minute"}
            for name, micro in _PRICES.items()
        ]  # fmt: skip
        return JSONResponse(listed)

    def run(self, call: FullCall) -> Response:
        """Start ``uv run --with REQUIREMENT hf-lorameta …``, with nothing of this process."""
        owner, spec = call.params["owner"], call.json
        if not call.user.owns(owner):
            raise HTTPError(403, "Forbidden: you cannot run jobs in this namespace.")
        assert spec["command"][:3] == ["uv", "run", "--with"]
        assert spec["command"][4] == "hf-lorameta"
        home = Path(tempfile.mkdtemp(prefix="job-"))
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        environment = {
            "HOME": str(home),
            "HF_HOME": str(home / "hf"),
            "HF_ENDPOINT": call.hub.url,
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": _SOURCE,
            **spec["environment"],
            **spec.get("secrets", {}),
        }
        command = [sys.executable, "-m", "hf_lorameta", *spec["command"][5:], *spec["arguments"]]
        log = home / "log.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, env=environment, cwd=home, stdout=file, stderr=subprocess.STDOUT
            )
        self.jobs.append(Job(f"job{len(self.jobs)}", owner, spec, process, log))
        return JSONResponse(self.jobs[-1].info())

    def inspect(self, call: FullCall) -> Response:
        """Return the stage of a job."""
        return JSONResponse(self._find(call).info())

    def logs(self, call: FullCall) -> Response:
        """Stream the log of a job."""
        return StreamingResponse(self._find(call).events(), media_type="text/event-stream")

    def _find(self, call: FullCall) -> Job:
        for job in self.jobs:
            if (job.id, job.owner) == (call.params["job"], call.params["owner"]):
                if not call.user.owns(job.owner):
                    break
                return job
        raise HTTPError(404, "Job not found")
