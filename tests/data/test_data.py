import hashlib
import json
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

from gptlab.config import ConfigError, registry
from gptlab.data import TrainBatches, documents, load_dataset, validation_batches
from gptlab.data.batches import cut
from gptlab.data.bpe import BPE
from gptlab.data.corpora import HuggingFaceCorpus, PyStdlib, Text, TinyShakespeare
from gptlab.data.tokenizers import Byte, Char

PROSE = "".join(f"{n} green bottles, hanging on the wall.\n" for n in range(200))


class Given:
    """A corpus of a given text."""

    def __init__(self, text):
        self._text = text

    def text(self):
        return self._text


class CountingByte(Byte):
    """Byte, counting how often a text is tokenised for the first time."""

    def __init__(self):
        self.n_fits = 0

    def fit(self, train, val):
        self.n_fits += 1
        return super().fit(train, val)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("GPTLAB_CACHE", str(folder))
    return folder


def open_prose(tokenizer, text=PROSE, window=8, val_fraction=0.1, **more):
    return load_dataset(Given(text), tokenizer, window=window, val_fraction=val_fraction, **more)


def error_line(call):
    with pytest.raises(ConfigError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- corpora


def test_pystdlib_is_source_in_a_fixed_order_without_tests_and_installed_packages():
    text = PyStdlib().text()
    assert 5e6 < len(text) < 2e7
    assert text == PyStdlib().text()
    modules = PyStdlib().modules(Path(sysconfig.get_path("stdlib")))
    names = [module.relative_to(sysconfig.get_path("stdlib")).as_posix() for module in modules]
    assert {"abc.py", "json/decoder.py", "asyncio/tasks.py"} <= set(names)
    assert not [n for n in names if n.startswith(("test/", "site-packages/", "encodings/")) or "/test/" in n]
    assert modules == sorted(modules)
    assert text.index("class JSONDecoder") < text.index("class Logger(")


def test_text_reads_every_format_in_the_order_of_paths(tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "b.txt").write_text("plain")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a.MD").write_text("# head")
    (tmp_path / "a.py").write_bytes(b"x = 1\r\n")
    (tmp_path / "c.jsonl").write_text('{"text": "one"}\n\n{"text": "two\\u2028"}\n')
    pyarrow.parquet.write_table(pyarrow.table({"n": [1, 2], "text": ["three", "four"]}), tmp_path / "d.parquet")
    (tmp_path / "left.png").write_bytes(b"\xff")
    (tmp_path / ".hidden.txt").write_text("hidden")
    expected = "x = 1\r\n|plain|one|two\u2028|three|four|# head".replace("|", "\n\n")
    assert Text(path=str(tmp_path)).text() == expected
    assert Text(path=f"{tmp_path}/*.[tp][xy]*").text() == "x = 1\r\n\n\nplain"
    assert Text(path=f"{tmp_path}/**/*.MD").text() == "# head"


def test_a_record_keeps_its_text_in_the_field(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "no", "body": "yes"}')
    assert Text(path=str(tmp_path / "a.jsonl"), field="body").text() == "yes"


def test_a_null_record_is_no_document_and_a_byte_order_mark_no_character(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\nnull\n{"text": null}\n{"text": "b"}\n')
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfc\xef\xbb\xbfd")
    assert Text(path=str(tmp_path / "a.jsonl")).text() == "a\n\nb"
    assert Text(path=str(tmp_path / "b.txt")).text() == "c\ufeffd"  # only the first is a mark


@pytest.mark.parametrize(
    ("name", "content", "field", "message"),
    [
        ("missing.txt", None, "text", "data.path={path}: no such file"),
        ("a.pdf", b"x", "text", "data.path={path}: cannot read a file ending in '.pdf'; choose from .txt, .md"),
        ("a.txt", b"", "text", "data.path={path}: the text is empty"),
        ("a.txt", b"caf\xe9", "text", "data.path={path}: byte 3 is not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"body": "x"}', "text", "data.field=text: not in {path} line 2; choose from body"),
        ("a.jsonl", b'{"text": 7}', "text", "data.field=text: not text but 7 in {path} line 1"),
        ("a.jsonl", b'{"text": "\\ud800"}', "text", "data.field=text: '\\ud800' in {path} line 1 is not a character"),
        ("a.jsonl", b'["x"]', "text", "data.field=text: not in {path} line 1; it is not a record but ['x']"),
        ("a.jsonl", b'{"text"', "text", "data.path={path}: line 1 is not JSON"),
        ("a.jsonl", b"\n\n", "text", "data.path={path}: the text is empty"),
        ("a.jsonl", b'null\n{"text": null}', "text", "data.path={path}: the text is empty"),
        ("a.txt", "x".encode("utf-16"), "text", "data.path={path}: is UTF-16, not UTF-8"),
        ("a.txt", b"a\nb\n\xff", "text", "data.path={path}: byte 4 is not UTF-8 (line 3)"),
        ("a.parquet", b"PAR", "text", "data.path={path}: cannot be read as parquet"),
    ],
)
def test_text_that_cannot_be_read_is_one_line(tmp_path, name, content, field, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert error_line(lambda: Text(path=str(path), field=field).text()).startswith(message.format(path=path))


def test_a_folder_without_text_and_a_glob_without_match_are_errors(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"x")
    assert "has no file ending in .txt, .md" in error_line(lambda: Text(path=str(tmp_path)))
    assert "no glob that matches" in error_line(lambda: Text(path=f"{tmp_path}/*.txt"))
    assert "cannot read a file ending in '.png'" in error_line(lambda: Text(path=f"{tmp_path}/*"))
    assert error_line(Text).startswith("data.path=null:")


def test_a_parquet_file_says_which_columns_it_has(tmp_path):
    import pyarrow
    import pyarrow.parquet

    file = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"], "n": [1]}), file)
    assert error_line(Text(path=str(file)).text) == f"data.field=text: not in {file}; choose from body, n"


@pytest.mark.parametrize("library", ["pyarrow", "datasets"])
def test_a_missing_library_is_named(tmp_path, monkeypatch, library):
    (tmp_path / "a.parquet").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, library, None)
    corpus = {"pyarrow": Text, "datasets": HuggingFaceCorpus}[library](path=str(tmp_path))
    assert "pip install 'gptlab[hf]'" in error_line(corpus.text)


def test_tinyshakespeare_is_downloaded_once_and_checked(cache, monkeypatch, tmp_path):
    class Genuine(TinyShakespeare):
        SHA256 = hashlib.sha256(b"Speak.").hexdigest()
        URL = (tmp_path / "origin.txt").as_uri()

    (tmp_path / "origin.txt").write_text("Speak.")
    assert Genuine().text() == "Speak."
    (tmp_path / "origin.txt").write_text("<html>log in</html>")
    assert Genuine().text() == "Speak."  # from the cache
    (cache / "tinyshakespeare.txt").write_text("Spe")
    assert "gave another file" in error_line(Genuine().text)
    assert (cache / "tinyshakespeare.txt").read_text() == "Spe"  # nothing unchecked gets in


def test_tinyshakespeare_without_a_network_says_what_to_use(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    message = error_line(TinyShakespeare().text)
    assert "no network" in message and "data=pystdlib" in message and "data.path=" in message


def test_tinyshakespeare_reads_a_file_of_your_own_unchecked(tmp_path):
    (tmp_path / "input").write_text("Speak, speak.")
    assert TinyShakespeare(path=str(tmp_path / "input")).text() == "Speak, speak."
    assert error_line(lambda: TinyShakespeare(path="missing.txt")).startswith("data.path=missing.txt: no such file")


def test_huggingface_streams_a_local_folder(tmp_path):
    records = [{"text": f"document {n}", "n": n} for n in range(5)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "test.jsonl").write_text('{"text": "held out", "n": 0}')
    folder = str(tmp_path)
    assert HuggingFaceCorpus(path=folder, max_documents=2).text() == "document 0\n\ndocument 1"
    assert HuggingFaceCorpus(path=folder, max_documents=None).text().endswith("document 4")
    assert HuggingFaceCorpus(path=folder, split="test").text() == "held out"
    assert "Bad split: nope" in error_line(HuggingFaceCorpus(path=folder, split="nope").text)
    assert error_line(HuggingFaceCorpus(path=folder, field="n").text).startswith("data.field=n: not text but 0")
    assert error_line(HuggingFaceCorpus(path=folder, field="body").text).endswith("choose from text, n")
    assert error_line(HuggingFaceCorpus).startswith("data.path=null:")
    assert error_line(lambda: HuggingFaceCorpus(path=folder, max_documents=0)).startswith("data.max_documents=0:")


def test_huggingface_streams_from_the_hub_once(monkeypatch):
    calls = []

    def load(path, subset, *, split, streaming):
        calls.append((path, subset, split))
        assert streaming
        return iter([{"text": f"{split} line\r\n"}])

    monkeypatch.setattr("datasets.load_dataset", load)
    assert HuggingFaceCorpus(path="someone/something").text() == "train line\r\n"
    assert HuggingFaceCorpus(path="someone/something").text() == "train line\r\n"
    assert HuggingFaceCorpus(path="someone/something", split="test").text() == "test line\r\n"
    assert calls == [("someone/something", None, "train"), ("someone/something", None, "test")]


def test_huggingface_without_a_network_is_one_line(monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub\nbecause of this and that")

    monkeypatch.setattr("datasets.load_dataset", fail)
    message = error_line(HuggingFaceCorpus(path="someone/something").text)
    assert "Couldn't reach the Hub" in message and "data=pystdlib" in message


def test_listing_the_options_imports_no_heavy_library():
    heavy = {"torch", "tiktoken", "tokenizers", "datasets", "pyarrow"}
    code = f"import sys, gptlab.data; assert not {heavy} & set(sys.modules), 'imported a heavy library'"
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    tasks = ["copy", "grammar", "induction", "recall"]
    assert registry.names("data") == sorted([*tasks, "huggingface", "pystdlib", "text", "tinyshakespeare"])


# --- dataset


def test_the_last_characters_are_validation():
    dataset = open_prose(Char(), val_fraction=0.25)
    cut = int(0.75 * len(PROSE))
    assert dataset.tokenizer.decode(dataset.train) == PROSE[:cut]
    assert dataset.tokenizer.decode(dataset.val) == PROSE[cut:]
    assert (dataset.n_train, dataset.n_val, dataset.vocab_size) == (cut, len(PROSE) - cut, len(set(PROSE)))
    assert dataset.hash == hashlib.sha256(PROSE.encode()).hexdigest()
    assert isinstance(dataset.train, np.memmap) and not dataset.train.flags.writeable
    assert dataset.train.dtype == np.uint16


def test_a_large_vocabulary_is_kept_in_32_bits():
    text = "".join(map(chr, range(0x10000, 0x10000 + 70_000)))
    dataset = open_prose(Char(), text=text)
    assert dataset.train.dtype == np.uint32
    assert dataset.tokenizer.decode(dataset.train) == text[:63_000]


@pytest.mark.parametrize("tokenizer", [Char(), Byte(), BPE(vocab_size=270)], ids=lambda t: t.cache_key)
def test_the_bytes_predicted_are_those_of_the_text(tokenizer):
    text = "naïve café 😀 " * 100  # the validation split, its last 130 characters, begins with an n
    dataset = open_prose(tokenizer, text=text)
    first = len(dataset.tokenizer.decode(dataset.val[:1]).encode())
    whole = [int(batch.n_bytes.sum()) for batch in dataset.validation_batches(8, 5, None)]
    assert sum(whole) == len(text[-130:].encode()) - first
    for batch in dataset.validation_batches(8, 5, 40):
        for y, n_bytes in zip(batch.targets, batch.n_bytes, strict=True):
            decoded = dataset.tokenizer.decode(y[y >= 0].tolist())
            assert "\ufffd" in decoded or n_bytes.sum() == len(decoded.encode())


@pytest.mark.parametrize(("val_fraction", "split"), [(0.25, "val"), (0.75, "train")])
def test_a_split_needs_one_token_more_than_a_window(val_fraction, split):
    text = "x" * 100
    message = error_line(lambda: open_prose(Byte(), text=text, window=25, val_fraction=val_fraction))
    assert message.startswith(f"data.window=25: the {split} split has 25 tokens and must have window + 1 = 26")
    open_prose(Byte(), text=text, window=24, val_fraction=val_fraction)


def test_a_text_of_one_character_is_refused():
    assert "the train split has 0 tokens" in error_line(lambda: open_prose(Byte(), text="x", window=1))


def test_bpe_is_trained_on_the_training_split_only_and_char_knows_the_whole_text():
    one, other = PROSE + "a" * 400, PROSE + "žluťoučký" * 44 + "kůň!"
    assert len(one) == len(other)
    bpe = [open_prose(BPE(vocab_size=300), text=t).tokenizer.to_json() for t in (one, other)]
    char = [open_prose(Char(), text=t).vocab_size for t in (one, other)]
    assert bpe[0] == bpe[1]
    assert char[0] < char[1]


# --- its cache


def test_a_second_run_opens_what_the_first_has_written():
    tokenizer = CountingByte()
    first, second = open_prose(tokenizer), open_prose(tokenizer)
    assert tokenizer.n_fits == 1
    assert np.array_equal(first.train, second.train) and first.train.filename == second.train.filename


def test_an_unchanged_text_is_read_once_per_process_and_a_changed_one_again(tmp_path, monkeypatch):
    file, reads, read = tmp_path / "text.txt", [], Text.text
    monkeypatch.setattr(Text, "text", lambda self: reads.append(self.path) or read(self))

    def opened(text=None, **settings):
        if text is not None:
            file.write_text(text)
        dataset = load_dataset(Text(path=str(file), **settings), Byte(), window=8, val_fraction=0.1)
        return dataset.tokenizer.decode(dataset.train), len(reads)

    first, n = opened(PROSE)
    assert n == 1 and opened() == (first, 1)
    changed, n = opened(PROSE.replace("green", "brown"))  # as long
    assert "brown" in changed and n == 2 and opened() == (changed, 2)
    assert opened(PROSE) == (first, 3)
    file.with_name("cache").rename(tmp_path / "elsewhere")
    assert opened() == (first, 4)  # its tokens have to be made again


def test_a_corpus_without_a_stamp_is_read_every_time():
    assert open_prose(Byte()).hash != open_prose(Byte(), text=PROSE + "x").hash


@pytest.mark.parametrize("change", ["text", "val_fraction", "tokenizer"])
def test_another_text_split_or_tokenizer_is_another_entry(change):
    entry = {"text": PROSE, "val_fraction": 0.1, "tokenizer": BPE(vocab_size=256)}
    other = entry | {"text": PROSE + "x", "val_fraction": 0.2, "tokenizer": BPE(vocab_size=257)}
    other = entry | {change: other[change]}
    assert open_prose(**entry).train.filename != open_prose(**other).train.filename


@pytest.mark.parametrize("name", ["train.bin", "val.bin", "meta.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_entry_is_built_again(name, damage):
    tokenizer = CountingByte()
    dataset = open_prose(tokenizer)
    expected = dataset.tokenizer.decode(dataset.train)
    file = Path(dataset.train.filename).with_name(name)
    file.write_bytes(file.read_bytes()[:-3]) if damage == "cut" else file.unlink()
    again = open_prose(tokenizer)
    assert tokenizer.n_fits == 2
    assert again.tokenizer.decode(again.train) == expected


def test_two_runs_starting_at_once_tokenise_once(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, time\n"
        "from gptlab.data import load_dataset\n"
        "from gptlab.data.tokenizers import Byte\n"
        "class Corpus:\n"
        "    def text(self): return 'abc' * 1000\n"
        "class Slow(Byte):\n"
        "    def fit(self, train, val):\n"
        "        print('fit', flush=True)\n"
        "        time.sleep(0.5)\n"
        "        return self\n"
        "print(load_dataset(Corpus(), Slow(), window=8, val_fraction=0.1).n_train)\n"
    )
    runs = [subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    lines = "".join(run.communicate()[0] for run in runs).split()
    assert sorted(lines) == ["2700", "2700", "fit"]


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "file"))
    assert error_line(lambda: open_prose(Byte())).startswith(f"GPTLAB_CACHE={tmp_path / 'file'}: cannot be written")


def test_a_full_cache_is_only_read(monkeypatch):
    open_prose(Byte())
    monkeypatch.setattr("gptlab.data.dataset.cache_entry_locked", None)
    monkeypatch.setattr("gptlab.data.dataset.write_cached", None)
    assert open_prose(Byte()).n_train == int(0.9 * len(PROSE))


# --- a text in random order


@pytest.mark.parametrize("tokenizer", [Byte(), Char(), BPE(vocab_size=300)])
def test_a_shuffled_text_has_the_same_tokens_in_another_order_and_the_same_validation(tokenizer):
    usual, shuffled = open_prose(tokenizer), open_prose(tokenizer, shuffle_tokens=True)
    assert shuffled.train.dtype == usual.train.dtype and not np.array_equal(shuffled.train, usual.train)
    assert np.array_equal(np.sort(shuffled.train), np.sort(usual.train))
    assert np.array_equal(shuffled.val, usual.val)
    assert shuffled.content == usual.content and shuffled.hash == usual.hash  # so that losses are compared
    follows = np.mean(shuffled.train[1:] == usual.train[1:])
    assert follows < 3 * np.sum((np.bincount(usual.train) / usual.n_train) ** 2)  # by chance alone
    assert "in random order" in shuffled.describe() and "random" not in usual.describe()


def test_the_order_of_a_shuffled_text_is_kept_made_again_alike_and_never_mixed_up_with_the_text(cache):
    first = open_prose(Byte(), shuffle_tokens=True)
    file, order = Path(first.train.filename), np.array(first.train)
    made = file.stat().st_mtime_ns
    assert np.array_equal(open_prose(Byte(), shuffle_tokens=True).train, order) and file.stat().st_mtime_ns == made
    file.write_bytes(file.read_bytes()[:-3])
    assert np.array_equal(open_prose(Byte(), shuffle_tokens=True).train, order)
    file.unlink()
    assert np.array_equal(open_prose(Byte(), shuffle_tokens=True).train, order)
    assert Byte().decode(open_prose(Byte()).train) == PROSE[: int(0.9 * len(PROSE))]


# --- batches


@pytest.mark.parametrize("sampling", ["random", "epoch"])
def test_a_batch_depends_on_seed_and_step_only(sampling):
    tokens = np.arange(1000, dtype=np.uint16)
    batches = TrainBatches(tokens, 8, 12, seed=1, sampling=sampling)
    expected = [batches.batch(step) for step in range(20)]
    resumed = TrainBatches(tokens, 8, 12, seed=1, sampling=sampling)
    np.random.seed(7)
    torch.manual_seed(7)
    for step in (13, 2, 19, 2):  # in any order, whatever came before
        for got, want in zip(resumed.batch(step), expected[step], strict=True):
            assert torch.equal(got, want)
    assert not torch.equal(expected[0][0], expected[1][0])
    other_seed = TrainBatches(tokens, 8, 12, seed=2, sampling=sampling)
    assert not torch.equal(expected[0][0], other_seed.batch(0)[0])


@pytest.mark.parametrize("sampling", ["random", "epoch"])
def test_targets_are_the_next_tokens(sampling):
    tokens = np.arange(1000, dtype=np.uint16)
    x, y = TrainBatches(tokens, 8, 12, seed=0, sampling=sampling).batch(3)
    assert x.shape == y.shape == (12, 8)
    assert x.dtype == y.dtype == torch.int64
    assert x.is_contiguous() and y.is_contiguous()
    assert torch.equal(y, x + 1)
    assert torch.equal(x, x[:, :1] + torch.arange(8))


def test_windows_cut_on_a_device_are_those_of_the_host():
    tokens = np.arange(1000, dtype=np.uint16) * 60 % 65_521
    batches = TrainBatches(tokens, 8, 12, seed=0, sampling="random")
    for ours, host in zip(
        cut(torch.from_numpy(tokens.astype(np.int32)), batches.starts(3), 8), batches.batch(3), strict=True
    ):
        assert ours.dtype == torch.int64 and ours.is_contiguous() and torch.equal(ours, host)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("fits", [True, False])
def test_batches_on_a_gpu_are_those_of_the_host(fits, monkeypatch):
    tokens, device = np.arange(60_000, dtype=np.uint16), torch.device("cuda")
    if not fits:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 0))
    there = TrainBatches(tokens, 8, 12, seed=0, sampling="epoch", device=device)
    assert (there.gpu_tokens is not None) is fits
    for ours, host in zip(there.batch(5), TrainBatches(tokens, 8, 12, seed=0, sampling="epoch").batch(5), strict=True):
        assert ours.is_cuda and torch.equal(ours.cpu(), host)


def test_random_sampling_reaches_both_ends_evenly():
    tokens = np.arange(20, dtype=np.uint16)
    x, y = TrainBatches(tokens, 4, 16_000, seed=0, sampling="random").batch(0)
    counts = torch.bincount(x[:, 0])
    assert len(counts) == 16  # starts 0 to 15: the last window's last target is token 19
    assert counts.min() > 850 and counts.max() < 1150  # 1000 each, five standard deviations
    assert y.max() == 19


@pytest.mark.parametrize("batch_size", [3, 7, 50])
def test_an_epoch_has_every_window_once_and_its_own_order(batch_size):
    tokens = np.arange(163, dtype=np.uint16)  # 20 windows of 8, and two tokens more than they need
    batches = TrainBatches(tokens, 8, batch_size, seed=0, sampling="epoch")
    starts = torch.cat([batches.batch(step)[0][:, 0] for step in range(-(-60 // batch_size))])[:60].view(3, 20)
    for epoch in starts:
        assert epoch.sort().values.tolist() == list(range(0, 160, 8))
    assert not torch.equal(starts[0], starts[1]) and not torch.equal(starts[1], starts[2])


@pytest.mark.parametrize("n_tokens", [None, 100, 1000])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_validation_of_the_whole_predicts_every_token_but_the_first_once(n_tokens, batch_size):
    tokens = np.arange(100, dtype=np.uint16)
    batches = list(validation_batches(tokens, 8, batch_size, n_tokens))
    predicted = torch.cat([y[y >= 0] for _, y in batches])
    assert predicted.tolist() == list(range(1, 100))
    for x, y in batches:
        assert torch.equal(y[y >= 0], x[y >= 0] + 1) and x.dtype == torch.int64
        assert x.shape[0] <= batch_size and x.shape[1] == y.shape[1] == 8


@pytest.mark.parametrize(
    ("n_tokens", "starts"),
    [(2, [48]), (8, [48]), (15, [48]), (16, [24, 72]), (33, [8, 32, 56, 80]), (50, [8, 24, 40, 56, 72, 88])]
    + [(99, [*range(0, 96, 8)])],
)
def test_validation_of_a_part_reads_full_windows_spread_evenly(n_tokens, starts):
    tokens = np.arange(100, dtype=np.uint16)  # 12 windows of 8, and 3 targets more
    batches = list(validation_batches(tokens, 8, 5, n_tokens))
    assert torch.cat([x[:, 0] for x, _ in batches]).tolist() == starts
    assert all(torch.equal(y, x + 1) for x, y in batches)


@pytest.mark.parametrize("n_tokens", [None, 700])
@pytest.mark.parametrize("tokenizer", [Char(), Byte(), BPE(vocab_size=300)], ids=lambda t: t.cache_key)
def test_a_block_of_the_validation_text_is_the_same_text_for_every_tokenizer(tokenizer, n_tokens):
    text = "".join(f"{n} naïve cafés 😀 of {n * n}\n" for n in range(2000))
    dataset = open_prose(tokenizer, text=text, window=16)
    written = text[int(0.9 * len(text)) :].encode()
    blocks, sizes, targets = (
        torch.cat([getattr(b, name)[b.targets >= 0] for b in dataset.validation_batches(16, 7, n_tokens)]).numpy()
        for name in ("blocks", "n_bytes", "targets")
    )
    assert (np.diff(blocks) >= 0).all() and set(blocks) == set(range(32))
    longest = dataset.tokenizer.token_bytes.max()
    if n_tokens is None:
        ends = np.cumsum(np.bincount(blocks, sizes)) + len(written) - sizes.sum()  # where blocks end in the text
        assert (np.abs(ends - len(written) * np.arange(1, 33) / 32) < longest).all() and ends[-1] == len(written)
    else:
        assert len(targets) == 688  # 43 windows
        assert np.ptp(np.bincount(blocks, sizes)) <= 2 * longest


@pytest.mark.parametrize("name", ["", "/**", "/**/*.none", "/../*/**/*.txt", "/[[]x]/../**"])
def test_a_folder_without_end_is_refused_in_one_line(tmp_path, monkeypatch, name):
    (tmp_path / "[x]").mkdir()
    for i in range(6):
        (tmp_path / "[x]" / f"{i}.txt").write_text("text")
    assert Text(path=str(tmp_path)).text() == "\n\n".join(["text"] * 6)
    monkeypatch.setattr(documents, "MOST_ENTRIES", 5)
    line = error_line(lambda: Text(path=f"{tmp_path}{name}"))
    assert line.startswith(f"data.path={tmp_path}{name}: has more than 5 files and folders to search; give a smaller")
    assert Text(path=f"{tmp_path}/[[]x]/[3-5].txt").text() == "text\n\ntext\n\ntext"


def test_more_text_than_memory_is_refused_in_one_line_where_it_is_read(tmp_path, monkeypatch):
    for name in ("a.txt", "b.md", "c.py"):
        (tmp_path / name).write_text("x" * 100)
    (tmp_path / "d.jsonl").write_text('{"text": "%s"}' % ("y" * 100))
    monkeypatch.setattr(documents, "machine_memory", lambda: 300)
    assert len(Text(path=str(tmp_path)).text()) > 400
    monkeypatch.setattr(documents, "machine_memory", lambda: 299)
    text = Text(path=str(tmp_path))
    assert text.stamp()
    assert error_line(text.text).startswith(f"data.path={tmp_path}: 0.0 GiB of text, and this machine has 0.0 GiB of")
