#!/usr/bin/env python3
"""Proves that two builds of oplora say and write the same bytes.

    python same_bytes.py --old PROGRAM --new PROGRAM [--model SMOLLM2] [--large LLAMA_1B_SHAPE] [--only SECTION …]
    python same_bytes.py --new PROGRAM … --record FILE        # keeps the hashes of one build
    python same_bytes.py --new PROGRAM … --against FILE       # and compares another build with them
    python same_bytes.py --old PROGRAM --new PROGRAM --matrix [SCRIPT …] [--log FILE]
    python same_bytes.py --old PROGRAM --new PROGRAM --wrapper FOLDER [--log FILE]

The first three run every command: on each file of formats/golden, good or bad; on the small model, with adapters that
are trained here by both methods; and, where they are named, on models that an adapter of Benchmarks/merge.py is merged
into. One line a row, with a hash of all that its calls gave: exit codes, standard output, standard error, every file.

--matrix runs the scripts of adapter-matrix.sh, or those that are named (`"families.py --task IMAGE_TEXT_TO_TEXT"`),
with a twin in the place of the program; --wrapper writes the twin and leaves it to others. For each call the twin runs
NEW as it was called. Then it puts NEW's outputs aside, gives the place back what was there before, runs OLD with the
same arguments, compares, and puts NEW's outputs back. Both programs see the same paths and the same files, so that no
name, no line that is wrapped at a path and no refusal has to be explained away. Each call is a line of the log
(SAME_BYTES_LOG): command, exit code, number of files, and SHA-256 over names and hashes of the files. What cannot be
done twice is done once and logged as skipped: calls that were interrupted, whose inputs were changed meanwhile, at a
terminal, or with pipes and devices in the place of files.

Left out of every comparison is what depends on the clock or the disk: tokens a second, seconds left, free bytes,
process numbers. Exits 1 if anything differs, and with --matrix also if a script fails.
"""

import argparse
import collections
import contextlib
import gzip
import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GOLDEN = ROOT / "formats" / "golden"
MATRIX = ["roundtrips.py", "adapters.py", "test-diffusion.sh", "test-mlx.sh", "adapters_gguf.py", "op_lora.py"]
COMMANDS = ["inspect", "train", "collapse", "merge", "unmerge", "convert", "extract", "resize", "combine", "lint",
            "verify", "diff", "check", "pack", "unpack", "salvage", "tokenize", "logits"]
LAYOUTS = {"peft": "peft", "safetensors": "one.safetensors", "mlx": "mlx", "kohya": "kohya.safetensors",
           "diffusers": "diffusers", "gguf": "adapter.gguf"}
DTYPES = ["keep", "f32", "bf16", "f16"]
# Options that name what is written; the last one only in two commands, and there it may stand alone.
OUTPUTS = ["--out", "--html", "--junit", "--sarif"]
REPORTED = ["verify", "diff"]
DEVICES = ["/dev/null", "/dev/stdout", "/dev/stderr"]
# What two runs of one program say differently.
VOLATILE = [
    (rb'"tokensPerSecond":[-+.\de]+', b'"tokensPerSecond":0'), (rb"\d+ tokens/s  [\dhms ]+ left", b"0 tokens/s"),
    (rb'"freeBytes":\d+', b'"freeBytes":0'), (rb", where [\d.]+ ([kMGT]B|bytes) are free", b""),
    (rb"\.\d+-\d+\.partial", b".0-0.partial"),
]

# What a call gave: `hashes` by name, of what was said (stdout, stderr) and of each file. `texts` has what was said,
# `paths` permissions and place of each file; both are empty where only hashes were kept.
Result = collections.namedtuple("Result", "exit hashes texts paths")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def outputs_of(arguments):
    """Paths that a call writes, each with the option that names it."""
    found, words = [], list(arguments)
    words = words[:words.index("--")] if "--" in words else words
    options = OUTPUTS + ["--json"] if words[:1] and words[0] in REPORTED else OUTPUTS
    for word, value in zip(words, words[1:] + [""]):
        option, sign, attached = word.partition("=")
        value = attached if sign else value
        if option in options and value and not value.startswith("-") and value not in DEVICES:
            found.append((option[2:], value))
    return found


def remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.remove(path)


def copy(path, target):
    if os.path.isdir(path):
        shutil.copytree(path, target, symlinks=True)
    else:
        shutil.copy2(path, target)


def entries(name, path):
    """Hash, permissions and place of an output, by its name: a file, or all that is in a folder."""
    if not os.path.lexists(path):
        return {}
    mode = stat.S_IMODE(os.lstat(path).st_mode)
    if os.path.islink(path):
        return {name: (sha256(b"link to " + os.fsencode(os.readlink(path))), mode, None)}
    if os.path.isdir(path):
        found = {name + "/": (sha256(b"folder"), mode, None)}
        for child in os.listdir(path):
            found |= entries(f"{name}/{child}", os.path.join(path, child))
        return found
    if not os.path.isfile(path):
        return {name: (sha256(b"no file"), mode, None)}
    with open(path, "rb") as file:
        return {name: (hashlib.file_digest(file, "sha256").hexdigest(), mode, path)}


def result_of(code, out, err, places):
    """`places`: where each output is, by its option."""
    texts = {"stdout": out, "stderr": err}
    for pattern, constant in VOLATILE:
        texts = {name: re.sub(pattern, constant, text) for name, text in texts.items()}
    hashes, paths = {name: sha256(text) for name, text in texts.items()}, {}
    for option, place in places:
        for name, (digest, mode, path) in entries(option, place).items():
            hashes[name], paths[name] = digest, (mode, path)
    return Result(code, hashes, texts, paths)


def first_difference(one, other):
    """How long two files are, and where they part."""
    size, position = 1 << 20, 0
    with open(one, "rb") as first, open(other, "rb") as second:
        while (a := first.read(size)) == (b := second.read(size)) and a:
            position += len(a)
    offset = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return f"OLD {os.path.getsize(one)} bytes, NEW {os.path.getsize(other)}, different from byte {position + offset} on"


def differences(old, new):
    """What two results differ in, one line each."""
    found = [] if old.exit == new.exit else [f"exit code: OLD {old.exit}, NEW {new.exit}"]
    for name in sorted(old.hashes.keys() | new.hashes.keys()):
        if name not in new.hashes or name not in old.hashes:
            found.append(f"{name}: only {'OLD' if name in old.hashes else 'NEW'} writes it")
        elif old.hashes[name] != new.hashes[name]:
            text = "differs"
            if old.texts and name in old.texts:
                a, b = old.texts[name], new.texts[name]
                at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
                a, b = (side[max(0, at - 40):at + 80].decode(errors="replace") for side in (a, b))
                text = f"from byte {at}: OLD {a!r}, NEW {b!r}"
            elif all(name in side.paths and side.paths[name][1] for side in (old, new)):
                text = first_difference(old.paths[name][1], new.paths[name][1])
            found.append(f"{name}: {text}")
        elif name in old.paths and name in new.paths and old.paths[name][0] != new.paths[name][0]:
            found.append(f"{name}: permissions {old.paths[name][0]:o} and {new.paths[name][0]:o}")
    return found


# Running a program.

def die_with_parent():
    """A twin that is killed takes the program with it, as if it were the program."""
    if sys.platform == "linux":
        import ctypes
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Relay:
    """Hands on to the program what signals the twin gets."""

    def __init__(self):
        self.received, self.process = [], None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                signal.signal(number, self.take)

    def take(self, number, _):
        self.received.append(number)
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)

    def watch(self, process):
        """What came before there was a program is for it, too."""
        self.process = process
        for number in list(self.received):
            self.take(number, None)


def drain(pipe, chunks, descriptor):
    """Collects what comes, and passes it on at once where there is a descriptor, until nobody reads it any more."""
    while chunk := os.read(pipe.fileno(), 1 << 16):
        chunks.append(chunk)
        while chunk and descriptor is not None:
            try:
                chunk = chunk[os.write(descriptor, chunk):]
            except OSError:
                descriptor = None


def run(program, name, arguments, stdin, relay=None, descriptors=(None, None), is_one=False, cwd=None):
    """Exit code, standard output and standard error; `is_one`: both in the first, so that lines keep their order."""
    process = subprocess.Popen(
        [name, *arguments], executable=program, stdin=stdin, stdout=subprocess.PIPE, cwd=cwd, close_fds=False,
        stderr=subprocess.STDOUT if is_one else subprocess.PIPE, preexec_fn=die_with_parent if relay else None)
    said = ([], [])
    threads = [threading.Thread(target=drain, args=one)
               for one in zip((process.stdout, process.stderr), said, descriptors) if one[0]]
    for thread in threads:
        thread.start()
    if relay:
        relay.watch(process)
    code = process.wait()
    for thread in threads:
        thread.join()
    return code, *(b"".join(chunks) for chunks in said)


# The twin.

def log(text):
    """One write, so that the lines of several twins do not mix."""
    descriptor = os.open(os.environ["SAME_BYTES_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, text.encode(errors="surrogateescape"))
    os.close(descriptor)


def reason_against(arguments):
    """Why a call cannot be made twice; empty if it can."""
    for descriptor in (1, 2):
        try:
            status = os.fstat(descriptor)
        except OSError:
            return "no standard output or standard error"
        if stat.S_ISCHR(status.st_mode) and status.st_rdev != os.stat("/dev/null").st_rdev:
            return "at a terminal or device"
    for word in arguments:
        value = word.partition("=")[2] if word.startswith("--") else word
        if value.startswith(("/dev/fd/", "/dev/stdin", "/proc/self/fd/")):
            return "an open file in the place of a path"
        if value not in DEVICES and os.path.exists(value) and not (os.path.isfile(value) or os.path.isdir(value)):
            return "a pipe or device in the place of a file"
    if any(os.path.islink(path) for _, path in outputs_of(arguments)):
        return "a link in the place of an output"
    return ""


def state_of_inputs(arguments):
    """Which files a call may read, as the system dates them."""
    written, found = [os.path.realpath(path) for _, path in outputs_of(arguments)], {}
    for word in arguments:
        spellings = (word, word.rpartition(":")[0], word.partition("=")[2])  # an adapter may have a weight behind it
        root = next((os.path.realpath(path) for path in spellings if os.path.exists(path)), "")
        if root and root not in written:
            for path in [root, *(os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names)]:
                if path not in written and os.path.isfile(path):
                    status = os.stat(path)
                    found[path] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def twin(old, new, name, arguments):
    command = arguments[0] if arguments else "(nothing)"

    def skip(reason):
        log(f"skipped {command}: {reason}\n")

    reason = reason_against(arguments)
    aside = None
    if not reason:
        try:
            aside = pathlib.Path(tempfile.mkdtemp(prefix="same-bytes-"))
            outputs = [(option, path, aside / f"before-{number}", aside / f"new-{number}")
                       for number, (option, path) in enumerate(outputs_of(arguments))]
            for _, path, before, _ in outputs:
                if os.path.lexists(path):
                    copy(path, before)
            typed = None
            if command == "tokenize" and sys.stdin:  # the one that reads it
                typed = aside / "stdin"
                with open(typed, "wb") as file:
                    shutil.copyfileobj(sys.stdin.buffer, file)
            state = state_of_inputs(arguments)
        except (OSError, shutil.Error) as error:
            reason = f"what was there before cannot be kept: {error}"
    if reason:
        skip(reason)
        if aside:
            shutil.rmtree(aside, ignore_errors=True)
        os.execv(new, [name, *arguments])

    relay, is_one = Relay(), os.path.sameopenfile(1, 2)
    with open(typed, "rb") if typed else contextlib.nullcontext() as stdin:
        said = run(new, name, arguments, stdin, relay, (1, 2), is_one)
    if relay.received:
        skip(f"interrupted by {signal.Signals(relay.received[0]).name}")
    else:
        moved = []
        try:
            for _, path, before, ours in outputs:
                if os.path.lexists(path):
                    shutil.move(path, ours)
                moved.append((path, ours))
                if before.exists():
                    shutil.move(before, path)
            mine = result_of(*said, [(option, ours) for option, _, _, ours in outputs])
            with open(typed or os.devnull, "rb") as stdin:
                theirs = run(old, name, arguments, stdin, relay, is_one=is_one)
            after = state_of_inputs(arguments)
            if relay.received:
                skip(f"interrupted by {signal.Signals(relay.received[0]).name} while OLD ran")
            elif any(after.get(path) != status for path, status in state.items()):
                skip("what it read was changed meanwhile")
            else:
                report(command, arguments, result_of(*theirs, [(option, path) for option, path, _, _ in outputs]), mine)
        except (OSError, shutil.Error) as error:
            skip(f"OLD cannot be run: {error}")
        finally:
            for path, ours in moved:
                remove(path)
                if os.path.lexists(ours):
                    shutil.move(ours, path)
    shutil.rmtree(aside, ignore_errors=True)
    if said[0] < 0:
        signal.signal(-said[0], signal.SIG_DFL)
        os.kill(os.getpid(), -said[0])
    os._exit(said[0])


def report(command, arguments, old, new):
    files = sorted(name for name, (_, path) in new.paths.items() if path)
    total = sha256("".join(f"{name} {new.hashes[name]}\n" for name in files).encode(errors="surrogateescape"))
    found = differences(old, new)
    lines = [f"{'DIFFERENT' if found else 'same'} {command} exit={new.exit} files={len(files)} sha256={total}"]
    if found:
        lines += [f"    oplora {shlex.join(arguments)}", f"    in {os.getcwd()}", *(f"    {line}" for line in found)]
    log("\n".join(lines) + "\n")


def write_wrapper(folder, old, new, log_file):
    """The twin as a program; what is in SAME_BYTES_LOG comes before the log that is named here."""
    path = pathlib.Path(folder).resolve() / "oplora"
    path.parent.mkdir(parents=True, exist_ok=True)
    words = shlex.join([sys.executable, "-I", str(pathlib.Path(__file__).resolve()), "--twin", old, new])
    path.write_text(f'#!/bin/sh\n: "${{SAME_BYTES_LOG:={log_file}}}"\nexport SAME_BYTES_LOG\nexec {words} "$0" "$@"\n')
    path.chmod(0o755)
    return path


def run_matrix(options):
    with tempfile.TemporaryDirectory() as work:
        log_file = pathlib.Path(options.log or os.environ.get("SAME_BYTES_LOG") or f"{work}/log").resolve()
        wrapper = write_wrapper(work, options.old, options.new, log_file)
        environment = os.environ | {"OPLORA": str(wrapper), "SAME_BYTES_LOG": str(log_file)}
        totals, failed, interpreter = collections.Counter(), 0, python()
        print("| script | exit code | ok | FAIL | same | different | skipped | seconds |\n" + "|---" * 8 + "|")
        for text in options.matrix or MATRIX:
            name, *more = shlex.split(text)
            is_shell = name.endswith(".sh")
            command = [ROOT / "scripts" / name] if is_shell else [interpreter, HERE / name, "--oplora", wrapper]
            log_file.touch()
            start, started = log_file.stat().st_size, time.monotonic()
            done = subprocess.run([*command, *more], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, errors="replace")
            with open(log_file, errors="replace") as file:
                file.seek(start)
                said = file.read()
            counts = collections.Counter(re.findall(r"^(same|DIFFERENT|skipped) ", said, re.M))
            marks = collections.Counter(re.findall(r"^(ok|FAIL) ", done.stdout, re.M))
            totals.update(counts)
            # A script that stops early has compared less than it looks.
            failed += done.returncode != 0 or not counts["same"]
            cells = [text, done.returncode, marks["ok"], marks["FAIL"], counts["same"], counts["DIFFERENT"],
                     counts["skipped"], round(time.monotonic() - started)]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
            if done.returncode:
                print(done.stdout[-1000:] + done.stderr[-1000:])
            print("".join(re.findall(r"^(?:DIFFERENT .*\n(?:    .*\n)*|skipped .*\n)", said, re.M)), end="", flush=True)
    different = totals["DIFFERENT"]
    print(f"{totals['same'] + different} calls compared, {different} differ, {totals['skipped']} skipped; "
          f"{failed} scripts failed")
    return different > 0 or failed > 0


# The rows of the table: a name, and calls that are made in a folder of each program's own. A call is a list of
# arguments, or a function of the folder where a file has to be damaged. Every path is relative, so that no folder's
# name is in what is said or written.

def flip(source, target, position):
    """A copy with one byte changed; in a folder, of its weights."""
    def change(folder):
        copy(folder / source, folder / target)
        path = folder / target / "model.safetensors" if (folder / target).is_dir() else folder / target
        data = bytearray(path.read_bytes())
        data[int(position * len(data))] ^= 1
        path.write_bytes(data)
    return change


def usage_rows():
    yield "usage", [[], ["--version"], ["help"], ["nonsense"], ["merge", "--nonsense"], ["merge"], ["diff", "one"]]
    for command in COMMANDS:
        yield f"help {command}", [[command, "--help"], [command, "missing", "--out", "x"], [command, "--threads", "0"]]


def golden_rows():
    files = json.loads((GOLDEN / "MANIFEST.json").read_text())["files"]
    bases = {entry["path"]: entry["against"] for entry in files if "against" in entry}
    for path in sorted(path for part in ("good", "bad", "bases") for path in (GOLDEN / part).iterdir()):
        name = str(path.relative_to(GOLDEN))
        file = f"golden/{name.removesuffix('.gz')}"
        against = ["--against", f"golden/{bases[name]}"] if name in bases else []
        yield f"golden {name}", [
            ["inspect", file], ["inspect", "--tensors", "--metadata", "--sort", "name", file],
            ["inspect", "--stats", "--json", file], ["inspect", "--stats", file, "--html", "x/page.html"],
            ["check", file], ["check", "--deep", file], ["check", "--mode", "reference", file],
            ["diff", file, "golden/good/types.opck", "--all"], ["diff", file, file, "--json", "x/diff.json", *against],
            ["unpack", file, "--out", "x/bare"], ["unpack", file, "--out", "x/unpacked", "--json", *against],
            ["salvage", file, "--out", "x/saved", *against],
            ["salvage", file, "--out", "x/saved", "--json", "--force"],
            ["pack", file, "--out", "x/again.opck", "--hash", "--json"], ["unpack", "x/again.opck", "--out", "x/again"],
            ["pack", "x/unpacked", "--out", "x/unpacked.opck", "--threads", "1"],
            ["pack", "x/saved", "--out", "x/saved.opck"],
            ["pack", file, "--out", "x/different.opck", "--against", "golden/bases/base.safetensors"],
            ["collapse", file, "--out", "x/adapter"]]


def method_rows(method, more):
    """A run of each method, and what is made of it; the run and its adapter stay for the rows after these."""
    run, adapter, base, heldout = f"{method}.opck", f"adapter-{method}", "tiny-llama", "texts/adapt-heldout.txt"
    data = ["--base", base, "--data", "texts/adapt-train.txt"]
    train = ["train", *data, "--method", method, *more, "--rank", "8", "--alpha", "16", "--lr", "3e-3",
             "--batch-size", "8", "--seq-len", "128"]
    measured = ["--eval-data", heldout, "--eval-every", "20", "--steps", "40"]
    constant = ["--schedule", "constant", "--warmup-ratio", "0", "--grad-accumulation", "2", "--dropout", "0.1"]
    resume = ["train", *data, "--resume", "x/run.opck", "--out", "x/run.opck"]
    yield f"train {method}", [[*train, *measured, "--json", "--out", run]]
    yield f"train {method}, 1 thread", [[*train, *measured, "--threads", "1", "--out", "x/run.opck"]]
    yield f"train {method}, resumed", [
        [*train, *constant, "--steps", "4", "--save-every", "2", "--out", "x/run.opck"],
        [*resume, "--steps", "6"], [*resume, "--lr", "1"], resume]
    yield f"collapse {method}", [
        ["collapse", run, "--out", adapter, "--verify"], ["verify", "--run", run, "--adapter", adapter, "--json"],
        *(["collapse", run, "--layout", layout, "--dtype", dtype, "--base", base, "--out", f"x/{dtype}-{name}"]
          for layout, name in LAYOUTS.items() for dtype in DTYPES[1:])]
    yield f"convert {method}", [call for layout, name in LAYOUTS.items() for call in (
        ["convert", adapter, "--to", layout, "--out", f"x/{name}", "--base", base, "--json"],
        ["convert", f"x/{name}", "--to", "peft", "--out", f"x/{layout}-back", "--base", base], ["lint", f"x/{name}"],
        ["inspect", "--stats", f"x/{name}"], ["diff", adapter, f"x/{name}", "--updates"])]
    encoder = ["--component", "text_encoder"]  # the one part of a pipeline that the small model may be
    yield f"convert {method}, of a text encoder", [call for layout, name in LAYOUTS.items() for call in (
        ["convert", adapter, "--to", layout, *encoder, "--uniform", "--dtype", "bf16", "--out", f"x/{name}"],
        ["convert", f"x/{name}", "--to", "peft", *encoder, "--base", base, "--out", f"x/{layout}-back"],
        ["lint", f"x/{name}", "--json"], ["inspect", f"x/{name}", "--json"])]
    yield f"resize {method}", [
        ["resize", adapter, "--rank", "3", "--out", "x/three", "--json"],
        ["resize", adapter, "--energy", "0.9", "--dtype", "bf16", "--out", "x/most"], ["inspect", "x/most"],
        ["resize", run, "--rank", "4", "--layout", "safetensors", "--out", "x/run.safetensors"]]
    yield f"inspect and run {method}", [
        ["inspect", "--stats", run, adapter], ["inspect", "--json", "--metadata", run],
        ["inspect", "--stats", run, "--html", "x/page.html"],
        ["logits", "--base", base, "--adapter", f"{adapter}:0.5", "--data", heldout, "--out", "x/logits.safetensors"]]
    one = ["--base", base, "--adapter"]
    for source in (run, adapter):
        for dtype in DTYPES:
            for threads in ([], ["--threads", "1"]):
                yield f"merge tiny-llama, {source}, {dtype}{', 1 thread' if threads else ''}", [
                    ["merge", *one, source, "--dtype", dtype, "--out", "x/merged", "--hash", *threads],
                    ["verify", *one, source, "--dtype", dtype, "--merged", "x/merged", "--json", *threads],
                    ["verify", "--receipt", "x/merged/oplora-merge.json"]]


def small_rows():
    yield from method_rows("op-lora", ["--z-std", "0.1"])
    yield from method_rows("lora", [])
    base, heldout = "tiny-llama", "texts/adapt-heldout.txt"
    both = ["--adapter", "adapter-lora:0.7", "--adapter", "op-lora.opck:-0.5"]
    combine, merge = ["combine", *both, "--json", "--method"], ["merge", "--base", base, *both]
    yield "combine", [
        [*combine, "cat", "--out", "x/cat"], [*combine, "linear", "--out", "x/linear"],
        [*combine, "svd", "--rank", "5", "--out", "x/rank"], [*combine, "svd", "--energy", "0.8", "--out", "x/energy"]]
    yield "merge tiny-llama, two adapters", [
        [*merge, "--out", "merged", "--dry-run"], [*merge, "--out", "merged", "--dry-run", "--json"],
        [*merge, "--out", "merged", "--json"], [*merge, "--out", "merged"],
        [*merge, "--out", "merged", "--force", "--quiet"], [*merge, "--out", f"{base}/inside"],
        [*merge, "--out", "x/survival", "--min-survival", "1"], ["inspect", "merged", "--tensors"],
        ["merge", "--base", "merged", *both, "--out", "x/twice"],
        ["merge", "--base", "merged", *both, "--out", "x/twice", "--again", "--any-base"]]
    yield "unmerge", [
        ["unmerge", "--merged", "merged", *both, "--out", "x/base", "--json"], ["diff", base, "x/base"],
        ["unmerge", "--merged", "merged", *both[:2], "--out", "x/half"], ["inspect", "x/half"]]
    extract = ["extract", "--base", base, "--tuned", "merged"]
    yield "extract", [
        [*extract, "--rank", "6", "--out", "x/adapter", "--json"],
        [*extract, "--energy", "0.9", "--layout", "safetensors", "--threads", "1", "--out", "x/adapter.safetensors"],
        ["verify", "--base", base, "--adapter", "x/adapter", "--merged", "merged"]]
    verify = ["verify", "--base", base, *both, "--merged"]
    reports = ["--html", "x/page.html", "--junit", "x/junit.xml", "--sarif", "x/report.sarif",
               "--json", "x/report.json", "--github", "--prompts", heldout]
    yield "verify", [[*verify, "merged", *reports], [*verify, "merged", *reports], [*verify, base],
                     ["verify", "--base", base, *both[:2], "--merged", "merged", "--json"]]
    yield "verify, damaged", [
        flip("merged", "x/broken", 0.7), [*verify, "x/broken", *reports], [*verify, "x/broken", "--max-ulp", "0"],
        ["diff", "merged", "x/broken", "--all"], ["check", "x/broken", "--deep"]]
    yield "diff", [
        ["diff", base, "merged"], ["diff", base, "merged", "--json"], ["diff", base, base],
        ["diff", base, "merged", "--rtol", "1e-2", "--atol", "1e-3", "--json", "x/diff.json"],
        ["diff", "adapter-lora", "op-lora.opck"], ["diff", "lora.opck", "op-lora.opck", "--all"]]
    yield "pack", [
        ["pack", "merged", "--out", "x/merged.opck", "--json"],
        ["pack", "merged", "--out", "x/different.opck", "--against", base, "--hash"],
        ["pack", "lora.opck", "--out", "x/run.opck", "--against", "op-lora.opck"],
        ["inspect", "--tensors", "x/different.opck"], ["check", "--deep", "x/merged.opck", "x/different.opck"],
        ["unpack", "x/merged.opck", "--out", "x/back"],
        ["unpack", "x/different.opck", "--against", base, "--out", "x/again", "--json"],
        ["diff", base, "x/different.opck", "--against", base]]
    for place in (0.001, 0.3, 0.6, 0.98, 0.999):
        yield f"salvage, damaged at {place}", [
            ["pack", "merged", "--out", "x/whole.opck"], flip("x/whole.opck", "x/broken.opck", place),
            ["check", "--deep", "x/broken.opck"], ["inspect", "x/broken.opck"],
            ["unpack", "x/broken.opck", "--out", "x/back"], ["salvage", "x/broken.opck", "--out", "x/saved"],
            ["pack", "merged", "--against", base, "--out", "x/different.opck"],
            flip("x/different.opck", "x/bad.opck", place),
            ["salvage", "x/bad.opck", "--against", base, "--out", "x/more", "--json"]]
    yield "logits and tokens", [
        ["logits", "--base", base, "--data", heldout, "--out", "x/base.safetensors"],
        ["logits", "--base", "merged", "--data", heldout, "--threads", "1", "--out", "x/merged.safetensors"],
        ["tokenize", "--tokenizer", f"{base}/tokenizer.json"]]


def model_rows(name):
    """What Benchmarks/merge.py merges."""
    adapter = f"adapter-{name}"
    one = ["--base", name, "--adapter", adapter]
    yield f"inspect {name}", [
        ["inspect", name, adapter], ["inspect", "--stats", "--json", name], ["check", name], ["lint", adapter]]
    for dtype in DTYPES:
        for threads in ([], ["--threads", "1"]):
            yield f"merge {name}, {dtype}{', 1 thread' if threads else ''}", [
                ["merge", *one, "--dtype", dtype, "--out", "x/merged", "--no-fsync", "--json", *threads],
                ["verify", *one, "--merged", "x/merged", "--dtype", dtype, "--json", *threads]]
    yield f"merge {name} and back", [
        ["merge", *one, "--out", "x/merged", "--no-fsync"],
        ["verify", *one, "--merged", "x/merged", "--html", "x/page.html"],
        ["unmerge", "--merged", "x/merged", "--adapter", adapter, "--out", "x/base", "--no-fsync"],
        ["diff", name, "x/base", "--json"],
        ["pack", "x/merged", "--against", name, "--out", "x/merged.opck", "--no-fsync", "--json"],
        ["unpack", "x/merged.opck", "--against", name, "--out", "x/again", "--no-fsync"],
        ["resize", adapter, "--rank", "4", "--out", "x/small", "--json"],
        ["convert", adapter, "--to", "gguf", "--base", name, "--out", "x/adapter.gguf"]]


SECTIONS = {"usage": usage_rows, "golden": golden_rows, "small": small_rows}


def rows(sections, models):
    """Rows of a section may need what earlier ones of it wrote, so that it runs whole or not at all."""
    for name, make in SECTIONS.items():
        if name in sections:
            yield from make()
    for name in models:
        yield from model_rows(name)


def prepare(folder, models, adapters):
    """What the rows read. Models are linked, so that each has one name."""
    for part in ("good", "bad", "bases"):
        shutil.copytree(GOLDEN / part, folder / "golden" / part)
    for path in (folder / "golden").rglob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    for part in ("tiny-llama", "texts"):
        shutil.copytree(ROOT / "fixtures" / part, folder / part)
    for name, path in models.items():
        (folder / name).symlink_to(os.path.realpath(path))
        shutil.copytree(adapters / f"adapter-{name}", folder / f"adapter-{name}")


def python():
    """That of the interop tests, with torch and PEFT."""
    venv = subprocess.run([ROOT / "scripts/make-venv.sh"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    return f"{venv}/bin/python"


def make_adapters(folder, models):
    """By Benchmarks/merge.py, always the same bytes: the model goes by its link's name, and sets have one order."""
    for name, path in models.items():
        (folder / name).symlink_to(os.path.realpath(path))
        made = subprocess.run(
            [python(), ROOT / "Benchmarks/merge.py", "--model", name, "--job", "adapter", name, f"adapter-{name}"],
            cwd=folder, env=os.environ | {"PYTHONHASHSEED": "0"}, capture_output=True, text=True)
        if made.returncode:
            sys.exit(f"no adapter for {path}: {made.stderr[-1000:]}")


def call_in(folder, program, call):
    if callable(call):
        return call(folder)
    with tempfile.TemporaryFile() as stdin:
        if call[:1] == ["tokenize"]:
            cases = json.loads((ROOT / "fixtures/tokenizer-cases.json").read_text())
            stdin.write("".join(json.dumps(text) + "\n" for texts in cases.values() for text in texts).encode())
            stdin.seek(0)
        said = run(program, "oplora", call, stdin, cwd=folder)
    return result_of(*said, [(option, folder / path) for option, path in outputs_of(call)])


def record(results):
    """A row as it is kept in a file: what was called and what came of it."""
    calls = [{"arguments": arguments, "exit": result.exit, "hashes": result.hashes} for arguments, result in results]
    return {"sha256": sha256(json.dumps(calls, sort_keys=True).encode(errors="surrogateescape")), "calls": calls}


def compare_recorded(old, new):
    if not old:
        return ["not recorded"]
    if [call["arguments"] for call in old["calls"]] != [arguments for arguments, _ in new]:
        return ["other calls are recorded"]
    return [f"oplora {shlex.join(arguments)}: {line}" for call, (arguments, result) in zip(old["calls"], new)
            for line in differences(Result(call["exit"], call["hashes"], {}, {}), result)]


def run_rows(options):
    models = {name: path for name, path in (("smollm2", options.model), ("large", options.large)) if path}
    recorded = json.loads(pathlib.Path(options.against).read_text())["rows"] if options.against else None
    programs = [program for program in (options.old, options.new) if program]
    table, different = {}, []
    print(f"{'what':<56} sha256", flush=True)

    def row(what, made, found):
        """`made`: arguments and results of the last program; `found`: what is different."""
        table[what] = record(made)
        found = found + (compare_recorded(recorded.get(what), made) if recorded is not None else [])
        different.extend([what] if found else [])
        verdict = "DIFFERENT" if found else "same" if len(programs) == 2 or recorded is not None else "recorded"
        print(f"{what:<56} {table[what]['sha256'][:16]} {verdict}")
        print("".join(f"    {line}\n" for line in found), end="", flush=True)

    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        make_adapters(work, models)
        folders = [work / "old", work / "new"][-len(programs):]
        for folder in folders:
            folder.mkdir()
            prepare(folder, models, work)
        # Where a record was made of other inputs, everything differs; these rows say why.
        for name in ("golden", "tiny-llama", "texts", *models, *(f"adapter-{name}" for name in models)):
            place = os.path.realpath(folders[-1] / name)
            row(f"input {name}", [(["(input)"], result_of(0, b"", b"", [("out", place)]))], [])
        for what, calls in rows(options.only, models):
            for folder in folders:
                (folder / "x").mkdir()
            made, found = [], []
            for call in calls:
                results = [call_in(folder, program, call) for folder, program in zip(folders, programs)]
                if not callable(call):
                    made.append((call, results[-1]))
                    if len(results) == 2:
                        found += [f"oplora {shlex.join(call)}: {line}" for line in differences(*results)]
            row(what, made, found)
            for folder in folders:
                shutil.rmtree(folder / "x")
    if options.record:
        text = json.dumps({"schema": "oplora.same-bytes/1", "rows": table}, indent=1)
        pathlib.Path(options.record).write_text(text + "\n")
    total = sha256("".join(f"{what} {entry['sha256']}\n" for what, entry in sorted(table.items())).encode())
    calls = sum(len(entry["calls"]) for entry in table.values())
    print(f"{len(table)} rows, {calls} calls, {len(different)} rows different; all of it: {total[:16]}")
    if left := sorted((recorded or {}).keys() - table.keys()):
        print(f"{len(left)} rows of the record were not run: {', '.join(left[:5])}{' …' if left[5:] else ''}")
    return bool(different)


def main():
    if sys.argv[1:2] == ["--twin"]:
        return twin(*sys.argv[2:5], sys.argv[5:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", help="the program as it was")
    parser.add_argument("--new", help="the program as it is")
    parser.add_argument("--model", help="SmolLM2's folder")
    parser.add_argument("--large", help="the folder of fixtures/llama_shape.py")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS),
                        help="these sections; models that are named are always merged")
    parser.add_argument("--record", metavar="FILE", help="keep the hashes of one program")
    parser.add_argument("--against", metavar="FILE", help="compare one program with what was kept")
    parser.add_argument("--matrix", nargs="*", metavar="SCRIPT", help="run scripts with a twin as the program")
    parser.add_argument("--wrapper", metavar="FOLDER", help="write the twin into this folder, and do nothing else")
    parser.add_argument("--log", metavar="FILE", help="where the twin says what it compared")
    options = parser.parse_args()
    options.old, options.new = (program and os.path.realpath(program) for program in (options.old, options.new))
    programs = [program for program in (options.old, options.new) if program]
    if missing := [program for program in programs if not os.access(program, os.X_OK)]:
        parser.error(f"no program: {', '.join(missing)}")
    if len(programs) != (1 if options.record or options.against else 2):
        parser.error("--record and --against take one program, everything else takes --old and --new")
    if options.wrapper:
        log_file = os.path.realpath(options.log or f"{options.wrapper}/same-bytes.log")
        print(write_wrapper(options.wrapper, options.old, options.new, log_file))
        return 0
    return run_matrix(options) if options.matrix is not None else run_rows(options)


if __name__ == "__main__":
    sys.exit(main())
