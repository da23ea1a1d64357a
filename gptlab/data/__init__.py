"""From a text or a rule to batches of tokens."""

from gptlab.data.batches import Blocks, TrainBatches, ValidationBatch, validation_batches
from gptlab.data.bpe import EncodingTokenizer
from gptlab.data.corpora import Corpus
from gptlab.data.dataset import Dataset, load_dataset
from gptlab.data.grammar import Grammar
from gptlab.data.recall import Copy, Induction, Recall
from gptlab.data.task import Examples, Tally, Task, TaskDataset, open_task
from gptlab.data.tokenizers import Tokenizer, TokenizerOption, tokenizer_from_json

AnyDataset = Dataset | TaskDataset

__all__ = [
    "AnyDataset",
    "Blocks",
    "Copy",
    "Corpus",
    "Dataset",
    "EncodingTokenizer",
    "Examples",
    "Grammar",
    "Induction",
    "Recall",
    "Tally",
    "Task",
    "TaskDataset",
    "Tokenizer",
    "TokenizerOption",
    "TrainBatches",
    "ValidationBatch",
    "load_dataset",
    "open_task",
    "tokenizer_from_json",
    "validation_batches",
]
