#!/usr/bin/env python3
"""Opens what `oplora merge` puts beside the weights with transformers: the tokenizer and the chat template that a trainer saved beside the adapter.

    python3 Tests/interop/merged_folder.py --oplora PROGRAM

Ends with 1 if the merged folder does not give the tokenizer that the adapter was trained with, or the model does not go with it.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"  # everything is a local folder

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

hf_logging.set_verbosity_error()
hf_logging.disable_progress_bar()
FIXTURE = pathlib.Path(__file__).resolve().parents[2] / "fixtures/tiny-llama"
TEMPLATE = "{% for message in messages %}<tool>{{ message.content }}{% endfor %}"
TEXT = "In the beginning <tool>was the word<tool>"


def make_base(folder):
    """The small model with a head of its own, which grows apart from the embedding."""
    model = AutoModelForCausalLM.from_pretrained(FIXTURE, dtype=torch.float32)
    head = model.get_input_embeddings().weight.detach().clone()
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(head)
    model.save_pretrained(folder)
    for path in FIXTURE.glob("tokenizer*"):
        shutil.copy(path, folder)


def make_adapter(folder, base, grows):
    """An adapter as a trainer saves it, with its tokenizer; with embeddings for more tokens, if it has them."""
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = TEMPLATE
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    if grows:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<tool>"]})
        model.resize_token_embeddings(len(tokenizer))
        settings["modules_to_save"] = ["embed_tokens", "lm_head"]
    model = get_peft_model(model, LoraConfig(**settings))
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    return tokenizer, model.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", required=True)
    args = parser.parse_args()
    failures = 0

    def check(name, holds):
        nonlocal failures
        failures += not holds
        print(f"{'ok  ' if holds else 'FAIL'} {name}", flush=True)

    def merge(work, out, *more):
        return subprocess.run(
            [args.oplora, "merge", "--base", work / "base", "--adapter", work / "adapter", "--out", work / out, "--no-fsync", "--json", "--dtype", "f32", *more],
            capture_output=True, text=True)

    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        base = work / "base"
        make_base(base)
        tokenizer, model = make_adapter(work / "adapter", base, grows=True)
        done = merge(work, "merged")
        check(f"merges an adapter with a grown vocabulary{'' if done.returncode == 0 else ': ' + done.stderr}", done.returncode == 0)
        merged = AutoTokenizer.from_pretrained(work / "merged")
        ids = tokenizer(TEXT)["input_ids"]
        check("the merged folder has the adapter's tokens", len(merged) == len(tokenizer) and merged(TEXT)["input_ids"] == ids)
        check("and its chat template", merged.chat_template == TEMPLATE)
        with torch.no_grad():
            right = model(torch.tensor([ids])).logits
            found = AutoModelForCausalLM.from_pretrained(work / "merged", dtype=torch.float32).eval()(torch.tensor([ids])).logits
        check("the merged model with it is base + adapter", right.shape == found.shape and (right - found).abs().max().item() < 1e-3)
        merge(work, "kept", "--base-tokenizer")
        kept = AutoTokenizer.from_pretrained(work / "kept")
        check("--base-tokenizer keeps the base's", len(kept) == len(AutoTokenizer.from_pretrained(base)) and kept.chat_template != TEMPLATE)

        # The template alone.
        shutil.rmtree(work / "adapter")
        make_adapter(work / "adapter", base, grows=False)
        for path in (work / "adapter").iterdir():
            if path.name.startswith(("tokenizer", "special_tokens", "added_tokens")):
                path.unlink()
        report = json.loads(merge(work, "template").stdout)
        merged = AutoTokenizer.from_pretrained(work / "template")
        check("a chat template alone is taken alone", merged.chat_template == TEMPLATE and report["tokenizer"]["fromAdapter"] == ["chat_template.jinja"])
        check("with the base's tokens", merged(TEXT)["input_ids"] == AutoTokenizer.from_pretrained(base)(TEXT)["input_ids"])
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
