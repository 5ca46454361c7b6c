#!/usr/bin/env python3
"""Makes every fault that `oplora verify` has a name for, and writes docs/faults.md with the report that each gives.

    python3 Tests/interop/fault_pages.py --oplora PROGRAM [--write]

Without --write the page is compared with what the program says now, but for numbers, which differ in their last digits between machines.
Ends with 1 if it is not true any more, or a fault is not named.
"""
import argparse
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

import numpy as np

import reports

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/faults.md"
INTRODUCTION = """# The faults

Each kind of fault that `oplora verify` tells apart: what it means, what to do, how it was made here, and what the program then says. The
names are stable: they are the `code` of the JSON report, the rule ids of SARIF, the types of JUnit failures and the titles of annotations.
Models are copies of the small one in `fixtures/`; this page is written and checked by `Tests/interop/fault_pages.py`.

"""
GATE = "model.layers.1.mlp.gate_proj.weight"
SQUARE = "model.layers.0.self_attn.o_proj.weight"


class Page:
    def __init__(self, oplora, work):
        self.oplora, self.work, self.sections, self.failures = str(pathlib.Path(oplora).resolve()), work, {}, 0
        shutil.copytree(ROOT / "fixtures/tiny-llama", work / "base")
        self.base = reports.read(work / "base/model.safetensors")
        reports.make_adapter(work / "adapter", self.base)
        self.factors = self.read_f32(work / "adapter/adapter_model.safetensors")
        self.run("merge", "--base", "base", "--adapter", "adapter", "--out", "right", "--hash", "--no-fsync", "--quiet")
        self.right = reports.read(work / "right/model.safetensors")

    @staticmethod
    def read_f32(path):
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        return {
            name: np.frombuffer(data, np.float32, int(np.prod(info["shape"])), 8 + size + info["data_offsets"][0]).reshape(info["shape"])
            for name, info in header.items() if name != "__metadata__"}

    def run(self, *arguments, check=True):
        return subprocess.run([self.oplora, *arguments], cwd=self.work, capture_output=True, text=True, check=check)

    def delta(self, name, scale=2.0, rank=None):
        module = "base_model.model." + name.removesuffix(".weight")
        a, b = (self.factors[f"{module}.lora_{factor}.weight"] for factor in "AB")
        return scale * (b[:, :rank] @ a[:rank])

    def merged(self, change, others={}):
        """The right merge with some tensors in the place of others; `None` takes one away."""
        shutil.rmtree(self.work / "merged", ignore_errors=True)
        shutil.copytree(self.work / "right", self.work / "merged")
        tensors = {name: value for name, value in {**self.right, **change}.items() if value is not None}
        reports.write(self.work / "merged/model.safetensors", tensors, "BF16", others)

    def fault(self, code, how, *more, base="base", adapter="adapter", merged="merged", arguments=None):
        arguments = arguments or ["--base", base, "--adapter", adapter, "--merged", merged, *more]
        done = self.run("verify", *arguments, check=False)
        # Long lines go on indented.
        items = re.split(r"\n(?! )", done.stderr.strip())
        named = [item for item in items if re.match(rf"(fail|undecided): {code}: ", item)]
        # A check of a collapse begins with its faults.
        diagnosis = [item for item in items[:1] if len(items) > 1 and item not in named]
        expected = 3 if code in ("roundedAway", "unknownName", "quantizedBase") else 1
        holds = bool(named) and done.returncode == expected
        self.failures += not holds
        print(f"{'ok  ' if holds else 'FAIL'} {code}{'' if holds else f': {done.returncode} {done.stderr}'}", flush=True)
        others = len(items) - len(diagnosis) - 1
        shown = diagnosis + named[:1] + ([f"… and {others} more"] if others > 0 else [])
        self.sections[code] = (
            f"Made by {how}.\n\n```\n$ oplora verify {shlex.join(arguments)}\n" + "\n".join(shown) + f"\n$ echo $?\n{done.returncode}\n```\n")

    def text(self):
        """In the order of the rules, with their words, which the SARIF report has."""
        self.merged({})
        self.run("verify", "--base", "base", "--adapter", "adapter", "--merged", "merged", "--sarif", "rules.sarif", "--quiet")
        rules = json.loads((self.work / "rules.sarif").read_text())["runs"][0]["tool"]["driver"]["rules"]
        missing = {rule["id"] for rule in rules} - set(self.sections)
        if missing:
            self.failures += 1
            print(f"FAIL faults that were not made: {', '.join(sorted(missing))}")
        return INTRODUCTION + "\n".join(
            f"## `{rule['id']}`: {rule['shortDescription']['text']}\n\n{rule['help']['text']}\n\n{self.sections.get(rule['id'], '')}" for rule in rules)


def make_merge_faults(page):
    base, right, work = page.base, page.right, page.work
    page.merged({GATE: None})
    page.fault("missingTensor", "leaving a tensor out of the merged model")
    page.fault("notRunnable", "the same, with prompts for both models", "--prompts", "prompts.txt")
    page.merged({"model.layers.0.self_attn.q_proj.lora_A.weight": np.zeros((8, 128), np.float32)})
    page.fault("extraTensor", "saving a factor of the adapter with the model")
    page.merged({GATE: right[GATE][:-1]})
    page.fault("shapeMismatch", "cutting a row off a weight")
    page.merged({}, {GATE: "F32"})
    page.fault("dtypeMismatch", "storing a weight in F32 where the base has BF16")
    norm = right["model.norm.weight"].copy()
    norm[3] *= 2
    page.merged({"model.norm.weight": norm})
    page.fault("baseChangedWithoutAdapter", "doubling one element of a norm")
    random = np.random.default_rng(1)
    other = {name: value + 0.2 * value.std() * random.standard_normal(value.shape, np.float32) for name, value in base.items()}
    page.merged({name: other[name] + right[name] - base[name] for name in right})
    page.fault("wrongBase", "merging into a model that was trained further")

    shutil.copytree(work / "adapter", work / "other-adapter")
    renamed = {name.replace("layers.3.", "layers.9."): value for name, value in page.factors.items()}
    reports.write(work / "other-adapter/adapter_model.safetensors", renamed, "F32")
    page.fault("adapterUnused", "giving the last layer of the adapter a number that the base does not have", adapter="other-adapter", merged="right")
    shutil.copytree(work / "adapter", work / "saving")
    configuration = json.loads((work / "adapter/adapter_config.json").read_text())
    (work / "saving/adapter_config.json").write_text(json.dumps({**configuration, "modules_to_save": ["layers.0.input_layernorm"]}))
    saved = {"base_model.model.model.layers.0.input_layernorm.weight": base["model.layers.0.input_layernorm.weight"] * 1.5}
    reports.write(work / "saving/adapter_model.safetensors", {**page.factors, **saved}, "F32")
    page.fault("wrongReplacement", "keeping the base's norm where the adapter brings one of its own (modules_to_save)", adapter="saving", merged="right")
    spoiled = right[GATE].copy()
    spoiled[5, 7] = np.nan
    page.merged({GATE: spoiled})
    page.fault("notFinite", "putting NaN in the place of an element")
    page.merged({GATE: base[GATE]})
    page.fault("notMerged", "leaving a module out of the merge")
    page.merged({GATE: base[GATE] + 2 * page.delta(GATE)})
    page.fault("mergedTwice", "adding the update of a module twice")
    page.merged({GATE: base[GATE] - page.delta(GATE)})
    page.fault("wrongSign", "subtracting the update of a module")
    page.merged({name: base[name] + page.delta(name, 1 / 8) for name in base if name.endswith("_proj.weight")})
    page.fault("wrongScale", "merging with 1/r where the adapter says alpha/r")
    page.merged({SQUARE: base[SQUARE] + page.delta(SQUARE).T})
    page.fault("transposed", "adding the transpose of the update of a square weight")
    up = GATE.replace("gate", "up")
    page.merged({GATE: base[GATE] + page.delta(up), up: base[up] + page.delta(GATE)})
    page.fault("swappedModules", "exchanging the updates of two modules")
    page.merged({name: base[name] + page.delta(name, rank=6) for name in base if name.endswith("_proj.weight")})
    page.fault("truncatedRank", "adding six of the eight components of each update")
    spoiled = right[GATE].copy()
    spoiled[5, 7] += 0.01
    page.merged({GATE: spoiled})
    page.fault("elementsDiffer", "changing one element of an adapted weight")
    page.merged({GATE: right[GATE] + 0.5 * page.delta(GATE).std() * random.standard_normal(right[GATE].shape, np.float32)})
    page.fault("wrongUpdate", "adding noise, half as large as the update, to an adapted weight")
    page.merged({})
    page.fault("gate", "asking for more than BF16 can keep of small updates", "--min-survival", "0.99")
    shutil.copy(work / "adapter/adapter_config.json", work / "merged")
    page.fault("leftoverAdapter", "leaving the configuration of the adapter in the merged folder")
    page.merged({})
    changed = json.loads((work / "merged/config.json").read_text())
    (work / "merged/config.json").write_text(json.dumps({**changed, "rope_theta": 500000.0}))
    page.fault("configurationDiffers", "writing another rope_theta into config.json")
    (work / "merged/config.json").write_text(json.dumps({**changed, "quantization_config": {"quant_method": "fp8"}}))
    page.fault("quantizationDiffers", "leaving the quantization_config of a base in FP8 beside full weights")
    page.merged({})
    (work / "merged/tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 123\n")
    page.fault("fileNotFetched", "leaving a pointer of Git LFS in the place of tokenizer.json")
    page.merged({GATE: spoiled})
    page.fault("hashDiffers", "changing one element after a merge with --hash", arguments=["--receipt", "merged/oplora-merge.json"])

    # Weights that are zero, or nearly, would take any update.
    shutil.copytree(work / "base", work / "dense")
    reports.write(work / "dense/model.safetensors", {name: value + (abs(value) < 1e-3) * 0.01 for name, value in base.items()}, "BF16")
    shutil.copytree(work / "adapter", work / "tiny")
    (work / "tiny/adapter_config.json").write_text(json.dumps({**configuration, "lora_alpha": 1e-7}))
    page.run("merge", "--base", "dense", "--adapter", "tiny", "--out", "erased", "--no-fsync", "--quiet")
    page.fault("roundedAway", "merging an adapter whose update is smaller than the steps of BF16", base="dense", adapter="tiny", merged="erased")

    # Two bits a weight, sixteen of them a word: what the words are does not matter here.
    shutil.copytree(work / "base", work / "quantized")
    module = GATE.removesuffix("weight")
    packed = {GATE: base[GATE][:, :8], module + "scales": base[GATE][:, :2], module + "biases": base[GATE][:, :2]}
    reports.write(work / "quantized/model.safetensors", {**base, **packed}, "BF16", {GATE: "U32"})
    page.fault("quantizedBase", "verifying against a base that mlx-lm quantized", base="quantized", merged="right")

    embedding = "model.embed_tokens.weight"
    (work / "embedding").mkdir()
    a, b = 0.05 * random.standard_normal((4, 1024), np.float32), random.standard_normal((128, 4), np.float32)
    reports.write(
        work / "embedding/adapter_model.safetensors",
        {"base_model.model.model.embed_tokens.lora_embedding_A": a, "base_model.model.model.embed_tokens.lora_embedding_B": b}, "F32")
    (work / "embedding/adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["embed_tokens"], "task_type": "CAUSAL_LM"}))
    shutil.rmtree(work / "merged")
    shutil.copytree(work / "base", work / "merged")
    reports.write(work / "merged/model.safetensors", {**base, embedding: base[embedding] + (b @ a).T}, "BF16")
    page.fault("tiedHeadOverwritten", "merging an adapter of the embedding in a model whose head is the same matrix", adapter="embedding")


def make_expert_fault(page):
    """A stack of four experts, and an adapter of it as PEFT writes one: A [experts·r, in], B [out, r·experts]."""
    work, random = page.work, np.random.default_rng(2)
    stack = "model.layers.0.mlp.experts.down_proj"
    experts, out, inputs, rank = 4, 48, 64, 2
    (work / "experts").mkdir()
    (work / "experts/config.json").write_text(json.dumps({"model_type": "mixtral", "num_local_experts": experts, "num_hidden_layers": 1}))
    weights = {stack: 0.02 * random.standard_normal((experts, out, inputs), np.float32)}
    reports.write(work / "experts/model.safetensors", weights, "BF16")
    (work / "expert-adapter").mkdir()
    module = "base_model.model.model.layers.0.mlp.experts"
    a, b = random.standard_normal((experts * rank, inputs), np.float32), 0.02 * random.standard_normal((out, rank * experts), np.float32)
    reports.write(work / "expert-adapter/adapter_model.safetensors", {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}, "F32")
    (work / "expert-adapter/adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": [], "target_parameters": ["mlp.experts.down_proj"]}))
    page.run("merge", "--base", "experts", "--adapter", "expert-adapter", "--out", "permuted", "--no-fsync", "--quiet")
    before, after = (reports.read(work / folder / "model.safetensors")[stack] for folder in ("experts", "permuted"))
    reports.write(work / "permuted/model.safetensors", {stack: before + (after - before)[[1, 2, 3, 0]]}, "BF16")
    page.fault("expertsPermuted", "giving each expert the update of the next", base="experts", adapter="expert-adapter", merged="permuted")


def make_layout_fault(page):
    """Flux in its authors' layout and in diffusers', each with a tensor of a name that no table has."""
    work, random = page.work, np.random.default_rng(3)
    size, author, own = 16, "double_blocks.0.img_attn.qkv", "transformer_blocks.0.attn.to_"
    qkv, stranger = random.standard_normal((3 * size, size), np.float32), random.standard_normal((size, size), np.float32)
    a, b = random.standard_normal((2, size), np.float32), random.standard_normal((3 * size, 2), np.float32)
    reports.write(work / "flux.safetensors", {author + ".weight": qkv, "block_of_authors.weight": stranger}, "F32")
    reports.write(
        work / "flux-adapter.safetensors", {f"diffusion_model.{author}.lora_A.weight": a, f"diffusion_model.{author}.lora_B.weight": b}, "F32")
    parts = {f"{own}{name}.weight": rows for name, rows in zip("qkv", np.split(qkv + b @ a, 3))}
    reports.write(work / "flux-merged.safetensors", {**parts, "block_of_diffusers.weight": stranger}, "F32")
    page.fault(
        "unknownName", "a base in Flux's own layout and a merged model in diffusers', each with a tensor that no table has",
        base="flux.safetensors", adapter="flux-adapter.safetensors", merged="flux-merged.safetensors")


def make_collapse_faults(page):
    work = page.work
    (work / "text.txt").write_text("In the beginning God created the heaven and the earth. " * 40)
    page.run(
        "train", "--base", "base", "--data", "text.txt", "--out", "run.opck", "--method", "op-lora", "--rank", "2", "--width", "4", "--embedding", "8",
        "--targets", "q_proj,v_proj", "--batch-size", "1", "--seq-len", "16", "--steps", "1", "--quiet")
    page.run("collapse", "run.opck", "--out", "collapsed", "--quiet")
    factors = page.read_f32(work / "collapsed/adapter_model.safetensors")
    configuration = json.loads((work / "collapsed/adapter_config.json").read_text())

    def collapsed(change={}, **settings):
        changed = {name: value for name, value in {**factors, **change}.items() if value is not None}
        reports.write(work / "collapsed/adapter_model.safetensors", changed, "F32")
        (work / "collapsed/adapter_config.json").write_text(json.dumps({**configuration, **settings}))

    def fault(code, how):
        page.fault(code, how, arguments=["--run", "run.opck", "--adapter", "collapsed"])

    name = "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"
    spoiled = factors[name].copy()
    spoiled[1, 3] += 0.5
    collapsed({name: spoiled})
    fault("factorDiffers", "changing an element of a collapsed factor")
    collapsed(lora_alpha=2 * configuration["lora_alpha"])
    fault("scaleDiffers", "doubling alpha in adapter_config.json")
    collapsed({name: None, name.replace("lora_A", "lora_B"): None})
    fault("missingModule", "leaving a module out of the collapsed adapter")
    other = name.replace("v_proj", "k_proj")
    collapsed({other: factors[name], other.replace("lora_A", "lora_B"): factors[name.replace("lora_A", "lora_B")]}, target_modules=["q_proj", "k_proj", "v_proj"])
    fault("extraModule", "adding a module that was not trained")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", required=True)
    parser.add_argument("--write", action="store_true", help="write docs/faults.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        (work / "prompts.txt").write_text("In the beginning God created the heaven and the earth.\n")
        page = Page(args.oplora, work)
        make_merge_faults(page)
        make_expert_fault(page)
        make_layout_fault(page)
        make_collapse_faults(page)
        text = page.text()
    if args.write:
        PAGE.write_text(text)
    numbers = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?")
    # Where lines are broken depends on the digits.
    now, then = (re.sub(r"\s+", " ", numbers.sub("#", page)) for page in (text, PAGE.read_text()))
    is_true = now == then
    print(f"{'ok  ' if is_true else 'FAIL'} docs/faults.md says what the program says")
    sys.exit(1 if page.failures or not is_true else 0)


if __name__ == "__main__":
    main()
