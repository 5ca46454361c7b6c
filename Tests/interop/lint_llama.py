"""Adapters that llama.cpp loads and adapters that it refuses, judged by llama.cpp itself, beside what `oplora lint --for llama.cpp` says.

    python lint_llama.py [--oplora PROGRAM]      prints a line for each case; exit code 1 on a disagreement

llama.cpp is the one in the package cyllama. The base is a small random model of the Llama family, written by the package gguf. `lint` sees the
adapter alone, so every case is one that the adapter's file decides.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np
from cyllama.llama import llama_cpp

VOCABULARY, WIDTH, HEADS, KEYS, INNER, LAYERS, RANK = 64, 32, 4, 2, 48, 2, 4
KEY_ROWS = WIDTH // HEADS * KEYS
MATRICES = {
    "attn_q": (WIDTH, WIDTH), "attn_k": (KEY_ROWS, WIDTH), "attn_v": (KEY_ROWS, WIDTH), "attn_output": (WIDTH, WIDTH),
    "ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER),
}
random = np.random.default_rng(5)


def matrix(*shape):
    return (random.standard_normal(shape) * 0.05).astype("f4")


def write_base(path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("none")
    writer.add_file_type(0)
    writer.add_tensor("token_embd.weight", matrix(VOCABULARY, WIDTH))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, "f4"))
    writer.add_tensor("output.weight", matrix(VOCABULARY, WIDTH))
    for layer in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(WIDTH, "f4"))
        for name, shape in MATRICES.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix(*shape))
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def pair(name, shape, rank=RANK, dtype="f4"):
    return {f"{name}.weight.lora_a": matrix(rank, shape[1]).astype(dtype), f"{name}.weight.lora_b": matrix(shape[0], rank).astype(dtype)}


def write_adapter(path, tensors, architecture="llama", kind="adapter", adapter="lora", alpha=8.0):
    writer = gguf.GGUFWriter(path, architecture)
    if kind:
        writer.add_type(kind)
    if adapter:
        writer.add_string("adapter.type", adapter)
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    finish(writer)


def everything(dtype="f4"):
    tensors = {}
    for layer in range(LAYERS):
        for name, shape in MATRICES.items():
            tensors |= pair(f"blk.{layer}.{name}", shape, dtype=dtype)
    return tensors


def cases(folder):
    """Yields a title and the path of an adapter."""
    query = pair("blk.0.attn_q", (WIDTH, WIDTH))

    def gguf_case(title, tensors, **fields):
        path = folder / (title.replace(" ", "-").replace(",", "") + ".gguf")
        write_adapter(path, tensors, **fields)
        return title, path

    yield gguf_case("one projection", query)
    yield gguf_case("all linear layers", everything())
    yield gguf_case("all linear layers in F16", everything("f2"))
    yield gguf_case("ranks that differ", query | pair("blk.1.ffn_up", MATRICES["ffn_up"], rank=2))
    yield gguf_case("the head", pair("output", (VOCABULARY, WIDTH)))
    yield gguf_case("the embedding", {"token_embd.weight.lora_a": matrix(VOCABULARY, RANK), "token_embd.weight.lora_b": matrix(WIDTH, RANK)})
    yield gguf_case("no alpha", query, alpha=None)
    yield gguf_case("alpha 0", query, alpha=0.0)
    yield gguf_case("not an adapter by its type", query, kind="model")
    yield gguf_case("no type", query, kind=None)
    yield gguf_case("another kind of adapter", query, adapter="control_vector")
    yield gguf_case("no kind of adapter", query, adapter=None)
    yield gguf_case("A without B", {"blk.0.attn_q.weight.lora_a": matrix(RANK, WIDTH)})
    yield gguf_case("B without A", {"blk.0.attn_q.weight.lora_b": matrix(WIDTH, RANK)})
    yield gguf_case("a tensor of another name", query | {"blk.0.attn_q.weight.lora_c": matrix(RANK, WIDTH)})
    yield gguf_case("a name of Hugging Face", pair("model.layers.0.self_attn.q_proj", (WIDTH, WIDTH)))
    yield gguf_case("a magnitude", query | {"blk.0.attn_q.weight.lora_magnitude": matrix(WIDTH)})
    yield gguf_case("rank 64", pair("blk.0.attn_q", (WIDTH, WIDTH), rank=64))
    yield gguf_case("both factors in F16 and F32", {**pair("blk.0.attn_q", (WIDTH, WIDTH), dtype="f2"), **pair("blk.1.attn_q", (WIDTH, WIDTH))})
    yield gguf_case("a negative alpha", query, alpha=-8.0)
    yield gguf_case("every second layer", pair("blk.1.ffn_down", MATRICES["ffn_down"]))
    yield gguf_case("factors that do not multiply", {"blk.0.attn_q.weight.lora_a": matrix(RANK, WIDTH), "blk.0.attn_q.weight.lora_b": matrix(WIDTH, RANK + 1)})
    peft = folder / "peft"
    peft.mkdir()
    (peft / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": ["q_proj"]}))
    write_safetensors(peft / "adapter_model.safetensors", {
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": matrix(RANK, WIDTH),
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": matrix(WIDTH, RANK)})
    yield "a folder of PEFT", peft


def write_safetensors(path, tensors):
    header, body = {}, b""
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(body), len(body) + values.nbytes]}
        body += values.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", default=".build/release/oplora")
    args = parser.parse_args()
    disagreements = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_base(folder / "base.gguf")
        model = llama_cpp.LlamaModel(str(folder / "base.gguf"), llama_cpp.LlamaModelParams())
        for title, path in cases(folder):
            try:
                model.lora_adapter_init(str(path))
                loads = True
            except (ValueError, FileNotFoundError):
                loads = False
            done = subprocess.run([args.oplora, "lint", path, "--for", "llama.cpp"], capture_output=True, text=True)
            says = {0: True, 1: False}.get(done.returncode, False)
            agrees = says == loads
            disagreements += not agrees
            reason = (done.stdout + done.stderr).strip().splitlines()
            print(f"{'ok   ' if agrees else 'FAIL '} {title}: llama.cpp {'loads' if loads else 'refuses'}, lint {done.returncode}: {reason[-1][:160] if reason else ''}", flush=True)
    sys.exit(1 if disagreements else 0)


main()
