"""`alitok data`: a report on images before training, and stored codes decoded for inspection."""
