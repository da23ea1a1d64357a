"""What goes on inside a model: measured beside the training, written a look at a time, drawn.

inside   one pass over a probe batch: the scale of stream, branches and gradients by layer, attention by head
watch    the looks of a run: a pass, and of the training step around it gradients, weights and their update
draw     looks as pictures      inspect    both of a run, on the command line
"""
