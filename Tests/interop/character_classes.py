#!/usr/bin/env python3
"""Write Sources/Tokenizer/CharacterClassTable.swift from what the `tokenizers` library itself says.

    python3 Tests/interop/character_classes.py Sources/Tokenizer/CharacterClassTable.swift

The library asks three engines about characters (Oniguruma for the patterns, Rust's standard library for digits, the
regex crate for the borders of added tokens), each with its own Unicode version, and none of them need be the version
that Swift has. So every scalar is put to each of them through the library's own interface. Takes half a minute.
"""
import argparse
import pathlib

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

LETTER, NUMBER, SPACE, NUMERIC, WORD = 1, 2, 4, 8, 16
SCALARS = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def matching(pattern):
    """The scalars that Oniguruma matches: all except those that are left when the matches are removed."""
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    left = set()
    for piece, _ in split.pre_tokenize_str("".join(SCALARS)):
        left.update(piece)
    return set(SCALARS) - left


def numeric():
    """The scalars that `Digits` sets apart from the letters around them."""
    digits = pre_tokenizers.Digits(individual_digits=False)
    text = "a" + "a".join(SCALARS) + "a"
    return {c for piece, _ in digits.pre_tokenize_str(text) if "a" not in piece for c in piece}


def at_borders():
    """The scalars that `lstrip` takes for space and those that `single_word` takes for a part of a word."""
    tokenizer = Tokenizer(models.BPE({"x": 0}, []))
    tokenizer.add_tokens([AddedToken("<strip>", lstrip=True, normalized=False),
                          AddedToken("<word>", single_word=True, normalized=False)])
    strip, word = tokenizer.token_to_id("<strip>"), tokenizer.token_to_id("<word>")
    spaces, words = set(), set()
    for start in range(0, len(SCALARS), 50_000):
        part = SCALARS[start:start + 50_000]
        for c, encoding in zip(part, tokenizer.encode_batch([f"x{c}<strip>" for c in part])):
            if encoding.offsets[encoding.ids.index(strip)][0] == 1:
                spaces.add(c)
        for c, encoding in zip(part, tokenizer.encode_batch([f"{c}<word>" for c in part])):
            if word not in encoding.ids:
                words.add(c)
    return spaces, words


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    spaces, words = at_borders()
    classes = {LETTER: matching(r"\p{L}"), NUMBER: matching(r"\p{N}"), SPACE: matching(r"\s"),
               NUMERIC: numeric(), WORD: words}
    # One bit serves both: should the engines ever differ about space, the reader needs a bit more.
    assert spaces == classes[SPACE]
    changes, previous = [], 0
    for code in range(0x110000):
        value = sum(bit for bit, members in classes.items() if chr(code) in members)
        if value != previous:
            changes.append(code << 8 | value)
            previous = value
    lines = []
    for start in range(0, len(changes), 10):
        lines.append("        " + ", ".join(f"0x{entry:07x}" for entry in changes[start:start + 10]) + ",\n")
    args.out.write_text(f"""\
// Written by Tests/interop/character_classes.py from tokenizers {tokenizers.__version__}; do not edit.

enum CharacterClassTable {{
    /// Where the class changes, in ascending order: the first scalar of a run shifted left by eight, and the raw value of
    /// the run's `CharacterClass`. Before the first entry no class applies.
    static let changes: [UInt32] = [
{"".join(lines)}    ]
}}
""")
    print(f"{args.out}: {len(changes)} changes; " + ", ".join(f"{len(m)} with bit {b}" for b, m in classes.items()))


if __name__ == "__main__":
    main()
