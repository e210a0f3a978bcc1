"""HTML forms, and the inputs of forms and endpoints."""
