"""`alitok eval`: metrics of samples and of reconstructions, each against its own reference."""
