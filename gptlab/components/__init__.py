"""What a model and its training are put together from: one file per kind, one class per option."""
