"""Scripts that make files of the repository; each is a command."""
