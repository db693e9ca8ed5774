"""Building blocks of HTML reports: image sheets, curves, heat maps. Knows no application."""
