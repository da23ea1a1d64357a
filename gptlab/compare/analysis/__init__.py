"""The numbers of a comparison: arms, effects, verdicts."""
