"""Forms that are HTML, and what forms and endpoints are given."""
