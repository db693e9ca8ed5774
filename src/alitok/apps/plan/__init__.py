"""`alitok plan`: memory, FLOPs, time and scaling of a training before it is run."""
