"""Named cases: each runs in a folder of its own and gives one line, or one row of a table of the documents."""
import argparse
import pathlib
import shutil
import sys
import tempfile


def run(description, heading, cases, check):
    """Runs the cases that the command line asks for, and exits with 1 if one is wrong.

    heading: the two columns of the table.
    cases: pairs of a title and the arguments of `check`.
    check: takes the program, a new folder and the arguments; gives what was found and what is wrong, or nothing.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", required=True)
    parser.add_argument("--only", default="", help="cases with this in their title")
    parser.add_argument("--markdown", action="store_true", help="a table")
    parser.add_argument("--keep", type=pathlib.Path, help="leave the files in this folder")
    options = parser.parse_args()
    failed = 0
    if options.markdown:
        print(f"| {heading[0]} | {heading[1]} |\n|---|---|")
    for title, arguments in cases:
        if options.only.lower() not in title.lower():
            continue
        folder = pathlib.Path(tempfile.mkdtemp(dir=options.keep))
        text, wrong = check(options.oplora, folder, *arguments)
        failed += bool(wrong)
        text = f"{wrong} ({text})" if wrong else text
        print(f"| {title} | {text} |" if options.markdown else f"{'FAIL' if wrong else 'ok  '}  {title}: {text}", flush=True)
        if not options.keep:
            shutil.rmtree(folder)
        elif wrong:
            print(f"      {folder}")
    sys.exit(1 if failed else 0)
