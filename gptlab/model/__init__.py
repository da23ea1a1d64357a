"""Models and their components, and what one can compute from a model alone: loss, text, cost, diagram."""
