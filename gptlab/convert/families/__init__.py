"""The families: for each class of transformers, how its flags translate and where its weights go.

A family is data. Which checkpoint a model comes from decides nothing.
"""

from gptlab.convert.families.base import Family
from gptlab.convert.families.fairseq import FAIRSEQ_FAMILIES
from gptlab.convert.families.gemma import GEMMA_FAMILIES
from gptlab.convert.families.gpt import GPT_FAMILIES
from gptlab.convert.families.llama import LLAMA_FAMILIES
from gptlab.convert.families.llama_variants import VARIANT_FAMILIES
from gptlab.convert.families.neox import NEOX_FAMILIES

# Several classes can express the same model. `to_hf` takes the first that can: one of these, then any other.
PREFERRED = (
    *("gpt2", "openai-gpt", "gptj", "gpt_neox", "bloom", "falcon", "opt", "xglm", "llama", "olmo", "olmo2", "qwen3"),
    *("gemma2", "cohere", "phi", "starcoder2"),
)


def _by_preference(*groups: tuple[Family, ...]) -> dict[str, Family]:
    families = {family.model_type: family for group in groups for family in group}
    return {name: families[name] for name in (*PREFERRED, *families)}


FAMILIES = _by_preference(
    *(LLAMA_FAMILIES, GEMMA_FAMILIES, VARIANT_FAMILIES, GPT_FAMILIES, NEOX_FAMILIES, FAIRSEQ_FAMILIES),
)

__all__ = ["FAMILIES", "Family"]
