"""Entry point of the Space: ``python app.py``; `README.md` lists the variables it reads.

Imports happen in `main` only, because the processes that read datasets import this file too.
"""

import os


def main() -> None:
    """Serve the page until the process ends."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported
    from work.scratch import use_scratch

    use_scratch()
    from work.reader_process import start_forkserver

    start_forkserver()
    from serve import serve
    from settings import read_settings

    serve(read_settings())


if __name__ == "__main__":
    main()
