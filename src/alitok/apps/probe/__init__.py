"""`alitok probe`: which patch of an image changes which code, of any tokenizer."""
