"""Floor above training: whole runs made of resumable steps, what is measured of them, and their reports."""
