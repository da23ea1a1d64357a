"""The views of a comparison: terminal, Markdown, CSV, JSON, a picture and an HTML page."""
