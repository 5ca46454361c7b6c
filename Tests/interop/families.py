#!/usr/bin/env python3
"""Merges and verifies an adapter for every class of causal language models, or of another task, that transformers has.

    python families.py --oplora PROGRAM [--only NAME ...] [--task TASK] [--work DIR] [--markdown] [--minutes N]

For each class a tiny random model is saved in F32 and loaded again, PEFT puts LoRA on all linear layers, with random factors, and saves the
adapter. The definition is what PEFT computes: each module's own get_delta_weight in binary64, added to the loaded model's weights. Then
`oplora merge` merges, transformers loads the merged folder, and every tensor in memory must be the definition's; what no adapter touches must
have the same bits. `oplora verify` must pass the model that PEFT merged and saved. Nothing is mapped by hand: names in files and names in memory
are matched by transformers alone.

One line a class: `right`; `refused`, with the program's sentence; `WRONG`; or `not built`, with the reason. With --work DIR the results are kept in
DIR/results-TASK.jsonl, and a later call goes on where the last one stopped. Exits 1 if a class is WRONG.
"""

import argparse
import collections
import importlib.metadata
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers as hf
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers.models.auto import modeling_auto
from transformers.utils import logging

warnings.filterwarnings("ignore")
logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)
SECONDS = 120
LARGEST = 30_000_000
BOUND = 1e-6
# Differences of merged weights are rounded to F32, which is large beside a small update.
EXTRACTED = 1e-2

# Fields of configurations that make a model small, by what they are called in one family or another.
SMALL = {
    64: "hidden_size d_model n_embd dim embed_dim embedding_size word_embed_proj_dim emb_dim lru_width vision_hidden_size text_hidden_size "
        "projection_dim out_hidden_size hidden_size_per_layer_input max_position_embeddings n_positions n_ctx max_seq_len max_sequence_length "
        "max_source_positions max_target_positions position_embedding_size image_embed_dim cross_dim out_dim backbone_hidden_size "
        "hidden_size_per_layer_input qformer_hidden_size depth_hidden_size",
    96: "intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim n_inner ffn_hidden_size dense_intermediate_size "
        "dim_ff dff shared_intermediate_size expert_ffn_hidden_size attention_intermediate_size",
    48: "moe_intermediate_size shared_expert_intermediate_size moe_shared_expert_intermediate_size intermediate_size_mlp",
    128: "vocab_size text_vocab_size vocab_size_per_layer_input audio_vocab_size padded_vocab_size",
    4: "num_hidden_layers n_layer num_layers n_layers encoder_layers decoder_layers num_decoder_layers num_encoder_layers num_attention_heads "
       "n_head n_heads num_heads encoder_attention_heads decoder_attention_heads num_experts n_routed_experts num_local_experts "
       "moe_num_experts linear_num_value_heads num_decoder_attention_heads num_encoder_attention_heads max_window_layers "
       "mamba_num_heads num_query_heads",
    2: "num_key_value_heads num_experts_per_tok moe_topk moe_top_k moe_k num_experts_per_token linear_num_key_heads num_selected_experts depth "
       "encoder_num_hidden_layers vision_layers num_hidden_blocks temporal_patch_size spatial_merge_size",
    1: "n_group topk_group n_groups n_shared_experts num_shared_experts first_k_dense_replace mamba_n_groups num_mem_blocks moe_num_shared_experts "
       "num_groups num_nextn_predict_layers num_dense_layers moe_layer_start_index",
    16: "head_dim global_head_dim v_head_dim qk_nope_head_dim linear_key_head_dim linear_value_head_dim mamba_d_head mamba_head_dim sliding_window "
        "index_head_dim kv_lora_rank image_size qk_head_dim kv_channels attention_head_dim chunk_size mamba_chunk_size swa_head_dim swa_v_head_dim",
    8: "qk_rope_head_dim mamba_d_state ssm_state_size state_size mamba_n_heads mamba_dt_rank time_step_rank laurel_rank patch_size",
    24: "q_lora_rank",
}
SIZES = {field: size for size, fields in SMALL.items() for field in fields.split()}
# What only one family wants.
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
OVERRIDES = {
    "blt": dict(encoder_hash_byte_group_vocab=64), "cohere_compass_text": dict(rope_parameters={"full_attention": ROPE, "sliding_attention": ROPE}),
    "dbrx": dict(attn_config=dict(kv_n_heads=2, rope_theta=10000.0)),
    "dots1": dict(n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2),
    "dots3_note_text": dict(num_key_value_heads=4), "falcon_h1": dict(mamba_d_ssm=64, mamba_n_heads=8, mamba_d_head=8),
    "gemma3n_text": dict(num_kv_shared_layers=0, layer_types=["sliding_attention", "full_attention"] * 2, activation_sparsity_pattern=[0.0] * 4),
    "gemma4_assistant": dict(text_config=dict(hidden_size_per_layer_input=0, vocab_size_per_layer_input=0)), "gpt_neo": dict(attention_types=[[["global", "local"], 2]]),
    "hunyuan_v1_dense": dict(head_dim=16), "hunyuan_v1_moe": dict(head_dim=16, num_experts=4, moe_topk=2), "ministral": dict(head_dim=16),
    "inkling2_text": dict(unpadded_vocab_size=100), "inkling2_loop_text": dict(unpadded_vocab_size=100),
    "lfm2_moe": dict(layer_types=["conv", "full_attention"] * 2), "mamba2": dict(num_heads=8, head_dim=16), "reformer": dict(is_decoder=True, axial_pos_embds=False),
    "hunyuan_vl": dict(text_config=dict(head_dim=16)), "molmo2": dict(adapter_config=dict(vision_feature_layer=[3, 2])),
    "cosmos3_edge": dict(text_config=dict(rope_parameters={**ROPE, "mrope_section": [4, 2, 2]})),
    "inkling2": dict(text_config=dict(unpadded_vocab_size=100)), "inkling2_loop": dict(text_config=dict(unpadded_vocab_size=100)),
    "hy_v4_vl": dict(text_config=dict(rope_parameters={**ROPE, "mrope_section": [2, 1, 1]})),
    "dots3_note": dict(text_config=dict(num_key_value_heads=4)), "cohere_compass": dict(text_config=dict(rope_parameters={
        "full_attention": ROPE, "sliding_attention": ROPE})),
    "glm5_next": dict(text_config=dict(num_key_value_heads=4)),
    "zamba2": dict(layers_block_type=["linear_attention", "hybrid"] * 2, attention_hidden_size=128, attention_head_dim=32, mamba_headdim=16,
                   n_mamba_heads=8),
}


def default_of(cls):
    try:
        return cls()
    except Exception:
        return None


def small(cls, overrides=None):
    """The fields of a small configuration."""
    default = default_of(cls)
    if default is None:
        return dict(overrides or {})
    fields = {}
    for name, value in default.to_dict().items():
        attribute = cls.attribute_map.get(name, name) if hasattr(cls, "attribute_map") else name
        if attribute in SIZES and type(value) is int and value > 0:
            fields[attribute] = min(value, SIZES[attribute]) if attribute not in ("num_key_value_heads",) else SIZES[attribute]
    for name, sub in getattr(cls, "sub_configs", {}).items():
        own = type(getattr(default, name, None)) if sub is hf.AutoConfig else sub
        if own is type(None) or own is None or not hasattr(own, "model_type"):
            continue
        fields[name] = {"model_type": own.model_type, **small(own)} if sub is hf.AutoConfig else small(own)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "image_token_id", "image_token_index", "audio_token_id", "video_token_id"):
        value = getattr(default, name, None)
        if type(value) is int and value >= 128:
            fields[name] = 127
        elif isinstance(value, list) and any(type(v) is int and v >= 128 for v in value):
            fields[name] = 127
    for name, value in (overrides or {}).items():
        if isinstance(value, dict) and isinstance(fields.get(name), dict):
            fields[name] = {**fields[name], **value}
        elif value == "-":
            fields.pop(name, None)
        else:
            fields[name] = value
    return fields


def build(model_type, class_name):
    config_class = hf.CONFIG_MAPPING[model_type]
    model_class = getattr(hf, class_name)
    if model_class.config_class is not None and not issubclass(config_class, model_class.config_class):
        # A composed configuration whose text part has a class of its own.
        default = default_of(config_class)
        text = getattr(default, "text_config", None) if default else None
        if text is not None and isinstance(text, model_class.config_class):
            config_class, model_type = type(text), text.model_type
        else:
            config_class = model_class.config_class
    overrides = OVERRIDES.get(model_type, {})
    last = None
    for more in ({}, {"head_dim": "-"}, {"num_key_value_heads": 4}, {"num_hidden_layers": 8}, {"num_hidden_layers": 2}):
        try:
            config = config_class(**small(config_class, {**more, **overrides}))
            with torch.device("meta"):
                count = sum(p.numel() for p in model_class(config).parameters())
            if count > LARGEST:
                raise ValueError(f"{count} parameters")
            return model_class, model_class(config)
        except Exception as error:
            last = last or error
    raise last


def fill(parameters, seed, scale=0.05):
    generator = torch.Generator().manual_seed(seed)
    for p in parameters:
        with torch.no_grad():
            p.copy_(torch.randn(p.shape, generator=generator) * scale)


def deltas(peft):
    """What the adapter adds, by the name of the parameter in memory."""
    found = {}
    for name, module in peft.named_modules():
        if isinstance(module, LoraLayer) and hasattr(module, "get_delta_weight") and "default" in module.r:
            path = name.removeprefix("base_model.model.")
            while path.endswith(".base_layer"):
                path = path.removesuffix(".base_layer")
            key = f"{path}.{getattr(module, 'parameter_name', None) or 'weight'}"
            found[key] = found.get(key, 0) + module.get_delta_weight("default").detach().clone()
    return found


def shown(text):
    return " ".join(text.split())


def run(work, *arguments):
    """Its exit code and what it says, with paths that are the same each time."""
    result = subprocess.run(arguments, capture_output=True, text=True, cwd=work)
    return result.returncode, shown(result.stderr or result.stdout).removeprefix("oplora: ")


def first_line(error):
    return f"{type(error).__name__}: {shown(str(error))}"[:220]


def adapted(model):
    wanted = dict(r=4, lora_alpha=8, target_modules="all-linear")
    try:
        return get_peft_model(model, LoraConfig(**wanted))
    except ValueError as error:
        if "incompatible with Mamba" not in str(error):
            raise
        return get_peft_model(model, LoraConfig(**wanted, exclude_modules=["out_proj", "conv1d"]))


def judge(oplora, model_type, class_name, work):
    """One class: (verdict, text)."""
    try:
        model_class, model = build(model_type, class_name)
        model = model.float()
        fill(model.parameters(), 7)
        base = work / "base"
        model.save_pretrained(base)
        model = model_class.from_pretrained(base, dtype=torch.float32)
        state = {k: v.detach().clone() for k, v in model.state_dict().items()}
        fresh = model_class.from_pretrained(base, dtype=torch.float32).state_dict()
        if any(not torch.equal(state[k], fresh[k]) for k in state):
            return "not built", "transformers loads the saved model differently each time"
        peft = adapted(model)
        fill([p for n, p in peft.named_parameters() if "lora_" in n], 11)
        adapter = work / "adapter"
        peft.save_pretrained(adapter)
        wanted = {k: v.float() for k, v in deltas(peft.double()).items()}
        peft.float()
    except Exception as error:
        if os.environ.get("FAMILIES_TRACE"):
            traceback.print_exc()
        return "not built", first_line(error)
    merged = work / "merged"
    code, said = run(work, oplora, "merge", "--base", "base", "--adapter", "adapter", "--out", "merged")
    if code != 0:
        return "refused", said
    wrong, worst = unlike_definition(model_class, merged, state, wanted)
    if wrong:
        return "WRONG", f"{len(wrong)} of {len(state)} tensors off: {', '.join(wrong[:3])}"
    text = f"{len(wanted)} matrices, {worst:.1e}"
    verdict, said = judge_extraction(oplora, model_class, work, wanted)
    if verdict == "WRONG":
        return "WRONG", f"{text}; {said}"
    text = f"{text}; {said}"
    try:
        by_peft = work / "by_peft"
        peft.merge_and_unload().save_pretrained(by_peft)
    except Exception as error:
        return "right", f"{text}; PEFT does not merge it ({first_line(error)[:80]})"
    code, said = run(work, oplora, "verify", "--base", "base", "--adapter", "adapter", "--merged", "by_peft")
    # Where the head is one of the linear layers and tied, PEFT's merge changes the embedding with it, which its adapter does not.
    if unlike_definition(model_class, by_peft, state, wanted)[0]:
        return ("right", f"{text}; PEFT's merge is another model, and verify fails it") if code == 1 else (
            "WRONG", f"{text}; PEFT's merge is another model, and verify says ({code}): {said}")
    if code != 0:
        return "WRONG", f"{text}; verify ({code}): {said}"
    return "right", f"{text}; verify passes PEFT's merge"


def unlike_definition(model_class, path, state, wanted):
    """The tensors of a merged model that are not what they should be, and the largest relative difference of the others."""
    got = model_class.from_pretrained(path, dtype=torch.float32).state_dict()
    wrong, worst = [name for name in wanted if name not in got], 0.0
    for name, value in got.items():
        if name not in wanted:
            if not torch.equal(value, state[name]):
                wrong.append(name)
            continue
        want = state[name].double() + wanted[name].double()
        error = float((value.double() - want).abs().max() / want.abs().max())
        worst = max(worst, error)
        if not error <= BOUND:
            wrong.append(name)
    return wrong, worst


def unlike_adapter(model_class, work, folder, wanted):
    """The parameters that an adapter, loaded by PEFT, changes otherwise."""
    peft = PeftModel.from_pretrained(model_class.from_pretrained(work / "base", dtype=torch.float32), work / folder)
    got = deltas(peft.double())
    off = [name for name, want in wanted.items()
           if name not in got or not float((got[name] - want.double()).abs().max()) <= EXTRACTED * float(want.abs().max())]
    return off + [name for name, value in got.items() if name not in wanted and float(value.abs().max()) > 0]


def judge_extraction(oplora, model_class, work, wanted):
    """What `oplora extract` makes of base and merged model must be the adapter to PEFT: (verdict, text)."""
    code, said = run(work, oplora, "extract", "--base", "base", "--tuned", "merged", "--rank", "8", "--out", "extracted")
    if code != 0:
        return "refused", f"extract refuses: {said}"
    try:
        off = unlike_adapter(model_class, work, "extracted", wanted)
    except Exception as error:
        return "WRONG", f"PEFT does not load the extracted adapter: {first_line(error)}"
    own = unlike_adapter(model_class, work, "adapter", wanted) if off else []
    if set(off) - set(own):
        return "WRONG", f"the extracted adapter is another one to PEFT in {len(off)} of {len(wanted)}: {', '.join(off[:3])}"
    return "right", f"extracted again, but for {len(off)} that PEFT does not load from its own adapter either" if off else "extracted again"


def in_child(work, *arguments):
    """The same in a process of its own, so that a class that hangs or dies takes nothing with it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setsid()
        try:
            verdict = judge(*arguments, work)
        except BaseException as error:
            traceback.print_exc()
            verdict = ("WRONG", first_line(error))
        os.write(writer, json.dumps(verdict).encode())
        os._exit(0)
    os.close(writer)
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            break
        time.sleep(0.05)
    else:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return ["not built", f"it took more than {SECONDS} s"]
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    return json.loads(text) if text else ["not built", "the process died"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--oplora", default=".build/release/oplora")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--task", default="CAUSAL_LM")
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--minutes", type=float, default=60, help="start no class after so long")
    options = parser.parse_args()
    oplora = os.path.abspath(options.oplora)
    classes = getattr(modeling_auto, f"MODEL_FOR_{options.task}_MAPPING_NAMES")
    results, log = {}, None
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
        log = options.work / f"results-{options.task}.jsonl"
        if log.exists() and not options.only:
            results = {name: verdict for name, verdict in map(json.loads, log.read_text().splitlines())}
    end = time.monotonic() + 60 * options.minutes
    for model_type, class_name in classes.items():
        name = class_name if isinstance(class_name, str) else class_name[0]
        title = f"{model_type} ({name})"
        if title in results or (options.only and not {model_type, name} & set(options.only)) or time.monotonic() > end:
            continue
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            results[title] = in_child(pathlib.Path(folder), oplora, model_type, name)
            if options.only and options.work:
                kept = options.work / model_type
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(folder, kept)
        if log:
            with log.open("a") as file:
                file.write(json.dumps([title, results[title]]) + "\n")
        if not options.markdown:
            print(f"{results[title][0]:10} {title}: {results[title][1]}", flush=True)
    counts = collections.Counter(verdict for verdict, _ in results.values())
    summary = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items(), key=lambda c: -c[1]))
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("torch", "transformers", "peft"))
    if options.markdown:
        print(f"{versions}: {summary}.\n\n| family | result | |\n|---|---|---|")
        for title, (verdict, text) in sorted(results.items()):
            print(f"| {title} | {verdict} | {text.replace('|', chr(92) + '|')} |")
    else:
        print(f"{versions}: {summary}")
    sys.exit(1 if counts["WRONG"] else 0)


main()
