#!/usr/bin/env python3
"""Tries to lose something: signals and kills at any moment, files that are cut while they are read, links, named pipes, devices, memory.

    python outputs.py --oplora PROGRAM [--rounds N]

Needs nothing but Python. One line for each command and way, with counts; exits 1 if anything is wrong. After each run the output has
to be absent, the old one, or a new one, whole; beside it nothing may be left, or, after a kill, nothing that the next run leaves.
"""

import argparse
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time

LAYERS = 24
failures = 0


def report(name, counts, wrong):
    global failures
    failures += bool(wrong)
    text = ", ".join(f"{count} {what}" for what, count in counts.items())
    print(f"{'FAIL' if wrong else 'ok  '}  {name}: {text}" + (f": {'; '.join(sorted(set(wrong)))[:2000]}" if wrong else ""), flush=True)


def safetensors(path, tensors, size=None):
    """tensors: name -> (shape, bytes); without bytes they are zeros that take no room on the disk."""
    header, offset = {}, 0
    for name, (shape, data) in tensors.items():
        count = 4
        for dimension in shape:
            count *= dimension
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + count]}
        offset += count
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, data in tensors.values():
            if data is not None:
                file.write(data)
        file.truncate(8 + len(text) + offset)


def digest(path):
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return {str(file.relative_to(path)): digest(file) for file in sorted(path.rglob("*")) if file.is_file()}


class Job:
    """A command with an output: `arguments` end with the path that is written."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = name, [str(argument) for argument in arguments]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", required=True)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, default=1024, help="rows and columns of each weight; less for an unoptimized build")
    options = parser.parse_args()
    random.seed(options.seed)
    rows = columns = options.size
    oplora = os.path.abspath(options.oplora)
    root = pathlib.Path(tempfile.mkdtemp())
    base, tuned, adapter, work = root / "base", root / "tuned", root / "adapter", root / "work"
    for folder in (base, tuned, adapter, work):
        folder.mkdir()
    size = 4 * rows * columns
    weights = {f"layers.{layer}.up_proj.weight": ([rows, columns], random.randbytes(size // 8).translate(bytes(60 if b > 60 else b for b in range(256))) * 8)
               for layer in range(LAYERS)}
    safetensors(base / "model.safetensors", weights)
    (base / "config.json").write_text("{}")
    shutil.copy(base / "config.json", tuned)
    other = dict(weights)
    for layer in range(0, 4, 2):
        other[f"layers.{layer}.up_proj.weight"] = weights[f"layers.{layer + 1}.up_proj.weight"]
    safetensors(tuned / "model.safetensors", other)
    row = struct.pack(f"<{rows}f", *[0.001] * rows)
    safetensors(adapter / "adapter_model.safetensors", {
        f"base_model.model.layers.{layer}.up_proj.lora_{side}.weight": (shape, row)
        for layer in range(LAYERS) for side, shape in (("A", [1, columns]), ("B", [rows, 1]))})
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 1}')

    def run(*arguments, **more):
        return subprocess.run([oplora, *map(str, arguments)], capture_output=True, text=True, **more)

    pack = root / "base.opck"
    for arguments in (["pack", base, "--out", pack], ["merge", "--base", base, "--adapter", adapter, "--out", root / "merged"]):
        result = run(*arguments)
        if result.returncode:
            sys.exit(f"{arguments}: {result.stderr}")
    merged = root / "merged"
    out = work / "out"
    writing = [
        Job("merge", "merge", "--base", base, "--adapter", adapter, "--out", out),
        Job("unmerge", "unmerge", "--merged", merged, "--adapter", adapter, "--out", out),
        Job("convert", "convert", adapter, "--to", "mlx", "--out", out),
        Job("convert to a file", "convert", adapter, "--to", "safetensors", "--out", out),
        Job("extract", "extract", "--base", base, "--tuned", tuned, "--rank", 1, "--out", out),
        Job("resize", "resize", adapter, "--rank", 1, "--out", out),
        Job("combine", "combine", "--adapter", adapter, "--adapter", adapter, "--out", out),
        Job("pack", "pack", base, "--out", out),
        Job("pack --against", "pack", merged, "--against", base, "--out", out),
        Job("unpack", "unpack", pack, "--out", out),
        Job("salvage", "salvage", pack, "--out", out),
        Job("inspect --html", "inspect", "--stats", base, "--html", out),
    ]
    reading = [
        Job("inspect --stats", "inspect", "--stats", base), Job("inspect --stats, pack", "inspect", "--stats", pack),
        Job("check --deep", "check", "--deep", pack), Job("diff", "diff", base, tuned),
        Job("verify", "verify", "--base", base, "--adapter", adapter, "--merged", merged),
    ]
    inputs = [digest(path) for path in (base, tuned, adapter, pack, merged)]

    def clear():
        for path in work.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def names():
        return sorted(path.name for path in work.iterdir())

    # Signals and kills, with and without an output that is to be replaced.
    for job in writing + reading:
        writes = job in writing
        clear()
        started = time.perf_counter()
        result = run(*job.arguments)
        length = time.perf_counter() - started
        if result.returncode not in ((0,) if writes else (0, 1)):
            report(job.name, {}, [f"status {result.returncode}: {result.stderr}"])
            continue
        expected = digest(out) if writes else None
        counts, wrong = {"runs": 0, "done": 0, "stopped": 0, "killed": 0, "left by kills": 0}, []
        for replaces in (False, True) if writes else (False,):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
                for _ in range(options.rounds):
                    clear()
                    if replaces:
                        run(*job.arguments)
                    process = subprocess.Popen([oplora, *job.arguments, *(["--force"] if replaces else [])], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                    time.sleep(random.uniform(0, length * 1.1))
                    process.send_signal(number)
                    try:
                        _, errors = process.communicate(timeout=20)
                    except subprocess.TimeoutExpired:
                        process.kill()
                        process.communicate()
                        wrong.append(f"{number.name} was ignored")
                        continue
                    status = process.returncode
                    counts["runs"] += 1
                    counts["done" if status in (0, 1) else "killed" if status < 0 else "stopped"] += 1
                    # Before the program has set itself up a signal has its usual meaning.
                    early = status == -number
                    if status not in (0, 1, 130) and not early:
                        wrong.append(f"{number.name}: status {status}: {errors.strip()}")
                    if out.exists() and digest(out) != expected:
                        wrong.append(f"{number.name}: the output is not whole")
                    if replaces and not out.exists():
                        wrong.append(f"{number.name}: the old output is gone")
                    if status == 130 and not replaces and out.exists() and "whole" not in errors:
                        wrong.append(f"{number.name}: there is an output, and the message is: {errors.strip()}")
                    left = [name for name in names() if name != "out"]
                    if left and number != signal.SIGKILL:
                        wrong.append(f"{number.name} left {left}")
                    if left and number == signal.SIGKILL:
                        counts["left by kills"] += len(left)
                        next_run = run(*job.arguments, "--force")
                        if next_run.returncode or names() != ["out"] or digest(out) != expected:
                            wrong.append(f"the next run: {next_run.returncode} {names()} {next_run.stderr.strip()}")
        if [digest(path) for path in (base, tuned, adapter, pack, merged)] != inputs:
            wrong.append("an input has changed")
        report(f"signals, {job.name}", counts, wrong)

    # Training, which has something to save.
    fixture = pathlib.Path(__file__).resolve().parents[2] / "fixtures"
    train = ["train", "--base", fixture / "tiny-llama", "--data", fixture / "texts/adapt-heldout.txt", "--out", out, "--rank", "2", "--width", "4",
             "--embedding", "8", "--batch-size", "2", "--seq-len", "16", "--steps", "60", "--quiet"]
    clear()
    started = time.perf_counter()
    result = run(*train)
    length = time.perf_counter() - started
    expected = digest(out)
    counts, wrong = {"runs": 0, "done": 0, "saved": 0, "nothing to save": 0, "killed": 0}, []
    if result.returncode:
        wrong.append(result.stderr)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
        for _ in range(options.rounds):
            clear()
            process = subprocess.Popen([oplora, *map(str, train)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            time.sleep(random.uniform(0, length))
            process.send_signal(number)
            _, errors = process.communicate()
            counts["runs"] += 1
            if process.returncode < 0:
                counts["killed"] += 1
            elif process.returncode == 0:
                counts["done"] += 1
            elif out.exists():
                counts["saved"] += 1
                if run(*train, "--resume", out).returncode or digest(out) != expected:
                    wrong.append("the resumed run ended in other bytes")
            else:
                counts["nothing to save"] += 1
            if out.exists() and process.returncode == 0 and digest(out) != expected:
                wrong.append("other bytes")
            if process.returncode not in (0, 130, -number):
                wrong.append(f"status {process.returncode}: {errors.strip()}")
            if number != signal.SIGKILL and [name for name in names() if name != "out"]:
                wrong.append(f"left {names()}")
    report("signals, train", counts, wrong)

    # Files that are cut while they are read.
    kept = root / "kept"
    kept.mkdir()
    for name, folder in (("base", base), ("merged", merged)):
        shutil.copy(folder / "model.safetensors", kept / name)
    counts, wrong = {"runs": 0, "done before": 0, "said so": 0, "too short from the start": 0}, []
    for job in writing + reading:
        victim = merged if "--merged" in job.arguments and job.name == "unmerge" else base
        if str(victim) not in job.arguments:
            continue
        clear()
        run(*job.arguments)
        expected = digest(out) if out.exists() else None
        for length in (size * LAYERS // 100 + 1, size * LAYERS // 2, (victim / "model.safetensors").stat().st_size - 7):
            for delay in (0.02, 0.05, 0.1):
                clear()
                shutil.copy(kept / victim.name, victim / "model.safetensors")
                process = subprocess.Popen([oplora, *job.arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                time.sleep(delay)
                os.truncate(victim / "model.safetensors", length)
                _, errors = process.communicate(timeout=60)
                counts["runs"] += 1
                if process.returncode in (0, 1) and "changed while" not in errors:
                    counts["done before"] += 1
                elif process.returncode in (65, 74) and "changed while it was read" in errors:
                    counts["said so"] += 1
                elif process.returncode == 65:
                    counts["too short from the start"] += 1
                else:
                    wrong.append(f"{job.name}: status {process.returncode}: {errors.strip()}")
                # unmerge looks at the model again when it has written the base.
                if process.returncode > 1 and names() and not (names() == ["out"] and digest(out) == expected):
                    wrong.append(f"{job.name}: left {names()}")
        shutil.copy(kept / victim.name, victim / "model.safetensors")
    report("files cut while they are read", counts, wrong)

    # Memory of a small pack that stands for much.
    zeros = root / "zeros.safetensors"
    safetensors(zeros, {"t": ([1 << 26], None)})
    bomb = root / "zeros.opck"
    run("pack", zeros, "--out", bomb)
    for arguments in (["inspect", "--stats", bomb], ["check", "--deep", bomb], ["diff", bomb, bomb], ["diff", bomb, zeros], ["unpack", bomb, "--out", out],
                      ["salvage", bomb, "--out", out], ["pack", zeros, "--out", out], ["inspect", "--stats", zeros]):
        clear()
        # Through a small process: what the system counts of a child begins with what its parent had.
        measure = "import resource, subprocess, sys; r = subprocess.run(sys.argv[1:], stdout=2).returncode; print(r, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        result = subprocess.run([sys.executable, "-c", measure, oplora, *map(str, arguments)], capture_output=True, text=True)
        status, peak = map(int, result.stdout.split())
        wrong = [f"status {status}: {result.stderr.strip()}"] if status else []
        if peak > 150 << 10:
            wrong.append("more than 150 MiB")
        report(f"memory, {arguments[0]} of {pathlib.Path(arguments[1 if arguments[1] not in ('--stats', '--deep') else 2]).name}", {"MiB": peak >> 10}, wrong)

    # Named pipes, devices and links as outputs.
    counts, wrong = {"went through": 0, "refused": 0}, []
    for job in writing:
        clear()
        run(*job.arguments)
        isFolder = out.is_dir()
        expected = digest(out)
        clear()
        os.mkfifo(out)
        if isFolder:
            for more in ([], ["--force"]):
                if run(*job.arguments, *more).returncode != 73 or not stat.S_ISFIFO(out.lstat().st_mode):
                    wrong.append(f"{job.name} to a named pipe")
                counts["refused"] += 1
        else:
            process = subprocess.Popen([oplora, *job.arguments], stdout=subprocess.DEVNULL)
            content = out.read_bytes()
            if process.wait() or hashlib.sha256(content).hexdigest() != expected or not stat.S_ISFIFO(out.lstat().st_mode):
                wrong.append(f"{job.name} through a named pipe")
            counts["went through"] += 1
        clear()
        (work / "target").write_text("mine")
        out.symlink_to("target")
        if run(*job.arguments, "--force").returncode != 73 or not out.is_symlink() or (work / "target").read_text() != "mine":
            wrong.append(f"{job.name} over a link")
        counts["refused"] += 1
        to_null = [("/dev/null" if argument == str(out) else argument) for argument in job.arguments]
        status = run(*to_null, "--force").returncode
        if status != (73 if isFolder else 0) or not stat.S_ISCHR(os.lstat("/dev/null").st_mode):
            wrong.append(f"{job.name} to /dev/null: {status}")
        counts["refused" if isFolder else "went through"] += 1
    report("named pipes, links and devices", counts, wrong)

    # What --force replaces.
    counts, wrong = {"replaced": 0, "refused": 0}, []
    for job in writing:
        clear()
        run(*job.arguments)
        if not out.is_dir():
            continue
        for name, make in (("notes.txt", lambda path: path.write_text("mine")), (".git", lambda path: path.mkdir()), ("inner", lambda path: path.mkdir()),
                           ("link", lambda path: path.symlink_to("/"))):
            make(out / name)
            result = run(*job.arguments, "--force")
            if result.returncode != 73 or name not in result.stderr or not os.path.lexists(out / name):
                wrong.append(f"{job.name}, {name}: {result.returncode} {result.stderr.strip()}")
            counts["refused"] += 1
            (out / name).rmdir() if (out / name).is_dir() and name != "link" else (out / name).unlink()
        result = run(*job.arguments, "--force")
        if result.returncode:
            wrong.append(f"{job.name}: {result.stderr.strip()}")
        counts["replaced"] += 1
    report("--force", counts, wrong)

    # Links of a model.
    counts, wrong = {"left out": 0, "refused": 0}, []
    (root / "private").mkdir()
    (root / "private/token").write_text("token")
    for name, target in (("assets", "../private"), ("extra.json", "../private/token"), ("loop", "."), ("loop2", "../base")):
        for command in (["merge", "--base", base, "--adapter", adapter, "--json", "--out", out], ["pack", base, "--out", out]):
            clear()
            (base / name).symlink_to(target)
            result = run(*command)
            (base / name).unlink()
            if command[0] == "pack":
                counts["refused"] += 1
                if result.returncode != 65 or name not in result.stderr:
                    wrong.append(f"pack, {name}: {result.returncode} {result.stderr.strip()}")
            else:
                counts["left out"] += 1
                if result.returncode or json.loads(result.stdout)["filesLeftOut"] != [name] or os.path.lexists(out / name):
                    wrong.append(f"merge, {name}: {result.returncode} {result.stdout} {result.stderr.strip()}")
    report("links of a model", counts, wrong)

    shutil.rmtree(root)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
