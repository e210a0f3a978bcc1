"""The Space: sign in, name a dataset, get an adapter in your namespace.

Run it with ``python app.py``; `README.md` lists the variables it reads. Nothing is imported unless
it is run: the processes that read datasets import this file, too.
"""

import os


def main() -> None:
    """Serve the page until the process is ended."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported
    from bootstrap import unpack

    unpack()  # before the package is imported
    from isolate import prepare

    prepare()
    from serve import serve
    from settings import read_settings

    serve(read_settings())


if __name__ == "__main__":
    main()
