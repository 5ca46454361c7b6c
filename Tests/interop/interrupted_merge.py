#!/usr/bin/env python3
"""Interrupts merges in the middle: nothing but a whole folder may appear under the final name, the inputs stay, and the next merge succeeds.

    python interrupted_merge.py --oplora PROGRAM --model FOLDER [--rounds N]

A rank-16 adapter of every linear layer is made for the model. Merges are stopped by SIGINT, SIGTERM and SIGKILL at moments
spread over their whole length, and by a disk that is full (a small one, mounted for it where this user may; otherwise a limit on
the size of files). One line for each way; exits 1 if anything is wrong.
"""

import argparse
import hashlib
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def digest(path):
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(path.rglob("*")) if file.is_file()}


def make_adapter(model, out):
    out.mkdir()
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for file in model.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            for key in weights.keys():
                shape = weights.get_slice(key).get_shape()
                if key.endswith("_proj.weight"):
                    module = "base_model.model." + key.removesuffix(".weight")
                    tensors[module + ".lora_A.weight"] = 0.02 * torch.randn(16, shape[1], generator=generator)
                    tensors[module + ".lora_B.weight"] = 0.02 * torch.randn(shape[0], 16, generator=generator)
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    (out / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 16, "lora_alpha": 32}')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", required=True)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp())
    adapter, out = work / "adapter", work / "merged"
    model = options.model.resolve()
    make_adapter(model, adapter)
    inputs = [digest(model), digest(adapter)]

    def command(target):
        return [options.oplora, "merge", "--base", str(model), "--adapter", str(adapter), "--out", str(target), "--quiet"]

    started = time.perf_counter()
    subprocess.run(command(out), check=True)
    length = time.perf_counter() - started
    expected = digest(out)
    shutil.rmtree(out)
    failures = 0

    def report(name, stopped, finished, wrong):
        nonlocal failures
        failures += bool(wrong)
        print(f"{'FAIL' if wrong else 'ok  '}  {name}: {stopped} merges stopped, {finished} were done before"
              + (f": {'; '.join(wrong)}" if wrong else ", nothing under the final name, the next merge whole, the inputs as they were"), flush=True)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        wrong, stopped, finished = [], 0, 0
        for round_number in range(options.rounds):
            process = subprocess.Popen(command(out), stderr=subprocess.PIPE, text=True)
            time.sleep(length * (round_number + 0.5) / options.rounds)
            process.send_signal(number)
            _, errors = process.communicate()
            status = process.returncode
            if status == 0:
                finished += 1
            else:
                # A program that is stopped between the rename and its end has made the folder, and all of it, and says so where it can.
                published = (number == signal.SIGKILL or "written before, and whole" in errors) and out.exists() and digest(out) == expected
                (finished, stopped) = (finished + published, stopped + (not published))
                if out.exists() and not published:
                    wrong.append(f"after {round_number} of {options.rounds} there is something under the final name")
                if number != signal.SIGKILL and status != 130:
                    wrong.append(f"status {status}")
                left = [path.name for path in work.iterdir() if path not in (adapter, out)]
                if number != signal.SIGKILL and left:
                    wrong.append(f"left behind: {left}")
            shutil.rmtree(out, ignore_errors=True)
        if subprocess.run(command(out)).returncode or digest(out) != expected:
            wrong.append("the next merge is not whole")
        shutil.rmtree(out, ignore_errors=True)
        if [digest(model), digest(adapter)] != inputs:
            wrong.append("an input has changed")
        left = [path.name for path in work.iterdir() if path != adapter]
        if left:
            wrong.append(f"left behind by the next merge: {left}")
        report(number.name, stopped, finished, wrong)
        for path in work.iterdir():
            if path != adapter:
                shutil.rmtree(path, ignore_errors=True)

    size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    disk = work / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and not subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size // 2}", "tmpfs", disk], stderr=subprocess.DEVNULL).returncode
    target = (disk if mounted else work) / "merged"
    limit = None if mounted else lambda: (signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2)))
    result = subprocess.run(command(target), capture_output=True, text=True, preexec_fn=limit)
    wrong = []
    if result.returncode != 74:
        wrong.append(f"status {result.returncode}")
    left = [path.name for path in target.parent.iterdir() if path not in (adapter, disk)]
    if left:
        wrong.append(f"left behind: {left}")
    if mounted:
        subprocess.run(["umount", disk], check=True)
    if subprocess.run(command(out)).returncode or digest(out) != expected:
        wrong.append("the next merge is not whole")
    if [digest(model), digest(adapter)] != inputs:
        wrong.append("an input has changed")
    report("a full disk" if mounted else "a limit on the size of files", 1, 0, wrong)
    print(f"      it says: {result.stderr.strip()}")
    shutil.rmtree(work)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
