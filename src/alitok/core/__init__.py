"""Floor 0: errors, configuration, files, pictures, devices and the run log; imports third-party code only."""
