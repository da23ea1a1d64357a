"""Diagnostics: measurements from inside a model, taken during training as snapshots, and drawn.

activations   one pass over a probe batch: the scale of stream, branches and gradients by layer, attention by head
watch         the snapshots of a run: such a pass, and gradients, weights and updates of the training step around it
plot          snapshots as pictures
"""
