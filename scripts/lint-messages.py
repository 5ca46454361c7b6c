#!/usr/bin/env python3
"""Finds options of the command line in the texts of libraries, which name none: what to do about an error is said by Commands (Remedy.swift).

Prints file:line of each string literal in Sources that holds two dashes before a letter or an interpolation, and exits 1 if there is one.
Comments may name options. Sources/HTML is left out, since the properties of its style sheets begin so.
"""

import pathlib
import re
import sys

SOURCES = pathlib.Path(__file__).resolve().parent.parent / "Sources"
ALLOWED = {"Commands", "oplora", "HTML"}
OPTION = re.compile(r"--([A-Za-z]|\\#*\()")
COMMENT_MARK = re.compile(r"/\*|\*/")
COMMENT_OR_QUOTE = re.compile(r'//|/\*|(#*)("""|")|[()]')


def line(text, place):
    return text.count("\n", 0, place) + 1


def literals(text):
    """The string literals outside of comments, each as (offset, content), with those in interpolations by themselves."""
    found = []

    def code(place, depth=None):
        """Goes through code to its end, or to the parenthesis that ends an interpolation; returns the place behind it."""
        while match := COMMENT_OR_QUOTE.search(text, place):
            token, place = match.group(), match.end()
            if token == "//":
                place = end if (end := text.find("\n", place)) >= 0 else len(text)
            elif token == "/*":
                depth_of_comment = 1
                while depth_of_comment and (mark := COMMENT_MARK.search(text, place)):
                    depth_of_comment += 1 if mark.group() == "/*" else -1
                    place = mark.end()
            elif match.group(2):
                place = literal(place, match.group(1), match.group(2))
            elif depth is not None:
                depth += 1 if token == "(" else -1
                if depth == 0:
                    return place
        return len(text)

    def literal(place, hashes, quote):
        """Goes through a literal from behind its quote; returns the place behind the closing one."""
        begin, content = place, ""
        part = re.compile(rf"\\{hashes}\(|\\{hashes}.|{quote}{hashes}", re.S)
        while match := part.search(text, place):
            content += text[place : match.end()]
            place = match.end()
            if match.group() == quote + hashes:
                break
            if match.group().endswith("("):
                end = code(place, 1)
                content += "\n" * text.count("\n", place, end)
                place = end
        found.append((begin, content))
        return place

    code(0)
    return found


offences = 0
for path in sorted(SOURCES.rglob("*.swift")):
    if path.relative_to(SOURCES).parts[0] in ALLOWED:
        continue
    text = path.read_text()
    for begin, content in literals(text):
        for match in OPTION.finditer(content):
            offences += 1
            print(f"{path.relative_to(SOURCES.parent)}:{line(text, begin) + content.count(chr(10), 0, match.start())}: an option in a library's text")
sys.exit(1 if offences else 0)
