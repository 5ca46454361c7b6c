#!/usr/bin/env python3
"""Compare the ids that oplora gives a text with those of the `tokenizers` library, one by one.

    tokenizer_parity.py OPLORA TOKENIZER_JSON... TEXT [--strings N] [--seed N] [--variants]

Each tokenizer encodes the whole of TEXT, as one string and line by line, and N seeded random strings of many scripts,
white space, digits, combining characters, emoji, unassigned scalars, control characters and added tokens. With
--variants, each tokenizer is also tried with its pre-tokenizer, merges and added tokens replaced by the other kinds that
oplora supports. Prints what was compared and how much of it differs; exits with 1 if anything does.

oplora is run as `OPLORA tokenize --tokenizer FILE --lines`: one JSON string a line in, one line of ids out.
"""
import argparse
import copy
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata

import tokenizers
from tokenizers import Tokenizer

SPACES = [chr(c) for c in (*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F,
                           0x3000, 0x180E, 0x200B, 0x200D, 0x2060, 0xFEFF, 0x1C, 0x1F)]
WORDS = ["the", " and", "In", "GOD", " Lord", "'s", "'S", "'t", "'re", "'RE", "'Ve", "'m", "'ll", "'lL", "'d", "'D", "'x",
         "'l", "'r", "'\u017f", "\u017f", "'\u212a", "can't", "WE'LL", "don\u2019t", "-", "--", "...", "!?", "://", "_", "a_b",
         "<", "|", ">", "<|", "|>", "\r\n", "\n\n", " \n", "\n ", "\t", "  ", "   ", "3.14", "2024", "1,000", "007"]
RANGES = {
    "ascii": [(0x20, 0x7E)], "latin": [(0xA1, 0x24F)], "greek": [(0x370, 0x3FF)], "cyrillic": [(0x400, 0x52F)],
    "hebrew": [(0x590, 0x5FF)], "arabic": [(0x600, 0x6FF)], "indic": [(0x900, 0xDFF)], "thai": [(0xE00, 0xE7F)],
    "georgian": [(0x10A0, 0x10FF)], "ethiopic": [(0x1200, 0x137F)], "kana": [(0x3040, 0x30FF)], "han": [(0x4E00, 0x9FFF)],
    "hangul": [(0xAC00, 0xD7A3)], "combining": [(0x300, 0x36F), (0x1AB0, 0x1AFF), (0x20D0, 0x20FF)],
    "emoji": [(0x1F300, 0x1FAFF), (0x2600, 0x27BF), (0xFE00, 0xFE0F), (0x1F1E6, 0x1F1FF)],
    "numbers": [(0x30, 0x39), (0x660, 0x669), (0x966, 0x96F), (0xB2, 0xB3), (0xBC, 0xBE), (0x2070, 0x2079), (0x2150, 0x218B),
                (0x2460, 0x24FF), (0x3007, 0x3007), (0x1D7CE, 0x1D7FF), (0x11DE0, 0x11DE9), (0x16FF4, 0x16FF6)],
    "control": [(0, 0x1F), (0x7F, 0x9F)], "private": [(0xE000, 0xF8FF), (0xF0000, 0xF00FF), (0x10FF00, 0x10FFFF)],
    "astral": [(0x10000, 0x1FFFF)], "any": [(0, 0xD7FF), (0xE000, 0x10FFFF)],
}
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT2_SHORT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")


def byte_level(prefix=False, regex=True):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def digits(individual):
    return {"type": "Digits", "individual_digits": individual}


def split(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def added_tokens(vocabulary):
    """Added tokens that differ in every flag, overlap, and are prefixes of each other."""
    flags = [("<mask>", "lstrip"), ("<mask>s", ""), ("<right>", "rstrip"), (" <wide>", "lstrip rstrip"), ("word", "single_word"),
             ("é", "single_word special"), ("\n\n", "normalized"), ("   ", "normalized rstrip"), ("<a", "normalized"),
             ("ab<a", "special"), ("\u3000", "rstrip"), ("<|fin\uff5c>", "special"), ("'s", "normalized single_word"), ("xx", "")]
    return [{"id": len(vocabulary) + i, "content": content,
             **{flag: flag in chosen for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")}}
            for i, (content, chosen) in enumerate((f for f in flags if f[0] not in vocabulary))]


def variants(base):
    """Each kind of tokenizer that oplora supports, made from one file: pairs of a name and the file's content."""
    def changed(name, **parts):
        result = copy.deepcopy(base)
        result.update({key: value for key, value in parts.items() if key != "model"})
        result["model"].update(parts.get("model", {}))
        return name, result
    llama3 = sequence(split(LLAMA3), byte_level(regex=False))
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in base["model"]["merges"]]
    yield changed("gpt2", pre_tokenizer=byte_level())
    yield changed("gpt2-prefix", pre_tokenizer=byte_level(prefix=True))
    yield changed("gpt2-split", pre_tokenizer=sequence(split(GPT2_SHORT, "Removed", True), byte_level(regex=False)))
    yield changed("whole", pre_tokenizer=byte_level(regex=False))
    yield changed("digits-runs", pre_tokenizer=sequence(digits(False), byte_level()))
    yield changed("digits-single", pre_tokenizer=sequence(digits(True), byte_level()))
    yield changed("digits-prefix", pre_tokenizer=sequence(digits(True), byte_level(prefix=True)))
    yield changed("llama3", pre_tokenizer=llama3)
    yield changed("llama3-ignoring-merges", pre_tokenizer=llama3, model={"ignore_merges": True})
    yield changed("llama3-prefix", pre_tokenizer=sequence(split(LLAMA3), byte_level(prefix=True, regex=False)))
    yield changed("llama3-twice", pre_tokenizer=sequence(digits(False), sequence(split(LLAMA3)), byte_level()))
    yield changed("qwen2", pre_tokenizer=sequence(split(QWEN2), byte_level(regex=False)))
    yield changed("pairs", model={"merges": merges})
    yield changed("strings", model={"merges": [" ".join(pair) for pair in merges]})
    yield changed("few-merges", model={"merges": merges[: len(merges) // 3], "ignore_merges": True})
    yield changed("unknown", model={"unk_token": next(iter(base["model"]["vocab"]))})
    added = base["added_tokens"] + added_tokens(base["model"]["vocab"])
    yield changed("added", added_tokens=added)
    yield changed("added-prefix", added_tokens=added, pre_tokenizer=byte_level(prefix=True))


def random_strings(count, seed, added):
    """`count` strings of up to 40 parts, the same for the same seed and added tokens."""
    generator = random.Random(seed)
    unassigned = [c for c in (chr(generator.randrange(0x110000)) for _ in range(4000)) if unicodedata.category(c) == "Cn"]

    def part(kinds):
        kind = generator.choice(kinds)
        if kind == "space":
            return generator.choice(SPACES)
        if kind == "word":
            return generator.choice(WORDS)
        if kind == "unassigned":
            return generator.choice(unassigned)
        if kind == "added":
            content = generator.choice(added)
            return content if generator.random() < 0.7 else content[: generator.randrange(len(content) + 1)]
        low, high = generator.choice(RANGES[kind])
        return chr(generator.randint(low, high))

    every = [*RANGES, "space", "word", "unassigned", *(["added"] if added else [])]
    weighted = [*every, "ascii", "ascii", "space", "space", "word", "word", "numbers", *(["added"] if added else [])]
    for _ in range(count):
        kinds = weighted if generator.random() < 0.5 else generator.sample(every, generator.randint(1, 3))
        yield "".join(part(kinds) for _ in range(generator.randint(0, 40)))


def compare(name, oplora, path, strings):
    """Encode the strings with both; the numbers of strings, of ids, and of strings and ids that differ."""
    reference = Tokenizer.from_file(str(path))
    # Both are settings of whoever encodes, not of the vocabulary; transformers sets them for each call, too.
    reference.no_truncation()
    reference.no_padding()
    expected = [encoding.ids for encoding in reference.encode_batch_fast(strings, add_special_tokens=False)]
    lines = "".join(json.dumps(string, ensure_ascii=False) + "\n" for string in strings)
    run = subprocess.run([oplora, "tokenize", "--tokenizer", str(path), "--lines"], input=lines.encode(), capture_output=True)
    if run.returncode != 0:
        sys.exit(f"{name}: oplora failed with exit code {run.returncode}: {run.stderr.decode(errors='replace').strip()}")
    found = [[int(word) for word in line.split()] for line in run.stdout.decode().split("\n")[:-1]]
    if len(found) != len(strings):
        sys.exit(f"{name}: oplora answered {len(found)} lines to {len(strings)}")
    different_strings = different_ids = 0
    for string, theirs, ours in zip(strings, expected, found):
        if theirs == ours:
            continue
        different_strings += 1
        different_ids += sum(a != b for a, b in zip(theirs, ours)) + abs(len(theirs) - len(ours))
        if different_strings <= 3:
            at = next((i for i, (a, b) in enumerate(zip(theirs, ours)) if a != b), min(len(theirs), len(ours)))
            print(f"  {ascii(string[:200])}\n    from id {at}: tokenizers {theirs[at:at + 8]}, oplora {ours[at:at + 8]}")
    total = sum(map(len, expected))
    print(f"{name}: {len(strings)} strings, {total} ids compared; {different_strings} strings, {different_ids} ids differ", flush=True)
    return len(strings), total, different_strings, different_ids


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("oplora")
    parser.add_argument("tokenizer", nargs="+", type=pathlib.Path)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--strings", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=20_240_601)
    parser.add_argument("--variants", action="store_true")
    args = parser.parse_args()
    text = args.text.read_bytes().decode()
    print(f"tokenizers {tokenizers.__version__}, seed {args.seed}")
    sums = [0, 0, 0, 0]
    with tempfile.TemporaryDirectory() as folder:
        for path in args.tokenizer:
            base = json.loads(path.read_text())
            cases = [(str(path), path)]
            for name, content in variants(base) if args.variants else []:
                cases.append((f"{path} as {name}", pathlib.Path(folder) / f"{name}.json"))
                cases[-1][1].write_text(json.dumps(content))
            for name, file in cases:
                added = [token["content"] for token in json.loads(file.read_text())["added_tokens"]]
                strings = [text, *text.splitlines(keepends=True), *random_strings(args.strings, args.seed, added)]
                sums = [a + b for a, b in zip(sums, compare(name, args.oplora, file, strings))]
    print(f"in all: {sums[0]} strings, {sums[1]} ids compared; {sums[2]} strings, {sums[3]} ids differ")
    sys.exit(1 if sums[2] else 0)


if __name__ == "__main__":
    main()
