"""Run a Hugging Face Hub on loopback until Ctrl-C."""

import argparse
import shlex
import signal
import sys
import threading

from hf_lorameta.localhub import LocalHub, LocalHubError


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m hf_lorameta.localhub", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port (default: any free port)")
    parser.add_argument("--user", default="me", help="user to create a token for (default: me)")
    args = parser.parse_args(argv)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        with LocalHub(args.port) as hub:
            token = hub.add_user(args.user)
            print(f"Serving a Hub for this machine at {hub.url} (Ctrl-C to stop)")
            print("In another terminal:")
            for variable, value in hub.settings(token).items():
                print(f"  export {variable}={shlex.quote(value)}")
            print(f"The token is that of user {args.user!r}.", flush=True)
            stopped.wait()
    except LocalHubError as error:
        print(f"error: {error}\n  {error.hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
