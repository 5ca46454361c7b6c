#!/usr/bin/env python3
"""Proves that oplora and the Python tools of the field read, write and compute the same thing.

    python interop.py --oplora PROGRAM --bible TEXT [--smollm2 FOLDER] [--strings N]

On the fixture tiny-llama, oplora trains an OP-LoRA, collapses it and merges it. Then:

- adapter: PEFT loads the collapsed adapter and every tensor of it arrives where it belongs;
- format: the adapter's files are those that PEFT writes for the same LoraConfig: keys, shapes, types, every field;
- logits: torch, transformers, PEFT and oplora's own forward give the same logits on a real text, in F32, for the base, for
  base and adapter, and for the merged model;
- family: oplora's forward and transformers' agree on random models with biases, untied heads, other heads and rotary scaling;
- folder: the merged folder is a whole model: tokenizer, chat template and generation configuration are the base's;
- definition: the merged BF16 weights are the defined ones, bit for bit (merge_definition.py);
- tokenizer: text and random strings get the ids that the tokenizers library gives (tokenizer_parity.py);
- safetensors: `oplora check --mode reference` accepts and refuses what the reference library does (safetensors_cases.py,
  safetensors_parity.py);
- SmolLM2: oplora's forward and transformers' agree on a model of 135 million parameters.

One line a check: the measured number and its bound. Exits 1 if any check fails.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"  # everything is a local folder

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, MistralConfig
from transformers.utils import logging

HERE = pathlib.Path(__file__).resolve().parent
BASE = HERE.parents[1] / "fixtures" / "tiny-llama"
TEXTS = BASE.parent / "texts"
PASSAGE = TEXTS / "adapt-heldout.txt"
RANK, ALPHA = 8, 16
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LOGITS_BOUND = 1e-4
SMOLLM2_BOUND = 2e-3

# Fields of adapter_config.json that two writers may fill differently without meaning anything else.
FREE_FIELDS = {"base_model_name_or_path": "says where the writer found the base; loaders are given the base itself"}
UNORDERED_FIELDS = {"target_modules": "PEFT keeps a set and writes it in any order"}


class Report:
    """Prints one line a check and counts."""

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, name, holds, measured):
        self.passed += bool(holds)
        self.failed += not holds
        print(f"{'ok  ' if holds else 'FAIL'}  {name}: {measured}", flush=True)

    def at_most(self, name, value, bound, unit):
        self.check(name, value <= bound, f"{unit} {value:.3g}, at most {bound:.3g}")

    def at_least(self, name, value, bound, unit):
        self.check(name, value >= bound, f"{unit} {value:.3g}, at least {bound:.3g}")

    def none_of(self, name, found, total):
        """`found` are the names of what is wrong."""
        found = sorted(map(str, found))
        self.check(name, not found and total, f"{len(found)} of {total}, at most 0" + (f": {', '.join(found[:5])}" if found else ""))

    @contextlib.contextmanager
    def section(self, name):
        """An error inside is one failed check, and the sections after it still run."""
        try:
            yield
        except Exception as error:
            self.check(name, False, f"{type(error).__name__}: {error}")


def run(*command):
    """Standard output of a command; its own words when it fails."""
    command = list(map(str, command))
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        words = (result.stderr.strip() or result.stdout.strip())[-2000:]
        raise RuntimeError(f"`{' '.join(command)}` ended with exit code {result.returncode}: {words}")
    return result.stdout


def load_model(folder, dtype=torch.float32):
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", output_loading_info=True)
    wrong = [key for keys in loading.values() for key in keys]
    if wrong:
        raise RuntimeError(f"{folder}: transformers reports {loading}")
    return model.eval()


@torch.no_grad()
def torch_logits(model, ids):
    return model(input_ids=ids[None], use_cache=False).logits[0].float()


def difference(first, second):
    if first.shape != second.shape:
        raise RuntimeError(f"logits of shapes {list(first.shape)} and {list(second.shape)}")
    return (first - second).abs().max().item()


class Interop:
    def __init__(self, oplora, work, report):
        self.oplora, self.work, self.report = oplora, work, report
        self.adapter, self.merged, self.merged_f32 = work / "adapter", work / "merged", work / "merged-f32"

    def oplora_logits(self, base, length, *options):
        """The ids that oplora gave the passage and its logits, both from its output file."""
        out = self.work / "logits.safetensors"
        run(self.oplora, "logits", "--base", base, "--data", PASSAGE, "--seq-len", length, "--out", out, "--force", *options)
        tensors = load_file(out)
        return tensors["input_ids"].long(), tensors["logits"]

    def make(self):
        run(self.oplora, "train", "--base", BASE, "--data", TEXTS / "adapt-train.txt", "--out", self.work / "run.opck",
            "--method", "op-lora", "--rank", RANK, "--alpha", ALPHA, "--targets", "all-linear", "--steps", 20, "--batch-size", 4,
            "--seq-len", 64, "--lr", "1e-3", "--quiet")
        run(self.oplora, "collapse", self.work / "run.opck", "--out", self.adapter, "--verify")
        run(self.oplora, "merge", "--base", BASE, "--adapter", self.adapter, "--out", self.merged)
        run(self.oplora, "merge", "--base", BASE, "--adapter", self.adapter, "--out", self.merged_f32, "--dtype", "f32")
        self.report.check("make: train, collapse, merge, merge --dtype f32", True, "exit code 0, must be 0")

    def check_adapter(self):
        """PEFT loads the adapter: nothing missing, nothing unexpected, every tensor bit for bit where its key says."""
        stored = load_file(self.adapter / "adapter_model.safetensors")
        model = PeftModel(load_model(BASE), PeftConfig.from_pretrained(self.adapter))
        loading = model.load_adapter(self.adapter, "default", is_trainable=False)
        self.report.none_of("adapter: keys that PEFT misses", loading.missing_keys, len(stored))
        self.report.none_of("adapter: keys that PEFT does not expect", loading.unexpected_keys, len(stored))
        held = get_peft_model_state_dict(model)
        wrong = [key for key in stored.keys() | held.keys()
                 if key not in stored or key not in held or not torch.equal(stored[key], held[key])]
        self.report.none_of("adapter: tensors that differ in PEFT's memory", wrong, len(stored))

    def check_format(self):
        """PEFT's save_pretrained for the same LoraConfig writes the same keys, shapes, types and fields."""
        theirs = self.work / "peft"
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=MODULES, task_type="CAUSAL_LM")
        get_peft_model(load_model(BASE, torch.bfloat16), config).save_pretrained(theirs)
        headers = []
        for folder in (self.adapter, theirs):
            with safe_open(folder / "adapter_model.safetensors", "pt") as file:
                slices = {key: file.get_slice(key) for key in file.keys()}
                headers.append({key: (part.get_dtype(), part.get_shape()) for key, part in slices.items()}
                               | {"__metadata__": file.metadata()})
        ours, expected = headers
        wrong = [f"{key} is {ours.get(key)}, not {expected.get(key)}" for key in ours.keys() | expected.keys()
                 if ours.get(key) != expected.get(key)]
        self.report.none_of("format: keys, shapes, types or metadata unlike PEFT's", wrong, len(expected))

        ours, expected = (json.loads((folder / "adapter_config.json").read_text()) for folder in (self.adapter, theirs))
        wrong = []
        for field in (ours.keys() | expected.keys()) - FREE_FIELDS.keys():
            pair = [json.dumps(sorted(fields[field]) if field in UNORDERED_FIELDS else fields[field], sort_keys=True)
                    if field in fields else "absent" for fields in (ours, expected)]
            if pair[0] != pair[1]:  # as JSON text, so that 16 and 16.0 differ
                wrong.append(f"{field} is {pair[0]}, not {pair[1]}")
        self.report.none_of(f"format: fields unlike PEFT's (free: {', '.join(FREE_FIELDS)}; unordered: {', '.join(UNORDERED_FIELDS)})",
                            wrong, len(expected))
        names = [{path.name for path in folder.iterdir()} - {"README.md"} for folder in (self.adapter, theirs)]
        self.report.none_of("format: files unlike PEFT's (free: README.md)", names[0] ^ names[1], len(names[1]))

    def check_logits(self):
        """Five ways to the adapted logits, two to the base's."""
        length = 128
        tokenizer = AutoTokenizer.from_pretrained(BASE)
        ids = torch.tensor(tokenizer(PASSAGE.read_text(encoding="utf-8"), add_special_tokens=False).input_ids[:length])
        base = torch_logits(load_model(BASE), ids)
        adapted = torch_logits(PeftModel.from_pretrained(load_model(BASE), self.adapter), ids)
        merged = torch_logits(load_model(self.merged_f32), ids)
        base_ids, our_base = self.oplora_logits(BASE, length)
        self.report.none_of("logits: token ids unlike the tokenizer's", [i for i in range(length) if base_ids[i] != ids[i]], length)
        _, our_merged = self.oplora_logits(self.merged_f32, length)
        unit = "largest difference"
        self.report.at_least("logits: PEFT with the adapter / transformers, base", difference(adapted, base), 0.1, unit)
        self.report.at_most("logits: oplora, base / transformers, base", difference(our_base, base), LOGITS_BOUND, unit)
        self.report.at_most("logits: transformers, merged / PEFT with the adapter", difference(merged, adapted), LOGITS_BOUND, unit)
        self.report.at_most("logits: oplora, merged / PEFT with the adapter", difference(our_merged, adapted), LOGITS_BOUND, unit)
        self.report.at_most("logits: oplora, merged / transformers, merged", difference(our_merged, merged), LOGITS_BOUND, unit)
        _, our_adapted = self.oplora_logits(BASE, length, "--adapter", self.adapter)
        self.report.at_most("logits: oplora with the adapter / PEFT with the adapter", difference(our_adapted, adapted), LOGITS_BOUND, unit)

    def check_folder(self):
        """The merged folder stands on its own: transformers finds in it all that it found in the base."""
        load_model(self.merged, torch.bfloat16)
        base, merged = (AutoTokenizer.from_pretrained(folder) for folder in (BASE, self.merged))
        text = PASSAGE.read_text(encoding="utf-8")
        pairs = list(zip(base(text).input_ids, merged(text).input_ids, strict=True))
        self.report.none_of("folder: ids of the passage unlike the base's", [i for i, (a, b) in enumerate(pairs) if a != b], len(pairs))
        chat = [{"role": "user", "content": "Whither thou goest?"}, {"role": "assistant", "content": "I will go."}]
        rendered = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for tokenizer in (base, merged)]
        self.report.check("folder: a chat through the template is the base's", rendered[0] and rendered[0] == rendered[1],
                          f"{len(rendered[1])} characters, must be the base's {len(rendered[0])}")
        fields = [GenerationConfig.from_pretrained(folder).to_dict() for folder in (BASE, self.merged)]
        wrong = [field for field in fields[0].keys() | fields[1].keys() if fields[0].get(field) != fields[1].get(field)]
        self.report.none_of("folder: generation fields unlike the base's", wrong, len(fields[0]))
        self.report.none_of("folder: files of an adapter", self.merged.glob("adapter_*"), len(list(self.merged.iterdir())))

    def check_family(self):
        """Random models with the features that the fixture and SmolLM2 lack, in several shards."""
        common = dict(vocab_size=1024, num_hidden_layers=3, max_position_embeddings=4096)
        llama3 = dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                      original_max_position_embeddings=64)
        variants = {
            "llama: biases, untied head, llama3 rotary scaling, BF16": (torch.bfloat16, LlamaConfig(
                hidden_size=96, intermediate_size=200, num_attention_heads=8, num_key_value_heads=2, attention_bias=True, mlp_bias=True,
                tie_word_embeddings=False, rope_parameters=llama3, **common)),
            "llama: one key-value head, tied head, theta 1e6, F32": (torch.float32, LlamaConfig(
                hidden_size=120, intermediate_size=77, num_attention_heads=5, num_key_value_heads=1, tie_word_embeddings=True,
                rope_parameters=dict(rope_type="default", rope_theta=1e6), **common)),
            "mistral: heads wider than hidden / heads, F16": (torch.float16, MistralConfig(
                hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=4, head_dim=40, sliding_window=1024,
                rms_norm_eps=1e-5, **common)),
        }
        for number, (name, (dtype, config)) in enumerate(variants.items()):
            folder = self.work / f"variant-{number}"
            model = AutoModelForCausalLM.from_config(config)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.1)
            model.to(dtype).save_pretrained(folder, max_shard_size="100KB")
            shutil.copy(BASE / "tokenizer.json", folder)
            ids, ours = self.oplora_logits(folder, 256)
            theirs = torch_logits(load_model(folder), ids)
            if theirs.std() < 0.5 or len(list(folder.glob("*.safetensors"))) < 2:
                raise RuntimeError("the model says nothing, or is in one file")
            self.report.at_most(f"{name}: oplora / transformers, logits of 256 tokens", difference(ours, theirs), LOGITS_BOUND, "largest difference")

    def check_smollm2(self, folder):
        ids, ours = self.oplora_logits(folder, 256)
        theirs = torch_logits(load_model(folder), ids)
        self.report.at_most("SmolLM2: oplora / transformers, logits of 256 tokens", difference(ours, theirs), SMOLLM2_BOUND, "largest difference")
        other = [i for i, same in enumerate((ours.argmax(-1) == theirs.argmax(-1)).tolist()) if not same]
        self.report.none_of("SmolLM2: positions with another likeliest token", other, len(ids))

    def check_script(self, name, *command):
        """A script of this folder, which prints its measurement last."""
        result = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
        lines = (result.stdout.strip() or result.stderr.strip() or "no output").splitlines()
        if result.returncode:
            print("\n".join(lines[-20:-1]))
        self.report.check(name, result.returncode == 0, lines[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", type=pathlib.Path, required=True, help="the program")
    parser.add_argument("--bible", type=pathlib.Path, required=True, help="a long text for the tokenizers")
    parser.add_argument("--smollm2", type=pathlib.Path, help="the folder that fixtures/smollm2.py makes")
    parser.add_argument("--strings", type=int, default=100_000, help="random strings for each tokenizer")
    args = parser.parse_args()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")  # the libraries' own, about each other
    torch.manual_seed(0)
    report = Report()
    with tempfile.TemporaryDirectory() as work:
        interop = Interop(args.oplora.resolve(), pathlib.Path(work), report)
        for name, check in [("make", interop.make), ("adapter", interop.check_adapter), ("format", interop.check_format),
                            ("logits", interop.check_logits), ("family", interop.check_family), ("folder", interop.check_folder)]:
            with report.section(name):
                check()
        interop.check_script("definition: merged BF16 weights", HERE / "merge_definition.py", BASE, interop.adapter, interop.merged)
        tokenizers = [folder / "tokenizer.json" for folder in (BASE, args.smollm2) if folder]
        interop.check_script("tokenizer: the tokenizers library", HERE / "tokenizer_parity.py", interop.oplora, *tokenizers, args.bible,
                             "--strings", args.strings)
        interop.check_script("safetensors: the reference library's tests", HERE / "safetensors_cases.py", interop.oplora)
        interop.check_script("safetensors: the reference library's reader", HERE / "safetensors_parity.py", interop.oplora)
        if args.smollm2:
            with report.section("SmolLM2"):
                interop.check_smollm2(args.smollm2)
    print(f"{report.passed} passed, {report.failed} failed")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
