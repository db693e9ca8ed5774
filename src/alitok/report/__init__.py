"""One report model for every application, and its writers: HTML, Markdown, and tables on the terminal."""
