"""`alitok ablate`: what each part of the method changes, measured on the user's own images."""
