#!/usr/bin/env python3
"""Merges adapters of embeddings and heads that PEFT wrote, and compares the merged models with base + adapter in torch.

    python vocabulary.py --oplora PROGRAM [--only WORD] [--keep FOLDER]

First, families of models that tie their embedding to their head, each under names of its own: a LoRA on the embedding, on the
head and on both, and both trained whole. The merged model's outputs must be those of base + adapter, its configuration must
call the matrices what they are, and `oplora verify` must pass it, and fail it once it is tied again. Then what PEFT
saves of tied weights (ensure_weight_tying) and of vocabularies that grew or shrank, with the matrices that the merged model must
have. Then heads that are new to a base, and models without one. Then that each kind of adapter that PEFT knows is read, or refused by its name. One line a case; exits 1 if any fails.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys
import tempfile

import adapters
import torch
import transformers as hf
from adapters import BOUND, MOE, VOCABULARY, llama, outputs_of, randomise, run
from peft import LoraConfig, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file, save_file
from transformers.pytorch_utils import Conv1D

TEXT = dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=64, tie_word_embeddings=True)
ENCODER = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48,
               max_position_embeddings=64, pad_token_id=0)
SIDES = dict(vocab_size=VOCABULARY, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
             encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64, pad_token_id=0)
VISION = dict(depth=1, hidden_size=32, intermediate_size=48, num_heads=4, in_channels=3, patch_size=4, spatial_merge_size=2, temporal_patch_size=2,
              out_hidden_size=32, num_position_embeddings=64, deepstack_visual_indexes=[0])
TOKENS = dict(image_token_id=91, video_token_id=92, vision_start_token_id=93, vision_end_token_id=94)


def tied_llama():
    return llama(tie_word_embeddings=True)


def qwen3_vl():
    text = dict(TEXT, head_dim=8, rope_scaling={"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True})
    return hf.Qwen3VLForConditionalGeneration(hf.Qwen3VLConfig(text_config=text, vision_config=VISION, tie_word_embeddings=True, **TOKENS))


def smolvlm():
    vision = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, image_size=16, patch_size=4)
    return hf.SmolVLMForConditionalGeneration(hf.SmolVLMConfig(
        text_config=hf.LlamaConfig(**TEXT, pad_token_id=0), vision_config=vision, image_token_id=91, tie_word_embeddings=True, scale_factor=2))


def prophetnet():
    return hf.ProphetNetForConditionalGeneration(hf.ProphetNetConfig(
        vocab_size=VOCABULARY, hidden_size=32, encoder_ffn_dim=48, num_encoder_layers=1, num_encoder_attention_heads=4, decoder_ffn_dim=48,
        num_decoder_layers=1, num_decoder_attention_heads=4, max_position_embeddings=64, ngram=1, num_buckets=8, relative_max_distance=16))


def gpt_neox():
    return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48,
                                                  max_position_embeddings=64, tie_word_embeddings=True))


def t5():
    return hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, decoder_start_token_id=0))


def files_of_inner_model(model):
    """The files of the inner model, as GPT-2 has them on the hub."""
    def rename(folder):
        path = folder / "model.safetensors"
        save_file({key.removeprefix("transformer."): value for key, value in load_file(path).items()}, path, metadata={"format": "pt"})
    return rename


# Name, model, the modules of the embedding and the head, what is done to the saved base.
FAMILIES = [
    ("Llama", tied_llama, ["embed_tokens"], "lm_head", None),
    ("Qwen3-VL", qwen3_vl, ["embed_tokens"], "lm_head", None),
    ("GPT-2", adapters.gpt2, ["wte"], "lm_head", None),
    ("GPT-2, files of the inner model", adapters.gpt2, ["wte"], "lm_head", files_of_inner_model),
    ("Bloom", lambda: hf.BloomForCausalLM(hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=1, n_head=4)), ["word_embeddings"], "lm_head", None),
    ("OPT", lambda: hf.OPTForCausalLM(hf.OPTConfig(vocab_size=VOCABULARY, hidden_size=32, word_embed_proj_dim=32, ffn_dim=48, num_hidden_layers=1,
                                                   num_attention_heads=4, max_position_embeddings=64)), ["embed_tokens"], "lm_head", None),
    ("GPT-NeoX", gpt_neox, ["embed_in"], "lm_head", None),
    ("Mamba", lambda: hf.MambaForCausalLM(hf.MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=1, state_size=8)),
     ["embeddings"], "lm_head", None),
    ("SmolVLM", smolvlm, ["embed_tokens"], "lm_head", None),
    ("CodeGen", lambda: hf.CodeGenForCausalLM(hf.CodeGenConfig(vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=4, n_positions=64, rotary_dim=4,
                                                               tie_word_embeddings=True)), ["wte"], "lm_head", None),
    ("XLNet", lambda: hf.XLNetLMHeadModel(hf.XLNetConfig(vocab_size=VOCABULARY, d_model=32, n_layer=1, n_head=4, d_inner=48)),
     ["word_embedding"], "lm_loss", None),
    ("BioGPT", lambda: hf.BioGptForCausalLM(hf.BioGptConfig(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
                                                            num_attention_heads=4, max_position_embeddings=64)), ["embed_tokens"], "output_projection", None),
    ("ProphetNet", prophetnet, ["encoder.word_embeddings", "decoder.word_embeddings"], "lm_head", None),
    ("BART", lambda: hf.BartForConditionalGeneration(hf.BartConfig(**SIDES)), ["encoder.embed_tokens", "decoder.embed_tokens"], "lm_head", None),
    ("BERT", lambda: hf.BertForMaskedLM(hf.BertConfig(**ENCODER)), ["word_embeddings"], "cls.predictions.decoder", None),
    ("RoBERTa", lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**ENCODER)), ["word_embeddings"], "lm_head.decoder", None),
    ("DistilBERT", lambda: hf.DistilBertForMaskedLM(hf.DistilBertConfig(vocab_size=VOCABULARY, dim=32, hidden_dim=48, n_layers=1, n_heads=4, pad_token_id=0)),
     ["word_embeddings"], "vocab_projector", None),
    ("ALBERT", lambda: hf.AlbertForMaskedLM(hf.AlbertConfig(**ENCODER, embedding_size=16)), ["word_embeddings"], "predictions.decoder", None),
    ("ELECTRA", lambda: hf.ElectraForMaskedLM(hf.ElectraConfig(**ENCODER, embedding_size=16)), ["word_embeddings"], "generator_lm_head", None),
    ("ModernBERT", lambda: hf.ModernBertForMaskedLM(hf.ModernBertConfig(**ENCODER, eos_token_id=1, bos_token_id=2, cls_token_id=1, sep_token_id=2)),
     ["tok_embeddings"], "decoder", None),
]


def inputs_of(model):
    inputs = adapters.inputs_of(model)
    if getattr(model.config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = inputs["input_ids"][:, 3:11]
    return inputs


def fail(result):
    return (result.stdout + result.stderr).strip()[-400:]


def merge(oplora, folder):
    return run(oplora, "merge", "--base", folder / "base", "--adapter", folder / "adapter", "--out", folder / "merged", "--no-fsync", "--quiet")


def verify(oplora, folder, merged="merged"):
    return run(oplora, "verify", "--base", folder / "base", "--adapter", folder / "adapter", "--merged", folder / merged)


def tie_fields(configuration):
    for key, value in configuration.items():
        if key == "tie_word_embeddings":
            yield value
        if key == "text_config":
            yield from [value.get("tie_word_embeddings", "missing")]


def check_family(oplora, build, rename, fields, folder):
    torch.manual_seed(3)
    model = build().float().eval()
    kind = type(model)
    # Biases that are zero would hide a head in the wrong place.
    randomise(model, torch.Generator().manual_seed(5))
    model.save_pretrained(folder / "base")
    if rename:
        rename(model)(folder / "base")
    model = kind.from_pretrained(folder / "base", dtype=torch.float32)
    inputs = inputs_of(model)
    before = outputs_of(model, inputs)
    peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=7, **fields))
    randomise(peft, torch.Generator().manual_seed(11))
    peft.save_pretrained(folder / "adapter")
    expected = outputs_of(peft, inputs)
    result = merge(oplora, folder)
    if result.returncode:
        return f"merge: {fail(result)}"
    merged, info = kind.from_pretrained(folder / "merged", dtype=torch.float32, output_loading_info=True)
    wrong = [f"{key}: {sorted(info[key])}" for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]]
    if wrong:
        return "; ".join(wrong)
    error = ((outputs_of(merged, inputs) - expected).abs().max() / expected.abs().max()).item()
    if error > BOUND:
        return f"outputs differ by {error:.1e}"
    if (before - expected).abs().max() < 1e-3:
        return "the adapter changes nothing"
    configuration = json.loads((folder / "merged/config.json").read_text())
    if any(value is not False for value in tie_fields(configuration)) or configuration.get("tie_word_embeddings") is not False:
        return f"the configuration does not say that the matrices are not tied: {list(tie_fields(configuration))}"
    result = verify(oplora, folder)
    if result.returncode:
        return f"verify: {fail(result)}"
    # Tied again, by the configuration and by the files.
    for name, change in (("tied-configuration", retie), ("tied-files", drop_head)):
        shutil.copytree(folder / "merged", folder / name)
        change(folder / name, folder / "base")
        if verify(oplora, folder, name).returncode != 1:
            return f"verify passes {name}"
    return ""


def retie(merged, base):
    shutil.copyfile(base / "config.json", merged / "config.json")
    configuration = json.loads((merged / "config.json").read_text())
    (merged / "config.json").write_text(json.dumps(configuration | {"tie_word_embeddings": True}))


def drop_head(merged, base):
    names = load_file(base / "model.safetensors").keys()
    path = merged / "model.safetensors"
    save_file({key: value for key, value in load_file(path).items() if key in names}, path, metadata={"format": "pt"})


# Name, the base's model, the model that is trained on it, what PEFT calls its task.
NEW_HEADS = [
    ("score on a causal model", llama, hf.LlamaForSequenceClassification, "SEQ_CLS"),
    ("score of tokens on a tied model", tied_llama, hf.LlamaForTokenClassification, "TOKEN_CLS"),
    ("questions on a masked model", lambda: hf.BertForMaskedLM(hf.BertConfig(**ENCODER)), hf.BertForQuestionAnswering, "QUESTION_ANS"),
    ("a classifier of two layers on a masked model", lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**ENCODER)), hf.RobertaForSequenceClassification, "SEQ_CLS"),
]


def check_new_head(oplora, build, kind, task, folder):
    """A head that the base does not have is added, and nothing of its embedding's changes."""
    torch.manual_seed(3)
    build().save_pretrained(folder / "base")
    model = kind.from_pretrained(folder / "base", dtype=torch.float32)
    model.config.pad_token_id = 0
    targets = ["query", "value", "word_embeddings"] if "ert" in kind.__name__ else ["q_proj", "embed_tokens"]
    peft = get_peft_model(model, LoraConfig(target_modules=targets, task_type=task))
    randomise(peft, torch.Generator().manual_seed(11))
    peft.save_pretrained(folder / "adapter")
    inputs = inputs_of(model)
    expected = head_outputs(peft, inputs)
    result = merge(oplora, folder)
    if result.returncode:
        return f"merge: {fail(result)}"
    merged, info = kind.from_pretrained(folder / "merged", dtype=torch.float32, output_loading_info=True)
    if info["missing_keys"]:
        return f"missing: {sorted(info['missing_keys'])}"
    merged.config.pad_token_id = 0
    error = ((head_outputs(merged, inputs) - expected).abs().max() / expected.abs().max()).item()
    if error > BOUND:
        return f"outputs differ by {error:.1e}"
    result = verify(oplora, folder)
    return f"verify: {fail(result)}" if result.returncode else ""


@torch.no_grad()
def head_outputs(model, inputs):
    result = model.eval()(**inputs)
    return torch.cat([value.reshape(-1) for key, value in result.items() if "logits" in key]).float()


# Models that have no head of their vocabulary, though their configuration calls it tied.
HEADLESS = [
    ("an encoder with a classifier", adapters.bert, "word_embeddings"),
    ("an inner model", lambda: hf.Qwen2Model(hf.Qwen2Config(**TEXT)), "embed_tokens"),
    ("a classifier on a decoder", lambda: hf.Qwen2ForSequenceClassification(hf.Qwen2Config(**TEXT, pad_token_id=0, num_labels=3)), "embed_tokens"),
]


def check_headless(oplora, build, embedding, folder):
    model = build()
    model.save_pretrained(folder / "base")
    peft = get_peft_model(model, LoraConfig(target_modules=[embedding]))
    randomise(peft, torch.Generator().manual_seed(11))
    peft.save_pretrained(folder / "adapter")
    result = merge(oplora, folder)
    if result.returncode:
        return f"merge: {fail(result)}"
    base, merged = (load_file(folder / name / "model.safetensors") for name in ("base", "merged"))
    if base.keys() != merged.keys():
        return f"other tensors: {sorted(base.keys() ^ merged.keys())}"
    same = (folder / "base/config.json").read_bytes() == (folder / "merged/config.json").read_bytes()
    result = verify(oplora, folder)
    return "" if same and result.returncode == 0 else f"another configuration, or verify: {fail(result)}"


def check_t5(oplora, folder):
    """A tied T5 scales what goes into the head, which no configuration says of a head of its own."""
    model = t5()
    model.save_pretrained(folder / "base")
    get_peft_model(model, LoraConfig(target_modules=["lm_head"])).save_pretrained(folder / "adapter")
    result = merge(oplora, folder)
    return "" if result.returncode == 65 and "scales" in result.stderr else f"merge: {result.returncode} {fail(result)}"


BOTH = ["embed_tokens", "lm_head"]
NEW = list(range(VOCABULARY, VOCABULARY + 8))

# Name, whether the base is tied, the tokens of the model that was trained, whether PEFT sees the base's size, fields of LoraConfig.
SAVED = [
    ("ensure_weight_tying, embedding whole", True, None, True, dict(modules_to_save=["embed_tokens"], ensure_weight_tying=True)),
    ("ensure_weight_tying, embedding whole and grown", True, 104, True, dict(modules_to_save=["embed_tokens"], ensure_weight_tying=True)),
    ("ensure_weight_tying, LoRA", True, None, True, dict(target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True)),
    ("ensure_weight_tying, nothing to tie", True, None, True, dict(ensure_weight_tying=True)),
    ("grown, both whole, tied base", True, 104, True, dict(modules_to_save=BOTH)),
    ("grown, both whole, without copies", True, 104, False, dict(modules_to_save=BOTH)),
    ("grown, both whole", False, 104, True, dict(modules_to_save=BOTH)),
    ("shrunken, both whole", False, 80, True, dict(modules_to_save=BOTH)),
    ("new rows of a tied base", True, 104, True, dict(trainable_token_indices=NEW)),
    ("new rows", False, 104, True, dict(trainable_token_indices={name: NEW for name in BOTH})),
    ("rows of the head of a tied base", True, None, True, dict(trainable_token_indices={"lm_head": [5, 90]})),
    ("other rows of each of a tied base", True, None, True, dict(trainable_token_indices={"embed_tokens": [5, 90], "lm_head": [7]})),
    ("the same rows of each of a tied base", True, None, True, dict(trainable_token_indices={"embed_tokens": [5, 90], "lm_head": [5, 90]})),
]


@torch.no_grad()
def values_of(module):
    """The matrix that a module of PEFT computes with, in binary64 where it is a sum."""
    if hasattr(module, "token_adapter"):
        inner = module.token_adapter
        return inner.get_merged_weights(["default"])
    if getattr(module, "modules_to_save", None) is not None and "default" in module.modules_to_save:
        return module.modules_to_save["default"].weight
    for a, b in (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B")):
        if "default" not in getattr(module, a, {}):
            continue
        factors = [getattr(module, name)["default"] for name in (b, a)]
        left, right = (getattr(factor, "weight", factor).double() for factor in factors)
        product = module.scaling["default"] * (left @ right)
        return (module.base_layer.weight.double() + (product if a == "lora_A" else product.T)).float()
    return module.weight


def check_saved(oplora, is_tied, rows, sees_base, fields, folder):
    torch.manual_seed(3)
    model = llama(tie_word_embeddings=is_tied).float()
    model.save_pretrained(folder / "base")
    model = type(model).from_pretrained(folder / "base", dtype=torch.float32)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    model.name_or_path = str(folder / "base") if sees_base else ""
    peft = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], **fields}))
    randomise(peft, torch.Generator().manual_seed(11))
    inner = peft.get_base_model()
    embedding, head = inner.get_input_embeddings(), inner.get_output_embeddings()
    if hasattr(head, "lora_A") and fields.get("ensure_weight_tying"):
        with torch.no_grad():
            head.lora_A["default"].weight.copy_(embedding.lora_embedding_B["default"].T)
            head.lora_B["default"].weight.copy_(embedding.lora_embedding_A["default"].T)
    peft.save_pretrained(folder / "adapter")
    result = merge(oplora, folder)
    if result.returncode:
        return f"merge: {fail(result)}"
    merged = load_file(folder / "merged/model.safetensors")
    found = merged["model.embed_tokens.weight"], merged.get("lm_head.weight", merged["model.embed_tokens.weight"])
    for name, mine, module in zip(("embedding", "head"), found, (embedding, head)):
        theirs = values_of(module)
        if mine.shape != theirs.shape or (mine - theirs).abs().max() > 1e-6:
            return f"the {name} is not that of PEFT"
    configuration = json.loads((folder / "merged/config.json").read_text())
    are_one = torch.equal(*found)
    if configuration["tie_word_embeddings"] != (is_tied and are_one) or is_tied and are_one and "lm_head.weight" in merged:
        return f"tie_word_embeddings is {configuration['tie_word_embeddings']}"
    if configuration["vocab_size"] != (rows or VOCABULARY):
        return f"vocab_size is {configuration['vocab_size']}"
    result = verify(oplora, folder)
    if result.returncode:
        return f"verify: {fail(result)}"
    if is_tied and are_one:
        # Held twice, it is the same model.
        shutil.copytree(folder / "merged", folder / "twice")
        save_file(merged | {"lm_head.weight": merged["model.embed_tokens.weight"].clone()}, folder / "twice/model.safetensors", metadata={"format": "pt"})
        result = verify(oplora, folder, "twice")
        if result.returncode:
            return f"verify of one matrix held twice: {fail(result)}"
    return check_copies(oplora, folder)


def check_copies(oplora, folder):
    """Where the copies that PEFT saves differ, which is meant is not clear."""
    path = folder / "adapter/adapter_model.safetensors"
    tensors = load_file(path)
    copy = next((key for key in tensors if ".modules_to_save." in key), None)
    if not copy:
        return ""
    tensors[copy] = tensors[copy] + 1
    save_file(tensors, path, metadata={"format": "pt"})
    shutil.rmtree(folder / "merged")
    result = merge(oplora, folder)
    return "" if result.returncode == 65 and "not clear" in result.stderr else f"copies that differ: {result.returncode} {fail(result)}"


READ = {"LORA"}


def check_kind(oplora, kind, folder):
    """PEFT's own defaults of a kind: read, or refused by the name of the kind."""
    model = llama()
    model.save_pretrained(folder / "base")
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(folder / "adapter")
    configuration = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    required = {"LILY": dict(stride_A=1), "XLORA": dict(hidden_size=32), "CPT": dict(), "SHADOW": dict()}.get(kind.value, {})
    try:
        fields = configuration(**required).to_dict()
    except (TypeError, ValueError, ImportError):
        fields = {"peft_type": kind.value, "eps": 1e-5}
    fields = {key: sorted(value) if isinstance(value, set) else value for key, value in fields.items()}
    text = json.dumps(fields | ({"target_modules": ["q_proj"]} if kind.value in READ else {}), default=str)
    (folder / "adapter/adapter_config.json").write_text(text)
    result = merge(oplora, folder)
    if kind.value in READ:
        return "" if result.returncode == 0 else fail(result)
    # The weights are a LoRA's, which VeRA says as well.
    return "" if result.returncode == 65 and (f" {kind.value} " in result.stderr or kind.value == "VERA" and "VeRA" in result.stderr) else fail(result)


def cases(oplora):
    for name, build, embeddings, head, rename in FAMILIES:
        kinds = [("LoRA on the embedding", dict(target_modules=embeddings)), ("LoRA on the head", dict(target_modules=[head])),
                 ("LoRA on both", dict(target_modules=embeddings + [head]))]
        if len(embeddings) == 1:
            layer = next(n for n, m in build().named_modules() if isinstance(m, (torch.nn.Linear, Conv1D)) and not n.endswith(head))
            kinds.append(("both whole", dict(target_modules=[layer], modules_to_save=embeddings + [head])))
        for kind, fields in kinds:
            yield f"{name}: {kind}", lambda folder, b=build, r=rename, f=fields: check_family(oplora, b, r, f, folder)
    yield "T5: the head of a tied model", lambda folder: check_t5(oplora, folder)
    for name, *rest in NEW_HEADS:
        yield f"a new head: {name}", lambda folder, r=rest: check_new_head(oplora, *r, folder)
    for name, *rest in HEADLESS:
        yield f"no head: {name}", lambda folder, r=rest: check_headless(oplora, *r, folder)
    for name, *rest in SAVED:
        yield name, lambda folder, r=rest: check_saved(oplora, *r, folder)
    for kind in PEFT_TYPE_TO_CONFIG_MAPPING:
        yield f"defaults of {kind.value}", lambda folder, k=kind: check_kind(oplora, k, folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oplora", required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", type=pathlib.Path)
    options = parser.parse_args()
    failed = 0
    for name, check in cases(options.oplora):
        if options.only.lower() not in name.lower():
            continue
        folder = pathlib.Path(tempfile.mkdtemp(dir=options.keep))
        wrong = check(folder)
        failed += bool(wrong)
        print(f"{'FAIL' if wrong else 'ok  '}  {name}{': ' if wrong else ''}{wrong}", flush=True)
        if not options.keep:
            shutil.rmtree(folder)
        elif wrong:
            print(f"      {folder}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
