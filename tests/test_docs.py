"""Every command and every file that the README and docs/ print works, in the order of the page, in an empty folder.

A page is run from top to bottom. What a block is, its language and the line above it say:

    bash                a command a line; `gptlab` runs in this process, at a tiny size
    python, yaml        a file, if the line above ends in its name: "Save this as `my_norms.py`:"
    python              otherwise code, which is run; one page is one session
    text                output; not run

and so do comments above a block, which no reader sees:

    <!-- not run: the reason -->    what needs a cluster, a network or minutes; the arguments of gptlab are checked
    <!-- exits with 2 -->           a mistake; the text block that follows is what it prints
"""

import re
import shlex
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path

import pytest

from gptlab.cli.main import VERBS, main
from paths import ROOT

README = ROOT / "README.md"
PAGES = [README, ROOT / "conf/preset/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OVERRIDING = ("train", "sweep", "probe")  # verbs that take overrides and compute
TINY = [
    "size=tiny",
    "size.n_layer=2",
    "budget.steps=4",
    "schedule.warmup=null",
    "data.window=16",
    "train.batch_size=4",
    "eval.tokens=64",
    "eval.final_tokens=64",
    "eval.every=2",
]
HERE = ["device=cpu", "precision=float32"]
FILE = re.compile(r"`([\w./-]+\.\w+)`:$")
SKIP = re.compile(r"<!-- not run: (.+) -->$")
EXIT = re.compile(r"<!-- exits with (\d) -->$")
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    above: str  # the last line before it that is not empty

    @property
    def file(self) -> str | None:
        match = FILE.search(self.above)
        return match[1] if match and self.language in ("python", "yaml") else None

    @property
    def is_run(self) -> bool:
        return not SKIP.search(self.above)

    @property
    def exit_code(self) -> int:
        match = EXIT.search(self.above)
        return int(match[1]) if match else 0

    @property
    def commands(self) -> list[list[str]]:
        lines = self.text.replace("\\\n", " ").splitlines() if self.language == "bash" else []
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    above, open_block = "", None
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            if open_block is None:
                open_block = Block(line[3:].strip(), "", above)
            else:
                found.append(open_block)
                above, open_block = "", None
        elif open_block is not None:
            open_block = replace(open_block, text=open_block.text + line + "\n")
        elif line.strip():
            above = line.strip()
    assert open_block is None, f"{page}: a block is not closed"
    return found


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def tiny(words: list[str], seeds: str) -> list[str]:
    """The words of a command, patterns resolved, with overrides that let it end within a second or two."""
    verb, *rest = words
    rest = [w for word in rest for w in (sorted(glob(word)) or [word])]
    if verb not in OVERRIDING or "--help" in rest:
        return [verb, *rest]
    sweeps = verb == "sweep" or {"-m", "--multirun"} & set(rest)
    more = ["hydra.launcher.n_jobs=1"] if sweeps else []
    if sweeps and any(w.startswith("seed=") or w.endswith(".yaml") for w in rest):
        more.append(f"seed={seeds}")
    return [verb, *(w for w in rest if not w.startswith("budget.")), *TINY, *HERE, *more]


def run_gptlab(words: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        main(words)
    return int(caught.value.code or 0)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_works_as_printed(page, tmp_path, monkeypatch, own_registry, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    session: dict = {}
    seeds = "0,1" if page == README else "0"  # with two the tables have intervals and words; elsewhere time counts
    expected = None  # what the last command printed, if the page shows it
    for block in blocks(page):
        if block.language == "text" and expected is not None:
            assert block.text.strip() == expected
        expected = None
        if block.file:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.text)
        elif not block.is_run:
            continue
        elif block.language == "python":
            exec(compile(block.text, name_of(page), "exec"), session)
        for words in block.commands:
            assert words[0] == "gptlab", f"{words[0]}: only gptlab is run here; mark it <!-- not run: ... -->"
            capsys.readouterr()
            code = run_gptlab(tiny(words[1:], seeds))
            printed = capsys.readouterr()
            assert code == block.exit_code, f"{shlex.join(words)}: {printed.err}{printed.out}"
            expected = printed.err.strip() if block.exit_code else None


SKIPPED = [
    pytest.param(words[1:], id=f"{name_of(page)}: {shlex.join(words)}")
    for page in PAGES
    for block in blocks(page)
    if not block.is_run
    for words in block.commands
    if words[0] == "gptlab"
]


@pytest.mark.parametrize("words", SKIPPED)
def test_a_command_that_is_not_run_has_a_verb_and_flags_that_exist(words):
    assert words[0] in VERBS
    VERBS[words[0]].parser(words[0]).parse_intermixed_args(words[1:])


def test_every_block_of_files_code_or_commands_says_what_it_is():
    for page in PAGES:
        for block in blocks(page):
            assert block.language in ("bash", "python", "yaml", "text"), f"{name_of(page)}: {block}"
            assert block.language != "yaml" or block.file or not block.is_run, f"{name_of(page)}: name the file {block}"


def test_the_readme_has_under_140_lines():
    assert len(README.read_text().splitlines()) < 140


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md", ROOT / "conf/preset/README.md"], ids=name_of)
def test_links_out_of_the_site_lead_to_files(page):
    for target, _ in LINK.findall(page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), f"{name_of(page)}: {target}"


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path / "site")))
    assert "gptlab sweep" in (tmp_path / "site/reference/commands.html").read_text()
    assert "norm=rmsnorm" in (tmp_path / "site/reference/components.html").read_text()
