"""HTML of the page; all texts are escaped here."""
