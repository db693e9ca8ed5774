"""`alitok sample` and `alitok complete`: images of a saved model, written to files."""
