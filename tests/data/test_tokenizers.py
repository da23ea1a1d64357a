import json
import time

import numpy as np
import pytest

from gptlab.config import ConfigError, registry
from gptlab.data import tokenizer_from_json
from gptlab.data.bpe import BPE, GPT2_SPLIT, LONGEST_WORD, Published, _cut_long_words
from gptlab.data.tokenizers import Byte, Char

TRAIN = "".join(f"def f_{n}(x):\n    return x + {n}\n\n\n" for n in range(300))
NASTY = "naïve\r\n\t 😀👩‍👩‍👧 \u0000 e\u0301 \u2028 שלום 日本 \U0010ffff   \n\n  don't"
GPT2 = registry.entry("tokenizer", "gpt2").cls
PUBLISHED = [e.cls for e in registry.entries("tokenizer") if issubclass(e.cls, Published)]


def bytes_only(name):
    """A tiktoken encoding with an end mark, of single bytes: stands for one that would have to be downloaded."""
    import tiktoken

    ranks = {bytes([b]): b for b in range(256)}
    return tiktoken.Encoding(name, pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 260})


@pytest.fixture
def cached(monkeypatch):
    """The names that tiktoken has in its cache; there is no network."""
    names = set()

    def get_encoding(name):
        if name not in names:
            raise ConnectionError("HTTPSConnectionPool(host='openaipublic', port=443): Max retries exceeded\nmore")
        return bytes_only(name)

    monkeypatch.setattr("tiktoken.get_encoding", get_encoding)
    return names


@pytest.fixture(scope="module")
def bpe():
    return BPE(vocab_size=400).fit(TRAIN, "")


def test_the_options_are_registered():
    assert registry.names("tokenizer") == [
        *("bpe", "byte", "char", "cl100k_base", "gpt2", "huggingface", "o200k_base", "o200k_harmony"),
        *("p50k_base", "p50k_edit", "r50k_base"),
    ]


@pytest.mark.parametrize("name", ["char", "byte", "gpt2", "bpe"])
def test_any_text_comes_back(name, bpe, cached):
    cached.add("gpt2")
    tokenizer = {"char": Char, "byte": Byte, "gpt2": GPT2}[name]().fit(NASTY, TRAIN) if name != "bpe" else bpe
    ids = tokenizer.encode(NASTY)
    assert ids.dtype == np.uint16 and ids.max() < tokenizer.vocab_size
    assert tokenizer.decode(ids) == NASTY
    assert tokenizer.decode(ids.tolist()) == NASTY
    assert tokenizer.token_bytes.shape == (tokenizer.vocab_size,)
    assert tokenizer.token_bytes[ids].sum() == len(NASTY.encode())
    assert tokenizer.encode("").size == 0 and tokenizer.decode([]) == ""


@pytest.mark.parametrize("name", ["char", "byte", "gpt2", "bpe"])
def test_a_tokenizer_comes_back_from_its_json(name, bpe, cached):
    cached.add("gpt2")
    tokenizer = {"char": Char, "byte": Byte, "gpt2": GPT2}[name]().fit(NASTY, TRAIN) if name != "bpe" else bpe
    again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert again.to_json()["name"] == name
    assert np.array_equal(again.encode(NASTY), tokenizer.encode(NASTY))
    assert np.array_equal(again.token_bytes, tokenizer.token_bytes)


def test_half_a_character_is_decoded_as_the_replacement_character(bpe):
    first_byte = Byte().encode("é")[:1]
    assert Byte().decode(first_byte) == "\ufffd"
    assert bpe.decode(bpe.encode("é")[:1]) == "\ufffd"


def test_char_has_the_sorted_characters_of_both_splits():
    tokenizer = Char().fit("hello", "zoo")
    assert tokenizer.characters == "ehloz"
    assert tokenizer.encode("hole").tolist() == [1, 3, 2, 0]


@pytest.mark.parametrize("unknown", ["A", "a", "~", "😀", "\udcff"])
def test_char_names_the_character_it_does_not_know(unknown):
    tokenizer = Char().fit("hello", "zoo")
    with pytest.raises(ConfigError) as caught:
        tokenizer.encode(f"oh{unknown}l", place="--prompt")
    assert str(caught.value).startswith(f"--prompt: character {unknown!r} at 2 is unknown; the vocabulary is the 5")


def test_byte_takes_bytes_that_a_terminal_could_not_decode():
    assert Byte().encode("a\udcff").tolist() == [97, 255]


@pytest.mark.parametrize("option", PUBLISHED, ids=lambda o: o.encodings[0])
def test_published_sizes_are_tiktokens(option, monkeypatch):
    from tiktoken_ext import openai_public

    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *args, **kwargs: {})
    monkeypatch.setattr(openai_public, "data_gym_to_mergeable_bpe_ranks", lambda *args, **kwargs: {})
    for name in option.encodings:
        published = openai_public.ENCODING_CONSTRUCTORS[name]()
        size = published.get("explicit_n_vocab") or max(published["special_tokens"].values()) + 1
        assert option.fixed_vocab_size == size


def test_every_encoding_of_tiktoken_is_an_option():
    import tiktoken

    assert {option.encodings[0] for option in PUBLISHED} == set(tiktoken.list_encoding_names())


def test_gpt2_takes_the_ranks_of_r50k_base_if_only_those_are_cached(cached):
    cached.add("r50k_base")
    tokenizer = GPT2().fit("", "")
    assert tokenizer.encoding.name == "r50k_base"
    assert tokenizer.to_json() == {"name": "gpt2"}


def test_published_without_a_network_says_what_to_use(cached):
    with pytest.raises(ConfigError) as caught:
        GPT2().fit("", "")
    message = str(caught.value)
    assert message.startswith("tokenizer=gpt2: cannot be downloaded (ConnectionError)") and "\n" not in message
    assert "tokenizer=bpe" in message and "TIKTOKEN_CACHE_DIR" in message


def test_marks_in_a_text_are_text_and_numbers_without_a_token_have_no_bytes(cached):
    cached.add("gpt2")
    tokenizer = GPT2().fit("", "")
    assert tokenizer.encode("<|endoftext|>").tolist() == list(b"<|endoftext|>")
    assert tokenizer.token_bytes[255:].tolist() == [1, 0, 0, 0, 0, 13]


def test_bpe_is_deterministic_and_as_large_as_asked(bpe):
    again = BPE(vocab_size=400).fit(TRAIN, "another validation text")
    assert again.to_json() == bpe.to_json()
    assert bpe.vocab_size == BPE(vocab_size=400).fixed_vocab_size == 400


def test_bpe_merges_frequent_strings(bpe):
    assert len(bpe.encode("    return x + 12\n\n\n")) < 10
    assert max(bpe.token_bytes) > 4


def test_bpe_trained_on_lines_equals_bpe_trained_on_the_whole_text(bpe):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    whole = Tokenizer(models.BPE())
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    whole.train_from_iterator([TRAIN], trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    assert len(whole.encode(TRAIN).ids) == len(bpe.encode(TRAIN))
    assert whole.encode("    return x\n\n\n").ids == bpe.encode("    return x\n\n\n").tolist()


@pytest.mark.parametrize(
    ("vocab_size", "rule"), [(255, "must be at least 256"), (4096, "has only enough pairs for [0-9]+ tokens")]
)
def test_bpe_of_an_impossible_size_is_refused(vocab_size, rule):
    with pytest.raises(ConfigError, match=rf"^tokenizer\.vocab_size={vocab_size}: .*{rule}"):
        BPE(vocab_size=vocab_size).fit("too short a text", "")


@pytest.mark.parametrize(
    ("text", "vocab_size"),
    [
        ("acgt" * 20_000 + "ca" * 10_000, 260),
        ("é" * 100_000, 257),
        (" " * 200_000 + "a", 257),
        ("!" * 100_000, 257),
        ("7" * 100_000, 257),
    ],
)
def test_bpe_takes_a_text_without_a_break(text, vocab_size):
    started = time.perf_counter()
    tokenizer = BPE(vocab_size=vocab_size).fit(text, "")
    ids = tokenizer.encode(text)
    assert time.perf_counter() - started < 5  # seconds; it was minutes
    assert tokenizer.decode(ids) == text and len(ids) <= len(text.encode()) / 2 + 1


def test_words_that_are_no_longer_than_usual_are_not_cut():
    words = "x" * LONGEST_WORD + " " + "y" * 3 * LONGEST_WORD + " z\n"
    pieces = list(_cut_long_words(words))
    assert "".join(pieces) == words and pieces[0].startswith("x" * LONGEST_WORD + " y")
    assert list(_cut_long_words("a b " * LONGEST_WORD)) == ["a b " * LONGEST_WORD]


def test_bpe_of_256_is_bytes():
    tokenizer = BPE(vocab_size=256).fit("x", "")
    assert len(tokenizer.encode(NASTY)) == len(NASTY.encode())
