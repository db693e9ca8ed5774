"""Floor 0: errors, configuration, files, images, devices and the run log; imports third-party code only."""
