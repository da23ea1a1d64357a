"""From a text to batches of tokens.  Importing this registers every option of `data` and `tokenizer`."""

from gptlab.data.batches import TrainBatches, validation_batches
from gptlab.data.bpe import EncodingTokenizer
from gptlab.data.corpora import Corpus
from gptlab.data.dataset import Dataset, load_dataset
from gptlab.data.tokenizers import Tokenizer, TokenizerOption, tokenizer_from_json

__all__ = [
    "Corpus",
    "Dataset",
    "EncodingTokenizer",
    "Tokenizer",
    "TokenizerOption",
    "TrainBatches",
    "load_dataset",
    "tokenizer_from_json",
    "validation_batches",
]
