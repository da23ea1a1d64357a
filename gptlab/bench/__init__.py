"""How fast a training step and a sweep are, against the machine's own speed and against other people's code."""
