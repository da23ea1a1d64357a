"""Many runs: the plan of a sweep, its cells, their launch and their state."""
