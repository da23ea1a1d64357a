"""Conversion between models of gptlab and of Hugging Face transformers: `from_hf(hf_model)`, `to_hf(model)`."""

from gptlab.convert.models import from_hf, to_hf

__all__ = ["from_hf", "to_hf"]
