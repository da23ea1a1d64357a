import json
import random
import shutil
import sys
from functools import cache

import numpy as np
import pytest
import tiktoken
from tiktoken_ext import openai_public
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as LibraryTokenizer

from gptlab import load_config
from gptlab.config import ConfigError
from gptlab.convert.tokenizer import END, to_hf_tokenizer
from gptlab.data import EncodingTokenizer, hf_tokenizer, tokenizer_from_json
from gptlab.data.bpe import BPE
from gptlab.data.hf_tokenizer import SPLIT_PATTERNS, HuggingFaceVocabulary
from gptlab.data.tokenizers import Byte, Char
from gptlab.runs.load import open_run

transformers = pytest.importorskip("transformers")

PROSE = "".join(f"Line {n}: the quick brown fox doesn't jump over 12{n} dogs!\n\n  (def f_{n}())\n" for n in range(200))
TEXTS = [
    "",
    " ",
    "\n",
    "a",
    "It's 1234567 o'clock, THEY'LL say; don’t.",
    "  two\n three   \n\n\n\t four\r\n\r\nfive  \n ",
    "trailing blanks \n  ",
    "😀👩‍👩‍👧 e\u0301 é \u1e0b\u0323 ﬁ ſ K",
    "السلام שלום 日本語 हिन्दी ١٢٣",
    "\u0000\u00a0\u2028\u3000\ufeff\U0010ffff\ufffd",
    f"<s>{END}</s> <unk><0x0A>▁▁ Ġ",
    "def f(x):\n    return  x\n" * 5,
    PROSE[:3000],
]
EVERY_TEXT = PROSE + "".join(TEXTS)
MERGED = [b"  ", b"    ", b"th", b"the", b" the", b"qu", b"ick", b"\n\n", b"12", b"123", b"'l", b"'ll", b"ox", b"oxoxo"]


def byte_level(split=None, special=(END,), before=(), normalizer=None):
    """Return a tokenizer like GPT-2's, or like Llama 3's if it has its own split."""
    library = LibraryTokenizer(models.BPE())
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    steps = [*before, pre_tokenizers.Split(Regex(split), "isolated"), to_bytes] if split else [*before, to_bytes]
    library.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else to_bytes
    library.decoder = decoders.ByteLevel()
    if normalizer:
        library.normalizer = normalizer
    return train(library, pre_tokenizers.ByteLevel.alphabet(), special)


def sentencepiece(metaspace):
    """Return a tokenizer like Llama 2's: it falls back to bytes, and puts a space before the text."""
    library = LibraryTokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<s>", "</s>"]
    train(library, [], special + [f"<0x{b:02X}>" for b in range(256)], lines=True)
    settings = json.loads(library.to_str())
    settings["added_tokens"] = [t for t in settings["added_tokens"] if t["content"] in special]
    library = LibraryTokenizer.from_str(json.dumps(settings))
    steps = [decoders.ByteFallback(), decoders.Fuse()]
    if metaspace:
        library.decoder = decoders.Sequence([steps[0], decoders.Metaspace(prepend_scheme="first")])
    else:
        library.pre_tokenizer = None
        library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        library.decoder = decoders.Sequence([decoders.Replace("▁", " "), *steps, decoders.Strip(" ", 1, 0)])
    return library


def train(library, alphabet, special, lines=False):
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=alphabet, special_tokens=list(special), show_progress=False
    )
    library.train_from_iterator(PROSE.split("\n") if lines else [PROSE], trainer)
    return library


LIBRARY = {
    "byte_level": byte_level,
    "llama3": lambda: byte_level(SPLIT_PATTERNS[1]),
    "qwen": lambda: byte_level(SPLIT_PATTERNS[2], normalizer=normalizers.NFC()),
    "digits": lambda: byte_level(before=[pre_tokenizers.Digits(individual_digits=True)]),
    "llama2": lambda: sentencepiece(metaspace=False),
    "metaspace": lambda: sentencepiece(metaspace=True),
}
CUT, WHOLE = ("byte_level", "llama3", "qwen", "digits"), ("llama2", "metaspace")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A transformers folder by name, made once."""

    def make(name):
        place = tmp_path_factory.getbasetemp() / "tokenizers" / name
        if not place.exists():
            end = "</s>" if name in WHOLE else END
            library = LIBRARY[name]()
            transformers.PreTrainedTokenizerFast(tokenizer_object=library, eos_token=end).save_pretrained(place)
        return place

    return make


def published(name):
    """An encoding of tiktoken with its own split and special tokens, but a vocabulary that needs no download."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai_public, "load_tiktoken_bpe", lambda *args, **kwargs: {})
        patch.setattr(openai_public, "data_gym_to_mergeable_bpe_ranks", lambda *args, **kwargs: {})
        arguments = openai_public.ENCODING_CONSTRUCTORS[name]()
    ranks = {token: rank for rank, token in enumerate([*(bytes([b]) for b in range(256)), *MERGED])}
    arguments |= {"explicit_n_vocab": None, "mergeable_ranks": ranks}
    return EncodingTokenizer(tiktoken.Encoding(**arguments), {"name": name})


PUBLISHED = ("gpt2", "p50k_edit", "cl100k_base", "o200k_harmony")  # the others are like one of these
OURS = ("char", "byte", "bpe", *PUBLISHED, *LIBRARY)


@pytest.fixture(scope="module")
def make(folder):
    """A tokenizer of ours by name, made once."""

    @cache
    def one(name):
        if name in LIBRARY:
            return HuggingFaceVocabulary(path=str(folder(name))).fit("", "")
        if name in PUBLISHED:
            return published(name)
        return {"char": Char(), "byte": Byte(), "bpe": BPE(vocab_size=400)}[name].fit(EVERY_TEXT, "")

    return one


def saved(tokenizer, place):
    """As somebody without gptlab has it, beside the config of a model with a tokenizer of its own."""
    to_hf_tokenizer(tokenizer).save_pretrained(place)
    transformers.LlamaConfig().save_pretrained(place)
    assert not any("gptlab" in file.read_text() for file in place.iterdir())
    return transformers.AutoTokenizer.from_pretrained(place)


# --- tokenizer=huggingface


@pytest.mark.parametrize("name", LIBRARY)
def test_a_folder_gives_the_same_ids_and_texts_as_transformers(name, folder):
    theirs = transformers.AutoTokenizer.from_pretrained(folder(name))
    ours = HuggingFaceVocabulary(path=str(folder(name))).fit("", "")
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids.dtype == np.uint16
        assert ids.tolist() == theirs(text, add_special_tokens=False)["input_ids"], text
        assert ours.decode(ids) == theirs.decode(ids.tolist(), skip_special_tokens=False), text
    assert np.array_equal(ours.encode("half \ud83d of a pair"), ours.encode("half \ufffd of a pair"))


@pytest.mark.parametrize("name", LIBRARY)
def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(name, make):
    tokenizer = make(name)
    for text in TEXTS:
        if "</s>" in text or (name == "qwen" and "e\u0301" in text):  # special tokens; composed, so another text
            continue
        n_bytes = tokenizer.token_bytes[tokenizer.encode(text)].sum()
        space_before = name in WHOLE and text != "" and not (name == "metaspace" and text[0] == " ")
        assert n_bytes == len(text.encode()) + space_before, text


def test_special_tokens_and_unused_ids_have_no_bytes(tmp_path):
    library = byte_level(special=[END])
    library.add_tokens([AddedToken("  é ", normalized=False)])
    settings = json.loads(library.to_str())
    settings["model"]["vocab"]["ĠĠĠĠ!"] = 510
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    option = HuggingFaceVocabulary(path=str(tmp_path / "tokenizer.json"))
    tokenizer = option.fit("", "")
    assert tokenizer.vocab_size == option.fixed_vocab_size == 511
    assert tokenizer.token_bytes[[tokenizer.encode(END)[0], 505, 510]].tolist() == [0, 0, 5]
    assert tokenizer.token_bytes[tokenizer.encode("x  é ")].tolist() == [1, 5]


def test_a_decoder_that_puts_spaces_between_tokens_counts_them(tmp_path):
    library = LibraryTokenizer(models.WordPiece({"[UNK]": 0, "up": 1, "##on": 2, "é": 3}, unk_token="[UNK]"))
    library.pre_tokenizer, library.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    library.add_special_tokens(["[UNK]"])
    library.save(str(tmp_path / "tokenizer.json"))
    assert HuggingFaceVocabulary(path=str(tmp_path)).fit("", "").token_bytes.tolist() == [0, 3, 2, 3]


@pytest.mark.parametrize("name", LIBRARY)
def test_cutting_a_long_text_changes_no_id(name, make, monkeypatch):
    tokenizer, text = make(name), "\n" + EVERY_TEXT + "/\n/\n!\nx\n\n'll\n\u0301\n7\n7"
    assert tokenizer.encodes_in_pieces == (name in CUT)
    whole = tokenizer.library.encode(text, add_special_tokens=False).ids
    monkeypatch.setattr(hf_tokenizer, "PIECE", 1)
    assert len(list(hf_tokenizer.pieces_of(text))) > 200
    assert tokenizer.encode(text).tolist() == whole


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}},
        {"normalizer": {"type": "Prepend", "prepend": "_"}},
        {"added_tokens": [{"content": "\nx", "lstrip": False}]},
        {"added_tokens": [{"content": "<mask>", "lstrip": True}]},
        {"pre_tokenizer": json.loads(byte_level(r"\S+\s+").to_str())["pre_tokenizer"]},
    ],
)
def test_a_text_is_not_cut_where_a_line_break_could_matter(change):
    plain = json.loads(byte_level().to_str())
    assert hf_tokenizer.can_encode_in_pieces(plain)
    added = {"id": 500, "single_word": False, "rstrip": False, "normalized": False, "special": False}
    if "added_tokens" in change:
        change = {"added_tokens": [added | token for token in change["added_tokens"]]}
    assert not hf_tokenizer.can_encode_in_pieces(plain | change)


def test_a_run_does_not_need_the_folder_again(folder, tmp_path, train_tiny):
    place = tmp_path / "model"
    shutil.copytree(folder("llama2"), place)
    summary = train_tiny("tokenizer=huggingface", f"tokenizer.path={place}")
    expected = HuggingFaceVocabulary(path=str(place)).fit("", "").encode("green bottles")
    shutil.rmtree(place)
    [run] = (tmp_path / "runs" / "default").iterdir()
    model, tokenizer = open_run(run)
    assert np.array_equal(tokenizer.encode("green bottles"), expected)
    assert model.cfg.model.vocab_size == tokenizer.vocab_size == 500 and summary


def test_the_vocabulary_is_known_without_a_text(folder):
    cfg = load_config(["tokenizer=huggingface", f"tokenizer.path={folder('llama3')}"])
    assert cfg.model.vocab_size == 500


def test_vocabularies_are_cached_apart(folder):
    keys = {HuggingFaceVocabulary(path=str(folder(name))).cache_key for name in LIBRARY}
    assert len(keys) == len(LIBRARY)
    assert HuggingFaceVocabulary(path=str(folder("llama2") / "tokenizer.json")).cache_key in keys


def test_a_folder_is_read_again_only_if_it_changed(folder, tmp_path):
    shutil.copytree(folder("llama2"), tmp_path / "model")
    first, again = (HuggingFaceVocabulary(path=str(tmp_path / "model")) for _ in range(2))
    assert again.state is first.state
    (tmp_path / "model" / "tokenizer_config.json").unlink()
    assert HuggingFaceVocabulary(path=str(tmp_path / "model")).state["config"] != first.state["config"]
    shutil.copy(folder("llama3") / "tokenizer.json", tmp_path / "model")
    assert HuggingFaceVocabulary(path=str(tmp_path / "model")).cache_key != first.cache_key


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        (None, "tokenizer=huggingface needs one"),
        ("nowhere", "no such file or folder"),
        ("empty", "no tokenizer.json in it"),
        ("other.json", "other.json is not a file of the tokenizers library"),
        ("tokenizer.model", "tokenizer.model is not a file of the tokenizers library"),
        ("bytes.model", "cannot be read"),
    ],
)
def test_a_folder_without_a_usable_tokenizer_is_refused_in_one_line(path, rule, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.model").write_text("\n\n not JSON")
    (tmp_path / "bytes.model").write_bytes(b"\n\xff\x80")
    with pytest.raises(ConfigError, match=f"^tokenizer.path={path or 'null'}: {rule}.*; give ") as caught:
        HuggingFaceVocabulary(path=path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, {}),
        ({"tokenizer_config.json": {"eos_token": END, "pad_token": "[PAD]"}}, {"eos_token": END}),
        ({"tokenizer_config.json": {"bos_token": {"content": END, "lstrip": False}}}, {"bos_token": END}),
        ({"special_tokens_map.json": {"unk_token": END}}, {"unk_token": END}),
        ({"config.json": {"eos_token_id": 0, "bos_token_id": None, "pad_token_id": 499}}, {"eos_token": END}),
        ({"config.json": {"eos_token_id": [0, 7]}}, {"eos_token": END}),
        ({"config.json": {"eos_token_id": 0}, "tokenizer_config.json": {"eos_token": None}}, {}),
        ({"tokenizer_config.json": {"split_special_tokens": True}}, {"split_special_tokens": True}),
    ],
)
def test_special_tokens_are_named_by_the_folder_and_in_the_vocabulary(files, expected, tmp_path):
    byte_level().save(str(tmp_path / "tokenizer.json"))
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    tokenizer = HuggingFaceVocabulary(path=str(tmp_path)).fit("", "")
    assert tokenizer.state["config"] == {"split_special_tokens": False} | expected
    assert (len(tokenizer.encode(END)) == 1) == ("split_special_tokens" not in expected)
    theirs = to_hf_tokenizer(tokenizer)
    assert theirs.special_tokens_map == {k: v for k, v in expected.items() if v == END}
    assert len(theirs) == 500


# --- to transformers


@pytest.mark.parametrize("name", OURS)
def test_a_converted_tokenizer_gives_the_same_ids_and_texts(name, make, tmp_path):
    ours = make(name)
    theirs = saved(ours, tmp_path / "out")
    for text in TEXTS:
        ids = ours.encode(text).tolist()
        assert theirs(text)["input_ids"] == ids, text
        assert theirs.decode(ids) == ours.decode(ids), text
    ids = np.random.default_rng(0).choice(np.flatnonzero(ours.token_bytes), 2000).tolist()
    assert theirs.decode(ids) == ours.decode(ids)
    assert max(theirs.get_vocab().values()) < ours.vocab_size
    end = None if name in ("char", "byte", "bpe") else "</s>" if name in WHOLE else END
    assert theirs.special_tokens_map == ({"eos_token": end} if end else {})
    assert end is None or ours.decode([theirs.eos_token_id]) == end
    assert theirs("x").keys() == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("name", OURS)
def test_a_round_trip_gives_the_same_tokenizer(name, make, tmp_path):
    ours = make(name)
    saved(ours, tmp_path)
    again = HuggingFaceVocabulary(path=str(tmp_path)).fit("", "")
    again = tokenizer_from_json(json.loads(json.dumps(again.to_json())))
    for text in TEXTS:
        assert np.array_equal(again.encode(text), ours.encode(text)), text
    if name not in PUBLISHED:  # tiktoken's special tokens have bytes
        assert np.array_equal(again.token_bytes, ours.token_bytes)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_character_is_split_as_tiktoken_does(name, make):
    ours = make(name)
    characters = "".join(chr(c) for c in range(0x20000) if not 0xD800 <= c < 0xE000)
    assert to_hf_tokenizer(ours)(characters)["input_ids"] == ours.encode(characters).tolist()


@pytest.mark.parametrize("seed", range(20))
def test_any_ranks_are_merged_as_tiktoken_does(seed):
    """Not only those that training gave: also tokens that no merge makes, and parts with a higher rank."""
    rng = random.Random(seed)
    several = {bytes(rng.choices(b"ab", k=rng.randrange(2, 6))) for _ in range(10)}
    tokens = [*(bytes([b]) for b in range(256)), *sorted(several, key=lambda _: rng.random())]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    ours = EncodingTokenizer(tiktoken.Encoding("x", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={}), {})
    theirs = to_hf_tokenizer(ours)
    for _ in range(100):
        text = "".join(rng.choices("aaabbb ", k=rng.randrange(20)))
        assert theirs(text)["input_ids"] == ours.encode(text).tolist(), text


def test_an_unknown_character_is_an_error_in_transformers_too():
    with pytest.raises(Exception, match="Missing"):
        to_hf_tokenizer(Char().fit("abc", ""))("abcd")


def test_a_tokenizer_without_an_equivalent_is_refused():
    class Own(Byte):
        pass

    with pytest.raises(ConfigError, match="^tokenizer=object: has no equivalent in transformers; "):
        to_hf_tokenizer(object())
    assert to_hf_tokenizer(Own())("é")["input_ids"] == [195, 169]


def test_without_transformers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match="^tokenizer: conversion needs transformers; pip install"):
        to_hf_tokenizer(Byte())
