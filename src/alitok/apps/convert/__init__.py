"""`alitok convert`: released weights to alitok's own files, and back."""
